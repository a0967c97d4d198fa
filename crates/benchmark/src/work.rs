//! What the contenders are asked to do, and by whom: wrk (<https://github.com/wg/wrk>).

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;
use testkit::program::Program;

use crate::contenders::{Contender, KEY, MODEL};

/// How long a contender's turn lasts, in seconds. A stream takes two.
const TURN: u32 = 2;
const TURN_OF_STREAMS: u32 = 6;

/// One way of asking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Of a request's body.
    pub(crate) bytes: usize,
    pub(crate) connections: u32,
    pub(crate) streams: bool,
}

/// What came of one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) per_second: f64,
    /// In milliseconds.
    pub(crate) p99: f64,
    /// Of all proxies and auth servers, for one request, in µs.
    pub(crate) cpu: f64,
}

/// A case, ready to be done.
pub(crate) struct Work {
    connections: u32,
    seconds: u32,
    script: PathBuf,
    _folder: TempDir,
}

impl Work {
    pub(crate) fn new(case: &Case) -> Self {
        let (start, end) =
            (format!("{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\""), "\"}]");
        let end = if case.streams { format!("{end},\"stream\":true}}") } else { format!("{end}}}") };
        let text = case.bytes.saturating_sub(start.len() + end.len());
        let script = format!(
            "wrk.method = 'POST'\nwrk.body = '{start}' .. string.rep('a', {text}) .. '{end}'\n\
             wrk.headers['Content-Type'] = 'application/json'\nwrk.headers['Authorization'] = 'Bearer {KEY}'\n"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ask.lua");
        std::fs::write(&path, script).expect("a file");
        let seconds = if case.streams { TURN_OF_STREAMS } else { TURN };
        Self { connections: case.connections, seconds, script: path, _folder: folder }
    }

    /// One contender's turn. Each answer of those with Traefik's document has to be a 2xx; of the others there may be none
    /// in time.
    pub(crate) fn ask(&self, contender: &Contender) -> Turn {
        let cpu = || contender.cpu_time().as_secs_f64();
        let before = cpu();
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "--latency", "--timeout", "60s"]);
        wrk.arg(format!("-c{}", self.connections)).arg(format!("-d{}s", self.seconds));
        wrk.arg("-s").arg(&self.script).arg(format!("{}/v1/chat/completions", contender.url));
        let output = wrk.output().expect("wrk");
        let cpu = cpu() - before;
        let said = String::from_utf8_lossy(&output.stdout);
        let word = |line: &str, number: usize| {
            let line = said.lines().find(|found| found.contains(line));
            let word = line.and_then(|line| line.split_whitespace().nth(number));
            word.unwrap_or_else(|| panic!("{}: {said}", contender.name))
        };
        let is_refused = said.contains("Non-2xx");
        assert!(!is_refused || contender.may_fail(), "{}: {said}", contender.name);
        let answers: f64 = word("requests in", 0).parse().expect("a number");
        if answers == 0.0 || is_refused {
            // Some are that slow, or take no body of that length.
            return Turn { per_second: 0.0, p99: f64::INFINITY, cpu: f64::INFINITY };
        }
        Turn {
            per_second: word("Requests/sec:", 1).parse().expect("a number"),
            p99: milliseconds(word("99%", 1)),
            cpu: cpu / answers * 1e6,
        }
    }
}

/// wrk writes `812.00us`, `4.35ms`, `1.20s` or `1.02m`.
fn milliseconds(text: &str) -> f64 {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)];
    let found = units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    });
    found.unwrap_or_else(|| panic!("no time: {text}"))
}

/// nginx in an inference server's place: it answers every prompt with the same words, and costs next to nothing.
pub(crate) async fn short_answers() -> Program {
    let nginx = Program::builder("nginx");
    let config = format!(
        "worker_processes 1; daemon off; error_log stderr crit; pid nginx.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off; client_max_body_size 0; keepalive_requests 100000000; default_type application/json;\n  \
         client_body_temp_path bodies; client_body_buffer_size 16m;\n  server {{ listen 127.0.0.1:{port};\n    \
         location = /v1/models {{ return 200 '{{\"object\":\"list\",\"data\":[{{\"id\":\"{MODEL}\",\"object\":\"model\",\
         \"owned_by\":\"vllm\"}}]}}'; }}\n    \
         location / {{ return 200 '{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"{MODEL}\",\
         \"choices\":[{{\"index\":0,\"finish_reason\":\"stop\",\"message\":{{\"role\":\"assistant\",\"content\":\"Hello\"}}}}],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":1,\"total_tokens\":10}}}}'; }}\n  }}\n}}\n",
        port = nginx.port()
    );
    let (file, folder) = (nginx.file("nginx.conf", config), nginx.folder().to_owned());
    nginx.arg("-c").arg(file).arg("-p").arg(folder).start().await
}

/// The simulated server of the tests, with a stream of so many pieces, one every 10 ms.
pub(crate) async fn streamed_answers(pieces: usize) -> Program {
    let program = std::env::var_os("MODELGATE_BENCHMARK_SIM").expect("the optimised sim-server");
    let server = Program::builder(PathBuf::from(program));
    let port = server.port().to_string();
    let server = server.env("SIM_MODELS", MODEL).env("SIM_HOST", "127.0.0.1").env("SIM_PORT", port);
    let server = server.env("SIM_CHUNKS", pieces.to_string()).env("SIM_CHUNK_DELAY_MS", "10");
    server.env("SIM_OWNED_BY", "vllm").start().await
}
