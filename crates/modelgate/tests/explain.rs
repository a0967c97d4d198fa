//! `modelgate explain` and `modelgate check --servers`: what an operator asks when something is not routed.

mod common;

use std::{fs, path::Path, process::Output, time::Duration};

use common::{LLAMA_KEY, NEWEST, Stack, stack};
use testkit::{
    modelgate::Modelgate,
    sim::{Options, Sim},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const KEY: &str = "mg-test-key-of-alice";

struct Folder(tempfile::TempDir);

impl Folder {
    /// Alice may use `llama*`; the servers as YAML.
    fn with(servers: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = access::KeyDigest::of(KEY).to_hex();
        let yaml = format!(
            "docker: {{ enabled: false }}\nkeys: [{{ name: laptop, consumer: alice, sha256: \"{digest}\", models: \
             [\"llama*\"] }}]\nservers:\n{servers}"
        );
        fs::write(folder.path().join("modelgate.yaml"), yaml).expect("written");
        Self(folder)
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        run_in(self.0.path(), &[], arguments).await
    }
}

/// Runs a command in a folder, with environment variables. Returns its status, and all that it prints.
async fn run_in(folder: &Path, env: &[(&str, String)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    command.current_dir(folder).args(arguments).envs(env.iter().map(|(name, value)| (name, value)));
    let output: Output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), text.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_a_model_are_explained() {
    let sim = Sim::start("gpu-1", &["llama", "qwen"]);
    let servers = format!(
        "  - {{ url: \"{}\", name: gpu-1, weight: 3, strategy: p2c, aliases: [fast=llama] }}\n",
        sim.url()
    );
    let folder = Folder::with(&servers);
    let (status, text) = folder.run(&["explain", "container", "gpu-1"]).await;
    assert_eq!(status, Some(0), "{text}");
    for part in
        [sim.url().as_str(), "ready", "llama, qwen", "weight=3", "strategy=p2c", "\"fast\" by route fast-"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, text) = folder.run(&["explain", "model", "fast"]).await;
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "alias of    llama",
        "gpu-1 at",
        "Header(`X-Inference-Route`",
        "modelgate-retry",
        "loadBalancer",
        "p2c",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (status, text) = folder.run(&["explain", "model", "lama"]).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("known are: ") && text.contains("llama"), "{text}");
    let (status, text) = folder.run(&["explain", "container", "gpu-2"]).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("inference.enable=true; known are:\n  gpu-1: ready"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_explained_from_the_command_line_and_from_a_har_file() {
    let sim = Sim::start("gpu-1", &["llama", "qwen"]);
    let folder = Folder::with(&format!("  - {{ url: \"{}\", name: gpu-1 }}\n", sim.url()));
    let authorization = format!("Authorization: Bearer {KEY}");
    let ask = |body: &'static str| {
        let arguments = [
            "explain",
            "request",
            "-H",
            &authorization,
            "-d",
            body,
            "http://llm.example.com/v1/chat/completions",
        ];
        arguments.map(str::to_owned)
    };
    for (body, code, parts) in [
        (r#"{"model":"llama"}"#, "allowed: model llama", vec!["\"laptop\"", "\"alice\"", "gpu-1 at"]),
        (r#"{"model":"qwen"}"#, "refused with 404 (model_not_found)", vec!["\"laptop\""]),
        (r#"{"model":"llama","Model":"qwen"}"#, "refused with 400 (model_ambiguous)", vec!["\"laptop\""]),
    ] {
        let arguments = ask(body);
        let (status, text) = folder.run(&arguments.each_ref().map(String::as_str)).await;
        assert_eq!(status, Some(0), "{text}");
        assert!(text.contains(code) && parts.iter().all(|part| text.contains(part)), "{body}: {text}");
        assert!(!text.contains(KEY), "{text}");
    }
    let har = serde_json::json!({ "log": { "entries": [{ "request": {
        "method": "POST", "url": "https://llm.example.com/v1/chat/completions",
        "headers": [
            { "name": ":method", "value": "POST" },
            { "name": "authorization", "value": format!("Bearer {KEY}") },
            { "name": "content-type", "value": "application/json" },
        ],
        "postData": { "mimeType": "application/json", "text": r#"{"model":"llama"}"# },
    } }] } });
    fs::write(folder.0.path().join("saved.har"), har.to_string()).expect("written");
    let (status, text) = folder.run(&["explain", "request", "--har", "saved.har"]).await;
    assert!(status == Some(0) && text.contains("allowed: model llama"), "{text}");
    let (status, text) = folder.run(&["explain", "request", "--har", "saved.har", "--entry", "7"]).await;
    assert!(status == Some(1) && text.contains("it has 1 entries"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_wrong_with_servers() {
    let good = Sim::start("good", &["llama"]);
    let folder = Folder::with(&format!("  - {{ url: \"{}\", name: good }}\n", good.url()));
    let (status, text) = folder.run(&["check", "--servers"]).await;
    assert!(status == Some(0) && text.contains("server good: ready"), "{text}");
    assert!(text.contains("tokens of good: estimated: listen.telemetry is not set [metering_off]"), "{text}");
    let bad = Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named("bad", &["qwen"]) });
    let servers = format!(
        "  - {{ url: \"{}\", name: good, strategy: p2c, canary: {{ model: qwen }} }}\n  - {{ url: \"{}\", name: bad, \
         aliases: [fast] }}\n  - {{ url: \"http://127.0.0.1:1\", name: gone }}\n",
        good.url(),
        bad.url()
    );
    let servers = format!(
        "{servers}listen: {{ telemetry: \"127.0.0.1:8103\" }}\ntraefik: {{ advertise: gate.internal }}\n"
    );
    let (status, text) = Folder::with(&servers).run(&["check", "--servers"]).await;
    assert_eq!(status, Some(1), "{text}");
    for part in [
        "server gone: starting",
        "canary.model",
        "does not answer to \"llama\"",
        "--served-model-name",
        "tokens of bad: exact, if the server exports its traces; else measured",
        "--otlp-traces-endpoint http://gate.internal:8103/v1/traces",
        ": measured at best: servers of this kind do not tell Modelgate their tokens",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A request, as lines of HTTP/1.1: the request line, and headers. `Host` and `Content-Length` are added.
struct Asked {
    head: &'static str,
    body: String,
    /// A part of what `explain` must say, besides the status and the words that the client gets.
    says: &'static str,
}

/// Method, path and the other headers.
fn parts(head: &str) -> (&str, &str, Vec<&str>) {
    let mut lines = head.lines();
    let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("a method and a path");
    (method, path, lines.collect())
}

impl Asked {
    fn new(head: &'static str, body: impl Into<String>, says: &'static str) -> Self {
        Self { head, body: body.into(), says }
    }

    fn host(&self) -> &str {
        parts(self.head).2.iter().find_map(|line| line.strip_prefix("Host: ")).unwrap_or("llm.test")
    }

    fn is_chunked(&self) -> bool {
        self.head.contains("Transfer-Encoding: chunked")
    }

    /// What Traefik answers: the status and the body.
    async fn sent(&self, stack: &Stack) -> (u16, String) {
        let (method, path, headers) = parts(self.head);
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !self.head.contains("Host: ") {
            text.push_str("Host: llm.test\r\n");
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        match self.is_chunked() {
            true => text.push_str(&format!("\r\n{:x}\r\n{}\r\n0\r\n\r\n", self.body.len(), self.body)),
            false if self.body.is_empty() => text.push_str("\r\n"),
            false => text.push_str(&format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body)),
        }
        let mut stream = TcpStream::connect(("127.0.0.1", stack.traefik.port())).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        read.expect("an end").unwrap_or_default();
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{}: {answer}", self.head)), answer)
    }

    /// What `explain request` says.
    async fn explained(&self, modelgate: &Modelgate) -> String {
        let (method, path, headers) = parts(self.head);
        let url = format!("http://{}{path}", self.host());
        let mut arguments = vec!["--config", "modelgate.yaml", "explain", "request", "-X", method];
        for header in headers {
            arguments.extend(["-H", header]);
        }
        if !self.body.is_empty() {
            arguments.extend(["-d", &self.body]);
        }
        arguments.push(&url);
        let (status, text) = run_in(modelgate.folder(), &listens(modelgate), &arguments).await;
        assert_eq!(status, Some(0), "{}: {text}", self.head);
        text
    }
}

/// The addresses that the running Modelgate was given by its environment.
fn listens(modelgate: &Modelgate) -> [(&'static str, String); 2] {
    let ports = modelgate.ports();
    [
        ("MODELGATE_LISTEN_ADMIN", format!("127.0.0.1:{}", ports.admin)),
        ("MODELGATE_DOCKER_ENABLED", "false".into()),
    ]
}

/// The status that the last line of an explanation tells.
fn told_status(text: &str) -> u16 {
    let last = text.lines().last().unwrap_or_default();
    let number = |marker: &str| {
        let digits: String = last.split_once(marker)?.1.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let good =
        (last.starts_with("allowed: ") || last.starts_with("answered by Modelgate itself: ")).then_some(200);
    good.or_else(|| number("refused with "))
        .or_else(|| number("answered by Traefik with "))
        .unwrap_or_else(|| panic!("{text}"))
}

/// What the client is told, according to an explanation; empty if the refusal is not Modelgate's.
fn told_words(text: &str) -> &str {
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("refused with ").and_then(|rest| Some(rest.split_once("): ")?.1)).unwrap_or_default()
}

async fn compare(stack: &Stack, cases: &[Asked]) {
    for case in cases {
        let (status, answer) = case.sent(stack).await;
        let text = case.explained(&stack.modelgate).await;
        assert_eq!(told_status(&text), status, "{}\n{text}\n{answer}", case.head);
        assert!(text.contains(case.says), "{}: {}\n{text}", case.head, case.says);
        let words = serde_json::Value::from(told_words(&text)).to_string();
        assert!(answer.contains(words.trim_matches('"')), "{}: {words}\n{answer}", case.head);
        assert!(!text.contains(common::KEY) && !text.contains(LLAMA_KEY), "{text}");
    }
}

const JSON: &str = "Content-Type: application/json";

const CHAT: &str = r#"{"model":"llama","messages":[]}"#;
const POST: &str = "POST /v1/chat/completions";

/// With alice's key, as JSON.
fn keyed(head: &str, body: impl Into<String>, says: &'static str) -> Asked {
    let (line, rest) = head.split_once('\n').unwrap_or((head, ""));
    let head = format!("{line}\nAuthorization: Bearer {}\n{JSON}\n{rest}", common::KEY);
    Asked::new(head.leak(), body, says)
}

/// A body of about this length.
fn long(length: usize) -> String {
    format!(r#"{{"model":"llama","messages":[],"user":"{}"}}"#, "x".repeat(length))
}

fn decided() -> Vec<Asked> {
    let by_path = "POST /models/org/qwen/v1/chat/completions";
    let nope = r#"{"model":"nope","messages":[]}"#;
    vec![
        keyed(POST, CHAT, "modelgate-small takes it"),
        keyed(POST, CHAT, "then Traefik's router llama-"),
        keyed("POST /llm/chat/completions", CHAT, "it makes /v1/chat/completions of the path"),
        keyed("POST /v1/chat/completions?x=1", nope, "model_not_found"),
        keyed("POST /v1/messages\nanthropic-version: 2023-06-01", nope, "with 404"),
        keyed("POST /v1/completions?api-key=mg-test-key-of-alice", CHAT, "api_key_in_url"),
        keyed("POST /v1//chat/./completions", CHAT, "Traefik cleans the path: /v1/chat/completions"),
        keyed(by_path, CHAT, "with 400"),
        keyed(by_path, r#"{"model":"org/qwen","messages":[]}"#, "org/qwen"),
        Asked::new("POST /v1/chat/completions\nAuthorization: Bearer mg-wrong", CHAT, "invalid_api_key"),
        Asked::new(POST, CHAT, "modelgate-small takes it"),
    ]
}

/// Modelgate answers them itself.
fn lists() -> Vec<Asked> {
    vec![
        keyed("GET /v1/models", "", "the list of models: llama, org/qwen"),
        keyed("GET /v1/models/org%2Fqwen", "", "the model org/qwen"),
        keyed("GET /v1/models/nope", "", "the API key is \"alice\""),
        Asked::new("GET /v1/models", "", "modelgate-models takes it"),
        keyed("GET /models/org/qwen/v1/models", "", "the list of models: org/qwen"),
        keyed("GET /llm/models", "", "the list of models: llama, org/qwen"),
        keyed("POST /v1/models", CHAT, "modelgate-small takes it"),
        keyed("GET /v1/limits", "", "answered by Modelgate itself"),
    ]
}

/// Wrong base URLs, and what is not Modelgate's.
fn elsewhere() -> Vec<Asked> {
    let of_ollama = "the API ollama, and traefik.apis has only openai, models, azure";
    vec![
        keyed("POST /chat/completions", CHAT, "the right path is /v1/chat/completions"),
        keyed("GET /v1", "", "modelgate-elsewhere takes it"),
        keyed("POST /v1/v1/chat/completions", CHAT, "the right path is /v1/chat/completions"),
        keyed("POST /api/chat", CHAT, of_ollama),
        keyed("POST /v2/embed", CHAT, "the API cohere"),
        keyed("GET /app", "", "none of the APIs that are offered"),
        keyed("POST /v1/chat/completions\nHost: other.test", CHAT, "other.test is not in traefik.hosts"),
    ]
}

/// Methods, pages of other origins, WebSockets, sizes.
fn odd() -> Vec<Asked> {
    let websocket = "GET /v1/responses\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==";
    let preflight =
        "OPTIONS /v1/chat/completions\nOrigin: https://app.test\nAccess-Control-Request-Method: POST";
    let chunked = "POST /v1/chat/completions\nTransfer-Encoding: chunked";
    vec![
        keyed("TRACE /v1/chat/completions", "", "method_not_allowed"),
        keyed("PROPFIND /v1/chat/completions", CHAT, "with 405"),
        keyed(websocket, "", "modelgate-websocket takes it"),
        keyed("GET /v1/responses\nUpgrade: websocket", "", "invalid_websocket"),
        Asked::new(preflight, "", "preflight"),
        keyed(POST, long(4000), "request_too_large"),
        keyed(chunked, long(10), "modelgate-chunked takes it"),
        keyed(chunked, long(2000), "request_too_large"),
        Asked::new(chunked, long(2000), "with 401"),
    ]
}

/// Regression: "allowed" was said of requests that Traefik does not route, and the list of models was called unreadable.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained_is_what_happens() {
    let sim =
        Sim::start_with(Options { owned_by: "vllm".into(), ..Options::named("gpu", &["llama", "org/qwen"]) });
    let more = "traefik: { hosts: [llm.test, 127.0.0.1], cors: { origins: [\"https://app.test\"] }, allow_ips: [127.0.0.0/8], \
                path_prefixes: [/v1, /llm] }\n\
                requests: { max_body: 3000, max_chunked_body: 1000 }\n";
    let Some(stack) = stack(NEWEST, &[&sim], more).await else { return };
    stack.wait_for("llama").await;
    for cases in [decided(), lists(), elsewhere(), odd()] {
        compare(&stack, &cases).await;
    }
    // Nothing can be made to come to Traefik from elsewhere on this machine.
    let from = [
        "--config",
        "modelgate.yaml",
        "explain",
        "request",
        "--from",
        "192.0.2.1",
        "http://llm.test/v1/models",
    ];
    let (_, text) = run_in(stack.modelgate.folder(), &listens(&stack.modelgate), &from).await;
    assert!(text.contains("answered by Traefik with 403: its address is not in traefik.allow_ips"), "{text}");
}

/// In the flat layout Traefik chooses; before 3.3 it shows no bodies.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_traefik_lacks_is_explained() {
    let sim = Sim::start("gpu", &["llama", "qwen"]);
    for version in ["3.5.3", "3.0.4"] {
        let more = format!("traefik: {{ version: {version} }}\n");
        let Some(stack) = stack(version, &[&sim], &more).await else { continue };
        let by_name = "POST /models/llama/v1/chat/completions";
        let shows_bodies = version == "3.5.3";
        let named = if shows_bodies { "allowed: model llama" } else { "it is left out" };
        let cases = [
            keyed(by_name, CHAT, named),
            keyed(POST, CHAT, "cannot choose a model by the request's body"),
            keyed("GET /v1/models", "", "the list of models: llama, qwen"),
        ];
        compare(&stack, &cases).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_when_no_traefik_asks() {
    let sim = Sim::start("gpu", &["llama"]);
    let mut modelgate =
        Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &common::config(&[&sim], "")).await;
    modelgate.wait_ready().await;
    let case = Asked::new("GET /v1/models", "", "");
    let text = case.explained(&modelgate).await;
    assert!(text.contains("no Traefik has polled yet"), "{text}");
    modelgate.stop().await;
    let text = case.explained(&modelgate).await;
    assert!(text.contains("no Modelgate answers at 127.0.0.1:"), "{text}");
}
