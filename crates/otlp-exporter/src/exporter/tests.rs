//! A collector that fails at first, and then takes all but one item; what it gets is read with OpenTelemetry's own types.

use std::{collections::VecDeque, time::Instant};

use axum::{
    Router,
    body::Bytes as Body,
    extract::State,
    http::{StatusCode, Uri},
};
use metering::{Ending, MeteredEndpoint, RequestId, SpanId, UsageKind, UsedTokens};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::any_value::Value,
    metrics::v1::metric::Data,
    trace::v1::Span,
};
use prost::Message as _;
use telemetry::{AnsweringServer, Decided, DecisionSpan, OperationSpan, Refused, SettledRequest};
use tokio::net::TcpListener;

use super::*;
use crate::{NumberPoint, Points, Setup};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

#[derive(Debug, Default)]
struct Inbox {
    came: Vec<(String, Vec<u8>)>,
    answers: VecDeque<u16>,
}

async fn take(State(inbox): State<Arc<Mutex<Inbox>>>, uri: Uri, body: Body) -> (StatusCode, Vec<u8>) {
    let mut inbox = inbox.lock().expect("no panic");
    inbox.came.push((uri.path().to_owned(), body.to_vec()));
    let status = inbox.answers.pop_front().unwrap_or(200);
    // One item was not taken.
    (
        StatusCode::from_u16(status).expect("a status"),
        if status == 200 { vec![0x0a, 2, 8, 1] } else { Vec::new() },
    )
}

async fn collector(answers: &[u16]) -> (String, Arc<Mutex<Inbox>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let inbox = Arc::new(Mutex::new(Inbox { came: Vec::new(), answers: answers.iter().copied().collect() }));
    let router = Router::new().fallback(take).with_state(Arc::clone(&inbox));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, inbox)
}

fn exporter(variables: &[(&str, &str)]) -> Exporter {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let setup = Setup::read(|name| {
        variables.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned())
    });
    assert_eq!(setup.problems, [""; 0]);
    Exporter::new(setup.settings.expect("something is exported"))
}

fn sources(telemetry: &Arc<Telemetry>) -> ExporterSources {
    let gauge = || Metric {
        name: "modelgate_models",
        help: "Models",
        unit: "",
        points: Points::Gauges(vec![NumberPoint { attributes: vec![("state", "ready".into())], value: 3.0 }]),
    };
    ExporterSources {
        telemetry: Arc::clone(telemetry),
        provider: Box::new(|model| (model == "llama").then_some("vllm")),
        metrics: Box::new(move || vec![gauge()]),
    }
}

fn decide(telemetry: &Telemetry, refused: Option<&'static str>, span: Option<DecisionSpan>) {
    let mut record = telemetry.count(&Decided {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        request_id: "00112233445566778899aabbccddeeff",
        client_request_id: None,
        consumer: Some("team"),
        key: Some("secret-name"),
        model: Some("llama"),
        from: None,
        method: "POST",
        uri: "/v1/chat/completions?api-key=secret",
        refused: refused.map(|code| Refused { code, words: &"no" }),
        tokens: Some(7),
        latency: Some(Duration::from_micros(70)),
    });
    record.span = span.map(Box::new);
    telemetry.keep(record);
}

fn settled(ending: Ending) -> SettledRequest {
    let span = OperationSpan { trace: TRACE, span: SpanId(0xab), parent: 0xcd, from: SystemTime::UNIX_EPOCH };
    SettledRequest {
        request: RequestId(1),
        consumer: "team".into(),
        model: "llama".into(),
        endpoint: MeteredEndpoint::ChatCompletions,
        server: Some(AnsweringServer { id: "file:gpu".into(), name: "gpu".into() }),
        ending,
        status: Some(200),
        time_to_first_token: Some(Duration::from_millis(200)),
        duration: Some(Duration::from_secs(2)),
        kind: UsageKind::Exact,
        used: UsedTokens { prompt: 5, cached: Some(4), completion: 7 },
        cost: 0,
        span: Some(Arc::new(span)),
    }
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

fn text(text: &str) -> Option<Value> {
    Some(Value::StringValue(text.into()))
}

/// What is told of a refusal and of an answer.
fn as_they_should_be(spans: &[Span]) {
    let [refused, answered] = spans else { panic!("{spans:?}") };
    assert_eq!(
        (&refused.trace_id[..], &refused.span_id[..]),
        (&TRACE.to_be_bytes()[..], &0xcd_u64.to_be_bytes()[..])
    );
    assert_eq!((&refused.parent_span_id[..], refused.kind), (&0xef_u64.to_be_bytes()[..], 2));
    assert_eq!(refused.end_time_unix_nano - refused.start_time_unix_nano, 70_000);
    for (key, value) in [
        ("gen_ai.operation.name", text("chat")),
        ("gen_ai.request.model", text("llama")),
        ("gen_ai.provider.name", text("vllm")),
        ("url.path", text("/v1/chat/completions")),
        ("modelgate.decision", text("refused")),
        ("error.type", text("rate_limit_exceeded")),
        ("modelgate.route", text("llama-3f2a")),
        ("modelgate.estimated_tokens", Some(Value::IntValue(7))),
    ] {
        assert_eq!(attribute(refused, key), value, "{key}");
    }
    assert!(!format!("{spans:?}").contains("secret"), "{spans:?}");
    assert_eq!((&*answered.name, answered.kind), ("chat llama", 3));
    assert_eq!(
        (&answered.parent_span_id[..], &answered.span_id[..]),
        (&refused.span_id[..], &0xab_u64.to_be_bytes()[..])
    );
    assert_eq!(attribute(answered, "gen_ai.usage.output_tokens"), Some(Value::IntValue(7)));
    assert_eq!(attribute(answered, "modelgate.time_to_first_token"), Some(Value::DoubleValue(0.2)));
    assert_eq!(attribute(answered, "error.type"), None);
}

#[tokio::test]
async fn spans_and_sums_arrive_once_the_collector_takes_them() {
    let (url, inbox) = collector(&[503]).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ];
    let mut exporter = exporter(&variables);
    let telemetry = Arc::new(Telemetry::new());
    exporter.start(sources(&telemetry)).expect("it starts");
    let span =
        DecisionSpan { trace: TRACE, span: 0xcd, parent: Some(0xef), route: Some("llama-3f2a".into()) };
    decide(&telemetry, Some("rate_limit_exceeded"), Some(span));
    decide(&telemetry, None, None);
    telemetry.collect(SystemTime::UNIX_EPOCH);
    telemetry.settled(&[Arc::new(settled(Ending::Finished))], Instant::now());
    let came = || inbox.lock().expect("no panic").came.clone();
    while came().len() < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    exporter.close(Duration::from_secs(10)).await;
    let traces: Vec<_> = came().into_iter().filter(|(path, _)| path == "/v1/traces").collect();
    assert!(traces.len() >= 2 && traces[0] == traces[1], "the same export again: {}", traces.len());
    let spans = traces[1..].iter().flat_map(|(_, body)| {
        let sent = ExportTraceServiceRequest::decode(&**body).expect("a message");
        sent.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans)
    });
    let mut spans: Vec<Span> = spans.collect();
    // They come from two sources; whichever is read first.
    spans.sort_by_key(|span| span.kind);
    as_they_should_be(&spans);
    let (_, body) = came().into_iter().find(|(path, _)| path == "/v1/metrics").expect("metrics at the end");
    let sent = ExportMetricsServiceRequest::decode(&*body).expect("a message");
    let metrics = &sent.resource_metrics[0].scope_metrics[0].metrics;
    let names: Vec<&str> = metrics.iter().map(|metric| &*metric.name).collect();
    let expected = [
        "modelgate_models",
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.server.time_to_first_token",
    ];
    assert_eq!(names, expected);
    let Some(Data::Histogram(tokens)) = &metrics[1].data else { panic!("{metrics:?}") };
    assert_eq!((tokens.aggregation_temporality, tokens.data_points.len()), (2, 2));
    assert!(tokens.data_points.iter().all(|point| point.count == 1 && point.bucket_counts.len() == 15));
    let Some(Data::Gauge(models)) = &metrics[0].data else { panic!("{metrics:?}") };
    assert_eq!(models.data_points[0].attributes[0].key, "state");
    let [(_, traces), (_, metrics)] = &exporter.counts()[..] else { panic!("two signals") };
    assert_eq!(traces.failures(), 1);
    assert!(
        traces.sent() + traces.dropped() == 2 && traces.dropped() >= 1,
        "one item of each export was not taken: {traces:?}"
    );
    assert_eq!((metrics.sent(), metrics.dropped()), (3, 1));
}

#[tokio::test]
async fn what_is_not_wanted_is_dropped_and_a_full_queue_keeps_nobody_waiting() {
    let (url, inbox) = collector(&[400]).await;
    let traces = format!("{url}/in");
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*traces),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
    ];
    let mut exporter = exporter(&variables);
    let telemetry = Arc::new(Telemetry::new());
    exporter.start(sources(&telemetry)).expect("it starts");
    for _ in 0..25 {
        decide(&telemetry, None, Some(DecisionSpan { trace: TRACE, span: 1, parent: None, route: None }));
    }
    telemetry.collect(SystemTime::UNIX_EPOCH);
    let [(Signal::Traces, counts)] = &exporter.counts()[..] else { panic!("one signal") };
    while counts.dropped() < 15 {
        sleep(Duration::from_millis(10)).await;
    }
    exporter.close(Duration::from_secs(10)).await;
    assert_eq!((counts.sent(), counts.dropped(), counts.failures()), (0, 25, 1));
    let came = inbox.lock().expect("no panic").came.clone();
    assert_eq!((came.len(), &*came[0].0), (1, "/in"), "a refusal is not asked again");
}
