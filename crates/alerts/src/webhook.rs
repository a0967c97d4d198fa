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

use reqwest::{Client, Url, header::RETRY_AFTER, redirect};

use crate::{
    Form, MailRoute, Message, QuietHours, Secret,
    delivery::{DeliveryError, TIMEOUT},
    form,
    signature::signatures,
};

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

/// How messages reach a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By a POST.
    Web {
        /// Where it is.
        url: WebhookUrl,
        /// What it understands.
        form: Form,
        /// The secrets that sign its messages: none, one, or two while they are rotated.
        secrets: Vec<Secret>,
    },
    /// By e-mail.
    Mail(Box<MailRoute>),
}

/// One receiver of alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name in the log, metrics and on the dashboard; unique.
    pub name: String,
    /// How messages reach it.
    pub way: Way,
    /// When it gets nothing.
    pub quiet: Option<QuietHours>,
    /// Whether it is also told what is only not as intended.
    pub wants_warnings: bool,
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
        match &webhook.way {
            Way::Web { url, form, secrets } => self.post((url, *form, secrets), message, dashboard).await,
            Way::Mail(route) => route.send(message, dashboard).await,
        }
    }

    async fn post(
        &self,
        (url, form, secrets): (&WebhookUrl, Form, &[Secret]),
        message: &Message,
        dashboard: Option<&str>,
    ) -> Result<(), DeliveryError> {
        let formed = form::formed(message, form, dashboard);
        let mut request = self.client.post(url.0.clone());
        for (name, value) in &formed.headers {
            request = request.header(*name, value.as_ref());
        }
        // The time of this attempt: receivers refuse what is too old.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        request = request.header("webhook-id", &message.id).header("webhook-timestamp", now);
        if !secrets.is_empty() {
            let signatures = signatures(secrets, &message.id, now, &formed.body);
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
