//! API keys in a URL's query: `?key=` as Gemini's clients write it, `?api-key=` as Azure's do for WebSockets.
//!
//! They are not read there: Traefik cannot take them out of a URL, so servers would see them, and access logs keep them.
//! A request that has a right key in a header and one in its URL is refused rather than passed on. Any parameter counts, since
//! only what is one of our keys is refused: what an application of the operator's own takes as `key` is its own affair.

use access::{KeyDigest, Policy};
use percent_encoding::percent_decode_str;

/// So many parameters are looked at.
const MOST: usize = 32;
/// No key is shorter or, percent-encoded, longer than this, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=1536;

/// Whether the query of a URL holds a key of `policy`, right or not.
pub(crate) fn is_in(uri: &str, policy: &Policy) -> bool {
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
            ("/v1/mg-key%2Fof%20alice", false),
            ("/v1/x", false),
            (many.as_str(), false),
        ] {
            assert_eq!(is_in(uri, &policy), found, "{uri}");
        }
    }
}
