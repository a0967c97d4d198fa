//! Spans: of a decision, and of what became of an admitted request
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>). Neither has a key, a prompt or an answer.

use std::time::SystemTime;

use metering::{MeteredEndpoint, UsageKind};
use telemetry::{DecisionSpan, OperationSpan, Record, SettledRequest};

use crate::{
    gen_ai::error_type,
    message::{Message, Value},
};

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// A `Span` while its attributes are added.
struct Span(Message);

impl Span {
    fn new((trace, span, parent): (u128, u64, Option<u64>), name: &str, kind: u64) -> Self {
        let message = Message::default().bytes(1, &trace.to_be_bytes()).bytes(2, &span.to_be_bytes());
        let message = match parent {
            Some(parent) => message.bytes(4, &parent.to_be_bytes()),
            None => message,
        };
        Self(message.text(5, name).number(6, kind))
    }

    fn lasts(self, from: SystemTime, to: SystemTime) -> Self {
        Self(self.0.time(7, from).time(8, to))
    }

    fn with(self, key: &str, value: Option<Value<'_>>) -> Self {
        match value {
            Some(value) => Self(self.0.attribute(9, key, value)),
            None => self,
        }
    }

    fn text(self, key: &str, text: Option<&str>) -> Self {
        self.with(key, text.map(Value::Text))
    }

    fn count(self, key: &str, count: Option<u64>) -> Self {
        self.with(key, count.and_then(|count| i64::try_from(count).ok()).map(Value::Whole))
    }

    /// Sets the status; without it nothing is said of success.
    fn failed(self) -> Self {
        Self(self.0.message(15, &Message::default().number(3, ERROR)))
    }

    fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// The span of a decision. `provider` is the program that serves the model.
pub(crate) fn of_decision(record: &Record, span: &DecisionSpan, provider: Option<&'static str>) -> Vec<u8> {
    let DecisionSpan { trace, span, parent, route } = span;
    let operation = MeteredEndpoint::of(record.path()).operation();
    let decision = if record.refused.is_some() { "refused" } else { "allowed" };
    Span::new((*trace, *span, *parent), "decision", SERVER)
        .lasts(record.at, record.at + record.latency.unwrap_or_default())
        .text("gen_ai.operation.name", Some(operation))
        .text("gen_ai.request.model", record.model())
        .text("gen_ai.provider.name", provider)
        .text("http.request.method", Some(record.method()).filter(|method| !method.is_empty()))
        .text("url.path", Some(record.path()))
        .text("modelgate.decision", Some(decision))
        .text("modelgate.reason", record.refused)
        .text("error.type", record.refused)
        .text("modelgate.route", route.as_deref())
        .text("modelgate.consumer", record.consumer())
        .text("modelgate.request_id", Some(record.request_id()))
        .count("modelgate.estimated_tokens", record.tokens.map(u64::from))
        .into_bytes()
}

/// The span of what became of an admitted request.
pub(crate) fn of_operation(
    settled: &SettledRequest,
    span: &OperationSpan,
    provider: &'static str,
) -> Vec<u8> {
    let OperationSpan { trace, span, parent, from } = *span;
    let operation = settled.endpoint.operation();
    let name = format!("{operation} {}", settled.model);
    let is_known = settled.kind != UsageKind::Estimated;
    let used = |tokens: u64| Some(tokens).filter(|_| is_known);
    let failed = error_type(settled);
    let span = Span::new((trace, span.0, Some(parent)), name.trim_end(), CLIENT)
        .lasts(from, from + settled.duration.unwrap_or_default())
        .text("gen_ai.operation.name", Some(operation))
        .text("gen_ai.request.model", Some(&*settled.model).filter(|model| !model.is_empty()))
        .text("gen_ai.provider.name", Some(provider))
        .count("gen_ai.usage.input_tokens", used(settled.used.prompt))
        .count("gen_ai.usage.output_tokens", used(settled.used.completion))
        .count("gen_ai.usage.cache_read.input_tokens", settled.used.cached)
        .text("modelgate.usage_known", Some(settled.kind.name()))
        .text("modelgate.ending", Some(settled.ending.name()))
        .text("modelgate.server", settled.server.as_ref().map(|server| &*server.name))
        .text("modelgate.consumer", Some(&settled.consumer))
        .text("modelgate.request_id", Some(&settled.request.to_string()))
        .count("http.response.status_code", settled.status.map(u64::from))
        .with(
            "modelgate.time_to_first_token",
            settled.time_to_first_token.map(|time| Value::Fraction(time.as_secs_f64())),
        )
        .text("error.type", failed);
    if failed.is_some() { span.failed().into_bytes() } else { span.into_bytes() }
}
