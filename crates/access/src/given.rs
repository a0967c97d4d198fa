//! Finds the keys in a request's headers.
//!
//! A key is in `Authorization: Bearer` (RFC 6750 §2.1; OpenAI's clients), `x-api-key` (Anthropic's), `api-key` (Azure's) or,
//! since pages cannot set headers of a WebSocket, among the protocols of `Sec-WebSocket-Protocol`, after
//! `openai-insecure-api-key.` (<https://platform.openai.com/docs/guides/realtime-websocket>); and in the headers that the
//! operator names, with or without `Bearer`. Several headers may hold it if it is the same key.

use std::fmt;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The prefix of a key among WebSocket protocols.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// The headers of a request with more than one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// Two headers hold different keys, or one header holds two.
    Between(HeaderName, HeaderName),
    /// A header is repeated, and servers differ in which value they use.
    Repeated(HeaderName),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(one, other) if one == other => write!(f, "two of them in {one}"),
            Self::Between(one, other) => write!(f, "one in the header {one}, another in {other}"),
            Self::Repeated(name) => write!(f, "the header {name} is there twice"),
        }
    }
}

/// The one key in the headers; `further` headers are searched, too.
///
/// # Errors
/// There are several different keys.
pub(crate) fn one<'h>(headers: &'h HeaderMap, further: &[HeaderName]) -> Result<Option<&'h [u8]>, Conflict> {
    let mut given: Option<(&HeaderName, &[u8])> = None;
    for shown in each(headers, further) {
        let (name, key) = shown?;
        match given {
            Some((before, other)) if other != key => {
                return Err(Conflict::Between(before.clone(), name.clone()));
            }
            Some(_) => {}
            None => given = Some((name, key)),
        }
    }
    Ok(given.map(|(_, key)| key))
}

/// All different keys in the headers, each with the first header that holds it.
///
/// # Errors
/// The keys are ambiguous: a header is repeated.
pub(crate) fn all<'h, 'n>(
    headers: &'h HeaderMap,
    further: &'n [HeaderName],
) -> Result<Vec<(&'n HeaderName, &'h [u8])>, Conflict> {
    let mut all: Vec<(&HeaderName, &[u8])> = Vec::new();
    for shown in each(headers, further) {
        let (name, key) = shown?;
        if !all.iter().any(|(_, known)| *known == key) {
            all.push((name, key));
        }
    }
    Ok(all)
}

/// Whether keys are read from this header even if the operator names no further headers.
pub(crate) fn is_read_in(name: &HeaderName) -> bool {
    [&AUTHORIZATION, &X_API_KEY, &API_KEY, &SEC_WEBSOCKET_PROTOCOL].contains(&name)
}

/// Extracts the key from a header's value.
type Read = fn(&HeaderValue) -> Option<&[u8]>;

/// Each key with its header, in a fixed order.
fn each<'h, 'n>(
    headers: &'h HeaderMap,
    further: &'n [HeaderName],
) -> impl Iterator<Item = Result<(&'n HeaderName, &'h [u8]), Conflict>> {
    let usual: [(&HeaderName, Read); 3] = [(&AUTHORIZATION, bearer), (&X_API_KEY, alone), (&API_KEY, alone)];
    // LiteLLM's clients write `x-litellm-api-key: Bearer …`, Kong's `apikey: …`.
    let further = further.iter().map(|name| (name, bearer_or_alone as Read));
    let of_headers = usual.into_iter().chain(further).filter_map(|(name, read)| {
        let key = match single(headers, name) {
            Ok(value) => read(value?)?,
            Err(conflict) => return Some(Err(conflict)),
        };
        (!key.is_empty()).then_some(Ok((name, key)))
    });
    let of_protocols = websocket_protocols(headers).filter_map(key_among_protocols);
    let of_protocols = of_protocols.filter(|key| !key.is_empty());
    of_headers.chain(of_protocols.map(|key| Ok((&SEC_WEBSOCKET_PROTOCOL, key.as_bytes()))))
}

/// The protocols that a WebSocket client offers (RFC 6455 §11.3.4).
fn websocket_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The key that a protocol holds. The prefix matches in any case: no client writes it differently, but such a key must not
/// reach a server either.
fn key_among_protocols(protocol: &str) -> Option<&str> {
    let (prefix, key) = protocol.split_at_checked(KEY_PROTOCOL.len())?;
    prefix.eq_ignore_ascii_case(KEY_PROTOCOL).then_some(key)
}

/// The protocols for the server: those without a key. `None` if none are left.
pub(crate) fn protocols_without_key(headers: &HeaderMap) -> Option<String> {
    let kept: Vec<&str> = websocket_protocols(headers).filter(|p| key_among_protocols(p).is_none()).collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Conflict> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Conflict::Repeated(name.clone())),
    }
}

/// The key in `Bearer <key>`; the scheme's case does not matter (RFC 9110 §11.1). `None` for another scheme.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, key) = value.as_bytes().trim_ascii().split_at_checked(SCHEME.len())?;
    (scheme.eq_ignore_ascii_case(SCHEME) && key.first() == Some(&b' ')).then(|| key.trim_ascii())
}

fn alone(value: &HeaderValue) -> Option<&[u8]> {
    Some(value.as_bytes().trim_ascii())
}

fn bearer_or_alone(value: &HeaderValue) -> Option<&[u8]> {
    bearer(value).or_else(|| alone(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_its_headers() {
        let between = |one: HeaderName, other: HeaderName| Conflict::Between(one, other).to_string();
        assert_eq!(
            between(AUTHORIZATION, X_API_KEY.clone()),
            "one in the header authorization, another in x-api-key"
        );
        assert_eq!(
            between(SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_PROTOCOL),
            "two of them in sec-websocket-protocol"
        );
        assert_eq!(Conflict::Repeated(API_KEY.clone()).to_string(), "the header api-key is there twice");
    }

    #[test]
    fn a_server_sees_the_protocols_without_the_key() {
        let seen = |protocols: &'static str| {
            let headers =
                HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols))]);
            protocols_without_key(&headers)
        };
        assert_eq!(seen("realtime, openai-insecure-api-key.mg-alice,b").as_deref(), Some("realtime, b"));
        assert_eq!(seen("openai-insecure-api-key.mg-alice"), None);
        assert_eq!(seen("OpenAI-Insecure-API-Key.mg-alice, a, openai-insecure-api-key."), Some("a".into()));
        assert_eq!(protocols_without_key(&HeaderMap::new()), None);
    }
}
