//! Client headers that are never sent to a server: those that hold API keys, and those that only `/auth` sets.
//!
//! Servers take several spellings for one header: where header names become variables (CGI, WSGI, PHP;
//! <https://github.com/advisories/GHSA-rf44-j88r-hh8c>), `X_Api_Key` and `X.Api.Key` become the variable of `X-Api-Key`, and
//! Traefik's lists of names match only one spelling. So names are matched word by word, with at most one character of any kind
//! between two words.

use std::sync::LazyLock;

use regex::Regex;

/// Headers with names of their own that hold API keys or identify an account. A client that moved here from another gateway may
/// still send that gateway's header beside Modelgate's, with the same key. `Cookie` is not one of them: Traefik's sticky
/// sessions and the operator's own applications need it, and no known client puts a key there.
const BY_NAME: [&str; 9] = [
    "sec-websocket-protocol",
    // LiteLLM's, Bifrost's.
    "x-litellm-key",
    "x-bf-vk",
    "x-key",
    // Used by many gateways. As last words they would match too much: there are `Idempotency-Key` and `X-CSRF-Token`.
    "x-token",
    "token",
    // Not keys, but the paying account at OpenAI and Google: beside the operator's key they choose whose account is charged.
    "openai-organization",
    "openai-project",
    "x-goog-user-project",
];

/// The last words of every other header that holds a key, whatever comes before them: `Authorization` and `X-Authorization`,
/// `api-key`, `X-Goog-Api-Key` and `OpenAI-API-Key`, Kong's and Supabase's `apikey`, OpenStack's `X-Auth-Token`,
/// `X-Amz-Security-Token`.
///
/// Traefik matches it against every header of every request, so it has only the words that real clients use.
const LAST_WORDS: &str = "authorization|authentication|(rapid|x)?api.?key|\
     (access|secret|auth|service|security|session|bearer|id|virtual|subscription).?(key|token)|secret|password|auth|jwt|jwt.?assertion";

/// Every `X-Inference-*` header: deleted from the client's request, then set by `/auth`.
const INFERENCE_HEADERS: &str = "x[^a-z0-9]inference[^a-z0-9]";

/// The expression for ForwardAuth's `authResponseHeadersRegex`, which matches the withheld names; `further` are the headers in
/// which the operator has keys read. It has no `$`, which would have to be doubled in Compose files.
pub(crate) fn expression(further: &[String]) -> String {
    expression_of(BY_NAME.into_iter().chain(further.iter().map(String::as_str)))
}

/// Whether the header of this name, in lower case, is withheld from servers because it holds API keys or only `/auth` sets it.
/// `further` are the headers in which the operator has keys read.
pub fn is_withheld(name: &str, further: &[String]) -> bool {
    static EXPRESSION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&expression_of(BY_NAME.into_iter())).expect("a constant"));
    further.iter().any(|other| is_spelling(name, other)) || EXPRESSION.is_match(name)
}

/// Whether the expression for `other` matches a name: at most one character between two words, and no letter after the last one.
fn is_spelling(name: &str, other: &str) -> bool {
    let mut rest = Some(name);
    for (number, word) in words(other).enumerate() {
        rest = rest.and_then(|rest| {
            let mut after_one = rest.chars();
            after_one.next();
            let after_one = after_one.as_str();
            rest.strip_prefix(word).or_else(|| after_one.strip_prefix(word).filter(|_| number > 0))
        });
    }
    rest.is_some_and(|rest| !rest.bytes().any(|b| b.is_ascii_alphabetic()))
}

fn expression_of<'n>(named: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = named.map(in_any_spelling).collect();
    let names = names.join("|");
    format!(r"(?i)^({INFERENCE_HEADERS}|({names}|([a-z0-9]+[^a-z0-9])*({LAST_WORDS}))[^a-z]*\z)")
}

fn in_any_spelling(name: &str) -> String {
    words(name).collect::<Vec<_>>().join(".?")
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_withheld_in_every_spelling_and_nothing_else_is() {
        let further = ["x-team-secret".to_owned(), "subscription_id".to_owned()];
        let expression = Regex::new(&expression(&further)).expect("an expression");
        for name in WITHHELD {
            assert!(expression.is_match(name), "{name}");
            assert!(is_withheld(&name.to_lowercase(), &further), "{name}");
        }
        for name in KEPT {
            assert!(!expression.is_match(name), "{name}");
            assert!(!is_withheld(&name.to_lowercase(), &further), "{name}");
        }
    }

    const WITHHELD: [&str; 49] = [
        "Authorization",
        "AUTHORIZATION",
        "Proxy-Authorization",
        "X-Api-Key",
        "X_Api_Key",
        "x.api-key",
        "Xapikey",
        "Api-Key",
        "Apikey",
        "api_key",
        "X-Goog-Api-Key",
        "X_Goog_Api_Key",
        "X-Litellm-Api-Key",
        "X-Litellm-Key",
        "Ocp-Apim-Subscription-Key",
        "Ocp_apim_subscription_key",
        "X-Auth-Token",
        "Sec-Websocket-Protocol",
        "Sec_websocket_protocol",
        "X-Inference-Consumer",
        "X_inference_key",
        "X.Inference.Anything",
        "X-Authorization",
        "Authorization_",
        "Authorization--",
        "X-Forwarded-Authorization",
        "OpenAI-Organization",
        "OpenAI-Project",
        "OpenAI-Api-Key",
        "Anthropic_Api_Key",
        "X-Portkey-Api-Key",
        "X-Access-Token",
        "X-Forwarded-Access-Token",
        "X-Amz-Security-Token",
        "Token",
        "X-Token",
        "Helicone-Auth-Token",
        "X-Client-Secret",
        "X-RapidAPI-Key",
        "x-portkey-virtual-key",
        "Helicone-Auth",
        "Cf-Access-Jwt-Assertion",
        "X-Api-Key-2",
        "X-Auth",
        "X-Key",
        "X-Goog-User-Project",
        "X-Team-Secret",
        "X_team_secret",
        "Subscription-Id",
    ];

    const KEPT: [&str; 25] = [
        "Subscription--Id",
        "Sub-Scription-Id",
        "X-Subscription-Id",
        "Subscription-Ids",
        "Accept",
        "Api-Version",
        "Anthropic-Version",
        "Content-Type",
        "Cookie",
        "Idempotency-Key",
        "Sec-Websocket-Key",
        "Sec-Websocket-Version",
        "X-Api-Key-Id",
        "X-Csrf-Token",
        "X-Zerogpu-Token",
        "X-Smg-Routing-Key",
        "Mcp-Session-Id",
        "X-Max-Tokens",
        "X-Auth-User",
        "X-Session-Id",
        "X-Inferences",
        "X-Model",
        "X-Request-Id",
        "X-Stainless-Lang",
        "Traceparent",
    ];

    #[test]
    fn no_word_of_an_operator_becomes_part_of_the_expression() {
        let expression = expression(&["x-key)|.*(".to_owned()]);
        assert!(expression.contains(r"|x.?key|("), "{expression}");
    }
}
