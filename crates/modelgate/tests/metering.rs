//! What servers and Traefik tell about requests afterwards, through a real Traefik: each receipt has the id and the secret parent
//! that `/auth` gave the request.

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use common::{KEY, NEWEST, config, send};
use futures_util::StreamExt as _;
use metering::{Receipt, RecordReceipt, RequestId, SpanId, SpanReceipt};
use otlp_receiver::Reception;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use store::{Batch, Store, StoreUrl, UsageFilter, UsageRow, UsedOn, Writer};
use testkit::{
    free_port,
    modelgate::Modelgate,
    need,
    sim::{Exporter, FailureMode, Options, Received, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

const TOKEN: &str = "a-token-of-the-receiver";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A receiver of the test's own, which sees what Modelgate's would.
struct Receiver {
    port: u16,
    queue: mpsc::Receiver<Receipt>,
    spans: Vec<SpanReceipt>,
    records: Vec<RecordReceipt>,
    _stop: watch::Sender<bool>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, queue) = mpsc::channel(1_000);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(otlp_receiver::serve(listener, Reception::new(None, sender, None), stopped));
        Self { port, queue, spans: Vec::new(), records: Vec::new(), _stop: stop }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Waits until there are this many of each.
    async fn wait(&mut self, spans: usize, records: usize) {
        let all = async {
            while self.spans.len() < spans || self.records.len() < records {
                match self.queue.recv().await.expect("the receiver runs") {
                    Receipt::Span(span) => self.spans.push(span),
                    Receipt::Record(record) => self.records.push(record),
                }
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert!(in_time.is_ok(), "{} spans, {} records", self.spans.len(), self.records.len());
    }
}

/// The ids that `/auth` gave a request, as its server got them: request, trace, parent.
fn ids(received: &Received) -> (RequestId, String, SpanId) {
    let header = |name: &str| received.header(name).unwrap_or_else(|| panic!("{name}: {received:?}"));
    let traceparent = header("traceparent");
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { panic!("{traceparent}") };
    assert_eq!((version, flags), ("00", "01"));
    let parent = SpanId(u64::from_str_radix(parent, 16).expect("an id"));
    (header("x-request-id").parse().expect("an id"), trace.to_owned(), parent)
}

struct Fleet {
    told: Sim,
    proven: Sim,
    receiver: Receiver,
    modelgate: Modelgate,
}

/// One server that tells the test's receiver, and one that tells Modelgate's own.
async fn fleet() -> Fleet {
    let receiver = Receiver::start().await;
    let telemetry = free_port();
    let exporter = |endpoint, token| Some(Exporter { endpoint, token });
    let own = format!("http://127.0.0.1:{telemetry}/v1/traces");
    let told = Sim::start_with(Options {
        spans: exporter(receiver.url("/v1/traces"), None),
        chunks: 20,
        ..Options::named("told", &["llama"])
    });
    let proven = Sim::start_with(Options {
        spans: exporter(own, Some(TOKEN.to_owned())),
        ..Options::named("proven", &["qwen"])
    });
    let more = format!("listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\n");
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config(&[&told, &proven], &more));
    let mut modelgate = builder.env("MODELGATE_LISTEN_TELEMETRY_TOKEN", TOKEN).start().await;
    modelgate.wait_ready().await;
    Fleet { told, proven, receiver, modelgate }
}

async fn wait_for(traefik: &Traefik, model: &str) {
    testkit::eventually(Duration::from_secs(60), || async {
        (send(post(traefik, "/v1/chat/completions", &common::chat(model))).await.status() == 200)
            .then_some(())
    })
    .await;
}

fn post(traefik: &Traefik, path: &str, body: &Value) -> RequestBuilder {
    testkit::client().post(format!("{}{path}", traefik.url())).bearer_auth(KEY).json(body)
}

#[tokio::test]
async fn each_receipt_has_the_ids_that_auth_gave() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let mut fleet = fleet().await;
    let endpoint = format!("--accesslog.otlp.http.endpoint={}", fleet.receiver.url("/v1/logs"));
    let builder = Traefik::builder(&binary).endpoint(fleet.modelgate.provider_endpoint());
    let traefik = builder.telling(&[endpoint]).start().await;
    traefik.wait_configured().await;
    wait_for(&traefik, "llama").await;
    testkit::eventually(Duration::from_secs(10), || async { (fleet.told.posts().len() == 1).then_some(()) })
        .await;
    fleet.receiver.wait(1, 1).await;

    let usages = ask(&traefik).await;
    broken_off(&traefik).await;
    let refused = post(&traefik, "/v1/chat/completions", &common::chat("nothing"));
    assert_eq!(send(refused.header("x-request-id", "f".repeat(32))).await.status(), 404);
    // A chat, three more, two prompts, two choices; then the one that was broken off has a record, but no span.
    fleet.receiver.wait(1 + 4 + 2 + 2, 1 + 6 + 1).await;
    check_ids(&fleet);
    check_tokens(&fleet, &usages);
    let trusted = proven_spans(&fleet, &traefik).await;
    assert_eq!(trusted, 1);
    fleet.receiver.wait(9, 9).await;
    traced_by_traefik(&binary, &mut fleet).await;
}

/// Asks in several ways; returns prompt and completion tokens of each answer, in the order of the requests.
async fn ask(traefik: &Traefik) -> Vec<(u64, u64)> {
    let chat = |more: Value| {
        let mut body = common::chat("llama");
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let requests = [
        ("/v1/chat/completions", chat(json!({}))),
        (
            "/v1/chat/completions",
            chat(json!({ "stream": true, "stream_options": { "include_usage": true } })),
        ),
        ("/v1/completions", json!({ "model": "llama", "prompt": ["one", "two"] })),
        ("/v1/chat/completions", chat(json!({ "n": 2 }))),
        ("/v1/responses", json!({ "model": "llama", "input": "one" })),
        (
            "/v1/messages",
            json!({ "model": "llama", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hello" }] }),
        ),
    ];
    let mut usages = Vec::new();
    for (path, body) in requests {
        let request = post(traefik, path, &body)
            .header("x-request-id", "theirs")
            .header("accept-encoding", "gzip, br")
            .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-00"))
            .header("tracestate", "vendor=1");
        let answer = send(request).await;
        assert_eq!(answer.status(), 200, "{path}");
        let text = answer.text().await.expect("a body");
        let last =
            text.lines().filter_map(|line| line.strip_prefix("data: ")).rfind(|data| data.contains("usage"));
        let answer: Value = serde_json::from_str(last.unwrap_or(&text)).expect("JSON");
        let count =
            |names: [&str; 2]| names.iter().find_map(|name| answer["usage"][*name].as_u64()).expect("usage");
        usages
            .push((count(["prompt_tokens", "input_tokens"]), count(["completion_tokens", "output_tokens"])));
    }
    usages
}

async fn broken_off(traefik: &Traefik) {
    let mut body = common::chat("llama");
    body["stream"] = json!(true);
    let mut chunks = send(post(traefik, "/v1/chat/completions", &body)).await.bytes_stream();
    assert!(chunks.next().await.is_some_and(|chunk| chunk.is_ok()));
}

fn check_ids(fleet: &Fleet) {
    let given: BTreeMap<RequestId, SpanId> =
        fleet.told.posts().iter().map(|received| (ids(received).0, ids(received).2)).collect();
    assert_eq!(given.len(), 8, "each request has an id of its own");
    for received in &fleet.told.posts()[1..7] {
        assert_eq!(received.header("x-inference-client-request-id"), Some("theirs"));
        assert_eq!(received.header("accept-encoding"), Some("identity"), "it would be shorter than it is");
        assert_eq!((ids(received).1.as_str(), received.header("tracestate")), (TRACE, Some("vendor=1")));
    }
    for record in &fleet.receiver.records {
        assert_eq!(record.parent, given.get(&record.request).copied(), "{record:?}");
        assert_eq!(record.status, 200);
    }
    let told: Vec<_> = fleet.receiver.records.iter().map(|record| record.request).collect();
    assert!(given.keys().all(|id| told.contains(id)), "each request has a record");
    let broken_off = ids(fleet.told.posts().last().expect("requests")).0;
    for span in &fleet.receiver.spans {
        assert!(given.values().any(|parent| span.parent == Some(*parent)), "{span:?}");
        assert!(
            span.request.is_none_or(|id| id != broken_off && given[&id] == span.parent.expect("a parent"))
        );
    }
    let record = fleet.receiver.records.iter().find(|record| record.request == broken_off).expect("a record");
    assert_eq!(record.server_status, 0);
}

/// The spans of a request, with each prompt counted once, say what its answer said.
fn check_tokens(fleet: &Fleet, usages: &[(u64, u64)]) {
    for (received, usage) in fleet.told.posts()[1..].iter().zip(usages) {
        let (_, _, parent) = ids(received);
        let spans: Vec<_> = fleet.receiver.spans.iter().filter(|span| span.parent == Some(parent)).collect();
        let prompts: BTreeMap<&str, u64> =
            spans.iter().map(|span| (&*span.part, span.prompt_tokens)).collect();
        let completion: u64 = spans.iter().map(|span| span.completion_tokens).sum();
        assert_eq!((prompts.values().sum::<u64>(), completion), *usage, "{}", received.path);
    }
}

/// Modelgate's own listener takes what the other server sends with the token. Returns how many spans it has counted.
async fn proven_spans(fleet: &Fleet, traefik: &Traefik) -> u64 {
    let answer = send(post(traefik, "/v1/chat/completions", &common::chat("qwen"))).await;
    assert_eq!(answer.status(), 200);
    assert!(ids(fleet.proven.posts().last().expect("a request")).1 != TRACE);
    testkit::eventually(Duration::from_secs(30), || async {
        let metrics = testkit::client().get(format!("{}/metrics", fleet.modelgate.admin_url()));
        let metrics = send(metrics).await.text().await.expect("metrics");
        assert_eq!(value(&metrics, "modelgate_exports_refused_total"), 0);
        Some(value(&metrics, "modelgate_receipts_total{kind=\"span\"}")).filter(|count| *count > 0)
    })
    .await
}

/// With Traefik's own tracing, and its log over gRPC: servers get another parent, but the record still has ours.
async fn traced_by_traefik(binary: &std::path::Path, fleet: &mut Fleet) {
    let grpc = [
        format!("--accesslog.otlp.grpc.endpoint=127.0.0.1:{}", fleet.receiver.port),
        "--accesslog.otlp.grpc.insecure=true".to_owned(),
        "--tracing=true".to_owned(),
        format!("--tracing.otlp.http.endpoint={}", fleet.receiver.url("/v1/traces")),
    ];
    let builder = Traefik::builder(binary).endpoint(fleet.modelgate.provider_endpoint());
    let traefik = builder.telling(&grpc).start().await;
    traefik.wait_configured().await;
    let (spans, records) = (fleet.receiver.spans.len(), fleet.receiver.records.len());
    wait_for(&traefik, "llama").await;
    fleet.receiver.wait(spans + 1, records + 1).await;
    let (request, _, seen) = ids(fleet.told.posts().last().expect("a request"));
    let (span, record) =
        (fleet.receiver.spans.last().expect("one"), fleet.receiver.records.last().expect("one"));
    assert_eq!((span.request, record.request), (Some(request), request));
    assert_eq!(span.parent, Some(seen), "Traefik's own span");
    assert!(record.parent.is_some() && record.parent != Some(seen), "the one that `/auth` set");
}

#[tokio::test]
async fn without_the_listener_a_clients_trace_is_left_alone() {
    let sim = Sim::start("a", &["llama"]);
    let Some(stack) = common::stack(NEWEST, &[&sim], "").await else { return };
    stack.wait_for("llama").await;
    let theirs = format!("00-{TRACE}-b7ad6b7169203331-00");
    let request = stack.post("/v1/chat/completions", &common::chat("llama"));
    assert_eq!(send(request.header("traceparent", &theirs)).await.status(), 200);
    let posts = sim.posts();
    assert_eq!(posts.last().expect("a request").header("traceparent"), Some(&*theirs));
    assert_eq!(posts[0].header("traceparent"), None);
    let ids: std::collections::BTreeSet<_> =
        posts.iter().map(|received| received.header("x-request-id")).collect();
    assert_eq!(ids.len(), posts.len());
}

/// `metering.wait`.
#[tokio::test]
async fn what_nobody_tells_about_stands_as_estimated() {
    let sim = Sim::start("a", &["llama"]);
    let telemetry = free_port();
    let yaml = format!("listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\nmetering: {{ wait: 10s }}\n");
    let Some(stack) = common::stack(NEWEST, &[&sim], &yaml).await else { return };
    stack.wait_for("llama").await;
    let request = stack.post("/v1/chat/completions", &common::chat("llama"));
    assert_eq!(send(request).await.status(), 200);
    let start = Instant::now();
    let settled = testkit::eventually(Duration::from_secs(60), || async {
        let url = format!("{}/metrics", stack.modelgate.admin_url());
        let metrics = send(testkit::client().get(url)).await.text().await.expect("text");
        let settled = ["exact", "measured", "estimated"]
            .map(|known| value(&metrics, &format!("modelgate_settled_requests_total{{known=\"{known}\"}}")));
        (settled.iter().sum::<u64>() > 0).then_some(settled)
    });
    assert_eq!(settled.await[..2], [0, 0], "nobody has told");
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
}

const LIMITED: &str = "mg-limited";
const PRICES: &str = "prices: { currency: EUR, models: [{ match: \"llama*\", prompt: 0.15, completion: 0.60, request: 0.001 }] }\n";

/// A request reserves some thousand tokens and takes a few: without what servers and Traefik tell, ten a minute would pass.
#[tokio::test]
async fn what_is_told_goes_back_to_limits_and_usage() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let telemetry = free_port();
    let sim = Sim::start_with(Options {
        spans: Some(Exporter { endpoint: format!("http://127.0.0.1:{telemetry}/v1/traces"), token: None }),
        // So that a client can break off a streamed answer, however busy the machine is.
        chunk_delay: Duration::from_millis(500),
        ..Options::named("sim", &["llama"])
    });
    let yaml = format!(
        "listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\ntime_zone: {}\n{PRICES}servers: [{{ url: \"{}\" }}]\n{}",
        common::noon(),
        sim.url(),
        common::auth::file_key("limited", "tokens_per_minute: 10000, tokens_per_day: 1000000"),
    );
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &yaml).keep_state();
    let builder = builder.env("MODELGATE_LISTEN_TELEMETRY_TOKEN", TOKEN).env("MODELGATE_ADMIN_TOKEN", TOKEN);
    let builder = builder.env("MODELGATE_LOG_LEVEL", "debug");
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let to_modelgate = [
        format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs"),
        format!("--accesslog.otlp.http.headers.Authorization=Bearer {TOKEN}"),
    ];
    let builder = Traefik::builder(&binary).endpoint(modelgate.provider_endpoint());
    let traefik = builder.telling(&to_modelgate).start().await;
    traefik.wait_configured().await;

    let began = Instant::now();
    let (mut prompt, mut completion, mut reserved) = (0, 0, 0);
    while reserved < 60_000 {
        let answer = send(post_as(&traefik, LIMITED, &common::chat("llama"))).await;
        match answer.status().as_u16() {
            200 => {
                let answer: Value = answer.json().await.expect("JSON");
                prompt += answer["usage"]["prompt_tokens"].as_u64().expect("usage");
                completion += answer["usage"]["completion_tokens"].as_u64().expect("usage");
                reserved += 1_000;
            }
            429 => {
                let wait = &answer.headers()["retry-after"];
                assert!(
                    wait.to_str().is_ok_and(|wait| wait.parse().is_ok_and(|wait: u64| wait <= 5)),
                    "{wait:?}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // Traefik has not got the route yet.
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let used = prompt + completion;
    // Without it 60,000 tokens take five minutes.
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    let told = MeteredKey { key: &traefik, modelgate: &modelgate };
    let seen = std::sync::Mutex::new(String::new());
    let is_settled = testkit::within(Duration::from_secs(30), || {
        let (told, last) = (&told, &seen);
        async move {
            let (day, minute) = (told.left("day").await, told.left("minute").await);
            let mut seen = told.metrics().await;
            let tokens = |of| format!("modelgate_settled_tokens_total{{known=\"exact\",type=\"{of}\"}}");
            let exact = value(&seen, &tokens("prompt")) + value(&seen, &tokens("completion"));
            let requests = value(&seen, "modelgate_settled_requests_total{known=\"exact\"}");
            let open = value(&seen, "modelgate_open_requests");
            seen.push_str(&format!("\nleft: {day} a day, {minute} a minute; used: {used}"));
            *last.lock().expect("no panic") = seen;
            let is_all = (exact, requests, open) == (used, 60, 0);
            (is_all && day == 1_000_000 - used && minute + used >= 10_000).then_some(())
        }
    })
    .await;
    assert!(is_settled.is_some(), "{}\n{}", seen.into_inner().expect("no panic"), modelgate.log());
    usage_says_what_the_answers_said(&modelgate, &traefik, prompt, completion).await;
}

struct MeteredKey<'t> {
    key: &'t Traefik,
    modelgate: &'t Modelgate,
}

impl MeteredKey<'_> {
    /// What is left of the key's limit of tokens, as the key is told.
    async fn left(&self, per: &str) -> u64 {
        let asked = testkit::client().get(format!("{}/v1/limits", self.key.url())).bearer_auth(LIMITED);
        let limits: Value = send(asked).await.json().await.expect("JSON");
        let all = limits["limits"].as_array().expect("limits");
        let limit = all.iter().find(|limit| limit["per"] == per).expect("a limit");
        limit["remaining"].as_u64().expect("a number")
    }

    async fn metrics(&self) -> String {
        let metrics = testkit::client().get(format!("{}/metrics", self.modelgate.admin_url()));
        send(metrics).await.text().await.expect("metrics")
    }
}

/// A metric's value.
fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.trim().parse::<f64>().expect("a number") as u64
}

/// The API, the command line and the caller's own list: to the token.
async fn usage_says_what_the_answers_said(
    modelgate: &Modelgate,
    traefik: &Traefik,
    prompt: u64,
    completion: u64,
) {
    let client = testkit::client();
    // One that is broken off is measured, and counted apart.
    let mut body = common::chat("llama");
    body["stream"] = json!(true);
    let mut chunks = send(post_as(traefik, LIMITED, &body)).await.bytes_stream();
    assert!(chunks.next().await.is_some_and(|chunk| chunk.is_ok()));
    drop(chunks);
    let api = format!("{}/api/v1/usage?key=limited", modelgate.admin_url());
    let rows = async |query: &str| -> Value {
        let answer: Value =
            send(client.get(format!("{api}{query}")).bearer_auth(TOKEN)).await.json().await.expect("JSON");
        answer["items"].clone()
    };
    let day = testkit::eventually(Duration::from_secs(30), || async {
        let day = rows("").await[0].clone();
        (day["aborted"] == 1 && day["estimated_tokens"] == 0).then_some(day)
    })
    .await;
    assert_eq!((&day["exact_tokens"], &day["requests"]), (&json!(prompt + completion), &json!(61)), "{day}");
    let number = |row: &Value, name: &str| row[name].as_u64().expect("a number");
    let measured = number(&day, "measured_tokens");
    let parts = number(&day, "prompt_tokens") + number(&day, "completion_tokens");
    assert_eq!(
        (parts, number(&day, "tokens")),
        (prompt + completion + measured, prompt + completion + measured)
    );
    assert!(measured > 0 && number(&day, "prompt_tokens") > prompt && day["errors"] == 0, "{day}");
    assert!(day["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{day}");
    let billions = |requests: u64, prompt: u64, completion: u64| {
        let cost = 1_000_000 * requests + 150 * prompt + 600 * completion;
        format!("{}.{:09}", cost / 1_000_000_000, cost % 1_000_000_000).trim_end_matches('0').to_owned()
    };
    let cost = billions(61, number(&day, "prompt_tokens"), number(&day, "completion_tokens"));
    assert_eq!((&day["cost"], &day["currency"]), (&json!(cost), &json!("EUR")), "{day}");
    let by_hour = rows("&by=hour").await;
    let of_hours: u64 = by_hour.as_array().expect("rows").iter().map(|row| number(row, "tokens")).sum();
    assert_eq!(of_hours, number(&day, "tokens"), "{by_hour}");

    let own = client.get(format!("{}/v1/usage?by=day", traefik.url())).bearer_auth(LIMITED);
    let own: Value = send(own).await.json().await.expect("JSON");
    assert_eq!((&own["object"], &own["key"]), (&json!("usage"), &json!("limited")));
    for name in
        ["tokens", "exact_tokens", "prompt_tokens", "completion_tokens", "requests", "aborted", "cost"]
    {
        assert_eq!(own["data"][0][name], day[name], "{name} of {own}");
    }
    let others = client.get(format!("{}/v1/usage?key=other", traefik.url())).bearer_auth(LIMITED);
    let (status, body) = common::refusal(others).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_parameter")), "{body}");
    let stranger = client.get(format!("{}/v1/usage", traefik.url()));
    assert_eq!(send(stranger).await.status(), 401);

    let run = |prices: &str, arguments: &[&str]| -> Value {
        std::fs::write(modelgate.folder().join("prices.yaml"), prices).expect("written");
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        let command = command.current_dir(modelgate.folder()).env("MODELGATE_STATE_DIR", "state");
        let command = command.args(["--config", "prices.yaml", "usage"]).args(arguments);
        let printed = command.arg("--json").output().expect("it runs");
        assert!(printed.status.success(), "{printed:?}");
        serde_json::from_slice(&printed.stdout).expect("JSON")
    };
    let listed = ["--by", "day,key,consumer,model"];
    assert_eq!(run(PRICES, &listed)[0], day);
    let free = PRICES.replace("request: 0.001", "request: 0");
    let cheaper = billions(0, number(&day, "prompt_tokens"), number(&day, "completion_tokens"));
    let today = day["day"].as_str().expect("a day");
    let left_out = run(&free, &["recost", "--from", today]);
    assert_eq!((&left_out["rows_of_usage"], &left_out["is_final"]), (&json!(0), &json!(false)));
    let hour = list_hours(modelgate).await.iter().filter_map(|row| row.hour).min().expect("an hour");
    let began = jiff::Timestamp::from_second(hour).expect("a time").to_string();
    assert_eq!(left_out["left_out"]["from"], json!(began), "its requests may still be settled: {left_out}");
    assert_eq!(run(&free, &listed)[0]["cost"], day["cost"], "{left_out}");

    let before = two_days_before(modelgate, today).await;
    let recost = ["recost", "--from", &before, "--to", &before];
    let planned = run(&free, &[&recost[..], &["--dry-run"]].concat());
    assert_eq!((&planned["before"], &planned["after"]), (&day["cost"], &json!(cheaper)));
    assert_eq!(run(&free, &listed)[1]["cost"], day["cost"], "{planned}");
    let recosted = run(&free, &recost);
    assert_eq!((&recosted["before"], &recosted["after"]), (&day["cost"], &json!(cheaper)));
    assert_eq!((&recosted["is_final"], &recosted["left_out"]), (&json!(true), &Value::Null));
    assert_eq!(run(&free, &listed)[1]["cost"], json!(cheaper), "{recosted}");
    let again = run(&free, &["recost", "--from", "2026-01-01"]);
    assert_eq!((&again["rows_of_usage"], &again["is_final"]), (&json!(0), &json!(false)), "today goes on");
}

async fn open_store(modelgate: &Modelgate) -> Store {
    let folder = modelgate.folder().join("state");
    Store::open(StoreUrl::in_folder(&folder)).await.expect("a store")
}

async fn list_hours(modelgate: &Modelgate) -> Vec<UsageRow> {
    let by = "hour,key,consumer,model".parse().expect("columns");
    let filter = UsageFilter { by, limit: 1_000, ..UsageFilter::default() };
    open_store(modelgate).await.usage(&filter).await.expect("usage")
}

/// The same usage once more, two days before. Returns that day.
async fn two_days_before(modelgate: &Modelgate, today: &str) -> String {
    let today: jiff::civil::Date = today.parse().expect("a day");
    let before = today.saturating_sub(jiff::Span::new().days(2)).to_string();
    let used = list_hours(modelgate).await.into_iter().map(|row| {
        let hour = row.hour.expect("an hour") - 2 * 24 * 3_600;
        let [key, consumer, model] = [row.key, row.consumer, row.model].map(Option::unwrap_or_default);
        let hour = access::UsageHour(u32::try_from(hour).expect("a time"));
        UsedOn { day: before.clone(), used: access::Used { hour, key, consumer, model, counts: row.counts } }
    });
    let (used, at) = (used.collect(), SystemTime::now());
    let batch = Batch { number: 1, counts: Vec::new(), used, at };
    open_store(modelgate).await.add(&Writer::new(), &batch).await.expect("added");
    before
}

fn post_as(traefik: &Traefik, key: &str, body: &Value) -> RequestBuilder {
    testkit::client().post(format!("{}/v1/chat/completions", traefik.url())).bearer_auth(key).json(body)
}

const ADMIN: &str = "an-admin-token-of-the-tests";

/// The answer of the admin API.
async fn api(modelgate: &Modelgate, path: &str) -> Value {
    let asked = testkit::client().get(format!("{}/api/v1{path}", modelgate.admin_url())).bearer_auth(ADMIN);
    let answer = send(asked).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.expect("JSON")
}

/// A server that exports spans, and one that does not, behind a Traefik that tells about both.
struct Seen {
    told: Sim,
    quiet: Sim,
    modelgate: Modelgate,
    traefik: Traefik,
}

impl Seen {
    async fn start(binary: &std::path::Path) -> Self {
        let telemetry = free_port();
        let endpoint = format!("http://127.0.0.1:{telemetry}/v1/traces");
        let of = |owner: &str, name: &str, model: &str| Options {
            owned_by: owner.to_owned(),
            chunks: 20,
            ..Options::named(name, &[model])
        };
        let spans = Some(Exporter { endpoint, token: None });
        let told = Sim::start_with(Options { spans, ..of("vllm", "told", "llama") });
        let quiet = Sim::start_with(of("llamacpp", "quiet", "qwen"));
        let more = format!("listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\n");
        let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &config(&[&told, &quiet], &more));
        let mut modelgate = builder.env("MODELGATE_ADMIN_TOKEN", ADMIN).start().await;
        modelgate.wait_ready().await;
        let endpoint = [format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs")];
        let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint());
        let traefik = builder.telling(&endpoint).start().await;
        traefik.wait_configured().await;
        Self { told, quiet, modelgate, traefik }
    }

    /// Sends a request whose own id is `id`.
    async fn ask(&self, id: &str, model: &str, more: Value) -> reqwest::Response {
        let mut body = common::chat(model);
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        send(post(&self.traefik, "/v1/chat/completions", &body).header("x-request-id", id)).await
    }

    /// What became of a request, once that is known.
    async fn outcome(&self, id: &str) -> Value {
        testkit::eventually(Duration::from_secs(30), || async {
            let listed = api(&self.modelgate, &format!("/requests?id={id}")).await;
            assert_eq!(listed["items"][1], Value::Null, "one request has this id");
            let outcome = listed["items"][0]["outcome"].clone();
            (!outcome.is_null()).then_some(outcome)
        })
        .await
    }

    /// How well a server's tokens are known, and how its requests have gone.
    async fn server(&self, name: &str) -> (Value, Value) {
        let listed = api(&self.modelgate, "/servers").await;
        let server = listed["items"].as_array().expect("a list").iter().find(|server| server["name"] == name);
        let server = server.expect(name);
        (server["metering"]["code"].clone(), server["last_minutes"].clone())
    }
}

#[tokio::test]
async fn operators_see_what_became_of_each_request() {
    let Some(binary) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let seen = Seen::start(&binary).await;
    assert_eq!(seen.server("told").await, (json!("metering_waiting"), Value::Null));
    for model in ["llama", "qwen"] {
        wait_for(&seen.traefik, model).await;
    }
    // From now on Traefik's records are waited for: without them only the spans tell, and those know no status.
    testkit::eventually(Duration::from_secs(30), || async {
        (seen.server("quiet").await.0 == "metering_measured").then_some(())
    })
    .await;
    answered(&seen).await;
    broken_off_and_failed(&seen).await;
    figures(&seen).await;
}

/// What the answers themselves say is what the list shows.
async fn answered(seen: &Seen) {
    let answer = seen.ask("whole", "llama", json!({})).await;
    let usage = answer.json::<Value>().await.expect("JSON")["usage"].clone();
    let whole = seen.outcome("whole").await;
    let [ending, status, server] = ["ending", "status", "server"].map(|name| &whole[name]);
    assert_eq!((ending, status, server), (&json!("answered"), &json!(200), &json!("told")));
    assert_eq!(whole["tokens_are"], "exact");
    for tokens in ["prompt_tokens", "completion_tokens"] {
        assert!(whole[tokens] == usage[tokens] && usage[tokens].as_u64() > Some(0), "{whole} {usage}");
    }
    let (first, all) = (whole["first_token_seconds"].as_f64(), whole["seconds"].as_f64());
    assert!(first.is_some_and(|first| first >= 0.0) && all > first, "{whole}");

    assert_eq!(seen.ask("measured", "qwen", json!({})).await.status(), 200);
    let measured = seen.outcome("measured").await;
    assert_eq!((&measured["ending"], &measured["server"]), (&json!("answered"), &json!("quiet")));
    assert_eq!(
        (&measured["tokens_are"], &measured["first_token_seconds"]),
        (&json!("measured"), &Value::Null)
    );

    // The answer has 20 tokens. Nothing is known about this model but the bytes.
    let streamed = seen.ask("streamed", "qwen", json!({ "stream": true })).await;
    assert!(streamed.text().await.expect("a stream").contains("[DONE]"));
    let streamed = seen.outcome("streamed").await;
    let tokens = streamed["completion_tokens"].as_u64().expect("a number");
    assert!(streamed["tokens_are"] == "measured" && (15..=25).contains(&tokens), "{streamed}");
}

async fn broken_off_and_failed(seen: &Seen) {
    let mut chunks = seen.ask("broken-off", "llama", json!({ "stream": true })).await.bytes_stream();
    assert!(chunks.next().await.is_some_and(|chunk| chunk.is_ok()));
    drop(chunks);
    let aborted = seen.outcome("broken-off").await;
    assert_eq!((&aborted["ending"], &aborted["tokens_are"]), (&json!("aborted"), &json!("measured")));

    seen.quiet.set_failure(FailureMode { status: Some(500), ..FailureMode::default() });
    assert_eq!(seen.ask("failed", "qwen", json!({})).await.status(), 500);
    let failed = seen.outcome("failed").await;
    assert_eq!((&failed["ending"], &failed["status"]), (&json!("refused"), &json!(500)));
    assert_eq!((&failed["prompt_tokens"], &failed["completion_tokens"]), (&json!(0), &json!(0)));
    let listed = api(&seen.modelgate, "/requests?ending=aborted&limit=5").await;
    assert_eq!(listed["items"].as_array().expect("a list").len(), 1);
}

/// Models, servers and metrics count each request once.
async fn figures(seen: &Seen) {
    let (code, told) = seen.server("told").await;
    assert_eq!((&code, &told["aborted"], &told["failed"]), (&json!("metering_exact"), &json!(1), &json!(0)));
    assert_eq!(told["answered"], seen.told.posts().len() - 1);
    assert!(told["first_token_seconds_p95"].as_f64() > Some(0.0), "{told}");
    assert!(told["completion_tokens_per_second"].as_f64() > Some(0.0), "{told}");
    let (code, quiet) = seen.server("quiet").await;
    assert_eq!(
        (&code, &quiet["failed"], &quiet["aborted"]),
        (&json!("metering_measured"), &json!(1), &json!(0))
    );
    let models = api(&seen.modelgate, "/models").await;
    let models = models["items"].as_array().expect("a list");
    let of = |name: &str| &models.iter().find(|model| model["name"] == name).expect(name)["last_minutes"];
    assert_eq!((&of("llama")["answered"], &of("qwen")["failed"]), (&told["answered"], &json!(1)));
    let metrics = testkit::client().get(format!("{}/metrics", seen.modelgate.admin_url()));
    let metrics = send(metrics).await.text().await.expect("metrics");
    for sample in [
        "modelgate_model_requests_total{model=\"llama\",ending=\"aborted\"} 1.0",
        "modelgate_server_requests_total{server=\"quiet\",ending=\"failed\"} 1.0",
        "modelgate_server_first_token_seconds_bucket{le=\"+Inf\",server=\"told\"}",
        "modelgate_consumer_tokens_total{consumer=\"alice\",type=\"prompt\",known=\"exact\"}",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
}
