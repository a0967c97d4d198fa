//! What the tests of several modules need.

use std::{sync::Arc, time::Duration};

use crate::{
    MeteredEndpoint, RecordReceipt, RequestId, RequestReservation, RequestShape, ReservedTokens, SpanId,
    SpanReceipt, Trust,
};

pub(crate) const SHAPE: RequestShape = RequestShape {
    endpoint: MeteredEndpoint::ChatCompletions,
    streams: true,
    traces: true,
    is_shaped: false,
    is_mirrored: false,
    has_beams: false,
    choices: 1,
    prompts: 1,
};

/// The secret of a request; no two are alike.
pub(crate) fn parent(request: u128) -> SpanId {
    SpanId(u64::try_from(request).expect("small") ^ 0x5eed_0000_0000_0000)
}

pub(crate) fn reservation(request: u128) -> RequestReservation<u32> {
    RequestReservation {
        request: RequestId(request),
        parent: parent(request),
        model: Arc::from("llama"),
        shape: SHAPE,
        reserved: ReservedTokens { prompt: 10, completion: 1_000, is_open: false },
        waited: Duration::ZERO,
        held: u32::try_from(request).expect("small"),
    }
}

/// A span as vLLM exports it: proven by its parent alone.
pub(crate) fn span(request: u128, span: u64, prompt: u64, completion: u64) -> SpanReceipt {
    SpanReceipt {
        trust: Trust::None,
        span,
        parent: Some(parent(request)),
        request: Some(RequestId(request)),
        part: "-0".to_owned(),
        prompt_tokens: prompt,
        cached_tokens: None,
        completion_tokens: completion,
        choices: Some(1),
        time_to_first_token: Some(Duration::from_millis(30)),
        duration: Some(Duration::from_millis(300)),
    }
}

/// The record of a request that was answered.
pub(crate) fn record(request: u128, answer_bytes: u64) -> RecordReceipt {
    RecordReceipt {
        parent: Some(parent(request)),
        trust: Trust::Proven,
        request: RequestId(request),
        status: 200,
        server_status: 200,
        request_bytes: 200,
        answer_bytes,
        duration: Duration::from_millis(400),
        server_duration: Duration::from_millis(390),
        retries: 0,
        server: Some("http://10.0.0.1:8000".to_owned()),
        compute_tokens: None,
    }
}

/// The record of a request whose client went away in a stream.
pub(crate) fn aborted(request: u128, answer_bytes: u64) -> RecordReceipt {
    RecordReceipt { server_status: 0, server_duration: Duration::ZERO, ..record(request, answer_bytes) }
}

/// The record of a request that was answered with an error.
pub(crate) fn refused(request: u128, status: u16) -> RecordReceipt {
    RecordReceipt { status, server_status: status, ..record(request, 80) }
}
