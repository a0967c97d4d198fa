//! `traefik:` — what is rendered for Traefik, and how it is reached.

use std::time::Duration;

use traefik_config::{Tls, TraefikVersion};

use super::{
    host::{Host, dns_name, plain_name},
    section::Section,
};

/// `traefik:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraefikConfig {
    /// The version that the rendered document is for.
    pub(crate) version: TraefikVersion,
    /// Entry points to listen on; none means all of Traefik's default ones.
    pub(crate) entry_points: Vec<String>,
    /// Host names to answer for, in lower case; none means all.
    pub(crate) hosts: Vec<String>,
    /// Path prefixes to answer for, without a trailing slash; at least one.
    pub(crate) path_prefixes: Vec<String>,
    /// TLS on the routers, from `tls` and `cert_resolver`.
    pub(crate) tls: Option<Tls>,
    /// Where Traefik reaches the requests listener; `None`: at the host that it polls.
    pub(crate) advertise: Option<Host>,
    /// Traefik's own `providers.http.pollTimeout`.
    pub(crate) poll_timeout: Duration,
}

const NAME: &str = "a name of letters, digits, _ and -";
const PREFIX: &str = "/v1, or a path under it such as /v1/chat, of letters, digits and -._~";

pub(super) fn read(mut section: Section<'_>) -> TraefikConfig {
    let version =
        section.try_get("version", "MAJOR.MINOR.PATCH, such as 3.7.15", str::parse::<TraefikVersion>);
    let entry_points = section.list("entry_points", NAME, plain_name);
    let hosts = section.list("hosts", "a DNS name such as llm.example.com, without a wildcard", dns_name);
    let path_prefixes = path_prefixes(&mut section);
    let tls = tls(&mut section);
    let advertise = section.get("advertise", Host::ALLOWED, Host::parse);
    let poll_timeout = section.duration("poll_timeout", Duration::from_secs(1)..=Duration::from_secs(60));
    section.finish();
    TraefikConfig {
        version: version.unwrap_or_default(),
        entry_points: entry_points.unwrap_or_default(),
        hosts: hosts.unwrap_or_default(),
        path_prefixes,
        tls,
        advertise,
        poll_timeout: poll_timeout.unwrap_or(Duration::from_secs(5)),
    }
}

fn tls(section: &mut Section<'_>) -> Option<Tls> {
    let cert_resolver = section.get("cert_resolver", NAME, plain_name);
    let tls = section.bool("tls");
    if cert_resolver.is_some() && tls == Some(false) {
        section.error(
            "tls",
            "found \"false\"; traefik.cert_resolver turns TLS on; allowed: true, or no cert_resolver",
        );
    }
    tls.unwrap_or(cert_resolver.is_some()).then_some(Tls { cert_resolver })
}

fn path_prefixes(section: &mut Section<'_>) -> Vec<String> {
    match section.list("path_prefixes", PREFIX, path_prefix) {
        Some(prefixes) => {
            section.require_some("path_prefixes", &prefixes);
            prefixes
        }
        None => vec!["/v1".into()],
    }
}

/// A prefix goes into a rule, so only unreserved characters (RFC 3986 §2.3) get through.
fn path_prefix(text: &str) -> Option<String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(unreserved);
    let mut segments = path.strip_prefix('/')?.split('/');
    (path.len() <= 256 && segments.next() == Some("v1") && segments.all(segment)).then(|| path.into())
}
