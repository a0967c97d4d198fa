//! The API whose error format a client expects, derived from its request.

use axum::http::HeaderMap;
use catalogue::Kind;

/// An API's error format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    /// `{"error": "text"}`: Ollama's libraries expect `error` to be a text.
    Ollama,
}

impl Dialect {
    /// Derives it from the client's path, perhaps with a query, and its headers. Anthropic's and Ollama's paths are unique to
    /// them; only Anthropic's SDK sends `anthropic-version`.
    pub(crate) fn of(uri: &str, headers: &HeaderMap) -> Self {
        let path = uri.split('?').next().unwrap_or_default();
        let is_below = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let is_messages = path.split_once("/messages").is_some_and(|(_, rest)| is_below(rest));
        match () {
            () if is_ollamas(path) => Self::Ollama,
            () if is_messages || headers.contains_key("anthropic-version") => Self::Anthropic,
            () => Self::OpenAi,
        }
    }
}

/// After a model's name, `/api/…` is Ollama's only if Ollama has such a route; else it may be an application's own.
fn is_ollamas(path: &str) -> bool {
    fn endpoint(below: &str) -> Option<&str> {
        below.split('/').next()
    }
    let behind_name = || endpoint(path.strip_prefix("/models/")?.split_once("/api/")?.1);
    let is_known = |asked: &str| {
        let routes = access::routes_of(Kind::Ollama).iter();
        let mut below = routes.filter_map(|route| route.path.strip_prefix("/api/"));
        below.any(|below| endpoint(below) == Some(asked))
    };
    // Elsewhere OpenAI's API is at `/api/v1/`; Ollama has nothing there.
    let is_its_own = path.starts_with("/api/") && !path.starts_with("/api/v1/");
    is_its_own || behind_name().is_some_and(is_known)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_path_tells_whose_client_asks() {
        let none = HeaderMap::new();
        let anthropics = HeaderMap::from_iter([(
            HeaderName::from_static("anthropic-version"),
            HeaderValue::from_static("2023-06-01"),
        )]);
        for (uri, headers, dialect) in [
            ("/v1/messages", &none, Dialect::Anthropic),
            ("/v1/messages/count_tokens?x=1", &none, Dialect::Anthropic),
            ("/v1/messagesx", &none, Dialect::OpenAi),
            ("/v1/chat/completions", &none, Dialect::OpenAi),
            ("/v1/chat/completions?next=/api/chat", &none, Dialect::OpenAi),
            ("/v1/models", &anthropics, Dialect::Anthropic),
            ("/api/chat", &none, Dialect::Ollama),
            ("/api/tags?x", &anthropics, Dialect::Ollama),
            ("/api/nothing", &none, Dialect::Ollama),
            ("/models/org/llama/api/show", &none, Dialect::Ollama),
            ("/models/app/api/predict", &none, Dialect::OpenAi),
            ("/apis/chat", &none, Dialect::OpenAi),
            ("/api/v1/chat/completions", &none, Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of(uri, headers), dialect, "{uri}");
        }
    }
}
