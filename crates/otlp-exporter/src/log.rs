//! The lines of the log, for a collector as well.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::SystemTime,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::{
    message::{Message, Value, any},
    queue::Queue,
};

/// What sending a line logs itself must not become another line.
const OWN_TARGETS: [&str; 6] = ["otlp_exporter", "hyper", "reqwest", "h2", "rustls", "tokio"];
/// The longest text of a field, in bytes.
const MAX_TEXT: usize = 4096;

/// Puts each line of the log into a queue. Takes no lock, and does not wait.
#[derive(Debug)]
pub struct LogLayer(pub(crate) Arc<Queue>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        if OWN_TARGETS.iter().any(|own| target.split("::").next() == Some(own)) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        self.0.push(line.encode(*event.metadata().level(), target, SystemTime::now()));
    }
}

/// A line while its fields are read.
#[derive(Debug, Default)]
struct Line {
    body: String,
    attributes: Message,
    trace: Option<u128>,
}

impl Line {
    fn add(&mut self, field: &Field, value: Value<'_>) {
        let attributes = std::mem::take(&mut self.attributes);
        self.attributes = attributes.attribute(6, field.name(), value);
    }

    fn text(&mut self, field: &Field, text: &str) {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let text = &text[..end];
        match field.name() {
            "message" => text.clone_into(&mut self.body),
            name => {
                if name == "trace_id" && text.len() == 32 {
                    self.trace = u128::from_str_radix(text, 16).ok();
                }
                self.add(field, Value::Text(text));
            }
        }
    }

    /// A `LogRecord`.
    fn encode(self, level: Level, target: &str, now: SystemTime) -> Vec<u8> {
        // <https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>
        let severity = match level {
            Level::TRACE => 1,
            Level::DEBUG => 5,
            Level::INFO => 9,
            Level::WARN => 13,
            Level::ERROR => 17,
        };
        let message = Message::default()
            .time(1, now)
            .number(2, severity)
            .text(3, level.as_str())
            .message(5, &any(Value::Text(&self.body)))
            .attribute(6, "target", Value::Text(target));
        let message = match self.trace {
            Some(trace) => message.bytes(9, &trace.to_be_bytes()),
            None => message,
        };
        // Fields of one message may stand in any order.
        let mut bytes = message.time(11, now).into_bytes();
        bytes.extend(self.attributes.into_bytes());
        bytes
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
        self.text(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Whole(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Whole(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Fraction(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Truth(value));
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value as Found,
    };
    use prost::Message as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::message::export;

    #[test]
    fn a_line_is_a_record_with_its_trace_and_what_sending_logs_is_none() {
        let queue = Arc::new(Queue::new(8, 8));
        let subscriber = tracing_subscriber::registry().with(LogLayer(Arc::clone(&queue)));
        tracing::subscriber::with_default(subscriber, || {
            let trace = "0af7651916cd43dd8448eb211c80319c";
            tracing::info!(target: "decision", trace_id = trace, more = 7, is_odd = true, share = 0.5, "refused");
            tracing::warn!(target: "hyper::client", "not this");
            tracing::error!(target: "otlp_exporter", "nor this");
            tracing::warn!(target: "web", error = %"ß".repeat(MAX_TEXT), "long");
        });
        let items = queue.take();
        let resource = [("service.name".to_owned(), "gate".to_owned())];
        let sent = export(&resource, items.iter().map(Vec::as_slice));
        let sent = ExportLogsServiceRequest::decode(&*sent).expect("a message");
        let resource = &sent.resource_logs[0];
        assert_eq!(resource.resource.as_ref().expect("a resource").attributes[0].key, "service.name");
        let records = &resource.scope_logs[0].log_records;
        assert_eq!(records.len(), 2);
        let first = &records[0];
        let text = |text: &str| Some(Found::StringValue(text.into()));
        assert_eq!(first.body.clone().and_then(|body| body.value), text("refused"));
        assert_eq!((first.severity_number, &*first.severity_text), (9, "INFO"));
        assert_eq!(first.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert!(first.time_unix_nano > 0 && first.time_unix_nano == first.observed_time_unix_nano);
        let attributes: Vec<_> = first
            .attributes
            .iter()
            .map(|attribute| (&*attribute.key, attribute.value.clone().and_then(|value| value.value)))
            .collect();
        let expected = [
            ("target", text("decision")),
            ("trace_id", text("0af7651916cd43dd8448eb211c80319c")),
            ("more", Some(Found::IntValue(7))),
            ("is_odd", Some(Found::BoolValue(true))),
            ("share", Some(Found::DoubleValue(0.5))),
        ];
        assert_eq!(attributes, expected);
        let Some(Found::StringValue(long)) =
            records[1].attributes[1].value.clone().and_then(|value| value.value)
        else {
            panic!("a text")
        };
        assert_eq!(long.len(), MAX_TEXT);
    }
}
