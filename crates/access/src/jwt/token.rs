//! What a client shows, read as a token but not believed yet (RFC 7515 §7.1).

use jsonwebtoken::{Algorithm, AlgorithmFamily, dangerous::insecure_decode_claims};
use serde_json::{Map, Value};

use super::fault::TokenFault;

/// The longest token that is read, in bytes.
const LONGEST: usize = 16 * 1024;

/// A credential that has the form of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown<'t> {
    /// Three parts: header, claims and signature.
    Signed(&'t str),
    /// Five parts, of which only its receiver can read more than the header (RFC 7516 §7.1).
    Encrypted,
}

/// A token that has been read. Nothing of it is true unless its signature is right.
pub(super) struct Token<'t> {
    /// What is signed.
    pub(super) message: &'t str,
    /// The signature, in base64url.
    pub(super) signature: &'t str,
    /// Which key it says has signed it.
    pub(super) key_id: Option<String>,
    /// How; always a method with a public key.
    pub(super) algorithm: Algorithm,
    /// What it says.
    pub(super) claims: Map<String, Value>,
}

impl<'t> Shown<'t> {
    /// `None` if it has another form: then it can only be an API key. The first part is JSON in base64, which begins
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
    /// Reads a token. Of a method that needs no key, or one that everybody has, it is not one of ours.
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
            // None that there is changes what a token means to us, but that is for its issuer to say (RFC 7515 §4.1.11).
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

    /// Who it says has made it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

/// One part of a token: an object in base64url. The function takes the middle one of three, whatever it is.
fn json(part: &str) -> Option<Map<String, Value>> {
    insecure_decode_claims(format!(".{part}.")).ok()
}
