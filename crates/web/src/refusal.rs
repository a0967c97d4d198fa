//! Turns a reason into an answer that the client's SDK understands. HTTP statuses are chosen here.
//!
//! Formats: OpenAI's <https://platform.openai.com/docs/guides/error-codes>, Anthropic's
//! <https://docs.anthropic.com/en/api/errors>, and Ollama's `{"error": "text"}`. The `x-ratelimit-*` headers are OpenAI's
//! (<https://platform.openai.com/docs/guides/rate-limits>); answers to Anthropic's clients have `anthropic-ratelimit-*` with
//! the same values (<https://docs.anthropic.com/en/api/rate-limits#response-headers>). Both SDKs read `retry-after-ms`.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use access::{Denial, Idle, Reason, estimate::Sum};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
};
use limits::{Limit, LimitReached, Unit};
use serde_json::json;

pub(crate) use crate::dialect::Dialect;

/// An error answer, before it is formatted for a dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// OpenAI's `code`.
    pub(crate) code: &'static str,
    /// OpenAI's `param`.
    pub(crate) param: Option<&'static str>,
    pub(crate) message: String,
    /// The message to OpenAI's clients, if that is another one: some of them look for OpenAI's words.
    for_openai: Option<&'static str>,
    pub(crate) retry_after: Option<Duration>,
    limited: Option<Box<LimitReached>>,
}

/// A model whose servers start takes a while; asking more often does not help.
const WHILE_STARTING: Duration = Duration::from_secs(5);
/// Servers that are withdrawn or have ended may be replaced.
const WHILE_DRAINING: Duration = Duration::from_secs(2);
/// Until one of the concurrent requests has finished.
const WHILE_BUSY: Duration = Duration::from_secs(1);
/// The request has waited already, for as long as the operator wants.
const WHILE_FULL: Duration = Duration::from_secs(5);
/// Until the server of shared limits is back, or another one has taken over.
const WHILE_UNCOUNTED: Duration = Duration::from_secs(1);
/// The longest wait within a call: anthropic-python and Codex sleep for as long as `Retry-After` says, an hour by a limit per
/// hour, and the program stands still. openai-python 1 also obeyed, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Traefik has a new route within a few hundred milliseconds.
const WHILE_PUBLISHING: Duration = Duration::from_millis(500);

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            param: None,
            message: message.into(),
            for_openai: None,
            retry_after: None,
            limited: None,
        }
    }

    /// Traefik has no route yet, or no longer, for a request that `/auth` has let pass.
    pub(crate) fn unrouted() -> Self {
        let message = "The model's route is being changed; try again in a moment.";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message);
        Self { retry_after: Some(WHILE_PUBLISHING), ..refusal }
    }

    /// In the flat layout Traefik chooses by what it can see, but the request names no model there.
    pub(crate) fn unnamed() -> Self {
        let message = "No model that is ready is named where this gateway looks: in the path (/models/NAME/...), the \
                       header X-Model or the query (?model=NAME). The body alone cannot choose one here.";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_named", message);
        Self { param: Some("model"), retry_after: Some(WHILE_STARTING), ..refusal }
    }

    /// Modelgate has just started and does not know the servers yet.
    pub(crate) fn surveying() -> Self {
        let message = "The gateway is starting; try again in a moment.";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message);
        Self { retry_after: Some(Duration::from_secs(1)), ..refusal }
    }

    pub(crate) fn too_large(max_body: u64) -> Self {
        let message = format!("The request body is too large: at most {max_body} bytes are allowed.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// A body without a length turned out longer than Traefik may read.
    pub(crate) fn too_large_without_length(max_chunked_body: u64) -> Self {
        let message = format!(
            "The request body is too large for one without a Content-Length: at most {max_chunked_body} bytes are \
             allowed. Send its length, and it may be longer."
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// The server's own message and status were lost in Traefik.
    pub(crate) fn refused_by_server() -> Self {
        let message =
            "The model's server answered 401: it does not take the credential that the gateway gives it.";
        Self::new(StatusCode::BAD_GATEWAY, "server_refused", message)
    }

    /// A key in a URL is seen by servers and written into logs, and Traefik cannot take it out.
    pub(crate) fn key_in_url() -> Self {
        let message = "The URL holds an API key, which the model's server and logs would see. Send it in the header \
                       \"Authorization: Bearer ...\" instead.";
        Self::new(StatusCode::BAD_REQUEST, "api_key_in_url", message)
    }

    /// Traefik removes only the headers that are known to hold keys.
    pub(crate) fn key_in_header(name: &HeaderName) -> Self {
        let message = format!(
            "The header {name:?} holds the API key, too, and the model's server would see it. Send the key in \
             \"Authorization: Bearer ...\" alone."
        );
        Self::new(StatusCode::BAD_REQUEST, "api_key_in_header", message)
    }

    /// Without the header's name, which holds the key.
    pub(crate) fn key_in_header_name() -> Self {
        let message = "The name of a header holds the API key, and the model's server would see it. Send the key in \
                       \"Authorization: Bearer ...\" alone.";
        Self::new(StatusCode::BAD_REQUEST, "api_key_in_header", message)
    }

    /// Traefik parses `0031` as 31, but matches rules against `0031`.
    pub(crate) fn odd_length() -> Self {
        let message = "The Content-Length is not written as a plain decimal number: no leading zeros, no sign, no spaces.";
        Self::new(StatusCode::BAD_REQUEST, "invalid_content_length", message)
    }

    pub(crate) fn headers_too_large(length: usize, max: usize) -> Self {
        let message =
            format!("The request's headers and URL are {length} bytes long; at most {max} are allowed.");
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", message)
    }

    /// A URL is ASCII (RFC 3986 §2), and servers differ in how they read one that is not.
    pub(crate) fn url_not_ascii() -> Self {
        let message =
            "The URL has characters that are not ASCII. Percent-encode them as UTF-8: \u{eb} is %C3%AB.";
        Self::new(StatusCode::BAD_REQUEST, "invalid_url", message)
    }

    /// Traefik's limit of concurrent requests is reached.
    pub(crate) fn too_many_at_once() -> Self {
        let message =
            "Too many requests for this model are under way at once; try again when one has finished.";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        Self { retry_after: Some(WHILE_BUSY), ..refusal }
    }

    /// A server broke off, or said itself that it is a gateway without one behind it.
    pub(crate) fn bad_gateway() -> Self {
        let message = "The model's server gave no answer, or answered 502.";
        Self::new(StatusCode::BAD_GATEWAY, "bad_gateway", message)
    }

    pub(crate) fn no_handshake() -> Self {
        let message = "The request asks for a WebSocket without Sec-WebSocket-Key and Sec-WebSocket-Version (RFC 6455).";
        Self::new(StatusCode::BAD_REQUEST, "invalid_websocket", message)
    }

    /// Codex falls back to HTTP at once at this status, and retries for 5 to 10 s at any other. The `Upgrade` header that
    /// should accompany it (RFC 9110 §15.5.22) is omitted: Traefik removes it from answers of `/auth`.
    pub(crate) fn over_http() -> Self {
        let reason = Reason::NoWebSocket;
        Self::new(StatusCode::UPGRADE_REQUIRED, reason.code(), sentence(&reason.to_string()))
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "This method is not served here; the header Allow names those that are.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// A client that sends its body in chunks may send one with a length instead.
    pub(crate) fn length_required() -> Self {
        let message = "The request has no Content-Length; chunked request bodies are not accepted here.";
        Self::new(StatusCode::LENGTH_REQUIRED, "length_required", message)
    }

    /// A parameter of the query is not allowed; the message says which.
    pub(crate) fn parameter(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }

    pub(crate) fn usage_not_kept() -> Self {
        Self::new(StatusCode::NOT_FOUND, "usage_not_kept", "This gateway has no store, and keeps no usage.")
    }

    pub(crate) fn usage_unavailable() -> Self {
        let message = "The gateway's store does not answer; requests go on. Try again in a moment.";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "usage_unavailable", message);
        Self { retry_after: Some(WHILE_STARTING), ..refusal }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path.")
    }

    pub(crate) fn not_for_you() -> Self {
        let message = "This address answers Traefik's ForwardAuth; send requests to Traefik.";
        Self::new(StatusCode::BAD_REQUEST, "not_a_forward_auth_request", message)
    }

    fn kind_openai(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => match &self.limited {
                Some(limited) if matches!(limited.limit, Limit::Quota(_)) => "insufficient_quota",
                Some(limited) if limited.limit.unit() == Unit::Tokens => "tokens",
                _ => "requests",
            },
            StatusCode::PAYMENT_REQUIRED => "insufficient_quota",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn kind_anthropic(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            // <https://docs.anthropic.com/en/api/errors>.
            StatusCode::PAYMENT_REQUIRED => "billing_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The refusal of a request that `/auth` has denied; amounts of money are in this currency.
    pub(crate) fn of(denial: &Denial, currency: Option<&str>) -> Self {
        match &denial.reason {
            Reason::LimitReached(limited) => Self::limit_reached(limited, denial.sum, currency),
            reason => Self::from(reason),
        }
    }

    pub(crate) fn limit_reached(limited: &LimitReached, sum: Option<Sum>, currency: Option<&str>) -> Self {
        let (status, code) = match limited.limit {
            Limit::Rate(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            // OpenAI's SDKs do not repeat a request at this status.
            Limit::Quota(quota) if quota.unit() == Unit::Money => {
                (StatusCode::PAYMENT_REQUIRED, "budget_exceeded")
            }
            // OpenAI's word.
            Limit::Quota(_) => (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota"),
        };
        let mut message = sentence(&limited.words_in(currency));
        message.extend(comes_back(limited));
        message.extend(sum.map(estimated));
        let refusal = Self::new(status, code, message);
        // Without `Retry-After` clients that know nothing of `x-should-retry` do not wait for hours (Codex, Qwen Code).
        let waits = !limited.is_lasting() && limited.retry_after <= LONGEST_WAIT;
        let retry_after = waits.then_some(limited.retry_after);
        Self { retry_after, limited: Some(Box::new(*limited)), ..refusal }
    }

    /// The answer in the client's dialect.
    pub(crate) fn answer(&self, dialect: Dialect, request_id: &str) -> Response<Body> {
        let body = match dialect {
            Dialect::OpenAi => json!({ "error": {
                "message": self.for_openai.unwrap_or(&self.message),
                "type": self.kind_openai(), "param": self.param, "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": { "type": self.kind_anthropic(), "message": self.message },
                "request_id": request_id,
            }),
            Dialect::Ollama => json!({ "error": self.message }),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.add_headers(headers, dialect);
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert("request-id", id.clone());
            headers.insert("x-request-id", id);
        }
        response
    }

    fn add_headers(&self, headers: &mut HeaderMap, dialect: Dialect) {
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1: a 401 carries a challenge.
            set("www-authenticate", "Bearer".into());
            // The same key is refused again. Claude Code asked eleven times, for three minutes, and said nothing meanwhile.
            set("x-should-retry", "false".into());
        }
        if let Some(wait) = self.retry_after {
            set("retry-after", round_up(wait, 1_000_000_000).to_string());
            set("retry-after-ms", round_up(wait, 1_000_000).to_string());
        }
        if let Some(limited) = &self.limited {
            let unit = limited.limit.unit();
            if let Some([limit, remaining, reset]) = names_of_openai(unit) {
                set(limit, limited.limit.amount().to_string());
                set(remaining, limited.remaining.to_string());
                set(reset, format!("{}ms", round_up(limited.reset_after, 1_000_000)));
            }
            if dialect == Dialect::Anthropic
                && let Some([limit, remaining, reset]) = names_of_anthropic(unit)
            {
                set(limit, limited.limit.amount().to_string());
                set(remaining, limited.remaining.to_string());
                if let Some(at) = moment(SystemTime::now(), limited.reset_after) {
                    set(reset, at);
                }
            }
            if self.retry_after.is_none() {
                // Both SDKs obey; otherwise they would repeat a request that does not pass within a minute, or never.
                set("x-should-retry", "false".into());
            }
        }
    }
}

/// Neither has headers for money.
fn names_of_openai(unit: Unit) -> Option<[&'static str; 3]> {
    match unit {
        Unit::Requests => Some([
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ]),
        Unit::Tokens => {
            Some(["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"])
        }
        Unit::Money => None,
    }
}

fn names_of_anthropic(unit: Unit) -> Option<[&'static str; 3]> {
    match unit {
        Unit::Requests => Some([
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ]),
        Unit::Tokens => Some([
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ]),
        Unit::Money => None,
    }
}

/// A time (RFC 3339), in whole seconds, rounded up; `None` if it is beyond the calendar's range.
fn moment(now: SystemTime, after: Duration) -> Option<String> {
    let latest = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let at = now.checked_add(after)?.checked_add(Duration::from_nanos(999_999_999))?;
    (at <= latest).then(|| humantime::format_rfc3339_seconds(at).to_string())
}

/// A time in whole units of `nanos`, rounded up: a client that waits it out is not too early.
fn round_up(time: Duration, nanos: u128) -> u128 {
    time.as_nanos().div_ceil(nanos).max(1)
}

/// The status and the code with which OpenAI's clients see a refusal: `429 rate_limit_exceeded`.
pub fn status_and_code(reason: &Reason) -> String {
    let Refusal { status, code, .. } = Refusal::from(reason);
    format!("{} {code}", status.as_u16())
}

impl From<&Reason> for Refusal {
    fn from(reason: &Reason) -> Self {
        let message = sentence(&reason.to_string());
        match reason {
            // Tools recognise a wrong key by the words of OpenAI's own API.
            Reason::UnknownKey | Reason::RevokedKey => Self {
                for_openai: Some("Incorrect API key provided."),
                ..Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
            },
            Reason::MistypedKey => Self {
                for_openai: Some(
                    "Incorrect API key provided: its checksum does not fit, so it was mistyped or cut off.",
                ),
                ..Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
            },
            Reason::MissingKey
            | Reason::BadToken(_)
            | Reason::DisabledKey
            | Reason::ExpiredKey
            | Reason::WrongNetwork
            | Reason::ConflictingKeys(_) => Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message),
            Reason::Unreadable(unreadable) if unreadable.is_media_type() => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason.code(), message)
            }
            Reason::Unreadable(unreadable) => Self {
                param: unreadable.param(),
                ..Self::new(StatusCode::BAD_REQUEST, reason.code(), message)
            },
            Reason::ModelNotFound { .. } => {
                Self { param: Some("model"), ..Self::new(StatusCode::NOT_FOUND, "model_not_found", message) }
            }
            Reason::ModelNotKnownYet { .. } => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message);
                Self { param: Some("model"), retry_after: Some(WHILE_STARTING), ..refusal }
            }
            Reason::NotServedThere { .. } => {
                Self { param: Some("model"), ..Self::new(StatusCode::BAD_REQUEST, reason.code(), message) }
            }
            Reason::UntrustedPeer => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_available", message)
            }
            Reason::ClosedPath => Self::not_found(),
            Reason::NoWebSocket => Self::over_http(),
            // OpenAI's status for a key without a permission.
            Reason::StoredData => Self::new(StatusCode::FORBIDDEN, reason.code(), message),
            Reason::NotReady { idle, .. } => {
                let wait = match idle {
                    Idle::Starting => WHILE_STARTING,
                    Idle::Draining | Idle::Stopped => WHILE_DRAINING,
                };
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_ready", message);
                Self { param: Some("model"), retry_after: Some(wait), ..refusal }
            }
            Reason::ServersBusy { .. } => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.code(), message);
                Self { param: Some("model"), retry_after: Some(WHILE_FULL), ..refusal }
            }
            Reason::Stopping => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.code(), message);
                Self { retry_after: Some(WHILE_BUSY), ..refusal }
            }
            Reason::LimitReached(limited) => Self::limit_reached(limited, None, None),
            Reason::Unbounded(unbounded) => Self {
                param: unbounded.param(),
                ..Self::new(StatusCode::BAD_REQUEST, reason.code(), message)
            },
            Reason::HardBudgetUnkept => Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.code(), message),
            Reason::LimitsUnavailable | Reason::KeysUnavailable | Reason::TokenKeysUnavailable => {
                let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.code(), message);
                Self { retry_after: Some(WHILE_UNCOUNTED), ..refusal }
            }
        }
    }
}

/// When to come back, if it helps to.
fn comes_back(limited: &LimitReached) -> Option<String> {
    let what = match limited.limit {
        // A request that is larger than the whole limit never passes, however long it waits.
        _ if limited.never_passes() => return None,
        _ if limited.never_resets() || limited.exceeds_budget() => {
            return Some(" Ask the gateway's operator to add to it.".into());
        }
        Limit::Rate(_) => "Try again",
        Limit::Quota(quota) if quota.unit() == Unit::Money => "The budget begins anew",
        Limit::Quota(_) => "The quota begins anew",
    };
    let seconds = u64::try_from(round_up(limited.retry_after, 1_000_000_000)).unwrap_or(u64::MAX);
    let time = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    Some(format!(" {what} in {}.", time.replace("day", " day")))
}

/// What the estimate is made of, and how to make it smaller.
fn estimated(Sum { prompt, answer, open }: Sum) -> String {
    let advice = match open {
        _ if answer == 0 => return String::new(),
        Some(field) => {
            format!(
                ", whose length the request leaves open: send {field}, or have answer_tokens set for the model"
            )
        }
        None => String::new(),
    };
    format!(" The estimate is {prompt} for the prompt and {answer} for the answer{advice}.")
}

/// Reasons are written as parts of a sentence; clients get a whole one.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    let mut sentence: String = first.into_iter().chain(chars).collect();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}
