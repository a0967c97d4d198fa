//! What is wrong with a token: a text for its bearer, and a longer one for operators.
//!
//! A bearer is told the names of claims but never an expected value, so that nobody learns how to forge a token. An operator,
//! who asks [`explain`](crate::explain), is told what the token says and what is configured. Neither text has the token itself.

use std::time::Duration;

use crate::NoName;

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Its parts are not JSON objects in base64url.
    #[error("it cannot be read")]
    Unreadable,
    /// It is unsigned, signed with a shared secret, or signed by an unknown algorithm (RFC 8725 §3.1).
    #[error("the method of its signature is not taken here")]
    Method {
        /// Its `alg`.
        found: String,
    },
    /// It requires extensions (RFC 7515 §4.1.11), none of which is supported.
    #[error("it demands extensions that are not known here")]
    Critical,
    /// No issuer has the key that it names.
    #[error("its signature is by no key of an issuer that is known here")]
    NoSuchKey(Claimed),
    /// The key that it names has not signed it.
    #[error("its signature is not right")]
    Signature(Claimed),
    /// It is encrypted, so only its intended receiver can read it.
    #[error("it is encrypted (JWE); only signed tokens can be read here")]
    Encrypted,
    /// It is too long to be read.
    #[error("it is longer than {longest} bytes")]
    TooLong {
        /// The maximum length.
        longest: usize,
    },
    /// A known key has signed it, but it does not name that key's issuer.
    #[error("its issuer is not one of those that are taken here")]
    Issuer {
        /// Its `iss`.
        found: Option<String>,
        /// The issuers whose key has signed it.
        configured: Vec<String>,
    },
    /// It names a configured issuer, but the key of another configured issuer has signed it.
    #[error("its issuer has not signed it")]
    Signer {
        /// Its `iss`.
        issuer: String,
        /// The issuers whose key has signed it.
        signers: Vec<String>,
    },
    /// It is for another audience.
    #[error("it is meant for another audience")]
    Audience {
        /// Its `aud`.
        found: Vec<String>,
        /// The configured audiences.
        configured: Vec<String>,
    },
    /// It has no audience.
    #[error("it has no claim \"aud\" that says for whom it is")]
    NoAudience {
        /// The configured audiences.
        configured: Vec<String>,
        /// The names of its claims.
        claims: Vec<String>,
    },
    /// It has no expiry.
    #[error("it has no claim \"exp\" that says when it expires")]
    NoExpiry,
    /// A time is not a number (RFC 7519 §2).
    #[error("its claim {claim:?} is not a time in seconds")]
    Time {
        /// The claim.
        claim: &'static str,
    },
    /// It has expired.
    #[error("it has expired")]
    Expired {
        /// How long ago.
        since: Duration,
    },
    /// It is not valid yet.
    #[error("it is not valid yet")]
    NotYet {
        /// The time until it is.
        after: Duration,
    },
    /// It has no consumer claim.
    #[error("it has no claim {claim:?}, which is to name its consumer")]
    NoConsumer {
        /// The configured claim.
        claim: String,
        /// The names of its claims.
        claims: Vec<String>,
    },
    /// The claim that names its consumer is not a text.
    #[error("its claim {claim:?}, which is to name its consumer, is not a text but {found}")]
    ConsumerType {
        /// The claim.
        claim: String,
        /// The claim's type.
        found: &'static str,
    },
    /// The consumer claim's text cannot be a name.
    #[error("its claim {claim:?} cannot be used as the name of its consumer: {why}")]
    ConsumerName {
        /// The claim.
        claim: String,
        /// Why not.
        why: NoName,
    },
    /// It names no plan, but a plan is required.
    #[error("it names no plan")]
    NoPlan {
        /// The configured claim.
        claim: String,
        /// The names of its claims.
        claims: Vec<String>,
    },
    /// It names a plan that does not exist.
    #[error("its plan is not known")]
    UnknownPlan {
        /// The claim that names it.
        claim: String,
        /// The claim's value.
        found: String,
    },
}

/// Unverified contents of a token, and what is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its `iss`.
    pub issuer: Option<String>,
    /// The key that it names.
    pub key_id: Option<String>,
    /// The configured issuers.
    pub configured: Vec<String>,
}

impl TokenFault {
    /// Whether anybody could have made the token up. A token that is refused whatever its contents is not a guess.
    pub fn is_guess(&self) -> bool {
        matches!(
            self,
            Self::Unreadable | Self::Method { .. } | Self::Critical | Self::NoSuchKey(_) | Self::Signature(_)
        )
    }

    /// The text for operators, with what the token says and what is expected.
    pub fn for_operators(&self) -> String {
        match self.details() {
            Some(details) => format!("of the token: {self}; {details}"),
            None => format!("of the token: {self}"),
        }
    }

    fn details(&self) -> Option<String> {
        Some(match self {
            Self::Method { found } => format!(
                "its alg is {}, and public keys are for RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA",
                quoted(found)
            ),
            Self::NoSuchKey(claimed) | Self::Signature(claimed) => claimed.in_words(),
            Self::Issuer { found, configured } => wrong_issuer(found.as_deref(), configured),
            Self::Signer { issuer, signers } => format!(
                "its iss is {}, and a key of {} has signed it; if they share their keys, jwt.jwks_url says where they are",
                quoted(issuer),
                list(signers)
            ),
            Self::Audience { found, configured } => {
                format!("its aud is {}, and jwt.audience is {}", list(found), list(configured))
            }
            Self::NoAudience { configured, claims } => {
                format!("jwt.audience is {}, and the token has the claims {}", list(configured), list(claims))
            }
            Self::Expired { since } => format!("that was {} s ago", since.as_secs()),
            Self::NotYet { after } => format!("it will be in {} s", after.as_secs()),
            Self::NoConsumer { claim, claims } => no_consumer(claim, claims),
            Self::NoPlan { claim, claims } => format!(
                "jwt.plan_claim is {}, and the token has the claims {}; jwt.plan says what holds without a plan",
                quoted(claim),
                list(claims)
            ),
            Self::UnknownPlan { claim, found } => {
                format!("its claim {} is {found}, and no plan is called so", quoted(claim))
            }
            _ => return None,
        })
    }
}

impl Claimed {
    fn in_words(&self) -> String {
        let key = self.key_id.as_deref().map_or("no key".into(), |id| format!("the key {}", quoted(id)));
        let issuer = self.issuer.as_deref().map_or("none".into(), quoted);
        let configured = list(&self.configured);
        format!(
            "it names {key} and, which nobody vouches for, the issuer {issuer}; jwt.issuer is {configured}"
        )
    }
}

/// A known key, but an issuer that is not configured: mostly the configured one in another spelling.
fn wrong_issuer(found: Option<&str>, configured: &[String]) -> String {
    let Some(found) = found else {
        return format!("it has no claim \"iss\", and a key of {} has signed it", list(configured));
    };
    let hint = configured
        .iter()
        .find_map(|one| difference(found, one))
        .unwrap_or("set jwt.issuer to what tokens say");
    format!("its iss is {}, a key of {} has signed it: {hint}", quoted(found), list(configured))
}

/// The difference between two spellings of an issuer, if they may mean the same one.
fn difference(found: &str, configured: &str) -> Option<&'static str> {
    if without_slash(found) == without_slash(configured) {
        return Some("they differ in the slash at the end, and jwt.issuer must be what tokens say");
    }
    if found.eq_ignore_ascii_case(configured) {
        return Some("they differ in upper and lower case, and jwt.issuer must be what tokens say");
    }
    if without_scheme(found).is_some() && without_scheme(found) == without_scheme(configured) {
        return Some("they differ in http and https, and jwt.issuer must be what tokens say");
    }
    match (is_entra_v1(found)?, is_entra_v1(configured)?) {
        (true, false) => Some(
            "this is a v1 token of Entra ID; set jwt.issuer to its iss, or api.requestedAccessTokenVersion of the app \
             registration's manifest to 2",
        ),
        (false, true) => Some("this is a v2 token of Entra ID; set jwt.issuer to its iss"),
        _ => None,
    }
}

fn without_slash(url: &str) -> &str {
    url.trim_end_matches('/')
}

fn without_scheme(url: &str) -> Option<&str> {
    without_slash(url).split_once("://").map(|(_, rest)| rest)
}

/// Whether an issuer is that of Entra ID's v1 tokens (<https://learn.microsoft.com/entra/identity-platform/access-tokens>);
/// `None` if it is not Entra's.
fn is_entra_v1(url: &str) -> Option<bool> {
    let is_v1 = url.starts_with("https://sts.windows.net/");
    (is_v1 || url.starts_with("https://login.microsoftonline.com/")).then_some(is_v1)
}

fn no_consumer(claim: &str, claims: &[String]) -> String {
    // Client credentials (RFC 6749 §4.4): there is no user, hence no user's claim.
    let machine =
        ["azp", "appid", "client_id", "cid"].into_iter().find(|name| claims.iter().any(|c| c == name));
    let hint = machine.map(|name| {
        format!("; is it a machine's, then a second entry of jwt for the same issuer may have consumer_claim: {name}")
    });
    format!(
        "jwt.consumer_claim is {}, and the token has the claims {}{}",
        quoted(claim),
        list(claims),
        hint.unwrap_or_default()
    )
}

fn list(texts: &[String]) -> String {
    const MOST: usize = 40;
    // Sorted, since the token's own order means nothing to people.
    let mut shown: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    shown.sort();
    shown.truncate(MOST);
    match (texts.len(), texts.len() - shown.len()) {
        (0, _) => "none".into(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A text of a token, which may be long and contain anything.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}
