//! OTLP in JSON (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): ids in hexadecimal digits, 64-bit numbers
//! as texts.
//!
//! Lists become receipts while they are read, so that no list is held in memory.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use crate::{
    found::{Draft, Found, Value},
    record::RecordDraft,
    span::SpanDraft,
    text,
};

/// The receipts of an `ExportTraceServiceRequest`.
pub(crate) fn spans(body: &[u8]) -> Result<Found, serde_json::Error> {
    serde_json::from_slice::<Traces>(body).map(|traces| traces.groups.found)
}

/// The receipts of an `ExportLogsServiceRequest`.
pub(crate) fn records(body: &[u8]) -> Result<Found, serde_json::Error> {
    serde_json::from_slice::<Logs>(body).map(|logs| logs.groups.found)
}

#[derive(Deserialize)]
struct Traces {
    #[serde(default, rename = "resourceSpans")]
    groups: List<ResourceSpans>,
}

#[derive(Deserialize)]
struct ResourceSpans {
    #[serde(default, rename = "scopeSpans")]
    groups: List<ScopeSpans>,
}

#[derive(Deserialize)]
struct ScopeSpans {
    #[serde(default, rename = "spans")]
    items: List<Span>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(default)]
    name: String,
    #[serde(default)]
    span_id: String,
    #[serde(default)]
    parent_span_id: String,
    #[serde(default)]
    start_time_unix_nano: Number,
    #[serde(default)]
    end_time_unix_nano: Number,
    #[serde(default)]
    attributes: Attributes<SpanDraft>,
}

#[derive(Deserialize)]
struct Logs {
    #[serde(default, rename = "resourceLogs")]
    groups: List<ResourceLogs>,
}

#[derive(Deserialize)]
struct ResourceLogs {
    #[serde(default, rename = "scopeLogs")]
    groups: List<ScopeLogs>,
}

#[derive(Deserialize)]
struct ScopeLogs {
    #[serde(default, rename = "logRecords")]
    items: List<Record>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    attributes: Attributes<RecordDraft>,
}

/// A `KeyValue`.
#[derive(Deserialize)]
struct Attribute<'b> {
    #[serde(default, borrow)]
    key: Cow<'b, str>,
    #[serde(default, borrow)]
    value: AnyValue<'b>,
}

/// An `AnyValue`; values of other kinds are skipped.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyValue<'b> {
    #[serde(borrow)]
    string_value: Option<BorrowedText<'b>>,
    int_value: Option<Number>,
    double_value: Option<f64>,
}

impl AnyValue<'_> {
    fn value(&self) -> Value<'_> {
        match (&self.string_value, self.int_value, self.double_value) {
            (_, Some(Number(number)), _) => Value::Whole(number),
            (_, None, Some(number)) => Value::Fraction(number),
            (Some(text), None, None) => Value::Text(&text.0),
            (None, None, None) => Value::Other,
        }
    }
}

/// Within an `Option`, serde would copy a plain `Cow`.
#[derive(Deserialize)]
struct BorrowedText<'b>(#[serde(borrow)] Cow<'b, str>);

/// A 64-bit number, as a text or a number. Numbers out of range become -1, which no field in use accepts.
#[derive(Clone, Copy, Default)]
struct Number(i64);

impl Number {
    fn nanoseconds(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a text with one")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(i64::try_from(number).unwrap_or(-1)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.parse().unwrap_or(-1)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Becomes receipts.
trait Element {
    fn found(self) -> Found;
}

impl Element for ResourceSpans {
    fn found(self) -> Found {
        self.groups.found
    }
}

impl Element for ScopeSpans {
    fn found(self) -> Found {
        self.items.found
    }
}

impl Element for Span {
    fn found(self) -> Found {
        let mut draft = self.attributes.0;
        draft.name(self.name.as_bytes());
        draft.span = text::span_id(&self.span_id).unwrap_or(0);
        draft.parent = text::span_id(&self.parent_span_id);
        draft.start = self.start_time_unix_nano.nanoseconds();
        draft.end = self.end_time_unix_nano.nanoseconds();
        one(draft)
    }
}

impl Element for ResourceLogs {
    fn found(self) -> Found {
        self.groups.found
    }
}

impl Element for ScopeLogs {
    fn found(self) -> Found {
        self.items.found
    }
}

impl Element for Record {
    fn found(self) -> Found {
        one(self.attributes.0)
    }
}

fn one(draft: impl Draft) -> Found {
    let mut found = Found::default();
    found.add(draft.finish());
    found
}

/// A list, of which only the receipts are kept.
struct List<T> {
    found: Found,
    of: PhantomData<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { found: Found::default(), of: PhantomData }
    }
}

impl<'de, T: Element + Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self::default())
    }
}

impl<'de, T: Element + Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Self, A::Error> {
        while let Some(element) = elements.next_element::<T>()? {
            self.found.append(element.found());
        }
        Ok(self)
    }
}

/// A list of attributes, of which only those in use are kept.
#[derive(Default)]
struct Attributes<D>(D);

impl<'de, D: Draft> Deserialize<'de> for Attributes<D> {
    fn deserialize<R: Deserializer<'de>>(deserializer: R) -> Result<Self, R::Error> {
        deserializer.deserialize_seq(Self(D::default()))
    }
}

impl<'de, D: Draft> Visitor<'de> for Attributes<D> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of attributes")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut attributes: A) -> Result<Self, A::Error> {
        while let Some(attribute) = attributes.next_element::<Attribute<'de>>()? {
            self.0.attribute(&attribute.key, attribute.value.value());
        }
        Ok(self)
    }
}
