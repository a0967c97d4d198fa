//! What a server or Traefik tells about one request.

use std::{fmt, str::FromStr, time::Duration};

/// The 128 random bits by which Modelgate, Traefik and the servers know a request. Clients see them in answers, so they
/// prove nothing. In `X-Request-Id` they are 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// The 64 bits of the span that `/auth` names as parent in `traceparent`
/// (<https://www.w3.org/TR/trace-context/#parent-id>). No answer shows them, so a span that has them as its parent comes from a
/// server that got the request. `Debug` does not print them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub u64);

/// Whether the sender of a receipt has proven who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It has sent the receiver's bearer token, or reached a listener that only Traefik can reach.
    Proven,
    /// Anybody may have sent it. Only what it contains can prove it: the parent of a span.
    None,
}

/// What is told about one request, by whom it may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Receipt {
    /// From an inference server.
    Span(SpanReceipt),
    /// From Traefik.
    Record(RecordReceipt),
}

/// A finished request as an inference server tells it: one span per choice and per prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanReceipt {
    /// Of who has sent it.
    pub trust: Trust,
    /// The span's own id, by which a span that arrives twice is known.
    pub span: u64,
    /// `None` if the server has begun a trace of its own.
    pub parent: Option<SpanId>,
    /// From `gen_ai.request.id`: `cmpl-<request>-0`. `None` if the server has made an id of its own, as vLLM does for
    /// `/v1/responses`.
    pub request: Option<RequestId>,
    /// What follows the request's id in `gen_ai.request.id`, such as `-1`: which prompt of a list this is. The choices of a
    /// prompt have the same one.
    pub part: String,
    /// Of the whole prompt, cached tokens included.
    pub prompt_tokens: u64,
    /// `None` if the server does not tell.
    pub cached_tokens: Option<u64>,
    /// Of this choice, reasoning included.
    pub completion_tokens: u64,
    /// `gen_ai.request.n`: how many answers were asked for. Each of their spans repeats the prompt's tokens. vLLM 0.32 always
    /// says 1.
    pub choices: Option<u32>,
    /// From the request's arrival at the server.
    pub time_to_first_token: Option<Duration>,
    /// From its arrival at the server to its end.
    pub duration: Option<Duration>,
}

/// A finished request as Traefik's access log tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordReceipt {
    /// Of who has sent it.
    pub trust: Trust,
    /// As `/auth` set it, unless [`parent`](Self::parent) is another: the record of a request that `/auth` refused, or that
    /// went to a router without `/auth`, has the `X-Request-Id` that its client sent.
    pub request: RequestId,
    /// From the request's `traceparent` as `/auth` set it, also where Traefik's own tracing then replaces it for the server.
    /// `None` if Traefik does not record that header.
    pub parent: Option<SpanId>,
    /// What the client got. 499 if it went away before any answer.
    pub status: u16,
    /// What the server answered. 0 if it did not answer, or if the client went away in a stream.
    pub server_status: u16,
    /// The request's body, in bytes.
    pub request_bytes: u64,
    /// The answer's body, in bytes; what a client got that went away.
    pub answer_bytes: u64,
    /// In Traefik, from first to last byte; it contains the time that `/auth` has taken.
    pub duration: Duration,
    /// Until the server had answered whole. Zero if the client went away in a stream.
    pub server_duration: Duration,
    /// How often Traefik has sent the request again.
    pub retries: u32,
    /// `ServiceURL`, as the configuration has it.
    pub server: Option<String>,
    /// The answer's `X-Compute-Tokens` (TEI).
    pub compute_tokens: Option<u64>,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 lower-case hexadecimal digits")]
pub struct NotARequestId;

impl FromStr for RequestId {
    type Err = NotARequestId;

    fn from_str(text: &str) -> Result<Self, NotARequestId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(NotARequestId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NotARequestId)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_lower_case_digits() {
        let id = RequestId(0x00ff_u128);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "ff", &"F".repeat(32), &"+0".repeat(16), &"é".repeat(16)] {
            assert_eq!(wrong.parse::<RequestId>(), Err(NotARequestId), "{wrong}");
        }
    }

    #[test]
    fn a_span_id_is_not_printed() {
        assert_eq!(format!("{:?}", SpanId(0xabcd)), "SpanId(…)");
    }
}
