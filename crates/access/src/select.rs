//! Finds the selection that a request matches.

use catalogue::{Catalogue, Selection, Selector, Traits};
use http::HeaderMap;

use crate::{Request, read::decode_fully};

/// The headers, query and host of a request.
struct Shown<'a> {
    headers: &'a HeaderMap,
    query: &'a str,
    host: Option<&'a str>,
}

/// The selection that a request matches by a header, its query or its host. The selector with the most conditions is tried
/// first, as in Traefik.
pub(crate) fn selection<'c>(
    catalogue: &'c Catalogue,
    request: &Request<'_>,
    query: Option<&str>,
) -> Option<&'c Selection> {
    catalogue.selections().iter().find(|selection| chooses(&selection.selector, request, query))
}

/// Whether a request meets all conditions of a selector.
pub(crate) fn chooses(selector: &Selector, request: &Request<'_>, query: Option<&str>) -> bool {
    let host = request.host.map(without_port);
    selector.chooses(&Shown { headers: request.headers, query: query.unwrap_or_default(), host })
}

/// `code.example.com` for `code.example.com.:8443`; Traefik ignores the final dot of a full name.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

impl Traits for Shown<'_> {
    /// A repeated header matches only if all its values do: servers differ in which they use. A header in another spelling,
    /// such as `X_Model_Size`, which some servers take for the same one, prevents a match.
    fn header(&self, name: &str, fulfils: &dyn Fn(&str) -> bool) -> bool {
        let mut values = self.headers.get_all(name).iter().peekable();
        values.peek().is_some()
            && values.all(|value| value.to_str().is_ok_and(fulfils))
            && !self.headers.keys().any(|other| is_disguise(other.as_str(), name))
    }

    /// The parameter must be given once and without encoding, so that no server reads it differently.
    fn query(&self, name: &str, value: &str) -> bool {
        let parts = self.query.split(['&', ';']).map(|part| part.split_once('=').unwrap_or((part, "")));
        let mut given = parts.filter(|(found, _)| *found == name || decode_fully(found) == name);
        let plain = self.query.split('&').any(|pair| pair.split_once('=') == Some((name, value)));
        plain && given.next() == Some((name, value)) && given.next().is_none()
    }

    fn host(&self) -> Option<&str> {
        self.host
    }
}

/// Whether a header differs from another only in underscores.
fn is_disguise(other: &str, name: &str) -> bool {
    let dashed = |b: u8| if b == b'_' { b'-' } else { b };
    other != name && other.bytes().map(dashed).eq(name.bytes().map(dashed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(headers: &'a HeaderMap, query: &'a str) -> Shown<'a> {
        Shown { headers, query, host: None }
    }

    #[test]
    fn a_repeated_header_must_agree_with_itself() {
        let mut headers = HeaderMap::new();
        headers.append("x-size", "70b".parse().expect("a value"));
        assert!(shown(&headers, "").header("x-size", &|v| v == "70b"));
        headers.append("x-size", "8b".parse().expect("a value"));
        assert!(!shown(&headers, "").header("x-size", &|v| v == "70b"));
        assert!(!shown(&headers, "").header("x-other", &|_| true), "what is not there fulfils nothing");
    }

    #[test]
    fn a_header_in_two_spellings_fulfils_nothing() {
        let mut headers = HeaderMap::new();
        headers.append("x-model-size", "70b".parse().expect("a value"));
        headers.append("x-model-other", "8b".parse().expect("a value"));
        assert!(shown(&headers, "").header("x-model-size", &|v| v == "70b"));
        headers.append("x_model-size", "70b".parse().expect("a value"));
        assert!(!shown(&headers, "").header("x-model-size", &|v| v == "70b"));
        assert!(!shown(&headers, "").header("x-model_size", &|_| true));
    }

    #[test]
    fn a_parameter_stands_once_and_plainly() {
        let headers = HeaderMap::new();
        for (query, expected) in [
            ("fast=true", true),
            ("a=b&fast=true", true),
            ("fast=true&a=b;c", true),
            ("fast=true&fast=true", false),
            ("fast=true&fast=false", false),
            ("fast=true&f%61st=false", false),
            ("fast=true&f%2561st=false", false),
            ("fast=true&a=b;fast=false", false),
            ("fast=true;a=b", false),
            ("a=b;fast=true", false),
            ("f%61st=true", false),
            ("fast=tru%65", false),
            ("fast", false),
            ("", false),
        ] {
            assert_eq!(shown(&headers, query).query("fast", "true"), expected, "{query}");
        }
    }

    #[test]
    fn a_host_has_neither_port_nor_last_dot() {
        for (given, host) in [
            ("code.example.com", "code.example.com"),
            ("code.example.com:8443", "code.example.com"),
            ("code.example.com.:8443", "code.example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("code.example.com:x", "code.example.com:x"),
        ] {
            assert_eq!(without_port(given), host);
        }
    }
}
