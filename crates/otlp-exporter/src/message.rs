//! Writes OTLP's messages in protobuf's wire format
//! (<https://github.com/open-telemetry/opentelemetry-proto/tree/v1.10.0/opentelemetry/proto>).

use std::time::{SystemTime, UNIX_EPOCH};

/// A message while it is written. Fields with a number or a text that is empty are left out, as protobuf does.
#[derive(Debug, Default, Clone)]
pub(crate) struct Message(Vec<u8>);

/// The value of an attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'v> {
    Text(&'v str),
    Whole(i64),
    Fraction(f64),
    Truth(bool),
}

impl Message {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, number: u32, kind: u32) {
        self.raw_varint(u64::from(number << 3 | kind));
    }

    /// A whole number or an enumeration's.
    pub(crate) fn number(mut self, number: u32, value: u64) -> Self {
        if value != 0 {
            self.tag(number, 0);
            self.raw_varint(value);
        }
        self
    }

    /// A number of fixed size, even if it is zero.
    pub(crate) fn fixed(mut self, number: u32, value: u64) -> Self {
        self.tag(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn fraction(self, number: u32, value: f64) -> Self {
        self.fixed(number, value.to_bits())
    }

    pub(crate) fn bytes(mut self, number: u32, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.tag(number, 2);
            self.raw_varint(bytes.len() as u64);
            self.0.extend_from_slice(bytes);
        }
        self
    }

    pub(crate) fn text(self, number: u32, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    /// A message within this one, even if it is empty.
    pub(crate) fn message(mut self, number: u32, message: &Self) -> Self {
        self.tag(number, 2);
        self.raw_varint(message.0.len() as u64);
        self.0.extend_from_slice(&message.0);
        self
    }

    /// Numbers of fixed size, packed.
    pub(crate) fn all_fixed(self, number: u32, values: impl Iterator<Item = u64>) -> Self {
        let packed: Vec<u8> = values.flat_map(u64::to_le_bytes).collect();
        self.bytes(number, &packed)
    }

    pub(crate) fn time(self, number: u32, at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.fixed(number, u64::try_from(since.as_nanos()).unwrap_or(0))
    }

    /// A `KeyValue`.
    pub(crate) fn attribute(self, number: u32, key: &str, value: Value<'_>) -> Self {
        self.message(number, &Self::default().text(1, key).message(2, &any(value)))
    }
}

/// An `AnyValue`. In a `oneof` even empty values are written.
pub(crate) fn any(value: Value<'_>) -> Message {
    let mut message = Message::default();
    match value {
        Value::Text(text) => {
            message.tag(1, 2);
            message.raw_varint(text.len() as u64);
            message.0.extend_from_slice(text.as_bytes());
        }
        Value::Truth(truth) => {
            message.tag(2, 0);
            message.raw_varint(u64::from(truth));
        }
        Value::Whole(whole) => {
            message.tag(3, 0);
            message.raw_varint(whole.cast_unsigned());
        }
        Value::Fraction(fraction) => return message.fraction(4, fraction),
    }
    message
}

/// A whole export: `ExportTraceServiceRequest`, `ExportMetricsServiceRequest` and `ExportLogsServiceRequest` have the same form.
pub(crate) fn export<'i>(
    resource: &[(String, String)],
    items: impl IntoIterator<Item = &'i [u8]>,
) -> Vec<u8> {
    let attributes =
        |message: Message, (key, value): &(String, String)| message.attribute(1, key, Value::Text(value));
    let resource = resource.iter().fold(Message::default(), attributes);
    let scope = Message::default().text(1, "modelgate").text(2, env!("CARGO_PKG_VERSION"));
    let of_scope =
        items.into_iter().fold(Message::default().message(1, &scope), |message, item| message.bytes(2, item));
    let of_resource = Message::default().message(1, &resource).message(2, &of_scope);
    Message::default().message(1, &of_resource).into_bytes()
}

/// How many items the collector has not taken, as a successful answer says: `partial_success = 1`, of which the count is 1. An
/// answer that cannot be read says nothing.
pub(crate) fn rejected(answer: &[u8]) -> u64 {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for i in 0..10 {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    /// The first field, if it is this one.
    fn first(bytes: &mut &[u8], tag: u64) -> Option<u64> {
        (varint(bytes)? == tag).then(|| varint(bytes))?
    }
    let mut rest = answer;
    let inner = first(&mut rest, 1 << 3 | 2).and_then(|length| rest.get(..usize::try_from(length).ok()?));
    inner.and_then(|mut partial| first(&mut partial, 1 << 3)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_many_items_were_not_taken() {
        assert_eq!(rejected(&[]), 0);
        assert_eq!(rejected(&[0x0a, 0x03, 0x08, 0x96, 0x01]), 150);
        for unreadable in [&[0x0a_u8][..], &[0x0a, 9, 8, 1], &[0x0a, 2, 0x12, 0], &[0xff; 12], b"{}"] {
            assert_eq!(rejected(unreadable), 0, "{unreadable:?}");
        }
    }
}
