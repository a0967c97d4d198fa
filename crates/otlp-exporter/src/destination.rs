//! A collector's address, and the request that brings an export there.
//!
//! Only addresses that the operator has written down are asked: redirects are not followed, and no proxy of the environment is
//! used.

use std::{error::Error, fmt, io::Write as _, str::FromStr, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use reqwest::{
    Certificate, Client, StatusCode, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect,
};

/// The longest time that a collector may ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Of an answer so much is read at most, in bytes.
const MAX_ANSWER: usize = 4096;

/// The URL of a collector. It may have a secret in it, so neither `Debug` nor errors show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportUrl(Url);

/// What is allowed.
pub const URL: &str = "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]";

/// A text that is not such a URL. The error does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {URL}")]
pub struct InvalidUrl;

impl FromStr for ExportUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidUrl)?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_plain = url.query().is_none() && url.fragment().is_none();
        (is_web && is_plain).then_some(Self(url)).ok_or(InvalidUrl)
    }
}

impl fmt::Debug for ExportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExportUrl")
    }
}

impl ExportUrl {
    /// With the path of a signal, such as `v1/traces`, after its own.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        let joined = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&joined);
        Self(url)
    }

    /// Scheme, host and port, for logs.
    pub(crate) fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

/// Where exports go, and how.
#[derive(Clone)]
pub struct Destination {
    pub(crate) url: ExportUrl,
    /// May be secret.
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    pub(crate) compresses: bool,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Destination")
    }
}

impl Destination {
    /// An address that is asked with these headers, with bodies in gzip.
    pub fn new(url: ExportUrl, headers: HeaderMap) -> Self {
        Self { url, headers, timeout: Duration::from_secs(10), compresses: true }
    }

    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self { url: self.url.with_path(path), ..self.clone() }
    }
}

/// Why an export did not arrive. Never contains the URL or a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The collector does not want it; sending it again is of no use.
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// The collector cannot take it now.
    #[error("it answers {status}")]
    Busy {
        /// What it answers.
        status: StatusCode,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// There is no answer.
    #[error("{0}")]
    NoAnswer(String),
}

impl ExportError {
    /// As the specification says (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>).
    fn of(status: StatusCode, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            _ if status.is_success() => None,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Some(Self::Busy { status, retry_after }),
            _ => Some(Self::Refused(status)),
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Busy { retry_after, .. } => retry_after.unwrap_or_default(),
            Self::Refused(_) | Self::NoAnswer(_) => Duration::ZERO,
        }
    }
}

/// A client without connections; `authorities` are trusted besides the system's.
pub(crate) fn client(authorities: &[Certificate]) -> Result<Client, ExportError> {
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(1)
        .user_agent(concat!("Modelgate/", env!("CARGO_PKG_VERSION")));
    let builder = match authorities {
        [] => builder,
        given => builder.tls_certs_merge(given.iter().cloned()),
    };
    builder.build().map_err(|error| no_answer(&error, Duration::ZERO))
}

impl Destination {
    /// Sends an export once, and returns the beginning of the answer.
    pub(crate) async fn send(
        &self,
        client: &Client,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Vec<u8>, ExportError> {
        let failed = |error: reqwest::Error| no_answer(&error, self.timeout);
        let mut request = client.post(self.url.0.clone()).headers(self.headers.clone()).timeout(self.timeout);
        request = request.header(CONTENT_TYPE, content_type);
        let compressed = if self.compresses { gzip(&body) } else { None };
        let request = match compressed {
            Some(compressed) => request.header(CONTENT_ENCODING, "gzip").body(compressed),
            None => request.body(body),
        };
        let mut answer = request.send().await.map_err(failed)?;
        let retry_after =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        if let Some(error) = ExportError::of(answer.status(), retry_after) {
            return Err(error);
        }
        let mut said = Vec::new();
        // The export has arrived, whatever becomes of the answer.
        while let Ok(Some(piece)) = answer.chunk().await {
            said.extend_from_slice(&piece[..piece.len().min(MAX_ANSWER - said.len())]);
            if said.len() == MAX_ANSWER {
                break;
            }
        }
        Ok(said)
    }
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// The innermost cause, such as "Connection refused", without the URL.
fn no_answer(error: &reqwest::Error, timeout: Duration) -> ExportError {
    if error.is_timeout() {
        return ExportError::NoAnswer(format!("no answer within {timeout:?}"));
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let is_outermost = std::ptr::addr_eq(std::ptr::from_ref(cause), std::ptr::from_ref(error));
    ExportError::NoAnswer(if is_outermost { "the request cannot be made".into() } else { cause.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_added_and_no_url_is_shown() {
        let url: ExportUrl = "https://user:secret@collector.example.com/base/".parse().expect("a URL");
        assert_eq!(url.with_path("v1/logs").0.path(), "/base/v1/logs");
        assert_eq!(
            (format!("{url:?}"), url.origin()),
            ("ExportUrl".into(), "https://collector.example.com".into())
        );
        for bad in ["", "collector:4318", "grpc://a", "http://", "http://a?b", "http://a#b"] {
            assert_eq!(bad.parse::<ExportUrl>(), Err(InvalidUrl), "{bad}");
        }
    }

    #[test]
    fn only_what_the_specification_names_is_tried_again() {
        let is_final = |status: u16| {
            ExportError::of(StatusCode::from_u16(status).expect("a status"), None)
                .map(|error| error.is_final())
        };
        for (status, expected) in [
            (200, None),
            (202, None),
            (307, Some(true)),
            (400, Some(true)),
            (401, Some(true)),
            (429, Some(false)),
            (500, Some(true)),
            (502, Some(false)),
            (503, Some(false)),
            (504, Some(false)),
        ] {
            assert_eq!(is_final(status), expected, "{status}");
        }
    }
}
