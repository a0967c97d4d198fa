//! The simulated inference server as a program, for containers and the demo. See `testkit::sim` for what it answers.
//!
//! ```text
//! sim-server [--name NAME] [--model MODEL]… [--port PORT] [--base-path PATH]
//! sim-server healthcheck [--port PORT]
//! ```
//!
//! It also takes the command lines of vLLM, SGLang, llama.cpp and Ollama, see `settings.rs`. Called as `curl`, `wget`,
//! `python` or `ollama` it is a health check, see `probe.rs`.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `SIM_NAME` | the host's name | says in every answer who gave it |
//! | `SIM_MODELS` | `sim-model` | comma separated; `--model` takes any text |
//! | `SIM_HOST`, `SIM_PORT` | `0.0.0.0`, `8000` | where it listens |
//! | `SIM_BASE_PATH` | `/v1` | where the OpenAI endpoints are |
//! | `SIM_STARTUP_DELAY` | `0` | seconds in which everything answers 503 |
//! | `SIM_LOADED_AFTER` | `0` | seconds in which `/api/ps` lists nothing |
//! | `SIM_CHUNKS`, `SIM_CHUNK_DELAY_MS` | `5`, `10` | of a streamed answer |
//! | `SIM_LATENCY_MS` | `0` | before an answer |
//! | `SIM_MAX_RUNNING` | `1024` | how many requests run at once |
//! | `SIM_OWNED_BY` | `sim` | `owned_by` of the listing |
//! | `SIM_ACCEPT_ANY` | `0` | `1`: any model in a body is answered |
//! | `SIM_REQUIRE_KEY`, `SIM_REQUIRE_HEADER` | none, `authorization` | without that key (there behind `Bearer `) the answer is 401 |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | none | `authorization=Bearer%20TOKEN`, for `--otlp-traces-endpoint` |
//! | `SIM_TLS_CERT`, `SIM_TLS_KEY` | none | PEM files with which it listens for HTTPS |
//!
//! It stops on SIGTERM and SIGINT like uvicorn.

mod probe;
mod settings;

use std::{env, error::Error, process::ExitCode};

use settings::SimSettings;
use testkit::sim::{Options, serve};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

type AnyError = Box<dyn Error + Send + Sync>;

#[expect(clippy::print_stderr, reason = "a program's own error")]
fn main() -> ExitCode {
    let outcome = act();
    outcome.unwrap_or_else(|error| {
        eprintln!("sim-server: {error}");
        ExitCode::FAILURE
    })
}

fn act() -> Result<ExitCode, AnyError> {
    let mut arguments = env::args();
    let called = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let variable = |name: &str| env::var(name).ok();
    let port = variable("SIM_PORT").and_then(|port| port.parse().ok()).unwrap_or(8000);
    if let Some(code) = probe::run(&called, &arguments, port) {
        return Ok(code);
    }
    let settings = SimSettings::read(variable, arguments)?;
    if settings.is_health_check {
        probe::is_healthy(settings.port)?;
    } else {
        run(settings)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run(settings: SimSettings) -> Result<(), AnyError> {
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
fn announce(settings: &SimSettings) {
    let SimSettings { host, port, options, ignored, .. } = settings;
    let Options { name, models, base_path, .. } = options;
    eprintln!("{name} serves {models:?} on {host}:{port} under {base_path}");
    if !ignored.is_empty() {
        eprintln!("without a meaning here: {ignored:?}");
    }
}
