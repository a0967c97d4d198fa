//! Host names, and other names that become part of other programs' configuration.

use std::{fmt, net::IpAddr};

/// A host name or an IP address, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(String);

impl Host {
    /// What is allowed, for error messages.
    pub(super) const ALLOWED: &str = "a host name or an IP address, without a port";

    /// Reads a name, an IPv4 address, or an IPv6 address with or without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match bare.unwrap_or(text).parse::<IpAddr>() {
            Ok(ip) if bare.is_none() || ip.is_ipv6() => Some(Self(ip.to_string())),
            // Compose allows `_` in the names of services, and Docker uses these as host names.
            _ => is_name(text, |b| b == b'_').then(|| Self(text.into())),
        }
    }

    /// The name or address. An IPv6 address has no brackets here; `Display` adds them, as URLs need them.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(':') {
            true => write!(f, "[{}]", self.0),
            false => f.write_str(&self.0),
        }
    }
}

/// A DNS name for a `Host` rule, in lower case (RFC 1123 §2.1: letters, digits and inner hyphens). Characters that could end a
/// string in a rule are refused, and so are wildcards.
pub(super) fn dns_name(text: &str) -> Option<String> {
    is_name(text, |_| false).then(|| text.to_ascii_lowercase())
}

fn is_name(text: &str, extra: fn(u8) -> bool) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || extra(b);
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The name of an entry point or a certificate resolver of Traefik: letters, digits, `_` and `-`.
pub(super) fn plain_name(text: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (given, kept, in_url) in [
            ("modelgate", "modelgate", "modelgate"),
            ("model_gate", "model_gate", "model_gate"),
            ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
            ("fd00::5", "fd00::5", "[fd00::5]"),
            ("[fd00::5]", "fd00::5", "[fd00::5]"),
        ] {
            let host = Host::parse(given).expect(given);
            assert_eq!((host.as_str(), host.to_string().as_str()), (kept, in_url));
        }
        for bad in ["", "a:8101", "[10.0.0.5]", "[fd00::5", "http://a", "a/b", "a b", "-a", "a..b"] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn dns_names() {
        assert_eq!(dns_name("LLM.example.com").as_deref(), Some("llm.example.com"));
        let long = "a".repeat(64);
        for bad in ["", "*.example.com", "a`) || Path(`/", "a_b", "a.", long.as_str(), "b\u{fc}cher.example"]
        {
            assert_eq!(dns_name(bad), None, "{bad}");
        }
    }
}
