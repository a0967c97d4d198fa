//! Parses the request's path and query (RFC 9112 §3.2.1, RFC 3986 §3.3).
//!
//! Traefik, Modelgate and the server each decode and clean a path in their own way. A path is refused if they could disagree
//! about where it leads.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{
    Unreadable,
    path::{MODELS, name_prefix},
    query::is_well_encoded,
};

/// The path and query of a request.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// The path, decoded, and Azure's `/openai/v1/…` and `/openai/responses` as the `/v1/…` that Traefik makes of them. Its segments are none of `.`, `..` and, but for the last, empty.
    pub(crate) path: Cow<'a, str>,
    /// The query, as it was given.
    pub(crate) query: Option<&'a str>,
    /// The offset of the end of the path's last encoded slash (`%2F`); 0 if it has none.
    encoded_until: usize,
}

impl<'a> Target<'a> {
    /// Parses a URI in origin form, in which no slash is encoded.
    pub(crate) fn parse(uri: &'a str) -> Result<Self, Unreadable> {
        let target = Self::parse_named(uri)?;
        target.refuse_encoded_behind(0)?;
        Ok(target)
    }

    /// Like `parse`, but slashes may be encoded in a model's name: the caller must check where the name ends
    /// ([`refuse_encoded_behind`](Self::refuse_encoded_behind)).
    pub(crate) fn parse_named(uri: &'a str) -> Result<Self, Unreadable> {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        if !uri.bytes().all(|b| b.is_ascii_graphic()) || uri.contains('#') {
            return Err(Unreadable::Uri("it has a character that must be percent-encoded"));
        }
        let (path, encoded_until) = decode(path).map_err(Unreadable::Uri)?;
        Ok(Self { path: as_v1(path), query, encoded_until })
    }

    /// Refuses a path with an encoded slash after this offset: servers differ in whether they decode it.
    pub(crate) fn refuse_encoded_behind(&self, end: usize) -> Result<(), Unreadable> {
        match self.encoded_until > end {
            true => Err(Unreadable::Uri("the path has an encoded slash")),
            false => Ok(()),
        }
    }
}

/// Decodes and checks a path; also returns where its last encoded slash ends.
fn decode(path: &str) -> Result<(Cow<'_, str>, usize), &'static str> {
    if !is_well_encoded(path) {
        return Err("a \"%\" is not followed by two hexadecimal digits");
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| "the path is not UTF-8 once decoded")?;
    let last = path
        .rmatch_indices('%')
        .find(|(at, _)| path[at + 1..].get(..2).is_some_and(|code| code.eq_ignore_ascii_case("2f")));
    let encoded_until = last.map_or(0, |(at, _)| percent_decode_str(&path[..at + 3]).count());
    // Traefik removes a name only after this prefix as it is written, so it must be written literally.
    if let Some(prefix) = name_prefix(&decoded).filter(|prefix| !path.starts_with(prefix)) {
        return Err(match prefix {
            MODELS => "\"/models/\" is written with an encoded character",
            _ => "\"/openai/deployments/\" is written with an encoded character",
        });
    }
    if is_azures(&decoded) && !is_azures(path) {
        return Err("\"/openai/\" and what follows it are written with an encoded character");
    }
    // A name may begin with a slash, if that is told from one that ends the segment.
    let behind = name_prefix(&decoded).map_or("", |prefix| &path[prefix.len()..]);
    let begins_with_slash = behind.get(..3).is_some_and(|code| code.eq_ignore_ascii_case("%2f"));
    let checked: Cow<'_, str> = match (begins_with_slash, name_prefix(&decoded)) {
        (true, Some(prefix)) => format!("{prefix}{}", &decoded[prefix.len() + 1..]).into(),
        _ => Cow::Borrowed(&decoded),
    };
    check(&checked)?;
    Ok((decoded, encoded_until))
}

/// Below this Azure has what others have below `/v1/`, with the model in the body.
const AZURE_V1: &str = "/openai/v1/";
const AZURE_RESPONSES: &str = "/openai/responses";

/// Whether a path is one of Azure's of which Traefik makes another.
fn is_azures(path: &str) -> bool {
    let behind = |rest: &str| rest.is_empty() || rest.starts_with('/');
    path.starts_with(AZURE_V1) || path.strip_prefix(AZURE_RESPONSES).is_some_and(behind)
}

/// A decoded path as Traefik makes it of one of Azure's.
fn as_v1(path: Cow<'_, str>) -> Cow<'_, str> {
    match path.strip_prefix("/openai").filter(|_| is_azures(&path)) {
        None => path,
        Some(rest) if rest.starts_with("/v1/") => Cow::Owned(rest.to_owned()),
        Some(rest) => Cow::Owned(format!("/v1{rest}")),
    }
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
    // Some servers remove parameters from a segment: `..;x`.
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
            ("/openai/v1/chat/completions?api-version=v1", "/v1/chat/completions", Some("api-version=v1")),
            ("/openai/v1/m%C3%A9", "/v1/m\u{e9}", None),
            ("/openai/v1/", "/v1/", None),
            ("/openai/responses", "/v1/responses", None),
            ("/openai/responses/resp_1", "/v1/responses/resp_1", None),
            ("/openai/responsesx", "/openai/responsesx", None),
            ("/openai/v1", "/openai/v1", None),
            ("/models/a/openai/v1/x", "/models/a/openai/v1/x", None),
            ("/v1/100%25", "/v1/100%", None),
        ] {
            let target = Target::parse(uri).expect(uri);
            assert_eq!((&*target.path, target.query), (path, query), "{uri}");
        }
    }

    /// For example `/models/org%2Fname/…`, which SDKs write, and `/models/%2Fmodels%2Fname/…`, after SGLang's name for a model.
    #[test]
    fn slashes_may_be_encoded_in_a_name_alone() {
        for (uri, path, until) in [
            ("/models/org/name/v1", "/models/org/name/v1", ""),
            ("/models/org%2Fname/v1", "/models/org/name/v1", "/models/org/"),
            ("/models/a%2fb%2Fc/v1?x=%2F", "/models/a/b/c/v1", "/models/a/b/"),
            ("/models/%2Fdata%2Fm%20x/v1", "/models//data/m x/v1", "/models//data/"),
            (
                "/openai/deployments/org%2Fname/chat",
                "/openai/deployments/org/name/chat",
                "/openai/deployments/org/",
            ),
            ("/models/a/v1%2Fchat", "/models/a/v1/chat", "/models/a/v1/"),
            ("/v1/a%2Fb", "/v1/a/b", "/v1/a/"),
            ("/models/caf%C3%A9%2Fx/v1", "/models/caf\u{e9}/x/v1", "/models/caf\u{e9}/"),
        ] {
            let target = Target::parse_named(uri).expect(uri);
            assert_eq!((&*target.path, target.encoded_until), (path, until.len()), "{uri}");
            let before = target.encoded_until.saturating_sub(1);
            assert_eq!(target.refuse_encoded_behind(before).is_err(), !until.is_empty(), "{uri}");
            assert!(target.refuse_encoded_behind(until.len()).is_ok());
            assert_eq!(Target::parse(uri).is_err(), !until.is_empty(), "{uri}");
        }
        for uri in [
            "/models/%2F%2Fdata/v1",
            "/models//data/v1",
            "/models/a%2F%2Fb/v1",
            "/models/a%2F/v1",
            "/models/%2F/v1",
            "/models/%2F..%2Fa/v1",
            "/models/a%2F..%2Fb/v1",
            "/models/%2F.%2Fa/v1",
            "/models/a%252Fb/v1",
            "/models/%5Croot/v1",
            "/v1/%2Fdata",
            "/%2Fmodels/a/v1",
            // Traefik before 3.4.1 would leave the name there.
            "/model%73/a/v1",
            "/%6Dodels/a/v1",
            "/models%2Fa/v1",
            "/openai%2Fdeployments/a/chat",
            "/openai/deployment%73/a/chat",
            "/openai/v%31/chat/completions",
            "/%6Fpenai/v1/chat/completions",
            "/openai/v1%2Fchat",
            "/openai/response%73",
            "/openai/responses%2Fresp_1",
        ] {
            assert!(Target::parse_named(uri).is_err(), "{uri}");
        }
        for (uri, prefix) in
            [("/model%73/a/v1", "/models/"), ("/openai/deployment%73/a/chat", "/openai/deployments/")]
        {
            let told = Target::parse_named(uri).expect_err(uri).to_string();
            assert!(told.contains(&format!("\"{prefix}\" is written with an encoded")), "{told}");
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
