//! OTLP in protobuf. The field numbers are those of
//! <https://github.com/open-telemetry/opentelemetry-proto/tree/main/opentelemetry/proto>.

use crate::{
    found::{Draft, Found, Value},
    record::RecordDraft,
    span::SpanDraft,
    wire::{Field, Fields, Malformed},
};

/// The receipts of an `ExportTraceServiceRequest`.
pub(crate) fn spans(body: &[u8]) -> Result<Found, Malformed> {
    each_item(body, |span| {
        let mut draft = SpanDraft::default();
        for field in Fields::of(span) {
            match field? {
                (2, Field::Bytes(id)) => draft.span = span_id(id).unwrap_or(0),
                (4, Field::Bytes(id)) => draft.parent = span_id(id),
                (5, Field::Bytes(name)) => draft.name(name),
                (7, Field::Fixed64(time)) => draft.start = time,
                (8, Field::Fixed64(time)) => draft.end = time,
                (9, Field::Bytes(attribute)) => read_attribute(attribute, &mut draft)?,
                _ => {}
            }
        }
        Ok(draft)
    })
}

/// The receipts of an `ExportLogsServiceRequest`.
pub(crate) fn records(body: &[u8]) -> Result<Found, Malformed> {
    each_item(body, |record| {
        let mut draft = RecordDraft::default();
        for field in Fields::of(record) {
            if let (6, Field::Bytes(attribute)) = field? {
                read_attribute(attribute, &mut draft)?;
            }
        }
        Ok(draft)
    })
}

/// Both requests have the same form: `resource_spans = 1` ▶ `scope_spans = 2` ▶ `spans = 2`.
fn each_item<D: Draft>(
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<D, Malformed>,
) -> Result<Found, Malformed> {
    let mut found = Found::default();
    for resource in messages(body, 1) {
        for scope in messages(resource?, 2) {
            for item in messages(scope?, 2) {
                found.add(read(item?)?.finish());
            }
        }
    }
    Ok(found)
}

/// The messages in the fields of this number.
fn messages(message: &[u8], wanted: u32) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((number, Field::Bytes(bytes))) if number == wanted => Some(Ok(bytes)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

/// A `KeyValue`: `key = 1`, `value = 2`.
fn read_attribute(attribute: &[u8], draft: &mut impl Draft) -> Result<(), Malformed> {
    let (mut key, mut value) = ("", Value::Other);
    for field in Fields::of(attribute) {
        match field? {
            (1, Field::Bytes(bytes)) => key = std::str::from_utf8(bytes).map_err(|_| Malformed)?,
            (2, Field::Bytes(bytes)) => value = any_value(bytes, value)?,
            _ => {}
        }
    }
    draft.attribute(key, value);
    Ok(())
}

/// An `AnyValue`: `string_value = 1`, `int_value = 3`, `double_value = 4`; the last of its fields counts. A message that comes twice
/// is put together, and fields that are not known are skipped
/// (<https://protobuf.dev/programming-guides/encoding/#last-one-wins>).
fn any_value<'b>(message: &'b [u8], mut value: Value<'b>) -> Result<Value<'b>, Malformed> {
    for field in Fields::of(message) {
        value = match field? {
            (1, Field::Bytes(text)) => std::str::from_utf8(text).map_or(Value::Other, Value::Text),
            // Protobuf's int64 is its two's complement.
            (3, Field::Varint(bits)) => Value::Whole(bits.cast_signed()),
            (4, Field::Fixed64(bits)) => Value::Fraction(f64::from_bits(bits)),
            (1..=8, _) => Value::Other,
            _ => value,
        };
    }
    Ok(value)
}

fn span_id(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes).filter(|id| *id != 0)
}
