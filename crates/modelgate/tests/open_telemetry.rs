//! What an operator's collector is told: spans that continue Traefik's and the client's, metrics, the log, and what servers told for
//! metering. The collector reads exports with OpenTelemetry's own messages.

mod common;

use std::{fs, time::Duration};

use common::{KEY, NEWEST, chat, config, openmetrics::Exposition, send};
use serde_json::Value;
use testkit::{
    Stopwatch, eventually, free_port,
    modelgate::Modelgate,
    need,
    receivers::{TestReceiver, receivers},
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio::net::TcpListener;

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
const TOKEN: &str = "a-token-of-the-receiver";
const CLIENT_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const COLLECTORS_TOKEN: &str = "Bearer a token of the collector";

fn is(item: &Value, signal: &str, name: &str) -> bool {
    item["signal"] == signal && item["name"] == name
}

fn attribute<'i>(item: &'i Value, name: &str) -> &'i Value {
    &item["attributes"][name]
}

/// Modelgate in front of a server that tells its spans, and in front of it a Traefik that traces and one that does not.
struct TracedStack {
    collector: TestReceiver,
    _sim: Sim,
    modelgate: Modelgate,
    tracing: Traefik,
    silent: Traefik,
}

async fn start(traefik: &std::path::Path, python: &std::path::Path) -> TracedStack {
    let collector = TestReceiver::collector(python).await;
    let telemetry = free_port();
    let spans = Exporter {
        endpoint: format!("http://127.0.0.1:{telemetry}/v1/traces"),
        token: Some(TOKEN.to_owned()),
    };
    let vllm = Options { owned_by: "vllm".into(), ..Options::named("gpu-1", &["llama"]) };
    let sim = Sim::start_with(Options { spans: Some(spans), ..vllm });
    let more = format!(
        "listen: {{ telemetry: \"127.0.0.1:{telemetry}\" }}\n\
         metering: {{ forward_to: {:?}, forward_authorization: {{ env: COLLECTORS_TOKEN }} }}\n",
        collector.url()
    );
    let builder = Modelgate::builder(BINARY, &config(&[&sim], &more))
        .env("MODELGATE_LISTEN_TELEMETRY_TOKEN", TOKEN)
        .env("COLLECTORS_TOKEN", COLLECTORS_TOKEN)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20of-modelgate")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "500");
    let mut modelgate = builder.start().await;
    modelgate.wait_ready().await;
    let logs = [
        format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{telemetry}/v1/logs"),
        format!("--accesslog.otlp.http.headers.Authorization=Bearer {TOKEN}"),
    ];
    let builder = || Traefik::builder(traefik).endpoint(modelgate.provider_endpoint());
    let traces = format!("--tracing.otlp.http.endpoint={}/v1/traces", collector.url());
    let tracing = builder().arg(traces).arg("--tracing.sampleRate=1").telling(&logs).start().await;
    let silent = builder().telling(&logs).start().await;
    tracing.wait_configured().await;
    silent.wait_configured().await;
    TracedStack { collector, _sim: sim, modelgate, tracing, silent }
}

impl TracedStack {
    /// The status of one request.
    async fn ask(&self, traefik: &Traefik, traceparent: &str, model: &str) -> u16 {
        let request = testkit::client().post(format!("{}/v1/chat/completions", traefik.url()));
        let request = request.bearer_auth(KEY).header("traceparent", traceparent).json(&chat(model));
        send(request).await.status().as_u16()
    }

    async fn span(&self, name: &str, trace: &str) -> Value {
        self.collector.wait(|item| is(item, "span", name) && item["trace"] == trace).await
    }

    fn has_span(&self, trace: &str, id: &Value) -> bool {
        self.collector.came().iter().any(|item| item["trace"] == trace && item["span"] == *id)
    }
}

/// The client's trace goes through Traefik to the decision, and from there to what became of the request.
async fn through_a_traefik_that_traces(stack: &TracedStack) {
    let traceparent = format!("00-{CLIENT_TRACE}-b7ad6b7169203331-01");
    assert_eq!(stack.ask(&stack.tracing, &traceparent, "llama").await, 200);
    let decision = stack.span("decision", CLIENT_TRACE).await;
    // Traefik sends its spans every 5 s.
    let parent = &decision["parent"];
    eventually(Duration::from_secs(60), || async { stack.has_span(CLIENT_TRACE, parent).then_some(()) })
        .await;
    assert_ne!(*parent, "b7ad6b7169203331", "the parent is Traefik's span");
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "llama"),
        ("gen_ai.provider.name", "vllm"),
        ("modelgate.decision", "allowed"),
        ("modelgate.consumer", "alice"),
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
    ] {
        assert_eq!(attribute(&decision, name), value, "{name}: {decision}");
    }
    assert!(attribute(&decision, "modelgate.route").as_str().is_some_and(|route| route.starts_with("llama")));
    assert_eq!(decision["resource"]["service.name"], "modelgate");
    assert_eq!(decision["resource"]["deployment.environment.name"], "test");
    let operation = stack.span("chat llama", CLIENT_TRACE).await;
    assert_eq!(operation["parent"], decision["span"]);
    let of_server = stack.span("llm_request", CLIENT_TRACE).await;
    for (ours, theirs) in [
        ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    ] {
        let told = attribute(&of_server, theirs);
        assert!(told.as_i64() > Some(0) && attribute(&operation, ours) == told, "{operation} {of_server}");
    }
    assert_eq!(attribute(&operation, "modelgate.server"), "gpu-1");
}

/// Then the server's span is a child of Modelgate's, and a trace that is not sampled has none.
async fn through_one_that_does_not(stack: &TracedStack) {
    let [sampled, unsampled] = ["11111111111111111111111111111111", "22222222222222222222222222222222"];
    assert_eq!(stack.ask(&stack.silent, &format!("00-{unsampled}-b7ad6b7169203331-00"), "llama").await, 200);
    assert_eq!(stack.ask(&stack.silent, &format!("00-{sampled}-b7ad6b7169203331-01"), "llama").await, 200);
    let decision = stack.span("decision", sampled).await;
    assert_eq!(decision["parent"], "b7ad6b7169203331");
    let operation = stack.span("chat llama", sampled).await;
    let of_server = stack.span("llm_request", sampled).await;
    assert_eq!((&operation["parent"], &of_server["parent"]), (&decision["span"], &operation["span"]));
    // It was asked before the other.
    stack.span("llm_request", unsampled).await;
    let came = stack.collector.came();
    let ours = came.iter().filter(|item| item["trace"] == unsampled && !is(item, "span", "llm_request"));
    assert_eq!(ours.count(), 0);
}

async fn refusals_metrics_and_lines(stack: &TracedStack) {
    let trace = "33333333333333333333333333333333";
    assert_eq!(stack.ask(&stack.silent, &format!("00-{trace}-b7ad6b7169203331-01"), "nothing").await, 404);
    let refused = stack.span("decision", trace).await;
    assert_eq!(attribute(&refused, "modelgate.reason"), "model_not_found");
    assert_eq!(attribute(&refused, "error.type"), "model_not_found");
    let line = stack.collector.wait(|item| item["signal"] == "line" && item["trace"] == trace).await;
    assert_eq!((&line["body"], &line["severity"]), (&"refused".into(), &"INFO".into()));
    assert_eq!(attribute(&line, "reason"), "model_not_found");
    let counted = |name: &'static str, kind: &'static str| {
        move |item: &Value| {
            is(item, "point", name)
                && item["kind"] == kind
                && item["count"].as_u64() >= Some(1)
                && item["value"].as_f64() > Some(0.0)
        }
    };
    let tokens = |kind: &'static str| {
        let is_it = counted("gen_ai.client.token.usage", "histogram");
        move |item: &Value| is_it(item) && attribute(item, "gen_ai.token.type") == kind
    };
    let input = stack.collector.wait(tokens("input")).await;
    assert_eq!(attribute(&input, "gen_ai.request.model"), "llama");
    assert_eq!(
        (attribute(&input, "gen_ai.provider.name"), &input["unit"]),
        (&"vllm".into(), &"{token}".into())
    );
    stack.collector.wait(tokens("output")).await;
    for (name, kind) in [
        ("gen_ai.client.operation.duration", "histogram"),
        ("gen_ai.server.time_to_first_token", "histogram"),
        ("modelgate_requests", "sum"),
        ("modelgate_decision_seconds", "histogram"),
        ("modelgate_models", "gauge"),
        ("modelgate_otlp_items", "sum"),
    ] {
        stack.collector.wait(counted(name, kind)).await;
    }
}

#[tokio::test]
async fn a_collector_gets_spans_metrics_and_lines_and_what_servers_told() {
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let Some(python) = need(receivers(), "a collector") else { return };
    let mut stack = start(&traefik, &python).await;
    for traefik in [&stack.tracing, &stack.silent] {
        let warm = format!("00-{}-b7ad6b7169203331-00", "f".repeat(32));
        eventually(Duration::from_secs(60), || async {
            (stack.ask(traefik, &warm, "llama").await == 200).then_some(())
        })
        .await;
    }
    through_a_traefik_that_traces(&stack).await;
    through_one_that_does_not(&stack).await;
    refusals_metrics_and_lines(&stack).await;
    stack
        .collector
        .wait(|item| item["path"] == "/v1/logs" && item["authorization"] == COLLECTORS_TOKEN)
        .await;
    stack.modelgate.stop().await;
    stack.collector.wait(|item| item["signal"] == "line" && item["body"] == "stopping").await;
    let came = stack.collector.came();
    let unreadable: Vec<_> = came.iter().filter(|item| item["signal"] == "unreadable").collect();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let own = came.iter().filter(|item| item["authorization"] == "Basic of-modelgate").count();
    assert!(own > 5, "{own}");
    assert!(!stack.collector.log().contains(KEY));
    // Traefik itself tells its command line, which has the token here.
    let of_modelgate = came.iter().filter(|item| item["resource"]["service.name"] == "modelgate");
    assert!(of_modelgate.into_iter().all(|item| !item.to_string().contains(TOKEN)));
    assert!(!stack.modelgate.log().contains("a token of the collector"));
}

/// The threads and the open sockets of a process.
fn threads_and_sockets(pid: u32) -> (usize, usize) {
    let entries = |path: &str| fs::read_dir(format!("/proc/{pid}/{path}")).expect("it runs").flatten();
    let is_socket = |path: std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    (entries("task").count(), entries("fd").filter(|entry| is_socket(entry.path())).count())
}

/// Asks `/auth` some times; none may take as long as waiting for a collector would.
async fn questions(modelgate: &Modelgate, client: &reqwest::Client, count: usize) {
    for _ in 0..count {
        let watch = Stopwatch::start();
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth(KEY);
        let question = question.header("x-forwarded-method", "POST");
        let question = question.header("x-forwarded-uri", "/v1/chat/completions").json(&chat("llama"));
        assert_eq!(send(question).await.status(), 200);
        let took = watch.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

async fn metrics(modelgate: &Modelgate) -> String {
    let request = testkit::client().get(format!("{}/metrics", modelgate.admin_url()));
    send(request.header("accept", "application/openmetrics-text")).await.text().await.expect("text")
}

/// A collector that takes connections and never answers keeps no request waiting; and without a collector there is nothing.
#[tokio::test]
async fn a_collector_that_hangs_slows_nothing_and_without_one_there_is_nothing() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", hanging.local_addr().expect("an address"));
    let sim = Sim::start("gpu-1", &["llama"]);
    let config = config(&[&sim], "log: { level: info }\n");
    let mut off = Modelgate::start_with(BINARY, &config).await;
    let on = Modelgate::builder(BINARY, &config)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "10")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "50")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        .env("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc");
    let mut on = on.start().await;
    off.wait_ready().await;
    on.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    for (modelgate, count) in [(&off, 20), (&on, 500)] {
        questions(modelgate, &client, count).await;
    }
    let dropped = eventually(Duration::from_secs(30), || async {
        let found = Exposition::parse(&metrics(&on).await).expect("metrics");
        let dropped =
            found.value("modelgate_otlp_items", "_total", &[("signal", "traces"), ("outcome", "dropped")]);
        (dropped > 0.0).then_some(dropped)
    })
    .await;
    assert!(dropped <= 500.0, "{dropped}");
    assert!(
        on.log().contains(
            "no metrics are exported: OTEL_EXPORTER_OTLP_METRICS_PROTOCOL allows only http/protobuf"
        )
    );
    assert!(!metrics(&off).await.contains("modelgate_otlp"), "nothing is exported");
    // Between two attempts there is no connection to the collector.
    eventually(Duration::from_secs(30), || async {
        let ((threads_on, sockets_on), (threads_off, sockets_off)) =
            (threads_and_sockets(on.id()), threads_and_sockets(off.id()));
        (threads_off <= threads_on && sockets_off < sockets_on).then_some(())
    })
    .await;
    // It stops in time, whatever the collector does.
    on.stop().await;
}
