//! A client's request, as Traefik hands it over.

use std::{net::IpAddr, time::SystemTime};

/// A client's request: the original one, not Traefik's ForwardAuth request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// Path and query in origin form (RFC 9112 §3.2.1), as `X-Forwarded-Uri` has them.
    pub uri: &'a str,
    /// The requested host, perhaps with a port, as in `X-Forwarded-Host`.
    pub host: Option<&'a str>,
    /// The headers.
    pub headers: &'a http::HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
    /// What the answer decides.
    pub mode: Mode<'a>,
    /// Whether the caller has proven to be Traefik, so that it may receive servers' credentials.
    pub trusted: bool,
    /// The client's address as Traefik sees it.
    pub from: Option<IpAddr>,
    /// The time.
    pub now: SystemTime,
}

/// What the answer decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode<'a> {
    /// The answer chooses the route.
    Layered,
    /// Traefik has already chosen the route.
    Routed {
        /// The route.
        route: &'a str,
        /// Whether Traefik hands bodies over; before 3.3 it cannot.
        body_forwarded: bool,
    },
    /// A router of the user's own, which leads where its owner wants.
    Gate {
        /// The model to which it leads, if its owner names it.
        model: Option<&'a str>,
        /// Whether Traefik hands bodies over.
        body_forwarded: bool,
        /// The owner says that the server has only this model: nothing in a request chooses another.
        single_model: bool,
    },
}

impl Mode<'_> {
    /// Whether the handed-over body is the client's.
    pub(crate) fn body_forwarded(self) -> bool {
        match self {
            Self::Layered => true,
            Self::Routed { body_forwarded, .. } | Self::Gate { body_forwarded, .. } => body_forwarded,
        }
    }
}

impl<'a> Request<'a> {
    /// The body; `None` if the request may have one that Traefik does not hand over.
    pub fn known_body(&self) -> Option<&'a [u8]> {
        let has_none = matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "DELETE");
        (has_none || self.mode.body_forwarded()).then_some(self.body)
    }
}

/// Omits headers and body, which hold keys and prompts, and the query, which may hold a key.
impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.uri.split('?').next().unwrap_or_default();
        write!(f, "Request({} {path}, {} bytes)", self.method, self.body.len())
    }
}
