//! `requests:` — how large a request may be, and where it may carry its key.

use std::time::Duration;

use config_reader::{Section, size};
use http::HeaderName;

/// `requests:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestsConfig {
    /// The longest body, in bytes.
    pub(crate) max_body: u64,
    /// The longest body without a `Content-Length`, in bytes; 0 refuses such bodies.
    pub(crate) max_chunked_body: u64,
    /// Headers in which keys are read, in addition to `Authorization`, `x-api-key` and `api-key`.
    pub(crate) key_headers: Vec<HeaderName>,
    /// How long a server may take to load before it answers anything, and a model to come back after a restart.
    pub(crate) loading_time: Duration,
    /// Whether unknown credentials are ignored if the request has a known one as well.
    pub(crate) ignores_foreign: bool,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEY_HEADER: &str = "the name of a header that holds nothing but a key, such as apikey";

pub(super) fn read(mut section: Section<'_>) -> RequestsConfig {
    const CHUNKED: u64 = 1 << 20;
    let max_body = section.bytes("max_body", 1 << 10..=1 << 30);
    let limit = max_body.unwrap_or(32 << 20);
    let chunked = section.bytes("max_chunked_body", 0..=1 << 30);
    if let Some(found) = chunked.filter(|found| *found > limit) {
        section.error(
            "max_chunked_body",
            format!(
                "found {}; it is more than requests.max_body; allowed: 0 to {}",
                size(found),
                size(limit)
            ),
        );
    }
    let key_headers = section.try_list("key_headers", KEY_HEADER, key_header);
    let loading_time = section.duration("loading_time", Duration::ZERO..=DAY);
    let foreign = section.one_of("foreign_credentials", &[("refuse", false), ("ignore", true)]);
    section.finish();
    RequestsConfig {
        max_body: limit,
        max_chunked_body: chunked.unwrap_or(CHUNKED.min(limit)),
        key_headers: key_headers.unwrap_or_default(),
        loading_time: loading_time.unwrap_or(catalogue::LOADING_TIME),
        ignores_foreign: foreign.unwrap_or(false),
    }
}

/// Why a header cannot carry keys.
#[derive(Debug, thiserror::Error)]
enum NoKeyHeader {
    #[error("allowed: a header's name, such as apikey, of letters, digits, - and _")]
    Syntax,
    #[error("keys are read there in any case; allowed: another header")]
    Read,
    #[error("it says something else about a request; allowed: a header that holds nothing but a key")]
    Taken,
}

/// Headers with a meaning to HTTP, Traefik, Modelgate or the SDKs. An entry that ends in a dash stands for all names that begin
/// with it.
const TAKEN: [&str; 31] = [
    "accept",
    "accept-",
    "access-control-",
    "anthropic-",
    "connection",
    "content-",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "idempotency-key",
    "if-",
    "keep-alive",
    "openai-",
    "origin",
    "priority",
    "range",
    "referer",
    "sec-",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-",
    "x-inference-",
    "x-stainless-",
];
const TAKEN_OF_OURS: [&str; 5] = ["x-model", "x-real-ip", "x-request-id", "traceparent", "tracestate"];

/// Whether `requests.key_headers` accepts the name.
pub(crate) fn is_key_header(name: &str) -> bool {
    key_header(name).is_ok()
}

fn key_header(text: &str) -> Result<HeaderName, NoKeyHeader> {
    let name = text.to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if name.len() > 64 || !name.bytes().all(fits) || !name.bytes().any(|b| b.is_ascii_alphanumeric()) {
        return Err(NoKeyHeader::Syntax);
    }
    // Traefik withholds all spellings of a header, so a needed header is refused under its other spellings, too.
    let dashed = name.replace('_', "-");
    let is = |taken: &&str| if taken.ends_with('-') { dashed.starts_with(*taken) } else { dashed == **taken };
    if ["authorization", "x-api-key", "api-key"].contains(&name.as_str()) {
        return Err(NoKeyHeader::Read);
    }
    if TAKEN.iter().chain(&TAKEN_OF_OURS).any(is) {
        return Err(NoKeyHeader::Taken);
    }
    name.parse().map_err(|_| NoKeyHeader::Syntax)
}
