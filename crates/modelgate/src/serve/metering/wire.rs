//! Receipts as Modelgates pass them on to each other: JSON, in which a later version may add fields.

use std::time::Duration;

use metering::{Receipt, RecordReceipt, SpanId, SpanReceipt, Trust};
use serde::{Deserialize, Serialize};
use shared_limits::Stream;

use crate::serve::messages;

/// The longest texts that are passed on, in bytes; a URL of a server is shorter.
const MAX_TEXT: usize = 512;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wire {
    Span(Box<WireSpan>),
    Record(Box<WireRecord>),
}

/// Ids are hexadecimal digits, since not every reader of JSON has 64 bits; times are milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct WireSpan {
    proven: bool,
    span: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    part: String,
    prompt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached: Option<u64>,
    completion: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireRecord {
    proven: bool,
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    status: u16,
    server_status: u16,
    request_bytes: u64,
    answer_bytes: u64,
    duration: u64,
    server_duration: u64,
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compute_tokens: Option<u64>,
}

/// Packs receipts into messages. A receipt that fits into none is left out.
pub(super) fn pack(receipts: impl IntoIterator<Item = Receipt>) -> Vec<Vec<u8>> {
    messages::pack(receipts.into_iter().filter_map(Wire::of), Stream::Receipts)
}

/// The receipts of a message. What cannot be read is left out.
pub(super) fn unpack(message: &[u8]) -> impl Iterator<Item = Receipt> {
    messages::unpack(message).filter_map(Wire::receipt)
}

impl Wire {
    fn of(receipt: Receipt) -> Option<Self> {
        let is_proven = |trust| trust == Trust::Proven;
        let id = |parent: Option<SpanId>| parent.map(|parent| format!("{:016x}", parent.0));
        match receipt {
            Receipt::Span(span) => (span.part.len() <= MAX_TEXT).then(|| {
                Self::Span(Box::new(WireSpan {
                    proven: is_proven(span.trust),
                    span: format!("{:016x}", span.span),
                    parent: id(span.parent),
                    request: span.request.map(|request| request.to_string()),
                    part: span.part,
                    prompt: span.prompt_tokens,
                    cached: span.cached_tokens,
                    completion: span.completion_tokens,
                    choices: span.choices,
                    first_token: span.time_to_first_token.map(millis),
                    duration: span.duration.map(millis),
                }))
            }),
            Receipt::Record(record) => Some(Self::Record(Box::new(WireRecord {
                proven: is_proven(record.trust),
                request: record.request.to_string(),
                parent: id(record.parent),
                status: record.status,
                server_status: record.server_status,
                request_bytes: record.request_bytes,
                answer_bytes: record.answer_bytes,
                duration: millis(record.duration),
                server_duration: millis(record.server_duration),
                retries: record.retries,
                server: record.server.filter(|server| server.len() <= MAX_TEXT),
                compute_tokens: record.compute_tokens,
            }))),
        }
    }

    /// `None` if an id is not one.
    fn receipt(self) -> Option<Receipt> {
        let trust = |is_proven| if is_proven { Trust::Proven } else { Trust::None };
        let id = |text: &str| u64::from_str_radix(text, 16);
        Some(match self {
            Self::Span(span) => Receipt::Span(SpanReceipt {
                trust: trust(span.proven),
                span: id(&span.span).ok()?,
                parent: span.parent.as_deref().map(id).transpose().ok()?.map(SpanId),
                request: span.request.map(|request| request.parse()).transpose().ok()?,
                part: span.part,
                prompt_tokens: span.prompt,
                cached_tokens: span.cached,
                completion_tokens: span.completion,
                choices: span.choices,
                time_to_first_token: span.first_token.map(Duration::from_millis),
                duration: span.duration.map(Duration::from_millis),
            }),
            Self::Record(record) => Receipt::Record(RecordReceipt {
                trust: trust(record.proven),
                request: record.request.parse().ok()?,
                parent: record.parent.as_deref().map(id).transpose().ok()?.map(SpanId),
                status: record.status,
                server_status: record.server_status,
                request_bytes: record.request_bytes,
                answer_bytes: record.answer_bytes,
                duration: Duration::from_millis(record.duration),
                server_duration: Duration::from_millis(record.server_duration),
                retries: record.retries,
                server: record.server,
                compute_tokens: record.compute_tokens,
            }),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use metering::RequestId;

    use super::*;

    fn receipts() -> [Receipt; 2] {
        let (trust, parent) = (Trust::Proven, Some(SpanId(0xfeed_0000_0000_0001)));
        let span = SpanReceipt {
            trust: Trust::None,
            span: u64::MAX,
            parent,
            request: None,
            part: "-1".to_owned(),
            prompt_tokens: 7,
            cached_tokens: Some(3),
            completion_tokens: 9,
            choices: Some(2),
            time_to_first_token: Some(Duration::from_millis(12)),
            duration: None,
        };
        let record = RecordReceipt {
            trust,
            request: RequestId(u128::MAX - 5),
            parent,
            status: 200,
            server_status: 0,
            request_bytes: 11,
            answer_bytes: 12,
            duration: Duration::from_millis(1_500),
            server_duration: Duration::ZERO,
            retries: 1,
            server: Some("http://10.0.0.1:8000".to_owned()),
            compute_tokens: None,
        };
        [Receipt::Span(span), Receipt::Record(record)]
    }

    #[test]
    fn receipts_come_out_as_they_went_in() {
        let many: Vec<_> = receipts().into_iter().cycle().take(1_000).collect();
        let messages = pack(many.clone());
        assert!(
            messages.len() > 1
                && messages.iter().all(|message| message.len() <= Stream::Receipts.max_message_bytes())
        );
        let read: Vec<_> = messages.iter().flat_map(|message| unpack(message)).collect();
        assert!(read == many, "{:?}", read.first());
    }

    #[test]
    fn what_cannot_be_read_takes_nothing_else_away() {
        let mut message = b"{}\n[1]\n\xff\n{\"span\":{\"span\":\"x\"}}\n{\"record\":null}\n".to_vec();
        message.extend(pack(receipts()).concat());
        assert_eq!(unpack(&message).count(), 2);
        let record = pack([receipts()[1].clone()]).concat();
        let record = String::from_utf8_lossy(&record).replace("\"retries\"", "\"new\":[1],\"retries\"");
        assert_eq!(unpack(record.as_bytes()).count(), 1, "fields of a later version");
        let [mut span, _] = receipts();
        if let Receipt::Span(span) = &mut span {
            span.part = "x".repeat(MAX_TEXT + 1);
        }
        assert!(pack([span]).is_empty());
    }
}
