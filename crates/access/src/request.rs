//! A client's request, as Traefik hands it over.

/// A client's request: the original one, not Traefik's question about it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// Path and query in origin form (RFC 9112 §3.2.1), as `X-Forwarded-Uri` has them.
    pub uri: &'a str,
    /// The headers.
    pub headers: &'a http::HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
}

/// Without headers and body: those hold keys and prompts. A query may hold a key as well.
impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.uri.split('?').next().unwrap_or_default();
        write!(f, "Request({} {path}, {} bytes)", self.method, self.body.len())
    }
}
