//! Client headers that are never sent to a server: those that hold API keys, and those that only `/auth` sets.
//!
//! Servers take several spellings for one header: where header names become variables (CGI, WSGI, PHP;
//! <https://github.com/advisories/GHSA-rf44-j88r-hh8c>), `X_Api_Key` and `X.Api.Key` become the variable of `X-Api-Key`, and
//! Traefik's lists of names match only one spelling. So names are matched word by word, with at most one character that is neither
//! letter nor digit between two words.
//!
//! Traefik matches the expression against every header of every request, and a client's SDK sends some twenty. So the names are
//! spelled out and arranged as a tree in which the next character decides the way: Go matches such an expression in one pass
//! (<https://github.com/golang/go/blob/master/src/regexp/onepass.go>), ten times as fast as one that allows any words before
//! the last one. A header that is not listed reaches the server, unless it holds the request's key (`web/src/leaked_key.rs`).

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

/// Headers that hold keys, of clients, gateways and clouds, or that identify an account. A client that moved here from another
/// gateway may still send that gateway's header beside Modelgate's, with the same key. `Cookie` is not one of them: Traefik's
/// sticky sessions and the operator's own applications need it, and no known client puts a key there.
const NAMES: &[&str] = &[
    "authorization",
    "authentication",
    "auth",
    "token",
    "secret",
    "password",
    "jwt",
    "proxy-authorization",
    "x-authorization",
    "x-forwarded-authorization",
    "api-key",
    "api-token",
    "api-secret",
    "access-key",
    "access-token",
    "auth-key",
    "auth-token",
    "client-secret",
    "id-token",
    "jwt-assertion",
    "secret-key",
    "security-token",
    "session-token",
    "subscription-key",
    "x-api-key",
    "x-api-token",
    "x-api-secret",
    "x-access-key",
    "x-access-token",
    "x-auth",
    "x-auth-key",
    "x-auth-token",
    "x-client-secret",
    "x-id-token",
    "x-jwt",
    "x-jwt-assertion",
    "x-key",
    "x-secret",
    "x-secret-key",
    "x-security-token",
    "x-session-token",
    "x-token",
    "anthropic-api-key",
    "openai-api-key",
    "x-anthropic-api-key",
    "x-goog-api-key",
    "x-openai-api-key",
    "rapidapi-key",
    "x-rapidapi-key",
    "ocp-apim-subscription-key",
    // Gateways: LiteLLM, Bifrost, Portkey, Helicone.
    "x-litellm-key",
    "x-litellm-api-key",
    "x-bf-vk",
    "x-bf-api-key",
    "x-portkey-api-key",
    "x-portkey-virtual-key",
    "helicone-auth",
    "helicone-auth-token",
    // Proxies that sign people in, and clouds: oauth2-proxy, Cloudflare Access, Google's IAP, Amazon.
    "x-forwarded-access-token",
    "x-forwarded-id-token",
    "x-auth-request-access-token",
    "cf-access-client-secret",
    "cf-access-jwt-assertion",
    "cf-access-token",
    "x-goog-iap-jwt-assertion",
    "x-amz-security-token",
    // Not keys, but the paying account at OpenAI and Google: beside the operator's key they choose whose account is charged.
    "openai-organization",
    "openai-project",
    "x-goog-user-project",
    "sec-websocket-protocol",
];

/// Every `X-Inference-*` header: deleted from the client's request, then set by `/auth`.
const INFERENCE_HEADERS: &str = "x-inference";

/// One character between two words.
const SEPARATOR: &str = "[^a-z0-9]";

/// The expression for ForwardAuth's `authResponseHeadersRegex`, which matches the withheld names; `further` are the headers in
/// which the operator has keys read. It has no `$`, which would have to be doubled in Compose files.
pub(crate) fn expression(further: &[String]) -> String {
    expression_of(NAMES.iter().copied().chain(further.iter().map(String::as_str)))
}

/// Whether the header of this name, in lower case, is withheld from servers because it holds API keys or only `/auth` sets it.
/// `further` are the headers in which the operator has keys read.
pub fn is_withheld(name: &str, further: &[String]) -> bool {
    static EXPRESSION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&expression_of(NAMES.iter().copied())).expect("a constant"));
    further.iter().any(|other| is_spelling(name, other)) || EXPRESSION.is_match(name)
}

/// Whether the expression for `other` matches a name: at most one character between two words.
fn is_spelling(name: &str, other: &str) -> bool {
    let mut rest = Some(name);
    for (number, word) in words(other).enumerate() {
        let separator = |c: char| number > 0 && !c.is_ascii_alphanumeric();
        rest = rest.and_then(|rest| rest.strip_prefix(separator).unwrap_or(rest).strip_prefix(word));
    }
    rest == Some("")
}

fn expression_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut tree = Node::default();
    for name in names {
        tree.insert(name).is_name = true;
    }
    tree.insert(INFERENCE_HEADERS).is_family = true;
    format!(r"(?i)^{}\z", tree.expression())
}

/// Names that begin alike, as a tree of letters.
#[derive(Default)]
struct Node {
    letters: BTreeMap<char, Node>,
    /// The words that may follow here.
    words: Option<Box<Node>>,
    /// Whether a name ends here.
    is_name: bool,
    /// Whether each name that goes on after a separator is meant.
    is_family: bool,
}

impl Node {
    fn insert(&mut self, name: &str) -> &mut Self {
        words(name).enumerate().fold(self, |node, (number, word)| {
            let node = if number == 0 { node } else { node.words.get_or_insert_default() };
            word.chars()
                .fold(node, |node, letter| node.letters.entry(letter.to_ascii_lowercase()).or_default())
        })
    }

    /// In each place the next character decides which alternative it can be.
    fn expression(&self) -> String {
        let letters = self.letters.iter().map(|(letter, node)| format!("{letter}{}", node.expression()));
        let words = self.words.as_ref().map(|words| format!("{SEPARATOR}?{}", words.expression()));
        let family = self.is_family.then(|| format!("{SEPARATOR}.*"));
        let ways: Vec<String> = letters.chain(words).chain(family).collect();
        match ways.as_slice() {
            [] => String::new(),
            _ if self.is_name => format!("(?:{})?", ways.join("|")),
            [way] => way.clone(),
            _ => format!("(?:{})", ways.join("|")),
        }
    }
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

    const WITHHELD: [&str; 46] = [
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
        "X-Auth",
        "X-Key",
        "X-Goog-User-Project",
        "X-Team-Secret",
        "X_team_secret",
        "Subscription-Id",
    ];

    const KEPT: [&str; 28] = [
        "Subscription--Id",
        "Sub-Scription-Id",
        "X-Subscription-Id",
        "Subscription-Ids",
        "Accept",
        "Api-Version",
        "X-Api-Key-2",
        "Authorization_",
        "X-Of-An-Application-Authorization",
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

    /// Go stops matching in one pass at a thousand instructions
    /// (<https://github.com/golang/go/blob/master/src/regexp/onepass.go>); there are about six in ten bytes here.
    #[test]
    fn it_is_matched_in_one_pass_and_leaves_room_for_an_operators_headers() {
        let expression = expression(&["x-team-secret".to_owned(), "subscription_id".to_owned()]);
        let bytes = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
        let parsed = regex_automata::dfa::onepass::Builder::new().syntax(bytes).build(&expression);
        assert!(parsed.is_ok(), "{:?}: {expression}", parsed.err());
        assert!(expression.len() < 1_600, "{} bytes", expression.len());
    }

    #[test]
    fn no_word_of_an_operator_becomes_part_of_the_expression() {
        let expression = expression(&["x-key)|.*(".to_owned()]);
        assert!(Regex::new(&expression).expect("an expression").is_match("X-Key"), "{expression}");
        assert!(!expression.contains(".*("), "{expression}");
    }
}
