//! Which of a client's headers no server ever gets: those that hold API keys, and those that only `/auth` sets.
//!
//! Servers take several spellings for one header: `X_Api_Key` and `X.Api.Key` become the variable of `X-Api-Key` where
//! header names become variables (CGI, WSGI, PHP; <https://github.com/advisories/GHSA-rf44-j88r-hh8c>), and Traefik's lists
//! of names match one spelling. So names are matched word by word, with any one character, or none, between two words.

/// Headers of which it is known that clients put API keys into them, whether we read them or not. A client that has moved here
/// from another gateway may go on sending that one's header beside ours, with the same key. `Cookie` is not one of them:
/// Traefik's sticky sessions and applications of the operator's own live by it, and no client of ours puts a key there.
const HOLD_KEYS: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    // Azure's; without the dash Kong's (key-auth) and Supabase's.
    "api-key",
    "sec-websocket-protocol",
    // Gemini's, LiteLLM's, Azure API Management's.
    "x-goog-api-key",
    "x-litellm-api-key",
    "x-litellm-key",
    "ocp-apim-subscription-key",
    // OpenStack's, and of many a gateway.
    "x-auth-token",
];

/// Every `X-Inference-*`: deleted from the client's request, then set by `/auth`.
const OURS: &str = "x[^a-z0-9]inference[^a-z0-9]";

/// The expression for ForwardAuth's `authResponseHeadersRegex`, which matches names that are withheld; `further` ones are those
/// in which the operator has keys read. It has no `$`, which would have to be doubled in Compose files.
pub(crate) fn expression(further: &[String]) -> String {
    let named = HOLD_KEYS.into_iter().chain(further.iter().map(String::as_str));
    let names: Vec<String> = named.map(in_any_spelling).collect();
    format!(r"(?i)^({OURS}|({})\z)", names.join("|"))
}

fn in_any_spelling(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(".?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_withheld_in_every_spelling_and_nothing_else_is() {
        let further = ["x-team-secret".to_owned(), "subscription_id".to_owned()];
        let expression = regex::Regex::new(&expression(&further)).expect("an expression");
        for name in [
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
            "X-Team-Secret",
            "X_team_secret",
            "Subscription-Id",
        ] {
            assert!(expression.is_match(name), "{name}");
        }
        for name in [
            "Accept",
            "Api-Version",
            "Anthropic-Version",
            "Content-Type",
            "Cookie",
            "Idempotency-Key",
            "Openai-Organization",
            "Sec-Websocket-Key",
            "Sec-Websocket-Version",
            "X-Api-Key-Id",
            "X-Inferences",
            "X-Model",
            "X-Request-Id",
            "X-Stainless-Lang",
            "Traceparent",
        ] {
            assert!(!expression.is_match(name), "{name}");
        }
    }

    #[test]
    fn no_word_of_an_operator_becomes_part_of_the_expression() {
        let expression = expression(&["x-key)|.*(".to_owned()]);
        assert!(expression.ends_with(r"|x.?key)\z)"), "{expression}");
    }
}
