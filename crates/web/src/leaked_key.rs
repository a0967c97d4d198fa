//! Finds API keys where servers would see them: in a URL (`?key=` in Gemini's clients, `?api-key=` in Azure's for WebSockets),
//! or in a header that is not known to hold keys.
//!
//! Traefik removes the headers that are known to hold keys. It cannot remove a key from a URL, and no list of headers is
//! complete. So a request is refused if its key is also in its URL or in another header. `Cookie` is exempt: applications keep
//! their users' session tokens there.
//!
//! In the query every key known to Modelgate counts, not only the request's own. Other values do not: what the operator's own
//! application takes as `key` is its own affair.

use std::{borrow::Cow, time::SystemTime};

use access::{KeyDigest, Policy};
use axum::http::{HeaderMap, HeaderName, header};
use memchr::memmem;
use percent_encoding::percent_decode_str;

/// The maximum number of parameters examined.
const MOST: usize = 32;
/// The shortest and the longest possible key, percent-encoding included, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=1536;
/// A shorter key, chosen by an operator, may occur in a longer text by chance.
const UNMISTAKABLE: usize = 16;

/// A place where servers would see the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leak<'r> {
    Url,
    Header(&'r HeaderName),
    HeaderName,
}

/// The place where an admitted request holds a key that its server would see. `protocols` are the WebSocket protocols that the
/// server would see, and `further` the headers in which the operator has keys read.
pub(crate) fn find<'r>(
    uri: &str,
    headers: &'r HeaderMap,
    protocols: Option<&str>,
    policy: &Policy,
    further: &[String],
    now: SystemTime,
) -> Option<Leak<'r>> {
    let shown = Shown::new(policy.shown_key(headers, now).unwrap_or_default());
    if is_in_query(uri, policy) || shown.is_in(&Cow::from(percent_decode_str(uri))) {
        return Some(Leak::Url);
    }
    if protocols.is_some_and(|protocols| shown.is_in(protocols.as_bytes())) {
        return Some(Leak::Header(&header::SEC_WEBSOCKET_PROTOCOL));
    }
    if headers.keys().any(|name| shown.is_in_name(name.as_str())) {
        return Some(Leak::HeaderName);
    }
    let mut holders = headers.iter().filter(|(_, value)| shown.is_in(value.as_bytes())).map(|(name, _)| name);
    let leak = holders.find(|name| {
        // Most keys are in the headers where keys are read; those need no further search.
        !policy.reads_keys_in(name)
            && ![header::COOKIE, header::HOST].contains(name)
            && !is_traefiks_own(name.as_str())
            && !traefik_config::is_withheld(name.as_str(), further)
    });
    leak.map(Leak::Header)
}

/// Whether Traefik itself sets the header, which is about the request that it asks about.
fn is_traefiks_own(name: &str) -> bool {
    let of_traefik = [
        "for",
        "host",
        "method",
        "port",
        "prefix",
        "proto",
        "server",
        "tls-client-cert",
        "tls-client-cert-info",
        "uri",
    ];
    name.strip_prefix("x-forwarded-").is_some_and(|what| of_traefik.contains(&what))
}

/// The key of an admitted request, to be searched for.
struct Shown<'k> {
    key: &'k [u8],
    finder: memmem::Finder<'k>,
}

impl<'k> Shown<'k> {
    fn new(key: &'k [u8]) -> Self {
        Self { key, finder: memmem::Finder::new(key) }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        // Most headers are shorter than a key.
        match self.key.len() {
            length if length > text.len() || length == 0 => false,
            UNMISTAKABLE.. => self.finder.find(text).is_some(),
            _ => text.trim_ascii() == self.key,
        }
    }

    /// The name of a header has lost its capital letters on the way.
    fn is_in_name(&self, name: &str) -> bool {
        // Hardly any name is as long as a key.
        (UNMISTAKABLE..=name.len()).contains(&self.key.len())
            && name.as_bytes().windows(self.key.len()).any(|part| part.eq_ignore_ascii_case(self.key))
    }
}

/// Whether the query of a URL holds a key of `policy`.
fn is_in_query(uri: &str, policy: &Policy) -> bool {
    let Some((_, query)) = uri.split_once('?') else { return false };
    let values =
        query.split('&').take(MOST).map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    let mut likely = values.filter(|value| LENGTHS.contains(&value.len()));
    likely.any(|value| {
        let value = percent_decode_str(value).decode_utf8();
        value.is_ok_and(|value| policy.key(&KeyDigest::of(&value)).is_some())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use access::{Consumer, Key};

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_key_of_ours_is_found_in_any_parameter() {
        let consumer = Arc::new(Consumer::new("alice"));
        let key = Key::new("alice", consumer, KeyDigest::of("mg-key/of alice"));
        let policy = Policy::new(vec![key], Vec::new());
        let many = format!("/v1/x?{}", "a=b&".repeat(40));
        for (uri, found) in [
            ("/v1/chat/completions?key=mg-key%2Fof%20alice", true),
            ("/v1/realtime?model=voice&api-key=mg-key/of%20alice", true),
            ("/v1/x?mg-key%2Fof%20alice", true),
            ("/v1/x?a=1&&b&key=mg-key%2Fof%20alice#f", false),
            ("/v1/x?key=mg-key-of-bob", false),
            ("/v1/x?key=", false),
            // In a path only the request's own key is searched for.
            ("/v1/mg-key%2Fof%20alice", false),
            ("/v1/x", false),
            (many.as_str(), false),
        ] {
            let none = HeaderMap::new();
            assert_eq!(find(uri, &none, None, &policy, &[], NOW), found.then_some(Leak::Url), "{uri}");
        }
    }

    /// Regression: a refusal repeated the name, and where no value held the key nothing was refused.
    #[test]
    fn a_key_in_a_headers_name_is_found_whatever_its_case() {
        const KEY: &str = "mg-AliceAndNobody0123";
        let key = Key::new("alice", Arc::new(Consumer::new("alice")), KeyDigest::of(KEY));
        let policy = Policy::new(vec![key], Vec::new());
        let leak_in = |name: &str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Bearer {KEY}").parse().expect("a value"));
            headers.insert(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
            find("/v1/x", &headers, None, &policy, &[], NOW) == Some(Leak::HeaderName)
        };
        for (name, found) in [
            (KEY.to_owned(), true),
            (format!("x-{KEY}-y"), true),
            (format!("cookie-{}", KEY.to_ascii_uppercase()), true),
            (KEY[1..].to_owned(), false),
            ("x-a-header-with-a-name-longer-than-the-key".to_owned(), false),
        ] {
            assert_eq!(leak_in(&name, "a value"), found, "{name}");
        }
        assert!(leak_in(&format!("x-{KEY}"), KEY), "its name is not told");
    }

    #[test]
    fn the_key_of_a_request_stands_nowhere_else() {
        const KEY: &str = "mg-key/of alice+and-nobody";
        let consumer = Arc::new(Consumer::new("alice"));
        let key = Key::new("alice", consumer, KeyDigest::of(KEY));
        let policy = Policy::new(vec![key], Vec::new());
        let further = ["x-team-key".to_owned()];
        let leak_in = |uri: &str, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", format!("Bearer {KEY}").parse().expect("a value"));
            headers.append(name, value.parse().expect("a value"));
            find(uri, &headers, None, &policy, &further, NOW).map(|leak| format!("{leak:?}"))
        };
        for name in [
            "x-hf-token",
            "x-my-token",
            "private-token",
            "x-team-key-1",
            "x-forwarded-key",
            "referer",
            "x-inferences",
        ] {
            let found = leak_in("/v1/x", name, &format!("Token {KEY};"));
            assert_eq!(found, Some(format!("Header({name:?})")));
            assert_eq!(leak_in("/v1/x", name, "another"), None);
        }
        // Servers never get these headers, in any spelling; a cookie belongs to its application.
        for name in ["x-api-key", "x_api_key", "x-goog-api-key", "x_team_key", "x-forwarded-for", "cookie"] {
            assert_eq!(leak_in("/v1/x", name, KEY), None, "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {KEY}").parse().expect("a value"));
        for (protocols, leaks) in [("realtime, bearer", false), ("bearer, mg-key/of alice+and-nobody", true)]
        {
            let found = find("/v1/x", &headers, Some(protocols), &policy, &further, NOW);
            assert_eq!(found, leaks.then_some(Leak::Header(&header::SEC_WEBSOCKET_PROTOCOL)), "{protocols}");
        }
        for uri in ["/v1/mg-key%2Fof%20alice%2Band-nobody/x", "/v1/x?a=Bearer+mg-key/of%20alice%2band-nobody"]
        {
            assert_eq!(leak_in(uri, "x", "y").as_deref(), Some("Url"), "{uri}");
        }
    }

    #[test]
    fn a_short_key_is_found_only_alone() {
        let key = Key::new("alice", Arc::new(Consumer::new("alice")), KeyDigest::of("test"));
        let policy = Policy::new(vec![key], Vec::new());
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer test".parse().expect("a value"));
        headers.insert("user-agent", "a-test-client".parse().expect("a value"));
        headers.insert("host", "test".parse().expect("a value"));
        headers.insert("x-forwarded-host", "test".parse().expect("a value"));
        assert_eq!(find("/v1/test", &headers, None, &policy, &[], NOW), None);
        headers.insert("x-hf-token", "test".parse().expect("a value"));
        let leak = find("/v1/test", &headers, None, &policy, &[], NOW);
        assert_eq!(leak, Some(Leak::Header(&HeaderName::from_static("x-hf-token"))));
    }
}
