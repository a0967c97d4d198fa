//! What is wrong with a token: in words for its bearer, and with more for an operator.
//!
//! A bearer hears the names of claims and never a value that is wanted, so that nobody learns how to forge a token. An
//! operator, who asks [`explain`](crate::explain), hears what the token says and what is configured. The token itself is
//! in neither.

use std::time::Duration;

use crate::NoName;

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Its parts are no JSON objects in base64url.
    #[error("it cannot be read")]
    Unreadable,
    /// It is not signed, with a secret that several have, or by a method that is not known (RFC 8725 §3.1).
    #[error("the method of its signature is not taken here")]
    Method {
        /// Its `alg`.
        found: String,
    },
    /// It demands extensions (RFC 7515 §4.1.11), and none is known.
    #[error("it demands extensions that are not known here")]
    Critical,
    /// No issuer has the key that it names.
    #[error("its signature is by no key of an issuer that is known here")]
    NoSuchKey(Claimed),
    /// The key that it names has not signed it.
    #[error("its signature is not right")]
    Signature(Claimed),
    /// Only the receiver that it was made for can read it.
    #[error("it is encrypted (JWE); only signed tokens can be read here")]
    Encrypted,
    /// It is too long to be read.
    #[error("it is longer than {longest} bytes")]
    TooLong {
        /// How long it may be.
        longest: usize,
    },
    /// A key that is known has signed it, of an issuer that it does not name.
    #[error("its issuer is not one of those that are taken here")]
    Issuer {
        /// Its `iss`.
        found: Option<String>,
        /// The issuers whose key has signed it.
        configured: Vec<String>,
    },
    /// Its issuer is one of ours, and a key of another one of ours has signed it.
    #[error("its issuer has not signed it")]
    Signer {
        /// Its `iss`.
        issuer: String,
        /// The issuers whose key has signed it.
        signers: Vec<String>,
    },
    /// It is for others.
    #[error("it is meant for another audience")]
    Audience {
        /// Its `aud`.
        found: Vec<String>,
        /// One of these should be there.
        configured: Vec<String>,
    },
    /// It does not say for whom it is.
    #[error("it has no claim \"aud\" that says for whom it is")]
    NoAudience {
        /// One of these should be there.
        configured: Vec<String>,
        /// The names of its claims.
        claims: Vec<String>,
    },
    /// It would be good for ever.
    #[error("it has no claim \"exp\" that says when it expires")]
    NoExpiry,
    /// A time is not a number (RFC 7519 §2).
    #[error("its claim {claim:?} is not a time in seconds")]
    Time {
        /// The claim.
        claim: &'static str,
    },
    /// Its time is over.
    #[error("it has expired")]
    Expired {
        /// Since when.
        since: Duration,
    },
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYet {
        /// When it will be.
        after: Duration,
    },
    /// Nothing says whose it is.
    #[error("it has no claim {claim:?}, which is to name its consumer")]
    NoConsumer {
        /// The claim that is missing.
        claim: String,
        /// The names of those that are there.
        claims: Vec<String>,
    },
    /// The claim that names its consumer is of another type.
    #[error("its claim {claim:?}, which is to name its consumer, is not a text but {found}")]
    ConsumerType {
        /// The claim.
        claim: String,
        /// What it is.
        found: &'static str,
    },
    /// Nobody can be called so.
    #[error("its claim {claim:?} cannot be used as the name of its consumer: {why}")]
    ConsumerName {
        /// The claim.
        claim: String,
        /// Why not.
        why: NoName,
    },
    /// It names no plan, and needs one.
    #[error("it names no plan")]
    NoPlan {
        /// The claim that should.
        claim: String,
        /// The names of those that are there.
        claims: Vec<String>,
    },
    /// It names another plan than there are.
    #[error("its plan is not known")]
    UnknownPlan {
        /// The claim that names it.
        claim: String,
        /// What it says.
        found: String,
    },
}

/// What a token says that nobody vouches for, and what is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its `iss`.
    pub issuer: Option<String>,
    /// The key that it names.
    pub key_id: Option<String>,
    /// The issuers that are configured.
    pub configured: Vec<String>,
}

impl TokenFault {
    /// Whether anybody could have made it up. What cannot be taken whatever it says is no guess.
    pub fn is_guess(&self) -> bool {
        matches!(
            self,
            Self::Unreadable | Self::Method { .. } | Self::Critical | Self::NoSuchKey(_) | Self::Signature(_)
        )
    }

    /// The same with what the token says and what should be there, for an operator.
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

/// An issuer that is not configured, though the key is: mostly it is but written in another way.
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

/// How two spellings of an issuer differ, if it may be the same one.
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

/// Which version of Entra ID's tokens has such an issuer (<https://learn.microsoft.com/entra/identity-platform/access-tokens>).
fn is_entra_v1(url: &str) -> Option<bool> {
    let is_v1 = url.starts_with("https://sts.windows.net/");
    (is_v1 || url.starts_with("https://login.microsoftonline.com/")).then_some(is_v1)
}

fn no_consumer(claim: &str, claims: &[String]) -> String {
    // Client credentials (RFC 6749 §4.4): there is no user, so no claim of one.
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
    // A token's own order would tell people nothing.
    let mut shown: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    shown.sort();
    shown.truncate(MOST);
    match (texts.len(), texts.len() - shown.len()) {
        (0, _) => "none".into(),
        (_, 0) => shown.join(", "),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A text of a token, which may be long and hold anything.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}
