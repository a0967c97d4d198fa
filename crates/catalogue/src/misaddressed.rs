//! Paths that clients request if their base URL is wrong. They append the path of an endpoint of OpenAI's or Anthropic's API to
//! it, so `/v1` is missing, doubled, or replaced by something else.

/// The endpoints below `/v1/` in OpenAI's and Anthropic's APIs
/// (<https://platform.openai.com/docs/api-reference>, <https://docs.anthropic.com/en/api>).
pub const ENDPOINTS: [&str; 16] = [
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
    "models",
    "moderations",
    "rerank",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "images/edits",
    "images/generations",
    "images/variations",
    "realtime",
];

/// The last segments of base URLs, of Modelgate's and of other gateways'.
pub const BASES: [&str; 5] = ["api", "openai", "v1", "v2", "v3"];

/// The endpoint that is meant by a path of nothing but [`BASES`] and [`ENDPOINTS`]: the last endpoint in it, or `""` if there is
/// none. `None` if the path contains anything else, or is empty.
pub fn endpoint_meant(path: &str) -> Option<&'static str> {
    let mut rest = path.strip_suffix('/').unwrap_or(path);
    if rest.is_empty() {
        return None;
    }
    let mut meant = "";
    while !rest.is_empty() {
        let below = rest.strip_prefix('/')?;
        let is_next = |word: &&str| {
            below.strip_prefix(word).is_some_and(|after| after.is_empty() || after.starts_with('/'))
        };
        let next = ENDPOINTS.into_iter().filter(is_next).max_by_key(|endpoint| endpoint.len());
        meant = next.unwrap_or(meant);
        rest = &below[next.or_else(|| BASES.into_iter().find(is_next))?.len()..];
    }
    Some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_base_url_is_told_from_paths_of_others() {
        for (path, meant) in [
            ("/chat/completions", Some("chat/completions")),
            ("/chat/completions/", Some("chat/completions")),
            ("/v1", Some("")),
            ("/v1/", Some("")),
            ("/v1/v1/chat/completions", Some("chat/completions")),
            ("/v1/chat/completions/chat/completions", Some("chat/completions")),
            ("/v1/chat/completions/models", Some("models")),
            ("/v1/messages/v1/messages/count_tokens", Some("messages/count_tokens")),
            ("/api/v1/embeddings", Some("embeddings")),
            ("/openai/v1/audio/speech", Some("audio/speech")),
            ("", None),
            ("/", None),
            ("v1", None),
            ("/v1//models", None),
            ("/app/chat/completions", None),
            ("/chat", None),
            ("/models/llama", None),
            ("/messagesx", None),
            ("/v1/files", None),
        ] {
            assert_eq!(endpoint_meant(path), meant, "{path}");
        }
    }
}
