//! What a client is told whose base URL is wrong: the right one.

use catalogue::endpoint_meant;

use crate::refusal::{Dialect, Refusal};

/// Where OpenAI's and Anthropic's APIs are offered, for a client that has asked at another path; `None` if nothing says that it
/// was looking for them, or they are not offered there.
pub(crate) fn refusal(uri: &str, dialect: Dialect, prefixes: &[String]) -> Option<Refusal> {
    let path = uri.split('?').next().unwrap_or_default();
    // Below it the same paths are right: Azure's.
    if path.starts_with("/openai/") {
        return None;
    }
    let endpoint = match endpoint_meant(path)? {
        "" => "chat/completions",
        endpoint => endpoint,
    };
    let offered = |base: &&str| {
        let right = format!("{base}/{endpoint}");
        prefixes.iter().any(|prefix| right.starts_with(&format!("{prefix}/")))
    };
    let others = prefixes.iter().map(String::as_str).filter(|prefix| !prefix.starts_with("/v1/"));
    let prefix = ["/v1"].into_iter().chain(others).find(offered)?;
    let right = format!("{prefix}/{endpoint}");
    if path.trim_end_matches('/') == right {
        return None;
    }
    let base = match (dialect, prefix.strip_suffix("/v1")) {
        (Dialect::Anthropic, Some("")) => {
            "without a path: Anthropic's clients add \"/v1\" themselves".to_owned()
        }
        (Dialect::Anthropic, before) => {
            let before = before.unwrap_or(prefix);
            format!("with {before:?}: Anthropic's clients add \"/v1\" themselves")
        }
        _ => format!("with {prefix:?} and nothing more behind it"),
    };
    let path: String = path.chars().take(LONGEST_PATH).collect();
    let mut refusal = Refusal::not_found();
    refusal.message = format!(
        "There is nothing at {path}; the right path is {right}. Set the client's base URL to this gateway's address {base}."
    );
    Some(refusal)
}

/// More of the client's path is not shown, in characters.
const LONGEST_PATH: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(uri: &str, dialect: Dialect, prefix: &str) -> Option<String> {
        refusal(uri, dialect, &[prefix.to_owned()]).map(|refusal| refusal.message)
    }

    #[test]
    fn the_right_path_and_the_right_base_url_are_told() {
        let openai = told("/v1/v1/chat/completions?x=/y", Dialect::OpenAi, "/v1").expect("a message");
        assert_eq!(
            openai,
            "There is nothing at /v1/v1/chat/completions; the right path is /v1/chat/completions. Set the client's \
             base URL to this gateway's address with \"/v1\" and nothing more behind it."
        );
        let anthropic = told("/v1/v1/messages", Dialect::Anthropic, "/v1").expect("a message");
        assert!(
            anthropic.contains("is /v1/messages.") && anthropic.contains("without a path"),
            "{anthropic}"
        );
        assert!(
            told("/v1", Dialect::OpenAi, "/v1").is_some_and(|text| text.contains("/v1/chat/completions"))
        );
        let long = "/v1".repeat(9_999);
        assert!(told(&long, Dialect::OpenAi, "/v1").is_some_and(|text| text.len() < 600));
    }

    #[test]
    fn what_is_right_or_not_offered_is_not_called_wrong() {
        for (uri, prefix) in [
            ("/v1/chat/completions", "/v1"),
            ("/openai/v1/v1/chat/completions", "/v1"),
            ("/v1/embeddings/", "/v1"),
            ("/embeddings", "/v1/chat"),
            ("/v1/files", "/v1"),
            ("/", "/v1"),
        ] {
            assert_eq!(told(uri, Dialect::OpenAi, prefix), None, "{uri}");
        }
        assert!(told("/chat/completions", Dialect::OpenAi, "/v1/chat").is_some());
        let other = told("/v1/chat/completions", Dialect::OpenAi, "/llm").expect("a message");
        assert!(other.contains("is /llm/chat/completions.") && other.contains("with \"/llm\""), "{other}");
        let below = told("/messages", Dialect::Anthropic, "/llm/v1").expect("a message");
        assert!(
            below.contains("is /llm/v1/messages.") && below.contains("with \"/llm\": Anthropic's"),
            "{below}"
        );
    }
}
