//! `metering:` — how what requests have used is found out, and where what is told is passed on.

use std::time::Duration;

use config_reader::Section;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use otlp_exporter::{Destination, ExportUrl};

use super::files::kept;

/// `metering:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeteringConfig {
    /// How often the counters of servers are read, with `listen.telemetry`.
    pub(crate) scrape: Duration,
    /// How long a request stays open without a word.
    pub(crate) wait: Duration,
    /// Where all that comes in is passed on, if anywhere.
    pub(crate) forward: Option<ForwardConfig>,
}

/// A collector that gets what comes in for metering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardConfig {
    url: ExportUrl,
    /// Marked as sensitive.
    authorization: Option<HeaderValue>,
}

impl ForwardConfig {
    pub(crate) fn destination(&self) -> Destination {
        let headers = self.authorization.iter().map(|value| (AUTHORIZATION, value.clone()));
        Destination::new(self.url.clone(), headers.collect::<HeaderMap>())
    }
}

const FORWARD_TO: &str =
    "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH], without a user and a password";
const AUTHORIZATION_ALLOWED: &str = "the value of a header, such as Bearer TOKEN";

pub(super) fn read(mut section: Section<'_>, is_listening: bool) -> MeteringConfig {
    let scrape = section.duration("scrape", Duration::from_secs(1)..=Duration::from_secs(600));
    let wait = section.duration("wait", Duration::from_secs(10)..=Duration::from_secs(86_400));
    // A URL is shown; a secret has a key of its own.
    let without_user = |text: &str| text.parse::<ExportUrl>().ok().filter(|_| !text.contains('@'));
    let url = section.secret("forward_to", FORWARD_TO, without_user);
    let authorization = kept(&mut section, "forward_authorization", AUTHORIZATION_ALLOWED, |text| {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    if section.has("forward_to") && !is_listening {
        section.error(
            "forward_to",
            "needs listen.telemetry: without it nothing comes in that could be passed on",
        );
    }
    if section.has("forward_authorization") && !section.has("forward_to") {
        section.error("forward_authorization", "needs forward_to, the address to which it is sent");
    }
    section.finish();
    MeteringConfig {
        scrape: scrape.unwrap_or(Duration::from_secs(15)),
        wait: wait.unwrap_or(Duration::from_secs(3_600)),
        forward: url.map(|url| ForwardConfig { url, authorization }),
    }
}
