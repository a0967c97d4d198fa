//! The public keys of an issuer (RFC 7517), and checking signatures with them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::Value;

use super::token::Token;

/// The keys of an issuer; empty until they have been fetched. Clones share them.
#[derive(Clone, Default)]
pub struct IssuerKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    keys: ArcSwapOption<Vec<SigningKey>>,
    /// A token was signed with an unknown key.
    missed: AtomicBool,
}

struct SigningKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: PublicKey,
}

/// A public key's numbers, as ring takes them.
enum PublicKey {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// A point on a curve.
    Point(Vec<u8>),
}

/// A set of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("it is not a JSON Web Key Set (RFC 7517): {0}")]
pub struct InvalidKeySet(#[from] serde_json::Error);

/// The result of trying keys on a token; of several sets, the greatest result counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signature {
    /// None of them is the key that the token names.
    NoSuchKey,
    /// The key that it names has not signed it.
    Wrong,
    /// One of them has signed it.
    Right,
}

#[derive(serde::Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl IssuerKeys {
    /// Replaces the keys; returns the number of usable ones.
    ///
    /// # Errors
    /// If it is not a key set; the old keys stay.
    pub fn replace(&self, json: &[u8]) -> Result<usize, InvalidKeySet> {
        let set: Set = serde_json::from_slice(json)?;
        // An unsupported key does not invalidate the others.
        let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<SigningKey> = known.filter_map(|jwk| SigningKey::of(&jwk)).collect();
        let count = keys.len();
        self.0.keys.store(Some(Arc::new(keys)));
        Ok(count)
    }

    /// Whether a token was signed with an unknown key since the last call: the issuer may have new keys.
    pub fn take_missed(&self) -> bool {
        self.0.missed.swap(false, Ordering::Relaxed)
    }

    /// Records that a token was signed with an unknown key.
    pub(super) fn miss(&self) {
        self.0.missed.store(true, Ordering::Relaxed);
    }

    /// Whether they have ever been fetched.
    pub(super) fn are_known(&self) -> bool {
        self.0.keys.load().is_some()
    }

    /// Checks a token's signature. Key ids need not be unique (RFC 7517 §4.5), and either side may omit them; then all keys of
    /// the right kind are tried.
    pub(super) fn check(&self, token: &Token<'_>) -> Signature {
        let keys = self.0.keys.load();
        let named = keys.iter().flat_map(|keys| keys.iter()).filter(|key| key.may_have_signed(token));
        named.map(|key| key.check(token)).max().unwrap_or(Signature::NoSuchKey)
    }
}

impl SigningKey {
    /// Only keys of public-key signatures: a shared secret in a public set is ignored.
    fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let is_for_signatures = match (&common.public_key_use, &common.key_operations) {
            (Some(purpose), _) => *purpose == PublicKeyUse::Signature,
            (None, Some(operations)) => operations.contains(&KeyOperations::Verify),
            (None, None) => true,
        };
        let algorithms = algorithms(jwk);
        if !is_for_signatures || algorithms.is_empty() {
            return None;
        }
        Some(Self { id: common.key_id.clone(), algorithms, key: PublicKey::of(jwk)? })
    }

    fn may_have_signed(&self, token: &Token<'_>) -> bool {
        let named = token.key_id.is_none() || self.id.is_none() || token.key_id == self.id;
        named && self.algorithms.contains(&token.algorithm)
    }

    fn check(&self, token: &Token<'_>) -> Signature {
        let Ok(signature) = BASE64_URL_SAFE_NO_PAD.decode(token.signature) else { return Signature::Wrong };
        match self.has_signed(token.algorithm, token.message.as_bytes(), &signature) {
            true => Signature::Right,
            false => Signature::Wrong,
        }
    }

    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let checked = match (&self.key, method(algorithm)) {
            (PublicKey::Rsa(key), Some(Method::Rsa(method))) => key.verify(method, message, signature),
            (PublicKey::Point(point), Some(Method::Curve(method))) => {
                UnparsedPublicKey::new(method, point).verify(message, signature)
            }
            _ => return false,
        };
        checked.is_ok()
    }
}

impl PublicKey {
    /// The numbers of RFC 7518 §6. `None` if they are unusable: RSA keys must have 2,048 to 8,192 bits (§3.3 requires at least
    /// 2,048) and an odd exponent of at least 3; points must be as long as their curve's.
    fn of(jwk: &Jwk) -> Option<Self> {
        let key = DecodingKey::from_jwk(jwk).ok()?;
        match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
                let can_be_used = (256..=1024).contains(&n.len())
                    && e.last().is_some_and(|last| last % 2 == 1)
                    && *e != [1];
                can_be_used.then(|| Self::Rsa(RsaPublicKeyComponents { n: n.to_vec(), e: e.to_vec() }))
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let length = match &jwk.algorithm {
                    AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => 65,
                    AlgorithmParameters::EllipticCurve(_) => 97,
                    _ => 32,
                };
                (point.len() == length).then(|| Self::Point(point.clone()))
            }
        }
    }
}

/// A number as ring takes it. Some providers add a leading zero byte (RFC 7518 §6.3.1.1).
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// How a signature is checked.
enum Method {
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

/// `None` for algorithms with a shared secret, and for unknown ones.
fn method(algorithm: Algorithm) -> Option<Method> {
    Some(match algorithm {
        Algorithm::RS256 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Method::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Method::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Method::Curve(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Method::Curve(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Method::Curve(&signature::ED25519),
        _ => return None,
    })
}

/// The algorithms that a key may sign with: those of its type, or only the one that it names (RFC 8725 §3.1).
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        // Ed25519 is the only one, under two names (RFC 9864).
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            return vec![Algorithm::EdDSA];
        }
        _ => &[],
    };
    let named =
        |method: &Algorithm| jwk.common.key_algorithm.is_none_or(|own| KeyAlgorithm::from(*method) == own);
    of_kind.iter().copied().filter(named).collect()
}

impl PartialEq for IssuerKeys {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeys({})", self.0.keys.load().as_ref().map_or(0, |keys| keys.len()))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::{
        super::token::{Shown, Token},
        *,
    };

    /// Keys and tokens made by Python's `PyJWT` and `cryptography`.
    #[derive(Deserialize)]
    struct Made {
        /// One for each algorithm.
        signed: Vec<Signed>,
        /// With an RSA key of 1,024 bits.
        short: Signed,
    }

    #[derive(Deserialize)]
    struct Signed {
        alg: String,
        jwk: Value,
        token: String,
    }

    fn made() -> Made {
        serde_json::from_str(include_str!("signed.json")).expect("test data")
    }

    fn check(jwk: &Value, token: &str) -> Signature {
        let keys = IssuerKeys::default();
        keys.replace(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a key set");
        keys.check(&Token::read(Shown::of(token.as_bytes()).expect("a token")).expect("a token"))
    }

    #[test]
    fn each_method_is_checked_by_its_own_key_alone() {
        let made = made();
        assert_eq!(made.signed.len(), 10, "EdDSA by both of its names");
        for Signed { alg, jwk, token } in &made.signed {
            assert_eq!(check(jwk, token), Signature::Right, "{alg}");
            let (message, signature) = token.rsplit_once('.').expect("three parts");
            for wrong in [
                format!("{message}."),
                format!("{message}.{}", &signature[4..]),
                format!("{message}.{}AAAA", &signature[..signature.len() - 4]),
                format!("{message}.{signature}="),
                format!("{message}.{signature}AAAA"),
            ] {
                assert_eq!(check(jwk, &wrong), Signature::Wrong, "{alg} {wrong}");
            }
            let is_other = |other: &&Signed| ["n", "x"].iter().any(|part| other.jwk[*part] != jwk[*part]);
            for other in made.signed.iter().filter(is_other) {
                assert_ne!(check(&other.jwk, token), Signature::Right, "{alg} {}", other.alg);
            }
        }
    }

    /// Java's `BigInteger.toByteArray` adds a sign byte, which some programs do not strip.
    #[test]
    fn numbers_with_a_zero_byte_too_many_are_the_same_numbers() {
        let Signed { jwk, token, .. } = &made().signed[0];
        for part in ["n", "e"] {
            let number =
                BASE64_URL_SAFE_NO_PAD.decode(jwk[part].as_str().expect("a number")).expect("base64");
            let mut jwk = jwk.clone();
            jwk[part] = BASE64_URL_SAFE_NO_PAD.encode([&[0][..], &number].concat()).into();
            assert_eq!(check(&jwk, token), Signature::Right, "{part}");
        }
    }

    #[test]
    fn keys_that_can_check_nothing_are_not_counted() {
        let Made { signed, short } = made();
        let of = |alg: &str| signed.iter().find(|signed| signed.alg == alg).expect(alg).jwk.clone();
        let with = |mut jwk: Value, part: &str, value: &str| {
            jwk[part] = value.into();
            jwk
        };
        for (what, jwk) in [
            ("1,024 bits", short.jwk.clone()),
            ("no modulus", with(of("RS256"), "n", "")),
            ("an exponent of 0", with(of("RS256"), "e", "AA")),
            ("of 1", with(of("RS256"), "e", "AQ")),
            ("an even one", with(of("RS256"), "e", "Ag")),
            ("a short point", with(of("ES256"), "x", "AAAA")),
            ("another curve's", with(of("ES384"), "crv", "P-256")),
            ("a short one of Ed25519", with(of("EdDSA"), "x", "AAAA")),
            ("one of no curve for it", with(of("EdDSA"), "crv", "P-384")),
        ] {
            let keys = IssuerKeys::default();
            let count = keys.replace(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a key set");
            assert_eq!(count, 0, "{what}");
        }
        assert_eq!(check(&short.jwk, &short.token), Signature::NoSuchKey);
    }

    /// A key that its issuer has made for something else, or for another method, signs no token.
    #[test]
    fn a_key_signs_only_what_it_is_for() {
        let Signed { jwk, token, .. } =
            made().signed.into_iter().find(|signed| signed.alg == "RS256").expect("one");
        let with = |more: Value| {
            let mut jwk = jwk.clone();
            for part in ["use", "key_ops", "alg"] {
                jwk.as_object_mut().expect("an object").remove(part);
            }
            jwk.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            check(&jwk, &token)
        };
        for (more, expected) in [
            (json!({}), Signature::Right),
            (json!({ "use": "sig" }), Signature::Right),
            (json!({ "use": "enc" }), Signature::NoSuchKey),
            (json!({ "key_ops": ["verify"] }), Signature::Right),
            (json!({ "key_ops": ["encrypt"] }), Signature::NoSuchKey),
            (json!({ "alg": "RS256" }), Signature::Right),
            (json!({ "alg": "RS512" }), Signature::NoSuchKey),
            (json!({ "alg": "PS256" }), Signature::NoSuchKey),
        ] {
            assert_eq!(with(more.clone()), expected, "{more}");
        }
    }

    /// Two configurations of an issuer are equal only if they share what was fetched.
    #[test]
    fn key_sets_are_equal_if_they_are_the_same() {
        let keys = IssuerKeys::default();
        assert_eq!(keys, keys.clone());
        assert_ne!(keys, IssuerKeys::default());
    }
}
