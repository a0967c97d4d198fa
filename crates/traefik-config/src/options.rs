//! The operator's choices about routing.

use std::{collections::BTreeSet, time::Duration};

use catalogue::Api;

use crate::TraefikVersion;

/// How the document is rendered, apart from what is in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderOptions {
    /// The version of Traefik.
    pub version: TraefikVersion,
    /// Entry points of the routers; empty: Traefik's default ones.
    pub entry_points: Vec<String>,
    /// Host names that the routers are bound to; empty: any.
    pub hosts: Vec<String>,
    /// The APIs that are offered.
    pub apis: BTreeSet<Api>,
    /// Paths under which OpenAI's API is offered, such as `/v1`.
    pub path_prefixes: Vec<String>,
    /// TLS on the routers.
    pub tls: Option<Tls>,
    /// Entry points that answer with a redirect to https; empty: none.
    pub redirect_entry_points: Vec<String>,
    /// `Strict-Transport-Security` (RFC 6797).
    pub hsts: Option<Hsts>,
    /// Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
    pub cors: Option<Cors>,
    /// Client networks that are allowed, in CIDR notation; empty: any.
    pub allow_ips: Vec<String>,
    /// The number of proxies before Traefik: the client's address is at that position from the right in `X-Forwarded-For`, as
    /// Traefik gets it. 0: the connecting address.
    pub ip_depth: u8,
    /// A certificate with which Traefik authenticates itself: paths of PEM files on Traefik's side.
    pub client_certificate: Option<ClientCertificate>,
    /// The operator's dashboard, if Traefik shows it.
    pub dashboard: Option<Dashboard>,
    /// The longest request body with a `Content-Length`, in bytes.
    pub max_body: u64,
    /// The longest body without a `Content-Length`, in bytes; 0 refuses such bodies with 411. Multipart uploads may have
    /// `max_body`.
    pub max_chunked_body: u64,
    /// Further headers in which keys are read, in lower case; they are never sent to servers.
    pub key_headers: Vec<String>,
    /// Whether `/auth` sets `traceparent`, so that servers and Traefik can prove which request they speak about.
    pub traces: bool,
}

/// TLS on the routers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate resolver; `None`: Traefik's default certificates.
    pub cert_resolver: Option<String>,
}

/// `Strict-Transport-Security`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hsts {
    /// How long browsers insist on https.
    pub max_age: Duration,
    /// Whether it includes subdomains.
    pub include_subdomains: bool,
    /// Whether browsers may preload it.
    pub preload: bool,
}

/// What pages of other origins may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins such as `https://app.example.com`, or `*`.
    pub origins: Vec<String>,
    /// Request headers that pages may send; empty: those of OpenAI's and Anthropic's clients.
    pub headers: Vec<String>,
    /// How long a browser caches the answer to a preflight.
    pub max_age: Duration,
}

/// Paths of PEM files on Traefik's side; the key must not be in the document, since Traefik's API shows that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// The operator's dashboard on a host of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// The host's name, which nothing else may use.
    pub host: String,
    /// The port of Modelgate's admin listener, on the gateway's host.
    pub port: u16,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            version: TraefikVersion::default(),
            entry_points: Vec::new(),
            hosts: Vec::new(),
            apis: Api::DEFAULT.into(),
            path_prefixes: vec!["/v1".into()],
            tls: None,
            redirect_entry_points: Vec::new(),
            hsts: None,
            cors: None,
            allow_ips: Vec::new(),
            ip_depth: 0,
            client_certificate: None,
            dashboard: None,
            max_body: 32 * 1024 * 1024,
            max_chunked_body: 1024 * 1024,
            key_headers: Vec::new(),
            traces: false,
        }
    }
}

/// How Traefik reaches Modelgate's requests listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// `host:port`, with brackets around an IPv6 address.
    pub authority: String,
    /// The CA that signed the listener's certificate, in PEM. Not secret.
    pub ca_pem: String,
}
