//! The simulated inference server as a program, for containers and the demo. See `testkit::sim` for what it answers.
//!
//! ```text
//! sim-server [--name NAME] [--model MODEL]… [--port PORT] [--base-path PATH]
//! sim-server healthcheck [--port PORT]
//! ```
//!
//! Environment: `SIM_NAME` (default: the host's name), `SIM_MODELS` (comma separated; `--model` takes any text),
//! `SIM_PORT` (8000), `SIM_BASE_PATH` (/v1), `SIM_STARTUP_DELAY` (seconds; everything answers 503 until then),
//! `SIM_HOST` (0.0.0.0), `SIM_CHUNKS`, `SIM_CHUNK_DELAY_MS`, `SIM_LATENCY_MS`, `SIM_MAX_RUNNING`, `SIM_OWNED_BY`,
//! `SIM_ACCEPT_ANY`, `SIM_REQUIRE_KEY` and `SIM_REQUIRE_HEADER`, `SIM_LOADED_AFTER` (seconds). It stops on SIGTERM and SIGINT like uvicorn.

use std::{
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use testkit::sim::{Options, serve};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// What the environment and the command line say.
struct Settings {
    host: Ipv4Addr,
    port: u16,
    options: Options,
    is_health_check: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

#[expect(clippy::print_stderr, reason = "a program's own error")]
fn main() -> ExitCode {
    let outcome = settings(env::args().skip(1)).and_then(|settings| {
        if settings.is_health_check { check_health(settings.port) } else { run(settings) }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(args: impl Iterator<Item = String>) -> Result<Settings, Failure> {
    let defaults = Options::default();
    let models = variable::<String>("SIM_MODELS")?;
    let mut models: Vec<String> =
        models.iter().flat_map(|list| list.split(',')).map(|model| model.trim().to_owned()).collect();
    let mut options = Options {
        name: variable("SIM_NAME")?.unwrap_or_else(host_name),
        base_path: variable("SIM_BASE_PATH")?.unwrap_or(defaults.base_path),
        startup_delay: variable("SIM_STARTUP_DELAY")?.map_or(defaults.startup_delay, Duration::from_secs_f64),
        chunk_delay: variable("SIM_CHUNK_DELAY_MS")?.map_or(defaults.chunk_delay, Duration::from_millis),
        chunks: variable("SIM_CHUNKS")?.unwrap_or(defaults.chunks),
        latency: variable("SIM_LATENCY_MS")?.map_or(defaults.latency, Duration::from_millis),
        max_running: variable("SIM_MAX_RUNNING")?.unwrap_or(defaults.max_running),
        owned_by: variable("SIM_OWNED_BY")?.unwrap_or(defaults.owned_by),
        accept_any: variable("SIM_ACCEPT_ANY")?.unwrap_or(defaults.accept_any),
        required_key: variable("SIM_REQUIRE_KEY")?,
        required_header: variable("SIM_REQUIRE_HEADER")?.unwrap_or(defaults.required_header),
        loaded_after: variable("SIM_LOADED_AFTER")?.map_or(defaults.loaded_after, Duration::from_secs_f64),
        ..Options::default()
    };
    let mut port = variable("SIM_PORT")?.unwrap_or(8000);
    let host = variable("SIM_HOST")?.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let mut is_health_check = false;
    let mut args = args;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "healthcheck" => is_health_check = true,
            "--name" => options.name = value()?,
            "--model" | "--model-path" | "--served-model-name" => models.push(value()?),
            "--port" => port = value()?.parse()?,
            "--base-path" => options.base_path = value()?,
            // How SGLang is started: `python -m sglang.launch_server …`.
            "python" | "-m" | "sglang.launch_server" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    if !models.is_empty() {
        options.models = models;
    }
    Ok(Settings { host, port, options, is_health_check })
}

fn variable<T>(name: &str) -> Result<Option<T>, Failure>
where
    T: FromStr,
    T::Err: Error,
{
    match env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse().map(Some).map_err(|error| format!("{name}: {error}").into())
        }
        _ => Ok(None),
    }
}

/// In a container: its id, or the name that was given to it.
fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "sim".to_owned(), |name| name.trim().to_owned())
}

fn run(settings: Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // As PID 1 a program has no default handlers: without these, SIGTERM would be ignored.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = TcpListener::bind((settings.host, settings.port)).await?;
        announce(&settings);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(listener, settings.options, stop).await?;
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "the program's log")]
fn announce(settings: &Settings) {
    let Options { name, models, base_path, .. } = &settings.options;
    eprintln!("{name} serves {models:?} on port {} under {base_path}", settings.port);
}

/// For an image's HEALTHCHECK: succeeds when `/health` answers 200.
fn check_health(port: u16) -> Result<(), Failure> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(()) } else { Err(format!("/health answers {status:?}").into()) }
}
