//! A request as Traefik gets it.

use std::borrow::Cow;

use crate::TraefikVersion;

/// A request as Traefik gets it.
#[derive(Debug, Clone)]
pub struct Arrival<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// Whether it comes by TLS; `None`: not known.
    pub is_https: Option<bool>,
    /// The host, perhaps with a port; `None`: not known.
    pub host: Option<&'a str>,
    /// The path, as the client wrote it.
    pub path: &'a str,
    /// The query, without its question mark.
    pub query: Option<&'a str>,
    /// The headers: names in any case, and values.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The version that decides how paths are matched.
    pub version: TraefikVersion,
}

impl Arrival<'_> {
    /// The values of a header.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// The values of a parameter of the query, decoded.
    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = Cow<'_, str>> {
        let pairs = self.query.unwrap_or_default().split('&');
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .filter(move |(given, _)| decoded(&given.replace('+', " "), "") == name)
            .map(|(_, value)| decoded(&value.replace('+', " "), "").into_owned().into())
    }

    /// The host without its port.
    pub(super) fn host_name(&self) -> Option<&str> {
        let host = self.host?;
        let end = match host.rfind(':') {
            Some(colon) if !host[colon..].contains(']') => colon,
            _ => host.len(),
        };
        Some(&host[..end])
    }

    /// The path that rules are compared with. From 3.4.1 on reserved characters stay as the client encoded them (RFC 3986 §2.2).
    pub(super) fn matched_path(&self) -> String {
        let keeps = if self.version.keeps_reserved() { ":/?#[]@!$&'()*+,;=%" } else { "" };
        decoded(self.path, keeps).into_owned()
    }
}

/// Text with percent-encoded characters decoded, except for these.
fn decoded<'t>(text: &'t str, keeps: &str) -> Cow<'t, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let byte = match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        match byte {
            Some(byte) if !keeps.as_bytes().contains(&byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}
