//! Which server gets a request, with real processes: Traefik with Modelgate, and the routers of vLLM and SGLang through which all data
//! passes, before four servers that take as long as `choice-simulator` says.
//!
//! The first ten minutes of the conversation trace are stretched until the servers are busy for 70 or 95 % of the time if the policy that
//! knows everything sends them, and then sent within 60 s. The servers are as much faster.
//!
//! ```text
//! replay (prompts, when) ─▶ contender ─▶ servers (a machine of choice-simulator each, in real time)
//! ```

mod replay;
mod servers;

use std::{any::Any, env, error::Error, fs, path::PathBuf};

use choice_simulator::{Load, SimulatedPool, SimulatedRequest, Start, at_load, conversations};
use testkit::{
    free_port,
    modelgate::{Modelgate, optimised},
    program::Builder,
    traefik::{Traefik, traefik_binary},
};

use self::{replay::Replayed, servers::MachinesInTime};
use crate::contenders::{KEY, MODEL, TRAEFIK, script};

/// How much of the trace is sent, in its own seconds, and in how many.
const PART: f64 = 600.0;
const SECONDS: f64 = 60.0;
/// The share of the time in which servers do all they can.
const BUSY: [f64; 2] = [0.70, 0.95];
/// The number of servers.
const SERVERS: usize = 4;
/// The default seeds, which say when requests arrive within the 3 s to which the trace rounds; `MODELGATE_BENCHMARK_SEEDS`.
const SEEDS: [u64; 3] = [401, 402, 403];
/// A server's memory, in tokens; `MODELGATE_BENCHMARK_CACHE`.
const CACHE_TOKENS: usize = 500_000;

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    Modelgate(&'static str),
    Vllm,
    Sglang,
}

const ROUTERS: [(&str, Router); 5] = [
    ("Traefik with Modelgate, `cache`", Router::Modelgate("cache")),
    ("vllm-router, cache_aware", Router::Vllm),
    ("sglang-router, cache_aware", Router::Sglang),
    ("Traefik with Modelgate, `least-busy`", Router::Modelgate("least-busy")),
    ("Traefik with Modelgate, in turn", Router::Modelgate("")),
];

/// Compares them, and prints a table.
pub(crate) async fn compare() -> Result<(), Box<dyn Error>> {
    let trace = PathBuf::from(
        env::var_os("MODELGATE_BENCHMARK_TRACE").ok_or("MODELGATE_BENCHMARK_TRACE names no trace")?,
    );
    let seeds = match env::var("MODELGATE_BENCHMARK_SEEDS") {
        Ok(list) => list.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>()?,
        Err(_) => SEEDS.to_vec(),
    };
    let cache_tokens = match env::var("MODELGATE_BENCHMARK_CACHE") {
        Ok(tokens) => tokens.parse()?,
        Err(_) => CACHE_TOKENS,
    };
    let mut table = String::from(
        "| seed | load | router | requests | failed | p50, s | p90, s | p99, s | hit rate | busy |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    print!("{table}");
    let pool = SimulatedPool { servers: SERVERS, cache_tokens };
    for (turn, seed) in seeds.iter().enumerate() {
        let part = beginning(&conversations(&trace, *seed)?);
        for share in BUSY {
            let load = at_load(&part, &pool, share);
            let speed = load.last_start() / SECONDS;
            for place in 0..ROUTERS.len() {
                // Each turn begins with another one.
                let (name, router) = ROUTERS[(turn + place) % ROUTERS.len()];
                let servers = MachinesInTime::start(&load, SERVERS, cache_tokens, speed).await;
                let (url, parts) = start(router, &servers).await;
                servers.forget_time();
                let replayed = replay::send(&url, &load, speed).await;
                drop(parts);
                let row = row(&format!("{seed} | {:.0} %", share * 100.0), name, &replayed, &servers);
                print!("{row}");
                table.push_str(&row);
            }
        }
    }
    if let Some(folder) = env::var_os("MODELGATE_BENCHMARK_RESULT").map(PathBuf::from) {
        fs::write(folder.join("routers.md"), table)?;
    }
    Ok(())
}

/// Times are those of the servers, several of whose seconds pass in one.
fn row(case: &str, name: &str, replayed: &Replayed, servers: &MachinesInTime) -> String {
    let (hits, busy) = servers.sums();
    format!(
        "| {case} | {name} | {} | {} | {:.2} | {:.2} | {:.2} | {hits:.3} | {busy:.2} |\n",
        replayed.first_token.len() + replayed.failed,
        replayed.failed,
        replayed.quantile(0.5),
        replayed.quantile(0.9),
        replayed.quantile(0.99),
    )
}

fn beginning(load: &Load) -> Load {
    let is_early = |asked: &&SimulatedRequest| matches!(asked.start, Start::At(second) if second < PART);
    Load { requests: load.requests.iter().filter(is_early).cloned().collect(), ..load.clone() }
}

/// Its address, and what is to be dropped at the end.
async fn start(router: Router, servers: &MachinesInTime) -> (String, Vec<Box<dyn Any>>) {
    match router {
        Router::Modelgate(strategy) => modelgate(strategy, servers).await,
        // https://github.com/vllm-project/router
        Router::Vllm => program(script("MODELGATE_BENCHMARK_VLLM_ROUTER"), servers).await,
        // https://docs.sglang.ai/advanced_features/router.html
        Router::Sglang => program(script("MODELGATE_BENCHMARK_SGLANG_ROUTER").arg("launch"), servers).await,
    }
}

async fn modelgate(strategy: &str, servers: &MachinesInTime) -> (String, Vec<Box<dyn Any>>) {
    let digest = access::KeyDigest::of(KEY).to_hex();
    let setting = if strategy.is_empty() { String::new() } else { format!(", strategy: {strategy}") };
    let of_server =
        |(place, url): (usize, &String)| format!("  - {{ url: {url:?}, name: server-{place}{setting} }}\n");
    let rows: String = servers.urls.iter().enumerate().map(of_server).collect();
    // So that Modelgate learns when each answer has ended.
    let telemetry = free_port();
    let told = [format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs")];
    let config = format!(
        "traefik: {{ version: {TRAEFIK:?} }}\nlisten: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\nservers:\n{rows}keys:\n  - {{ name: benchmark, consumer: benchmark, sha256: {digest:?}, \
         models: [{MODEL:?}] }}\n"
    );
    let mut modelgate =
        Modelgate::builder(optimised().expect("the optimised Modelgate"), &config).keep_state().start().await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(traefik_binary(TRAEFIK).expect("Traefik"));
    let traefik = traefik.endpoint(modelgate.provider_endpoint()).telling(&told).start().await;
    traefik.wait_configured().await;
    (traefik.url(), vec![Box::new(traefik), Box::new(modelgate)])
}

/// Both have the same options.
async fn program(builder: Builder, servers: &MachinesInTime) -> (String, Vec<Box<dyn Any>>) {
    let port = builder.port().to_string();
    let mut builder = builder.arg("--host").arg("127.0.0.1").arg("--port").arg(port).arg("--worker-urls");
    for url in &servers.urls {
        builder = builder.arg(url);
    }
    let builder = builder.arg("--policy").arg("cache_aware").arg("--log-level").arg("error");
    let builder = builder.arg("--prometheus-port").arg(free_port().to_string());
    let router = builder.start().await;
    replay::wait_for_answer(&router.url()).await;
    (router.url(), vec![Box::new(router)])
}
