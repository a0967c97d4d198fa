//! Tokens of an identity provider in place of API keys (RFC 7519; OpenID Connect's
//! <https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation>).
//!
//! A token is taken if it is signed with one of its issuer's keys (RFC 7517), by a method with a
//! public key, is for us (`aud`) and not outside its time. A claim says whose it is, another one which
//! plan holds. No I/O here: somebody else fetches the issuer's keys and puts them into [`IssuerKeys`].

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse},
};
use serde_json::{Map, Value};

use crate::{Consumer, Denial, Key, KeyDigest, Limits, ModelGlobs, Reason};

/// Clocks of issuers may differ from ours by so much.
const LEEWAY: Duration = Duration::from_secs(30);

/// Whose tokens are taken, and what they stand for.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its `iss`.
    pub issuer: String,
    /// One of these must be among a token's `aud`.
    pub audience: Vec<String>,
    /// The claim that names the consumer. Of a claim within claims, the names with dots between them.
    pub consumer_claim: String,
    /// The claim that names the plan, likewise: a text, or a list of which the first counts that is a plan's name.
    pub plan_claim: Option<String>,
    /// The plans that a claim may name.
    pub plans: HashMap<String, TokenPlan>,
    /// What holds if no claim names a plan.
    pub default_plan: TokenPlan,
    /// A token that names no plan is refused instead.
    pub plan_required: bool,
    /// Its keys.
    pub keys: IssuerKeys,
}

/// What the bearer of a token may do.
#[derive(Debug, Clone)]
pub struct TokenPlan {
    /// The models.
    pub models: ModelGlobs,
    /// The limits of each subject over all models.
    pub limits: Limits,
    /// The limits of each subject for each model on its own.
    pub limits_per_model: Limits,
}

/// The keys of an issuer. Clones share them.
#[derive(Clone, Default)]
pub struct IssuerKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    keys: ArcSwap<Vec<SigningKey>>,
    /// A token was signed with a key that is not here.
    missed: AtomicBool,
}

struct SigningKey {
    id: Option<String>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// A set of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("it is not a JSON Web Key Set (RFC 7517): {0}")]
pub struct InvalidKeySet(#[from] serde_json::Error);

impl Default for TokenPlan {
    fn default() -> Self {
        Self { models: ModelGlobs::all(), limits: Limits::default(), limits_per_model: Limits::default() }
    }
}

impl IssuerKeys {
    /// Puts new keys in force; how many can be used.
    ///
    /// # Errors
    /// If it is not a key set; the old keys stay.
    pub fn replace(&self, json: &[u8]) -> Result<usize, InvalidKeySet> {
        let set: Set = serde_json::from_slice(json)?;
        // A key of a kind that is not known takes none of the others away.
        let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<SigningKey> =
            JwkSet { keys: known.collect() }.keys.iter().filter_map(SigningKey::of).collect();
        let count = keys.len();
        self.0.keys.store(Arc::new(keys));
        Ok(count)
    }

    /// Whether a token was signed with a key that is not here, since this was asked last: perhaps the
    /// issuer has new ones.
    pub fn take_missed(&self) -> bool {
        self.0.missed.swap(false, Ordering::Relaxed)
    }
}

#[derive(serde::Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl SigningKey {
    /// Only keys for signatures that anybody can check: a shared secret in a public set is none.
    fn of(jwk: &Jwk) -> Option<Self> {
        if jwk.common.public_key_use.as_ref().is_some_and(|of| *of != PublicKeyUse::Signature) {
            return None;
        }
        let algorithms: &'static [Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(_) => &[Algorithm::ES256, Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
            _ => return None,
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key })
    }
}

/// Whether a credential has the form of a token: three parts, the first of them JSON in base64.
pub(crate) fn is_token(credential: &str) -> bool {
    credential.starts_with("ey") && credential.matches('.').count() == 2
}

/// The key that a token stands for.
pub(crate) fn verify(
    issuers: &[Issuer],
    consumers: &HashMap<String, Arc<Consumer>>,
    token: &str,
    now: SystemTime,
) -> Result<Arc<Key>, Box<Denial>> {
    let key = verified(issuers, token, now).and_then(|(issuer, claims)| bearer(issuer, consumers, &claims));
    let key = key.map_err(Denial::of_nobody)?;
    if key.consumer.disabled {
        return Err(Denial::of_key(&key, Reason::DisabledKey));
    }
    Ok(key)
}

/// Whose token it is, and what it says.
fn verified<'i>(
    issuers: &'i [Issuer],
    token: &str,
    now: SystemTime,
) -> Result<(&'i Issuer, Map<String, Value>), Reason> {
    let bad = |why| Reason::BadToken(why);
    let header = decode_header(token).map_err(|_| Reason::UnknownToken("it cannot be read"))?;
    let (mut signed, mut known_key) = (None, false);
    for issuer in issuers {
        for key in issuer.keys.0.keys.load().iter() {
            let named = header.kid.is_none() || key.id.is_none() || header.kid == key.id;
            if !named || !key.algorithms.contains(&header.alg) {
                continue;
            }
            known_key = true;
            if let Ok(claims) = claims(token, header.alg, &key.key)
                && claims.get("iss").and_then(Value::as_str) == Some(issuer.issuer.as_str())
            {
                signed = Some((issuer, claims));
            }
        }
    }
    let Some((issuer, claims)) = signed else {
        if !known_key {
            issuers.iter().for_each(|issuer| issuer.keys.0.missed.store(true, Ordering::Relaxed));
        }
        return Err(Reason::UnknownToken("its signature is of no known issuer"));
    };
    check_time(&claims, now)?;
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => issuer.audience.contains(one),
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).any(|a| issuer.audience.iter().any(|b| a == b))
        }
        _ => false,
    };
    if !audience {
        return Err(bad("it is meant for another audience"));
    }
    Ok((issuer, claims))
}

/// The claims of a token that is signed with a key. Times and audience are checked here and not there,
/// where the system's clock would be asked.
fn claims(
    token: &str,
    algorithm: Algorithm,
    key: &DecodingKey,
) -> Result<Map<String, Value>, jsonwebtoken::errors::Error> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    decode::<Map<String, Value>>(token, key, &validation).map(|token| token.claims)
}

fn check_time(claims: &Map<String, Value>, now: SystemTime) -> Result<(), Reason> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A time may have a fraction (RFC 7519 §2).
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|s| (0.0..1e12).contains(s)) {
            Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
            None => Err(Reason::BadToken("one of its times is not a number")),
        },
    };
    let expires = time("exp")?.ok_or(Reason::BadToken("it says no time at which it expires"))?;
    if now >= expires + LEEWAY {
        return Err(Reason::BadToken("it has expired"));
    }
    match time("nbf")? {
        Some(from) if now + LEEWAY < from => Err(Reason::BadToken("it is not valid yet")),
        _ => Ok(()),
    }
}

fn bearer(
    issuer: &Issuer,
    consumers: &HashMap<String, Arc<Consumer>>,
    claims: &Map<String, Value>,
) -> Result<Arc<Key>, Reason> {
    let text = |claim: &str| find(claims, claim).and_then(Value::as_str);
    let name = text(&issuer.consumer_claim).filter(|name| is_name(name));
    let name = name.ok_or(Reason::BadToken("the claim that names its consumer is missing, or no name"))?;
    let plan = issuer.plan_of(claims)?;
    let consumer = consumers.get(name).cloned().unwrap_or_else(|| Arc::new(Consumer::new(name)));
    // Limits are counted for the subject, whichever of its tokens it shows.
    let subject = text("sub").unwrap_or(name);
    let digest = KeyDigest::of(&format!("jwt\n{}\n{subject}", issuer.issuer));
    Ok(Arc::new(Key {
        models: plan.models.clone(),
        limits: plan.limits.clone(),
        limits_per_model: plan.limits_per_model.clone(),
        id: digest.prefix(),
        ..Key::new(format!("jwt:{name}"), consumer, digest)
    }))
}

impl Issuer {
    /// The plan that a token's claims name. Only what names none, as far as it can be told, has the default one.
    fn plan_of(&self, claims: &Map<String, Value>) -> Result<&TokenPlan, Reason> {
        let unknown = Reason::BadToken("its plan is not known");
        let named = match self.plan_claim.as_deref().and_then(|claim| find(claims, claim)) {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(self.plans.get(name).ok_or(unknown)?),
            // Roles and groups, most of which have nothing to do with plans.
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).find_map(|name| self.plans.get(name))
            }
            Some(_) => return Err(unknown),
        };
        match named {
            Some(plan) => Ok(plan),
            None if self.plan_required => Err(Reason::BadToken("it names no plan")),
            None => Ok(&self.default_plan),
        }
    }
}

/// A claim by its name, or within others, as in `realm_access.roles`. Names may have dots themselves.
fn find<'c>(claims: &'c Map<String, Value>, claim: &str) -> Option<&'c Value> {
    claims.get(claim).or_else(|| {
        let (outermost, within) = claim.split_once('.')?;
        within.split('.').try_fold(claims.get(outermost)?, |value, name| value.get(name))
    })
}

/// It goes into a header, and is a name as in the configuration.
fn is_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@:-|".contains(&b))
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeys({})", self.0.keys.load().len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Rate;

    /// What a token with these claims may do, as requests a minute; without limits 0.
    fn allowed(issuer: &Issuer, claims: &Value) -> Result<u32, String> {
        let Value::Object(mut claims) = claims.clone() else { panic!("claims") };
        claims.insert("sub".into(), "alice".into());
        let key = bearer(issuer, &HashMap::new(), &claims).map_err(|reason| reason.to_string())?;
        Ok(key.limits.rates().first().map_or(0, Rate::amount))
    }

    fn issuer(plan_claim: &str) -> Issuer {
        let plan = |requests| TokenPlan {
            limits: Rate::per_minute(requests, None).expect("a rate").into(),
            ..TokenPlan::default()
        };
        Issuer {
            issuer: "https://login.example.com".into(),
            audience: vec!["modelgate".into()],
            consumer_claim: "sub".into(),
            plan_claim: Some(plan_claim.into()),
            plans: [("bronze", 1), ("gold", 100)].map(|(name, n)| (name.to_owned(), plan(n))).into(),
            default_plan: TokenPlan::default(),
            plan_required: true,
            keys: IssuerKeys::default(),
        }
    }

    /// A claim that was no text meant no limits at all; roles and groups are lists, so that was the usual case.
    #[test]
    fn a_claim_of_any_type_names_a_plan_or_the_token_is_refused() {
        let required = issuer("roles");
        let with_default = Issuer {
            plan_required: false,
            default_plan: TokenPlan {
                limits: Rate::per_minute(7, None).expect("a rate").into(),
                ..TokenPlan::default()
            },
            ..issuer("roles")
        };
        let (unknown, none) = (Err("its plan is not known"), Err("it names no plan"));
        for (claims, expected, by_default) in [
            (json!({ "roles": "bronze" }), Ok(1), Ok(1)),
            (json!({ "roles": "nope" }), unknown, unknown),
            (json!({ "roles": "" }), unknown, unknown),
            (json!({ "roles": ["bronze"] }), Ok(1), Ok(1)),
            (json!({ "roles": ["offline_access", 5, null, "gold", "bronze"] }), Ok(100), Ok(100)),
            (json!({ "roles": ["offline_access", "nope", ["gold"]] }), none, Ok(7)),
            (json!({ "roles": [] }), none, Ok(7)),
            (json!({ "roles": 5 }), unknown, unknown),
            (json!({ "roles": true }), unknown, unknown),
            (json!({ "roles": { "bronze": true } }), unknown, unknown),
            (json!({ "roles": null }), none, Ok(7)),
            (json!({}), none, Ok(7)),
        ] {
            for (issuer, expected) in [(&required, expected), (&with_default, by_default)] {
                let expected = expected.map_err(|why| format!("the token is not valid: {why}"));
                assert_eq!(allowed(issuer, &claims), expected, "{claims}");
            }
        }
    }

    #[test]
    fn a_claim_may_stand_within_others() {
        let realm = issuer("realm_access.roles");
        assert_eq!(allowed(&realm, &json!({ "realm_access": { "roles": ["gold"] } })), Ok(100));
        assert_eq!(allowed(&realm, &json!({ "realm_access.roles": "bronze" })), Ok(1), "a name with a dot");
        for within in [json!(["gold"]), json!("gold"), json!({ "groups": ["gold"] })] {
            assert!(allowed(&realm, &json!({ "realm_access": within })).is_err(), "{within}");
        }
        let namespaced = issuer("https://example.com/plan");
        assert_eq!(allowed(&namespaced, &json!({ "https://example.com/plan": "bronze" })), Ok(1));
    }

    #[test]
    fn without_a_claim_to_read_the_default_plan_holds() {
        let issuer = Issuer { plan_claim: None, plan_required: false, ..issuer("") };
        assert_eq!(allowed(&issuer, &json!({ "roles": 5 })), Ok(0));
    }
}
