//! A record of Traefik's access log
//! (<https://doc.traefik.io/traefik/reference/install-configuration/observability/logs-and-accesslogs/>).

use std::time::Duration;

use metering::{Receipt, RecordReceipt, RequestId, SpanId, Trust};

use crate::{
    found::{Draft, Value},
    text,
};

/// Longer URLs are no server's.
const LONGEST_URL: usize = 2048;

/// A record while it is read.
#[derive(Debug, Default)]
pub(crate) struct RecordDraft {
    request: Option<RequestId>,
    parent: Option<SpanId>,
    status: Option<u16>,
    server_status: Option<u16>,
    request_bytes: u64,
    answer_bytes: u64,
    duration: Option<Duration>,
    server_duration: Duration,
    retries: u32,
    server: Option<String>,
    compute_tokens: Option<u64>,
}

impl RecordDraft {
    /// A header that Traefik was told to record, with `request_`, `origin_` (as the server answered) or `downstream_` (as the
    /// client was answered) before its name.
    fn header(&mut self, key: &str, value: Value<'_>) {
        let is = |prefix: &str, name: &str| {
            key.strip_prefix(prefix).is_some_and(|given| given.eq_ignore_ascii_case(name))
        };
        if is("request_", "X-Request-Id") {
            self.request = value.text(32).and_then(|text| text.parse().ok());
        } else if is("request_", "Traceparent") {
            self.parent = value.text(55).and_then(text::parent);
        } else if is("origin_", "X-Compute-Tokens") {
            self.compute_tokens = value.count();
        }
    }
}

impl Draft for RecordDraft {
    fn attribute(&mut self, key: &str, value: Value<'_>) {
        let status = || value.count().and_then(|status| u16::try_from(status).ok());
        let nanoseconds = || value.count().map(Duration::from_nanos);
        match key {
            "DownstreamStatus" => self.status = status(),
            "OriginStatus" => self.server_status = status(),
            "RequestContentSize" => self.request_bytes = value.count().unwrap_or(0),
            "DownstreamContentSize" => self.answer_bytes = value.count().unwrap_or(0),
            "Duration" => self.duration = nanoseconds(),
            "OriginDuration" => self.server_duration = nanoseconds().unwrap_or_default(),
            "RetryAttempts" => self.retries = value.count().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            "ServiceURL" => self.server = value.text(LONGEST_URL).map(without_user),
            _ => self.header(key, value),
        }
    }

    fn finish(self) -> Option<Receipt> {
        // Without a server and a parent, `/auth` or a rule has refused it, and the id is the one that the client sent.
        if self.server.is_none() && self.parent.is_none() {
            return None;
        }
        Some(Receipt::Record(RecordReceipt {
            trust: Trust::None,
            request: self.request?,
            parent: self.parent,
            status: self.status?,
            server_status: self.server_status.unwrap_or(0),
            request_bytes: self.request_bytes,
            answer_bytes: self.answer_bytes,
            duration: self.duration?,
            server_duration: self.server_duration,
            retries: self.retries,
            server: self.server,
            compute_tokens: self.compute_tokens,
        }))
    }
}
/// A URL without the user and the password before its host (RFC 3986, 3.2.1): nobody needs them here.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_password_is_not_kept() {
        for (url, kept) in [
            ("http://10.0.0.1:8000/v1", "http://10.0.0.1:8000/v1"),
            ("http://user:secret@10.0.0.1:8000/v1", "http://10.0.0.1:8000/v1"),
            ("https://secret@host", "https://host"),
            ("https://a:b@c@host/p@th?q=@", "https://host/p@th?q=@"),
            ("http://host/p@th", "http://host/p@th"),
            ("h2c://[::1]:80", "h2c://[::1]:80"),
        ] {
            assert_eq!(without_user(url), kept, "{url}");
        }
    }
}
