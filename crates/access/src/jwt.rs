//! Tokens of an identity provider in place of API keys (RFC 7519; OpenID Connect's
//! <https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation>).
//!
//! A token is accepted if one of its issuer's keys (RFC 7517) has signed it with a public-key algorithm, its audience (`aud`)
//! is configured, and it is within its validity period. One claim names the consumer, another the plan. No I/O here: another
//! task fetches the issuer's keys into [`IssuerKeys`].
//!
//! ```text
//! Shown ─read─▶ Token (not believed) ─issuer, signature─▶ claims ─time, audience─▶ bearer ─▶ Key
//! ```

mod fault;
mod keys;
mod token;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod verified;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use limits::Limits;
use serde_json::{Map, Value};

use crate::{Consumer, Denial, Key, KeyDigest, ModelGlobs, Reason, WaitPriority, name_of_subject};
pub use fault::{Claimed, TokenFault};
use keys::Signature;
pub use keys::{InvalidKeySet, IssuerKeys};
pub(crate) use token::Shown;
use token::Token;

/// The tolerated clock difference between issuers and Modelgate.
const LEEWAY: Duration = Duration::from_secs(30);

/// An issuer whose tokens are accepted, and what they allow.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its `iss`. Several entries may share it: of those that match a token's audience, the first whose [consumer
    /// claim](Self::consumer_claim) the token has is used.
    pub issuer: String,
    /// A token's `aud` must contain one of these.
    pub audience: Vec<String>,
    /// The claim that names the consumer; a nested claim is written with dots.
    pub consumer_claim: String,
    /// The claim that names the plan, written likewise: a text, or a list whose first name of a plan is used.
    pub plan_claim: Option<String>,
    /// The plans that the claim may name.
    pub plans: HashMap<String, TokenPlan>,
    /// The plan of tokens whose claim names none.
    pub default_plan: TokenPlan,
    /// Tokens that name no plan are refused instead.
    pub plan_required: bool,
    /// Its public keys.
    pub keys: IssuerKeys,
}

/// What the bearer of a token may do.
#[derive(Debug, Clone)]
pub struct TokenPlan {
    /// The models.
    pub models: ModelGlobs,
    /// Each subject's limits over all models.
    pub limits: Limits,
    /// Each subject's limits for each model on its own.
    pub limits_per_model: Limits,
    /// Who goes first among requests that wait.
    pub priority: Option<WaitPriority>,
}

/// A token's claims.
type Claims = Map<String, Value>;

impl Default for TokenPlan {
    fn default() -> Self {
        let (limits, limits_per_model) = (Limits::default(), Limits::default());
        Self { models: ModelGlobs::all(), limits, limits_per_model, priority: None }
    }
}

/// The key that a token stands for.
pub(crate) fn verify(
    issuers: &[Issuer],
    consumers: &HashMap<String, Arc<Consumer>>,
    shown: Shown<'_>,
    now: SystemTime,
) -> Result<Arc<Key>, Box<Denial>> {
    let key = key_of(issuers, consumers, shown, now).map_err(Denial::of_nobody)?;
    if key.consumer.disabled {
        return Err(Denial::of_key(&key, Reason::DisabledKey));
    }
    Ok(key)
}

fn key_of(
    issuers: &[Issuer],
    consumers: &HashMap<String, Arc<Consumer>>,
    shown: Shown<'_>,
    now: SystemTime,
) -> Result<Arc<Key>, Reason> {
    let token = Token::read(shown)?;
    let signers = signers(issuers, &token)?;
    check_time(&token.claims, now)?;
    Ok(bearer(entry_for(&signers, &token.claims)?, consumers, &token.claims)?)
}

/// The entries of the issuer that has signed a token.
fn signers<'i>(issuers: &'i [Issuer], token: &Token<'_>) -> Result<Vec<&'i Issuer>, Reason> {
    let is_named = |issuer: &&Issuer| Some(issuer.issuer.as_str()) == token.issuer();
    let (own, others): (Vec<&Issuer>, Vec<&Issuer>) = issuers.iter().partition(is_named);
    let (signature, signers) = signed_by(own.iter().copied(), token);
    if signature == Signature::Right {
        return Ok(signers);
    }
    if own.iter().any(|issuer| !issuer.keys.are_known()) {
        return Err(Reason::TokenKeysUnavailable);
    }
    let (by_others, signers) = signed_by(others.iter().copied(), token);
    if by_others == Signature::Right {
        return Err(signed_for_another(&own, &signers, token).into());
    }
    let signature = signature.max(by_others);
    if signature == Signature::NoSuchKey || token.key_id.is_none() {
        // If a token names no configured issuer, any issuer may have new keys: some issuers have several names.
        let asked = if own.is_empty() { others } else { own };
        asked.iter().for_each(|issuer| issuer.keys.miss());
    }
    let issuer = token.issuer().map(str::to_owned);
    let configured = names(&issuers.iter().collect::<Vec<_>>());
    let claimed = Claimed { issuer, key_id: token.key_id.clone(), configured };
    Err(match signature {
        Signature::NoSuchKey => TokenFault::NoSuchKey(claimed),
        _ => TokenFault::Signature(claimed),
    }
    .into())
}

/// The fault of a token that configured issuers have signed, but whose `iss` is not theirs.
fn signed_for_another(own: &[&Issuer], signers: &[&Issuer], token: &Token<'_>) -> TokenFault {
    match own.first() {
        Some(own) => TokenFault::Signer { issuer: own.issuer.clone(), signers: names(signers) },
        None => TokenFault::Issuer { found: token.issuer().map(str::to_owned), configured: names(signers) },
    }
}

/// The best result of trying keys on the token, and the entries that gave it. Entries may share their keys.
fn signed_by<'i>(
    issuers: impl Iterator<Item = &'i Issuer>,
    token: &Token<'_>,
) -> (Signature, Vec<&'i Issuer>) {
    let mut best = (Signature::NoSuchKey, Vec::new());
    let mut tried: Vec<(&IssuerKeys, Signature)> = Vec::new();
    for issuer in issuers {
        let known = tried.iter().find(|(keys, _)| **keys == issuer.keys).map(|(_, signature)| *signature);
        let signature = known.unwrap_or_else(|| issuer.keys.check(token));
        tried.push((&issuer.keys, signature));
        if signature > best.0 {
            best = (signature, Vec::new());
        }
        if signature == best.0 {
            best.1.push(issuer);
        }
    }
    best
}

fn names(issuers: &[&Issuer]) -> Vec<String> {
    let mut names: Vec<String> = issuers.iter().map(|issuer| issuer.issuer.clone()).collect();
    names.dedup();
    names
}

/// The first entry of an issuer that matches a token's audience and whose consumer claim it has: users and machines may have
/// one entry each.
fn entry_for<'i>(entries: &[&'i Issuer], claims: &Claims) -> Result<&'i Issuer, TokenFault> {
    let audience = texts(claims.get("aud"));
    let is_for =
        |entry: &&&Issuer| audience.iter().any(|one| entry.audience.iter().any(|other| one == other));
    let mut meant = entries.iter().filter(is_for);
    let first = meant.clone().next();
    let named = meant.find(|entry| entry.consumer_of(claims).is_some());
    if let Some(entry) = named.or(first) {
        return Ok(entry);
    }
    let configured = entries.iter().flat_map(|entry| entry.audience.clone()).collect();
    Err(match audience.is_empty() {
        true => TokenFault::NoAudience { configured, claims: names_of(claims) },
        false => {
            TokenFault::Audience { found: audience.into_iter().map(str::to_owned).collect(), configured }
        }
    })
}

/// A text, or the texts of a list (RFC 7519 §4.1.3).
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn check_time(claims: &Claims, now: SystemTime) -> Result<(), TokenFault> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A time may have a fraction (RFC 7519 §2).
    let time = |claim: &'static str| match claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|s| (0.0..1e12).contains(s)) {
            Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
            None => Err(TokenFault::Time { claim }),
        },
    };
    let expires = time("exp")?.ok_or(TokenFault::NoExpiry)?;
    if now >= expires + LEEWAY {
        return Err(TokenFault::Expired { since: now - expires });
    }
    match time("nbf")? {
        Some(from) if now + LEEWAY < from => Err(TokenFault::NotYet { after: from - now }),
        _ => Ok(()),
    }
}

/// The names of the keys that stand for tokens begin with it.
const OF_TOKEN: &str = "jwt:";

/// Whether this may be the name of a key that stands for tokens; no policy names those.
pub fn is_of_token(name: &str) -> bool {
    name.starts_with(OF_TOKEN)
}

fn bearer(
    issuer: &Issuer,
    consumers: &HashMap<String, Arc<Consumer>>,
    claims: &Claims,
) -> Result<Arc<Key>, TokenFault> {
    let subject = issuer.subject(claims)?;
    let why = |why| TokenFault::ConsumerName { claim: issuer.consumer_claim.clone(), why };
    let name = &*name_of_subject(subject).map_err(why)?;
    let plan = issuer.plan_of(claims)?;
    let consumer = consumers.get(name).cloned().unwrap_or_else(|| Arc::new(Consumer::new(name)));
    let digest = counted_for(issuer, subject, claims);
    Ok(Arc::new(Key {
        models: plan.models.clone(),
        limits: plan.limits.clone(),
        limits_per_model: plan.limits_per_model.clone(),
        priority: plan.priority,
        id: digest.prefix(),
        ..Key::new(format!("{OF_TOKEN}{name}"), consumer, digest)
    }))
}

/// The subject for whom a plan's limits are counted: `sub`, whichever token is shown. A token without `sub` is counted by the
/// name in the consumer claim; the two can never be confused.
fn counted_for(issuer: &Issuer, name: &str, claims: &Claims) -> KeyDigest {
    let of = &issuer.issuer;
    match claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty()) {
        Some(subject) => KeyDigest::of(&format!("jwt\n{of}\n{subject}")),
        None => KeyDigest::of(&format!("jwt without sub\n{of}\n{}\n{name}", issuer.consumer_claim)),
    }
}

impl Issuer {
    /// The claim that names a token's consumer, if the token has it.
    fn consumer_of<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        find(claims, &self.consumer_claim).filter(|value| !value.is_null())
    }

    /// The consumer's name in a token.
    fn subject<'c>(&self, claims: &'c Claims) -> Result<&'c str, TokenFault> {
        let claim = || self.consumer_claim.clone();
        let named = self.consumer_of(claims);
        let named =
            named.ok_or_else(|| TokenFault::NoConsumer { claim: claim(), claims: names_of(claims) })?;
        named.as_str().ok_or_else(|| TokenFault::ConsumerType { claim: claim(), found: type_of(named) })
    }

    /// The plan that a token's claims name. Only a token that clearly names no plan gets the default one.
    fn plan_of(&self, claims: &Claims) -> Result<&TokenPlan, TokenFault> {
        let claim = self.plan_claim.as_deref();
        let unknown = |found| TokenFault::UnknownPlan { claim: claim.unwrap_or_default().to_owned(), found };
        let named = match claim.and_then(|claim| find(claims, claim)) {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => {
                Some(self.plans.get(name).ok_or_else(|| unknown(fault::quoted(name)))?)
            }
            // A list of roles or groups, most of which are not plans.
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).find_map(|name| self.plans.get(name))
            }
            Some(other) => return Err(unknown(type_of(other).to_owned())),
        };
        match named {
            Some(plan) => Ok(plan),
            None if self.plan_required => {
                let claim = claim.unwrap_or_default().to_owned();
                Err(TokenFault::NoPlan { claim, claims: names_of(claims) })
            }
            None => Ok(&self.default_plan),
        }
    }
}

/// A claim by its name, or nested as in `realm_access.roles`. A claim's own name may contain dots.
fn find<'c>(claims: &'c Claims, claim: &str) -> Option<&'c Value> {
    claims.get(claim).or_else(|| {
        let (outermost, within) = claim.split_once('.')?;
        within.split('.').try_fold(claims.get(outermost)?, |value, name| value.get(name))
    })
}

/// The claims' names, without their values.
fn names_of(claims: &Claims) -> Vec<String> {
    claims.keys().cloned().collect()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
