//! What the operator chose about routing.

use crate::TraefikVersion;

/// How the document is rendered, apart from what is in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which Traefik it is for.
    pub version: TraefikVersion,
    /// Entry points of the routers; empty: Traefik's default ones.
    pub entry_points: Vec<String>,
    /// Host names that the routers are bound to; empty: any.
    pub hosts: Vec<String>,
    /// Paths under which the API is offered, such as `/v1`.
    pub path_prefixes: Vec<String>,
    /// TLS on the routers.
    pub tls: Option<Tls>,
    /// The longest request body with a `Content-Length`, in bytes.
    pub max_body: u64,
    /// The longest one without, in bytes; 0 refuses them with 411.
    pub max_chunked_body: u64,
}

/// TLS on the routers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate resolver; none: Traefik's default certificates.
    pub cert_resolver: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: TraefikVersion::default(),
            entry_points: Vec::new(),
            hosts: Vec::new(),
            path_prefixes: vec!["/v1".into()],
            tls: None,
            max_body: 32 * 1024 * 1024,
            max_chunked_body: 1024 * 1024,
        }
    }
}

/// How Traefik reaches Modelgate's requests listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// `host:port`, with brackets around an IPv6 address.
    pub authority: String,
    /// The CA that signed the listener's certificate, in PEM. No secret.
    pub ca_pem: String,
}
