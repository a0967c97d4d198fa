//! An operator's address, and the request that brings a message there.
//!
//! Only addresses that the operator has written down are asked: redirects are not followed, and no proxy of the environment is
//! used. An answer's body is not read.

use std::{
    error::Error,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use reqwest::{Client, StatusCode, Url, header::RETRY_AFTER, redirect};

use crate::{Form, Message, QuietHours, Secret, form, signature::signatures};

/// How long an address may take to answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that an address may ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The URL of a webhook. It often has a secret in it, so neither `Debug` nor errors show it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

/// What is allowed.
pub const URL: &str = "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH";

/// A text that is not such a URL. The error does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {URL}")]
pub struct InvalidUrl;

impl FromStr for WebhookUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidUrl)?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        is_web.then_some(Self(url)).ok_or(InvalidUrl)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl")
    }
}

/// One receiver of alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name in the log, metrics and on the dashboard; unique.
    pub name: String,
    /// Where it is.
    pub url: WebhookUrl,
    /// What it understands.
    pub form: Form,
    /// The secrets that sign its messages: none, one, or two while they are rotated.
    pub secrets: Vec<Secret>,
    /// When it gets nothing.
    pub quiet: Option<QuietHours>,
    /// Whether it is also told what is only not as intended.
    pub wants_warnings: bool,
}

/// Why a message did not arrive. Never contains the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The address does not want it; sending it again is of no use.
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// Where the address leads is not what the operator has written down.
    #[error("it answers {0}, a redirect, which is not followed: write down where it leads")]
    Redirected(StatusCode),
    /// The address cannot take it now.
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

impl DeliveryError {
    /// Whether the message is given up.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Redirected(_))
    }

    /// How long the address asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            Self::Refused(_) | Self::Redirected(_) | Self::NoAnswer(_) => None,
        }
    }

    fn of(status: StatusCode, retry_after: Option<Duration>) -> Option<Self> {
        match status {
            _ if status.is_success() => None,
            _ if status.is_redirection() => Some(Self::Redirected(status)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Some(Self::Busy { status, retry_after })
            }
            _ if status.is_client_error() => Some(Self::Refused(status)),
            _ => Some(Self::Busy { status, retry_after }),
        }
    }
}

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Webhooks {
    client: Client,
}

impl Webhooks {
    /// A sender without connections.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, DeliveryError> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("Modelgate/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { client: client.map_err(|error| no_answer(&error))? })
    }

    /// Sends a message once. `dashboard` is the URL of the dashboard without a path, if messages are to have links.
    ///
    /// # Errors
    /// It did not arrive, or that is not known.
    pub async fn send(
        &self,
        webhook: &Webhook,
        message: &Message,
        dashboard: Option<&str>,
    ) -> Result<(), DeliveryError> {
        let formed = form::formed(message, webhook.form, dashboard);
        let mut request = self.client.post(webhook.url.0.clone());
        for (name, value) in &formed.headers {
            request = request.header(*name, value.as_ref());
        }
        // The time of this attempt: receivers refuse what is too old.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        request = request.header("webhook-id", &message.id).header("webhook-timestamp", now);
        if !webhook.secrets.is_empty() {
            let signatures = signatures(&webhook.secrets, &message.id, now, &formed.body);
            request = request.header("webhook-signature", signatures);
        }
        let answer = request.body(formed.body).send().await.map_err(|error| no_answer(&error))?;
        let retry_after =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        DeliveryError::of(answer.status(), retry_after).map_or(Ok(()), Err)
    }
}

/// The innermost cause, such as "Connection refused", without the URL.
fn no_answer(error: &reqwest::Error) -> DeliveryError {
    if error.is_timeout() {
        return DeliveryError::NoAnswer(format!("no answer within {} s", TIMEOUT.as_secs()));
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let is_outermost = std::ptr::addr_eq(std::ptr::from_ref(cause), std::ptr::from_ref(error));
    DeliveryError::NoAnswer(if is_outermost {
        "the request cannot be made".into()
    } else {
        cause.to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again_and_what_is_not() {
        let is_final = |status: u16| {
            DeliveryError::of(StatusCode::from_u16(status).expect("a status"), None)
                .map(|error| error.is_final())
        };
        for status in [200, 202, 204] {
            assert_eq!(is_final(status), None, "{status}");
        }
        for status in [301, 302, 307, 308, 400, 401, 404, 410] {
            assert_eq!(is_final(status), Some(true), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503] {
            assert_eq!(is_final(status), Some(false), "{status}");
        }
    }

    #[test]
    fn only_web_addresses_are_allowed_and_none_is_shown() {
        let url: WebhookUrl = "https://hooks.example.com/services/T0/secret".parse().expect("a URL");
        assert_eq!(format!("{url:?}"), "WebhookUrl");
        for bad in [
            "",
            "hooks.example.com/a",
            "file:///etc/passwd",
            "ftp://a/b",
            "http://",
            "unix:///run/docker.sock",
        ] {
            assert_eq!(bad.parse::<WebhookUrl>(), Err(InvalidUrl), "{bad}");
        }
    }
}
