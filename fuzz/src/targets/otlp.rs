//! OTLP bodies: protobuf and JSON say the same, as OpenTelemetry's own reader has them, and what is kept is bounded.

use metering::Receipt;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use otlp_receiver::{Format, Signal, receipts};
use prost::Message as _;

/// The longest text that a receipt may hold, in bytes.
const MAX_TEXT: usize = 1024;

/// The first byte chooses between traces and logs.
pub(crate) fn protobuf(data: &[u8]) {
    let Some((signal, body)) = signal(data) else { return };
    let found = receipts(body, signal, Format::Protobuf);
    assert_bounded(&found, body);
    // What OpenTelemetry's reader accepts as well must mean the same once it is written as JSON.
    let json = match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(body).ok().map(|m| serde_json::to_vec(&m)),
        Signal::Logs => ExportLogsServiceRequest::decode(body).ok().map(|m| serde_json::to_vec(&m)),
    };
    if let (Some(found), Some(Ok(json))) = (found, json)
        && !holds_null(&json)
    {
        let read = receipts(&json, signal, Format::Json);
        assert_eq!(read, Some(found), "{}", String::from_utf8_lossy(&json));
    }
}

/// Whether it holds what JSON cannot say: a number that is none.
fn holds_null(json: &[u8]) -> bool {
    json.windows(4).any(|window| window == b"null")
}

/// The first byte chooses between traces and logs.
pub(crate) fn json(data: &[u8]) {
    let Some((signal, body)) = signal(data) else { return };
    let found = receipts(body, signal, Format::Json);
    assert_bounded(&found, body);
    // As above, the other way round.
    let protobuf = match signal {
        Signal::Traces => {
            serde_json::from_slice::<ExportTraceServiceRequest>(body).map(|m| m.encode_to_vec())
        }
        Signal::Logs => serde_json::from_slice::<ExportLogsServiceRequest>(body).map(|m| m.encode_to_vec()),
    };
    if let (Some(found), Ok(protobuf)) = (found, protobuf) {
        let read = receipts(&protobuf, signal, Format::Protobuf);
        assert_eq!(read, Some(found), "{}", String::from_utf8_lossy(body));
    }
}

fn signal(data: &[u8]) -> Option<(Signal, &[u8])> {
    let (first, body) = data.split_first()?;
    Some((if first & 1 == 0 { Signal::Traces } else { Signal::Logs }, body))
}

/// A receipt is a small part of a body, whatever the body holds.
fn assert_bounded(found: &Option<(Vec<Receipt>, u64)>, body: &[u8]) {
    let Some((receipts, others)) = found else { return };
    assert!(receipts.len() + usize::try_from(*others).expect("small") <= body.len());
    for receipt in receipts {
        match receipt {
            Receipt::Span(span) => {
                assert!(span.part.len() <= MAX_TEXT && span.trust == metering::Trust::None);
            }
            Receipt::Record(record) => {
                assert!(record.server.as_ref().is_none_or(|server| server.len() <= MAX_TEXT));
                assert!(record.trust == metering::Trust::None);
            }
        }
    }
}
