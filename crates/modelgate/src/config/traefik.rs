//! `traefik:` — what is rendered for Traefik, and how it is reached.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use catalogue::Api;
use ipnet::IpNet;
use traefik_config::{ClientCertificate, Cors, Hsts, Tls, TraefikVersion};

use config_reader::{NETWORK, Section, network};

use super::{
    files,
    host::{Host, dns_name, plain_name},
};

/// `traefik:` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraefikConfig {
    /// The version that the rendered document is for.
    pub(crate) version: TraefikVersion,
    /// Whether the configuration names it.
    pub(crate) version_is_given: bool,
    /// Entry points to listen on; an empty list means all of Traefik's default ones.
    pub(crate) entry_points: Vec<String>,
    /// Host names to answer for, in lower case; an empty list means all.
    pub(crate) hosts: Vec<String>,
    /// The APIs that are offered.
    pub(crate) apis: BTreeSet<Api>,
    /// Path prefixes to answer for, without a trailing slash; at least one.
    pub(crate) path_prefixes: Vec<String>,
    /// TLS on the routers, from `tls` and `cert_resolver`.
    pub(crate) tls: Option<Tls>,
    /// Entry points that redirect to https.
    pub(crate) redirect_entry_points: Vec<String>,
    /// `Strict-Transport-Security`.
    pub(crate) hsts: Option<Hsts>,
    /// Cross-origin requests.
    pub(crate) cors: Option<Cors>,
    /// Client networks that are admitted; an empty list means any.
    pub(crate) allow_ips: Vec<IpNet>,
    /// How many proxies stand before Traefik.
    pub(crate) ip_depth: u8,
    /// The client certificate that Traefik presents; the paths are on Traefik's machine.
    pub(crate) client_certificate: Option<ClientCertificate>,
    /// The CA that signed that certificate, in PEM.
    pub(crate) client_ca: Option<PathBuf>,
    /// Networks in which every address is accepted as Traefik's.
    pub(crate) trusted_addresses: Vec<IpNet>,
    /// The host at which Traefik reaches the requests listener; `None`: the host that it polls.
    pub(crate) advertise: Option<Host>,
    /// Traefik's own `providers.http.pollTimeout`.
    pub(crate) poll_timeout: Duration,
}

const NAME: &str = "a name of letters, digits, _ and -";
const PREFIX: &str = "a path such as /v1, /v1/chat or /llm, of letters, digits and -._~, but not below /models, /openai, /auth or \
                      /refuse";
/// What Modelgate itself has there.
const RESERVED: [&str; 4] = ["models", "openai", "auth", "refuse"];

pub(super) fn read(mut section: Section<'_>) -> TraefikConfig {
    let version =
        section.try_get("version", "MAJOR.MINOR.PATCH, such as 3.7.15", str::parse::<TraefikVersion>);
    let entry_points = section.list("entry_points", NAME, plain_name);
    let hosts = section.list("hosts", "a DNS name such as llm.example.com, without a wildcard", dns_name);
    let apis = apis(&mut section);
    let path_prefixes = path_prefixes(&mut section, &apis);
    let tls = tls(&mut section);
    let redirect_entry_points = redirect(&mut section, entry_points.as_deref(), tls.as_ref());
    let hsts = hsts(&mut section);
    let cors = cors(&mut section);
    let allow_ips = section.list("allow_ips", NETWORK, network).unwrap_or_default();
    let ip_depth = section.number("ip_depth", 0..=16).unwrap_or(0);
    let (client_ca, client_certificate) = client_certificate(section.section("client_certificate"));
    let trusted_addresses = section.list("trusted_addresses", NETWORK, network).unwrap_or_default();
    let advertise = section.get("advertise", Host::ALLOWED, Host::parse);
    let poll_timeout = section.duration("poll_timeout", Duration::from_secs(1)..=Duration::from_secs(60));
    section.finish();
    TraefikConfig {
        version: version.unwrap_or_default(),
        version_is_given: version.is_some(),
        entry_points: entry_points.unwrap_or_default(),
        hosts: hosts.unwrap_or_default(),
        apis,
        path_prefixes,
        tls,
        redirect_entry_points,
        hsts,
        cors,
        allow_ips,
        ip_depth: u8::try_from(ip_depth).unwrap_or(0),
        client_certificate,
        client_ca,
        trusted_addresses,
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

fn apis(section: &mut Section<'_>) -> BTreeSet<Api> {
    let words = Api::ALL.map(Api::name).join(", ");
    let found = section.list("apis", &words, |text| Api::ALL.into_iter().find(|api| api.name() == text));
    match found {
        Some(apis) => {
            section.require_some("apis", &apis);
            apis.into_iter().collect()
        }
        None => Api::DEFAULT.into(),
    }
}

/// Entry points that redirect; allowed only if the routers are on other entry points, with TLS.
fn redirect(section: &mut Section<'_>, own: Option<&[String]>, tls: Option<&Tls>) -> Vec<String> {
    let redirect = section.list("redirect_entry_points", NAME, plain_name).unwrap_or_default();
    let own = own.unwrap_or_default();
    for (i, name) in redirect.iter().enumerate() {
        if own.contains(name) {
            section.error(
                &format!("redirect_entry_points[{i}]"),
                format!("found {name:?}; it is one of traefik.entry_points, too; allowed: another one"),
            );
        }
    }
    if !redirect.is_empty() && (own.is_empty() || tls.is_none()) {
        section.error(
            "redirect_entry_points",
            "needs traefik.entry_points, the ones to which it redirects, and TLS on them: traefik.tls or \
             traefik.cert_resolver",
        );
    }
    redirect
}

fn hsts(section: &mut Section<'_>) -> Option<Hsts> {
    let given = section.has("hsts");
    let mut section = section.section("hsts");
    let max_age = section.duration("max_age", Duration::ZERO..=Duration::from_secs(10 * 365 * 24 * 3600));
    let (include_subdomains, preload) = (section.bool("include_subdomains"), section.bool("preload"));
    section.finish();
    given.then(|| Hsts {
        max_age: max_age.unwrap_or(Duration::from_secs(365 * 24 * 3600)),
        include_subdomains: include_subdomains.unwrap_or(false),
        preload: preload.unwrap_or(false),
    })
}

fn cors(section: &mut Section<'_>) -> Option<Cors> {
    const ORIGIN: &str = "* or an origin such as https://app.example.com, without a path";
    let given = section.has("cors");
    let mut section = section.section("cors");
    let origins = section.list("origins", ORIGIN, origin);
    if given {
        section.require("origins", &format!("a list, each {ORIGIN}"));
    }
    if let Some(origins) = &origins {
        section.require_some("origins", origins);
    }
    let headers = section.list("headers", "the name of a header", header_name);
    let max_age = section.duration("max_age", Duration::ZERO..=Duration::from_secs(24 * 3600));
    section.finish();
    Some(Cors {
        origins: origins?,
        headers: headers.unwrap_or_default(),
        max_age: max_age.unwrap_or(Duration::from_secs(600)),
    })
}

/// An origin as browsers write it (RFC 6454 §6.2).
fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = match text {
        "*" => return Some(text.into()),
        _ => text.split_once("://")?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    let fits =
        matches!(scheme, "http" | "https") && (1..=253).contains(&rest.len()) && rest.bytes().all(plain);
    fits.then(|| text.to_ascii_lowercase())
}

fn header_name(text: &str) -> Option<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    ((1..=64).contains(&text.len()) && text.bytes().all(token)).then(|| text.to_ascii_lowercase())
}

/// The certificate that Traefik presents (paths on its machine), and the CA that must have signed it (a file on ours).
fn client_certificate(mut section: Section<'_>) -> (Option<PathBuf>, Option<ClientCertificate>) {
    const OURS: &str = "the path of a PEM file here: who signed Traefik's certificate";
    const THEIRS: &str = "the path of a PEM file where Traefik runs";
    let ca = section.try_get("ca", OURS, |path| match files::read(path) {
        Ok(_) => Ok(PathBuf::from(path)),
        Err(error) => Err::<_, io::Error>(error),
    });
    let path =
        |text: &str| (text.starts_with('/') && !text.contains(char::is_control)).then(|| text.to_owned());
    let cert = section.get("cert", THEIRS, path);
    let key = section.get("key", THEIRS, path);
    if section.has("ca") || section.has("cert") || section.has("key") {
        section.require("ca", OURS);
        section.require("cert", THEIRS);
        section.require("key", THEIRS);
    }
    section.finish();
    (ca, cert.zip(key).map(|(cert, key)| ClientCertificate { cert, key }))
}

fn path_prefixes(section: &mut Section<'_>, apis: &BTreeSet<Api>) -> Vec<String> {
    match section.list("path_prefixes", PREFIX, path_prefix) {
        Some(prefixes) => {
            section.require_some("path_prefixes", &prefixes);
            for (i, prefix) in prefixes.iter().enumerate() {
                // What is below such a prefix becomes what is below /v1, and would no longer be that API's.
                let below = format!("{prefix}/");
                let has = |api: &&Api| match api {
                    Api::Ollama => below == "/api/",
                    api => api.paths().iter().any(|path| path.starts_with(&below)),
                };
                if let Some(api) = apis.iter().find(has) {
                    section.error(
                        &format!("path_prefixes[{i}]"),
                        format!("found {prefix:?}; traefik.apis has {}, whose paths are below it; allowed: another prefix", api.name()),
                    );
                }
            }
            prefixes
        }
        None => vec!["/v1".into()],
    }
}

/// The prefix becomes part of a rule, so only unreserved characters (RFC 3986 §2.3) are accepted.
fn path_prefix(text: &str) -> Option<String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(unreserved);
    let mut segments = path.strip_prefix('/')?.split('/');
    let is_free = !segments.clone().next().is_some_and(|first| RESERVED.contains(&first));
    (path.len() <= 256 && is_free && segments.all(segment)).then(|| path.into())
}
