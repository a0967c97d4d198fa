//! Signatures of Standard Webhooks 1.0 (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>):
//! HMAC-SHA256 over `ID.TIMESTAMP.BODY`, with a secret that sender and receiver share.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;

/// A secret that signs messages. Its `Debug` output does not show it.
#[derive(Clone)]
pub struct Secret {
    key: hmac::Key,
    text: String,
}

/// What is allowed.
pub const SECRET: &str =
    "whsec_ and 24 to 64 bytes as base64, such as the output of: echo whsec_$(openssl rand -base64 32)";

/// A text that is not such a secret. The error does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {SECRET}")]
pub struct InvalidSecret;

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let bytes = text.strip_prefix("whsec_").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
        let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len())).ok_or(InvalidSecret)?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), text: text.to_owned() })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

/// The value of `webhook-signature`: a signature by each secret, so that the receiver may know either while they are rotated.
pub(crate) fn signatures(secrets: &[Secret], id: &str, timestamp: u64, body: &str) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    let one = |secret: &Secret| {
        let tag = hmac::sign(&secret.key, signed.as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(tag))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference libraries
    /// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/python/tests/test_webhooks.py>).
    #[test]
    fn the_signature_is_the_one_of_the_reference_libraries() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a secret");
        let (id, timestamp, body) =
            ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signatures(std::slice::from_ref(&secret), id, timestamp, body), expected);
        let other: Secret = format!("whsec_{}", BASE64_STANDARD.encode([7; 32])).parse().expect("a secret");
        let both = signatures(&[other.clone(), secret.clone()], id, timestamp, body);
        assert_eq!(both.split(' ').nth(1), Some(expected));
        assert_ne!(secret, other);
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!!!!"] {
            assert_eq!(bad.parse::<Secret>(), Err(InvalidSecret), "{bad}");
        }
    }
}
