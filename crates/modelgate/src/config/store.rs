//! `store:`, `usage:` and `shared_limits:` — where accounts and counts are kept in addition to the file, for how long, and which
//! server counts shared limits.

use std::{fmt, path::Path, time::Duration};

use config_reader::Section;
use store::StoreUrl;
use web::OnFailure;

use super::files;

/// `store:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreConfig {
    /// The URL of the store; `None`: there is no store.
    pub(crate) url: Option<StoreUrl>,
    /// How long the audit log is kept.
    pub(crate) keep: Duration,
    /// Whether the first start makes an API key, if there is none.
    pub(crate) first_key: bool,
}

/// `usage:` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsageConfig {
    /// How long usage by day is kept; usage by hour is kept no longer than that.
    pub(crate) keep: Duration,
}

/// `shared_limits:` in the configuration.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SharedLimitsConfig {
    /// The URL of Redis or Valkey. It may contain a password.
    pub(crate) url: String,
    /// What happens to limited requests while the server does not answer.
    pub(crate) on_failure: OnFailure,
    /// How a decision queries the server.
    pub(crate) options: SharedLimitsOptions,
}

/// How a decision queries the server of shared limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedLimitsOptions {
    pub(crate) timeout: Duration,
    pub(crate) namespace: String,
    pub(crate) authorities: Option<Vec<u8>>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(mut section: Section<'_>, state_dir: Option<&Path>) -> StoreConfig {
    const URL: &str = "sqlite:///path/of/file or postgres://user:password@host[:port]/database";
    let url = section.secret("url", URL, |text| text.parse::<StoreUrl>().ok());
    let keep = section.duration("keep", DAY..=DAY * 3650);
    let first_key = section.bool("first_key").unwrap_or(false);
    section.finish();
    let url = url.or_else(|| state_dir.map(StoreUrl::in_folder));
    StoreConfig { url, keep: keep.unwrap_or(DAY * 400), first_key }
}

/// Reads `usage:`; `store.keep` is the default.
pub(super) fn read_usage(mut section: Section<'_>, store: &StoreConfig) -> UsageConfig {
    let keep = section.duration("keep", DAY..=DAY * 3650);
    section.finish();
    UsageConfig { keep: keep.unwrap_or(store.keep) }
}

/// Reads `shared_limits:`; `given` says whether the section is present.
pub(super) fn read_shared(mut section: Section<'_>, given: bool) -> Option<SharedLimitsConfig> {
    const URL: &str =
        "redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:///path/of/socket";
    const WORDS: [(&str, OnFailure); 3] =
        [("local", OnFailure::Local), ("open", OnFailure::Open), ("closed", OnFailure::Closed)];
    const NAMESPACE: &str = "1 to 64 letters, digits and any of - _ . :";
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let url = section.secret("url", URL, |text| shared_limits::is_url(text).then(|| text.to_owned()));
    if given {
        section.require("url", URL);
    }
    let on_failure = section.one_of("fail", &WORDS).unwrap_or(OnFailure::Local);
    let timeout = section.get("timeout", "a time with its unit, from 1ms to 1s", |text| {
        let range = Duration::from_millis(1)..=Duration::from_secs(1);
        humantime::parse_duration(text).ok().filter(|time| range.contains(time))
    });
    let namespace = section.get("namespace", NAMESPACE, |text| {
        ((1..=64).contains(&text.len()) && text.chars().all(is_plain)).then(|| text.to_owned())
    });
    let authorities = section.try_get("ca", "the path of a PEM file", |path| files::read(path));
    section.finish();
    let options = SharedLimitsOptions {
        timeout: timeout.unwrap_or(Duration::from_millis(40)),
        namespace: namespace.unwrap_or_else(|| "modelgate".into()),
        authorities,
    };
    Some(SharedLimitsConfig { url: url?, on_failure, options })
}

/// Omits the URL, which may contain a password.
impl fmt::Debug for SharedLimitsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLimitsConfig").field("on_failure", &self.on_failure).finish_non_exhaustive()
    }
}
