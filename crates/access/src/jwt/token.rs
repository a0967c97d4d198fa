//! Parses a credential as a token, which is not verified yet (RFC 7515 §7.1).

use jsonwebtoken::{Algorithm, AlgorithmFamily, dangerous::insecure_decode_claims};
use serde_json::{Map, Value};

use super::fault::TokenFault;

/// The maximum length of a token, in bytes.
const LONGEST: usize = 16 * 1024;

/// A credential that looks like a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown<'t> {
    /// Three parts: header, claims and signature.
    Signed(&'t str),
    /// Five parts, of which only the intended receiver can read more than the header (RFC 7516 §7.1).
    Encrypted,
}

/// A parsed token. Nothing in it is trusted unless its signature is valid.
pub(super) struct Token<'t> {
    /// The signed part.
    pub(super) message: &'t str,
    /// The signature, in base64url.
    pub(super) signature: &'t str,
    /// The id of the key that it names.
    pub(super) key_id: Option<String>,
    /// The algorithm, which always has a public key.
    pub(super) algorithm: Algorithm,
    /// The claims.
    pub(super) claims: Map<String, Value>,
}

impl<'t> Shown<'t> {
    /// `None` if it does not look like a token, so that it can only be an API key. The first part is base64 JSON, which begins
    /// with `{` or `{` and a blank.
    pub(crate) fn of(credential: &'t [u8]) -> Option<Self> {
        let text = str::from_utf8(credential).ok().filter(|text| text.starts_with("ey"))?;
        match text.bytes().filter(|b| *b == b'.').count() {
            2 => Some(Self::Signed(text)),
            4 => Some(Self::Encrypted),
            _ => None,
        }
    }
}

impl<'t> Token<'t> {
    /// Parses a token. An algorithm with no key or a shared secret is refused.
    pub(super) fn read(shown: Shown<'t>) -> Result<Self, TokenFault> {
        let text = match shown {
            Shown::Encrypted => return Err(TokenFault::Encrypted),
            Shown::Signed(text) if text.len() > LONGEST => {
                return Err(TokenFault::TooLong { longest: LONGEST });
            }
            Shown::Signed(text) => text,
        };
        let (message, signature) = text.rsplit_once('.').ok_or(TokenFault::Unreadable)?;
        let (header, claims) = message.split_once('.').ok_or(TokenFault::Unreadable)?;
        let header = json(header).ok_or(TokenFault::Unreadable)?;
        let claims = json(claims).ok_or(TokenFault::Unreadable)?;
        if header.contains_key("crit") {
            // No known extension would change what a token means here, but that is for its issuer to say (RFC 7515 §4.1.11).
            return Err(TokenFault::Critical);
        }
        let method = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        // RFC 9864 gives EdDSA with this curve a name of its own.
        let known = if method == "Ed25519" { "EdDSA" } else { method };
        let algorithm =
            known.parse().ok().filter(|method: &Algorithm| method.family() != AlgorithmFamily::Hmac);
        let algorithm = algorithm.ok_or_else(|| TokenFault::Method { found: method.to_owned() })?;
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { message, signature, key_id, algorithm, claims })
    }

    /// The issuer that it names.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

/// Parses one part of a token: an object in base64url. `insecure_decode_claims` decodes the middle one of three parts, whatever
/// that is.
fn json(part: &str) -> Option<Map<String, Value>> {
    insecure_decode_claims(format!(".{part}.")).ok()
}
