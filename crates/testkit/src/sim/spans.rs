//! Exports spans as vLLM does with `--otlp-traces-endpoint`: one `llm_request` for each prompt and choice of a request that has
//! finished, in batches, in protobuf over HTTP. What was broken off or refused has none.
//!
//! What a real vLLM 0.32.0 sends is recorded in `crates/otlp-receiver/testdata`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};
use prost::Message as _;
use tokio::{sync::mpsc, time::sleep};

use super::work::{PROMPT_TOKENS, Trace, Work};
use crate::client;

/// How long spans are collected, and the most in a batch.
const BATCH_TIME: Duration = Duration::from_millis(100);
const BATCH: usize = 512;
/// The pauses between attempts; after the last one a batch is dropped.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Where spans are sent.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// `http://HOST:PORT/v1/traces`.
    pub endpoint: String,
    /// Sent as bearer token.
    pub token: Option<String>,
}

/// The spans of a request that has finished just now, each of its answers with this many tokens.
pub(super) fn of(work: &Work, completion: usize) -> Vec<Span> {
    let (trace, parent) = match work.trace {
        Trace::New => (rand::random(), None),
        Trace::Continued { trace, parent } => (trace, Some(parent)),
        Trace::Unsampled => return Vec::new(),
    };
    let number = |index: usize| {
        work.numbered.map_or_else(String::new, |dash| format!("{dash}{}", index / work.choices))
    };
    let span = |index| Span {
        trace_id: u128::to_be_bytes(trace).to_vec(),
        span_id: rand::random::<u64>().max(1).to_be_bytes().to_vec(),
        parent_span_id: parent.map(|parent: u64| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        name: "llm_request".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanoseconds(work.start),
        end_time_unix_nano: nanoseconds(SystemTime::now()),
        attributes: attributes(work, format!("{}{}", work.id, number(index)), completion),
        ..Span::default()
    };
    (0..work.answers()).map(span).collect()
}

fn attributes(work: &Work, id: String, completion: usize) -> Vec<KeyValue> {
    let whole = |number: usize| Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
    let lasted = work.start.elapsed().unwrap_or_default();
    let first_token = work.first_token.unwrap_or(lasted);
    let mut attributes = vec![
        ("gen_ai.latency.time_to_first_token", Value::DoubleValue(first_token.as_secs_f64())),
        ("gen_ai.latency.e2e", Value::DoubleValue(lasted.as_secs_f64())),
        ("gen_ai.latency.time_in_queue", Value::DoubleValue(0.0)),
        ("gen_ai.usage.prompt_tokens", whole(PROMPT_TOKENS)),
        ("gen_ai.request.id", Value::StringValue(id)),
        // Whatever the request says: each choice is a request of its own to the engine.
        ("gen_ai.request.n", whole(1)),
    ];
    if work.completes {
        attributes.push(("gen_ai.usage.completion_tokens", whole(completion)));
    }
    let key_value = |(key, value): (&str, Value)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    attributes.into_iter().map(key_value).collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Sends spans until the other end is dropped.
pub(super) async fn export(exporter: Exporter, mut spans: mpsc::UnboundedReceiver<Vec<Span>>) {
    while let Some(mut batch) = spans.recv().await {
        sleep(BATCH_TIME).await;
        while batch.len() < BATCH
            && let Ok(more) = spans.try_recv()
        {
            batch.extend(more);
        }
        send(&exporter, batch).await;
    }
}

async fn send(exporter: &Exporter, spans: Vec<Span>) {
    let scope =
        InstrumentationScope { name: "vllm.tracing.otel".to_owned(), ..InstrumentationScope::default() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let resource_spans = ResourceSpans { scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    let body = ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec();
    for pause in PAUSES {
        let mut request = client().post(&exporter.endpoint).header("content-type", "application/x-protobuf");
        if let Some(token) = &exporter.token {
            request = request.bearer_auth(token);
        }
        let answer = request.body(body.clone()).send().await;
        match answer.map(|answer| answer.status().as_u16()) {
            // What will not succeed later, either (https://opentelemetry.io/docs/specs/otlp/#failures-1).
            Ok(status) if !matches!(status, 429 | 502 | 503 | 504) => return,
            _ => sleep(pause).await,
        }
    }
}
