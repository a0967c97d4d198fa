//! The request's path and query (RFC 9112 §3.2.1, RFC 3986 §3.3).
//!
//! Traefik, Modelgate and the server behind each decode and clean a path in their own way. One on
//! which they could disagree about where it leads is refused.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{Unreadable, query::is_well_encoded};

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// The path, decoded. Its segments are none of `.`, `..` and, but for the last, empty.
    pub(crate) path: Cow<'a, str>,
    /// The query, as it was given.
    pub(crate) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Takes a URI in origin form apart.
    pub(crate) fn parse(uri: &'a str) -> Result<Self, Unreadable> {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        if !uri.bytes().all(|b| b.is_ascii_graphic()) || uri.contains('#') {
            return Err(Unreadable::Uri("it has a character that must be percent-encoded"));
        }
        let path = decode(path).map_err(Unreadable::Uri)?;
        check(&path).map_err(Unreadable::Uri)?;
        Ok(Self { path, query })
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if !is_well_encoded(path) {
        return Err("a \"%\" is not followed by two hexadecimal digits");
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| "the path is not UTF-8 once decoded")?;
    if decoded.matches('/').count() != path.matches('/').count() {
        return Err("the path has an encoded slash");
    }
    Ok(decoded)
}

/// Checks a decoded path.
fn check(path: &str) -> Result<(), &'static str> {
    let Some(segments) = path.strip_prefix('/') else {
        return Err("it must start with a slash");
    };
    if path.contains('\\') {
        return Err("the path has a backslash");
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character");
    }
    if path.contains('%') && path.split('%').skip(1).any(|rest| is_well_encoded(&format!("%{rest}"))) {
        return Err("the path is encoded twice");
    }
    // Some servers cut parameters off a segment: `..;x`.
    let mut names =
        segments.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).peekable();
    while let Some(name) = names.next() {
        if matches!(name, "." | "..") {
            return Err("the path has a \".\" or \"..\" segment");
        }
        if name.is_empty() && names.peek().is_some() {
            return Err("the path has an empty segment");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_paths_pass() {
        for (uri, path, query) in [
            ("/", "/", None),
            ("/v1/chat/completions", "/v1/chat/completions", None),
            ("/v1/chat/completions/", "/v1/chat/completions/", None),
            ("/v1/responses/resp_1?a=/../b&c=%2e", "/v1/responses/resp_1", Some("a=/../b&c=%2e")),
            ("/v1/models/m%C3%A9%20x:y", "/v1/models/m\u{e9} x:y", None),
            ("/v1/a?b?c", "/v1/a", Some("b?c")),
            ("/v1/...", "/v1/...", None),
            ("/v1/100%25", "/v1/100%", None),
        ] {
            let target = Target::parse(uri).expect(uri);
            assert_eq!((&*target.path, target.query), (path, query), "{uri}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_for_somebody_are_refused() {
        for uri in [
            "",
            "*",
            "v1/chat",
            "http://host/v1",
            "?model=a",
            "/v1/./a",
            "/v1/../a",
            "/v1/..",
            "/.",
            "/v1/%2e%2E/a",
            "/v1/.%2e/a",
            "/v1/..;x/a",
            "/v1/..%3bx/a",
            "//v1/a",
            "/v1//a",
            "/v1/a//",
            "/v1/;x/a",
            "/v1/a%2Fb",
            "/v1/a%2fb",
            "/v1/a\\b",
            "/v1/a%5Cb",
            "/v1/a%00",
            "/v1/a%0a",
            "/v1/a%7F",
            "/v1/%",
            "/v1/%4",
            "/v1/%zz",
            "/v1/%c0%af",
            "/v1/%ff",
            "/v1/%252e%252e/a",
            "/v1/a%252fb",
            "/v1/a b",
            "/v1/a\tb",
            "/v1/a#b",
            "/v1/\u{e9}",
            "/v1/a?\u{e9}",
            "/v1/a?b#c",
            "/v1/a?b c",
        ] {
            let error = Target::parse(uri).expect_err(uri);
            assert!(matches!(error, Unreadable::Uri(_)) && !error.is_media_type(), "{uri}");
        }
    }
}
