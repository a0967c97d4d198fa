//! What the configuration allows: keys, and limits of models.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use http::{HeaderMap, HeaderName};
use jiff::tz::TimeZone;
use limits::Limits;

use crate::{
    Conflict, Consumer, Denial, Issuer, Key, KeyDigest, ModelGlobs, NewKey, Reason, RevokedKey, RevokedKeys,
    given, jwt,
};

/// A limit of some models over all keys.
#[derive(Debug, Clone)]
pub struct ModelLimit {
    /// The models, each of which has the limit on its own.
    pub models: ModelGlobs,
    /// The limits.
    pub limits: Limits,
}

/// All keys and limits. A reload makes a new policy; what was taken so far is kept in [`Limiters`](limits::Limiters).
#[derive(Debug, Clone)]
pub struct Policy {
    keys: HashSet<ByDigest>,
    /// Keys by their digest before rotation.
    previous: HashMap<KeyDigest, Arc<Key>>,
    /// Digests that several keys have, or had before rotation.
    contested: HashSet<KeyDigest>,
    /// Keys that are no more; those above come first.
    revoked: Arc<RevokedKeys>,
    model_limits: Vec<ModelLimit>,
    issuers: Vec<Issuer>,
    consumers: HashMap<String, Arc<Consumer>>,
    key_headers: Vec<HeaderName>,
    ignores_foreign: bool,
    time_zone: TimeZone,
    is_incomplete: bool,
    /// Whether a key has a budget, once somebody has asked.
    has_budgets: OnceLock<bool>,
}

/// A key, indexed by its own digest. A map of 100,000 separate digests would take 5 MB more for each policy.
#[derive(Debug, Clone)]
struct ByDigest(Arc<Key>);

/// What to do with a key.
#[derive(Debug)]
pub enum Edit {
    /// Keep it.
    Keep,
    /// Replace it by one with the same digests.
    Change(Arc<Key>),
    /// Remove it.
    Remove,
}

/// The longest key that is looked up, in bytes.
const MAX_KEY_LEN: usize = 512;

impl Default for Policy {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl Policy {
    /// Builds a policy. If keys share a digest, the first one is used.
    pub fn new(keys: Vec<Key>, model_limits: Vec<ModelLimit>) -> Self {
        let mut policy = Self {
            keys: HashSet::with_capacity(keys.len()),
            previous: HashMap::new(),
            contested: HashSet::new(),
            revoked: Arc::default(),
            model_limits,
            issuers: Vec::new(),
            consumers: HashMap::new(),
            key_headers: Vec::new(),
            ignores_foreign: false,
            time_zone: TimeZone::UTC,
            is_incomplete: false,
            has_budgets: OnceLock::new(),
        };
        policy.add_keys(keys.into_iter().map(Arc::new));
        policy
    }

    /// Adds keys. A digest that an existing key has still belongs to that key.
    pub fn add_keys(&mut self, keys: impl IntoIterator<Item = Arc<Key>>) {
        self.has_budgets = OnceLock::new();
        for key in keys {
            if let Some((digest, _)) = key.previous {
                match self.key(&digest) {
                    None => {
                        self.previous.insert(digest, Arc::clone(&key));
                    }
                    Some(_) => {
                        self.contested.insert(digest);
                    }
                }
            }
            match self.key(&key.digest) {
                None => {
                    self.keys.insert(ByDigest(key));
                }
                Some(known) if Arc::ptr_eq(known, &key) => {}
                Some(_) => {
                    self.contested.insert(key.digest);
                }
            }
        }
    }

    /// Calls `edit` for each key. If a removed key was [contested](Self::is_contested), the other key does not take its place.
    pub fn edit_keys(&mut self, mut edit: impl FnMut(&Arc<Key>) -> Edit) {
        self.has_budgets = OnceLock::new();
        let edits: Vec<(Arc<Key>, Option<Arc<Key>>)> = self
            .keys()
            .filter_map(|key| match edit(key) {
                Edit::Keep => None,
                Edit::Change(other) => Some((Arc::clone(key), Some(other))),
                Edit::Remove => Some((Arc::clone(key), None)),
            })
            .collect();
        for (before, after) in edits {
            let is_it = |known: Option<&Arc<Key>>| known.is_some_and(|known| Arc::ptr_eq(known, &before));
            if is_it(self.keys.get(&before.digest).map(|ByDigest(key)| key)) {
                match &after {
                    Some(after) => drop(self.keys.replace(ByDigest(Arc::clone(after)))),
                    None => drop(self.keys.take(&before.digest)),
                }
            }
            let Some((previous, _)) = before.previous else { continue };
            if is_it(self.previous.get(&previous)) {
                match &after {
                    Some(after) => self.previous.insert(previous, Arc::clone(after)),
                    None => self.previous.remove(&previous),
                };
            }
        }
    }

    /// Takes over the keys that another policy knows to be revoked.
    pub fn share_revoked_of(&mut self, other: &Self) {
        self.revoked = Arc::clone(&other.revoked);
    }

    /// Changes the keys that are known to be revoked.
    pub fn revoked_mut(&mut self) -> &mut RevokedKeys {
        Arc::make_mut(&mut self.revoked)
    }

    /// The keys that are known to be revoked.
    pub fn revoked(&self) -> &RevokedKeys {
        &self.revoked
    }

    /// The revoked key of a request, as it shows it.
    pub fn shown_revoked(&self, headers: &HeaderMap, now: SystemTime) -> Option<&RevokedKey> {
        let given = self.shown_key(headers, now).filter(|given| given.len() <= MAX_KEY_LEN)?;
        self.revoked.get(&KeyDigest::of_bytes(given), now)
    }

    /// Whether another key has, or had, one of its digests: one of the two then is or was not in force.
    pub fn is_contested(&self, key: &Key) -> bool {
        key.digests().any(|digest| self.contested.contains(&digest))
    }

    /// Whether any digest is known to be contested, including digests of removed keys.
    pub fn has_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    /// The same policy without any key but this one, for a request that is tried.
    #[must_use]
    pub fn with_this_key_alone(&self, key: Key) -> Self {
        let mut alone = Self {
            keys: HashSet::new(),
            previous: HashMap::new(),
            contested: HashSet::new(),
            revoked: Arc::default(),
            model_limits: self.model_limits.clone(),
            issuers: Vec::new(),
            consumers: HashMap::new(),
            key_headers: self.key_headers.clone(),
            ignores_foreign: self.ignores_foreign,
            time_zone: self.time_zone.clone(),
            is_incomplete: self.is_incomplete,
            has_budgets: OnceLock::new(),
        };
        alone.add_keys([Arc::new(key)]);
        alone
    }

    /// Adds issuers of tokens; `consumers` are those that have limits.
    #[must_use]
    pub fn with_issuers(self, issuers: Vec<Issuer>, consumers: HashMap<String, Arc<Consumer>>) -> Self {
        Self { issuers, consumers, ..self }
    }

    /// Sets the time zone of days and months; the default is UTC.
    #[must_use]
    pub fn with_time_zone(self, time_zone: TimeZone) -> Self {
        Self { time_zone, ..self }
    }

    /// Sets further headers in which keys are read, such as Kong's `apikey`.
    #[must_use]
    pub fn with_key_headers(self, key_headers: Vec<HeaderName>) -> Self {
        Self { key_headers, ..self }
    }

    /// Sets whether unknown credentials beside a known one are ignored.
    #[must_use]
    pub fn ignoring_foreign(self, ignores_foreign: bool) -> Self {
        Self { ignores_foreign, ..self }
    }

    /// Marks the key set as incomplete: unknown keys may become known later, and are not called wrong.
    #[must_use]
    pub fn incomplete(self) -> Self {
        Self { is_incomplete: true, ..self }
    }

    /// Whether some keys may not be known yet.
    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// All keys, each once.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        // A key whose own digest is another key's is stored only under its digest before rotation.
        let stands_alone =
            |key: &&Arc<Key>| !self.keys.get(&key.digest).is_some_and(|own| Arc::ptr_eq(&own.0, key));
        self.keys.iter().map(|ByDigest(key)| key).chain(self.previous.values().filter(stands_alone))
    }

    /// The consumers that have limits, if there are issuers of tokens.
    pub fn consumers(&self) -> impl Iterator<Item = &Arc<Consumer>> {
        self.consumers.values()
    }

    /// One of [`consumers`](Self::consumers), by its name.
    pub fn consumer(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.consumers.get(name)
    }

    /// Whether a key, a consumer or a model has a budget.
    pub fn has_budgets(&self) -> bool {
        *self.has_budgets.get_or_init(|| {
            self.keys().any(|key| key.has_budget())
                || self.consumers().any(|consumer| consumer.has_budget())
                || self.model_limits.iter().any(|entry| entry.limits.has_budget())
        })
    }

    /// The key with a digest.
    pub fn key(&self, digest: &KeyDigest) -> Option<&Arc<Key>> {
        self.keys.get(digest).map(|ByDigest(key)| key).or_else(|| self.previous.get(digest))
    }

    /// The time zone whose midnight ends the days and months of quotas.
    pub fn time_zone(&self) -> &TimeZone {
        &self.time_zone
    }

    /// The number of keys.
    pub fn key_count(&self) -> usize {
        self.keys().count()
    }

    /// The limit of a model over all keys, from the first entry that matches.
    pub fn model_limits(&self, model: &str) -> Option<&Limits> {
        self.model_limits.iter().find(|entry| entry.models.matches(model)).map(|entry| &entry.limits)
    }

    /// The limits of models over all keys, of all entries.
    pub fn limits_of_models(&self) -> impl Iterator<Item = &Limits> {
        self.model_limits.iter().map(|entry| &entry.limits)
    }

    /// Finds the key of a request in its headers (`given.rs`).
    ///
    /// # Errors
    /// If there is no key, an unknown one, several, or one that does not work now or from this address; such a key is named, so
    /// that operators learn who still uses it.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Arc<Key>, Box<Denial>> {
        let given = self.shown(headers, now).map_err(Reason::ConflictingKeys);
        let given = given.and_then(|given| given.ok_or(Reason::MissingKey)).map_err(Denial::of_nobody)?;
        // The map is keyed by digests, so the time of a look-up reveals nothing about a key.
        let digest = (given.len() <= MAX_KEY_LEN).then(|| KeyDigest::of_bytes(given));
        // Before tokens, since an operator's key may look like a token.
        if let Some(digest) = digest
            && let Some(key) = self.key(&digest)
        {
            let checked = key.check(&digest, from, now).map(|()| Arc::clone(key));
            return checked.map_err(|reason| Denial::of_key(key, reason));
        }
        if !self.issuers.is_empty()
            && let Some(token) = jwt::Shown::of(given)
        {
            return jwt::verify(&self.issuers, &self.consumers, token, now);
        }
        if let Some(revoked) = digest.and_then(|digest| self.revoked.get(&digest, now)) {
            return Err(Denial::of_revoked(revoked));
        }
        Err(Denial::of_nobody(match digest {
            None => Reason::UnknownKey,
            Some(_) if NewKey::is_mistyped(given) => Reason::MistypedKey,
            Some(_) if self.is_incomplete => Reason::KeysUnavailable,
            Some(_) => Reason::UnknownKey,
        }))
    }

    /// The key or token by which [`authenticate`](Self::authenticate) identifies a request, valid or not.
    pub fn shown_key<'h>(&self, headers: &'h HeaderMap, now: SystemTime) -> Option<&'h [u8]> {
        self.shown(headers, now).ok().flatten()
    }

    fn shown<'h>(&self, headers: &'h HeaderMap, now: SystemTime) -> Result<Option<&'h [u8]>, Conflict> {
        match given::one(headers, &self.key_headers) {
            Err(Conflict::Between(..)) if self.ignores_foreign => self.own_of_several(headers, now),
            given => given,
        }
    }

    /// The known one of several credentials; if none is known, the first, so that it is refused for its own fault.
    fn own_of_several<'h>(
        &self,
        headers: &'h HeaderMap,
        now: SystemTime,
    ) -> Result<Option<&'h [u8]>, Conflict> {
        let all = given::all(headers, &self.key_headers)?;
        let mut known = all.iter().filter(|(_, given)| self.knows(given, now));
        match (known.next(), known.next()) {
            (Some((one, _)), Some((other, _))) => Err(Conflict::Between((*one).clone(), (*other).clone())),
            (known, _) => Ok(known.or(all.first()).map(|(_, given)| *given)),
        }
    }

    /// Whether this key or token is a known one.
    fn knows(&self, given: &[u8], now: SystemTime) -> bool {
        let is_key = given.len() <= MAX_KEY_LEN && self.key(&KeyDigest::of_bytes(given)).is_some();
        let verified = || {
            let token = jwt::Shown::of(given).filter(|_| !self.issuers.is_empty())?;
            jwt::verify(&self.issuers, &self.consumers, token, now).ok()
        };
        is_key || verified().is_some()
    }

    /// Whether keys are read from this header.
    pub fn reads_keys_in(&self, name: &HeaderName) -> bool {
        given::is_read_in(name) || self.key_headers.contains(name)
    }

    /// Whether a header holds something that looks like an identity provider's token, valid or not.
    pub fn shows_token(&self, headers: &HeaderMap) -> bool {
        let all = given::all(headers, &self.key_headers).unwrap_or_default();
        let is_token =
            |given| self.key(&KeyDigest::of_bytes(given)).is_none() && jwt::Shown::of(given).is_some();
        all.iter().any(|(_, given)| is_token(given))
    }

    /// Whether tokens of identity providers are accepted at all.
    pub(crate) fn takes_tokens(&self) -> bool {
        !self.issuers.is_empty()
    }
}

impl PartialEq for ByDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for ByDigest {}

impl Hash for ByDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl Borrow<KeyDigest> for ByDigest {
    fn borrow(&self) -> &KeyDigest {
        &self.0.digest
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use limits::{Calendar, Quota, Rate, Reserve};

    use super::*;
    use crate::RevokedKey;

    fn policy() -> Policy {
        let key = |name: &str| {
            let consumer = Arc::new(Consumer::new(name));
            Key::new(name, consumer, KeyDigest::of(&format!("mg-{name}")))
        };
        Policy::new(vec![key("alice"), key("bob"), key("alice")], Vec::new())
    }

    /// The consumer's name, or the code of the refusal.
    fn who(headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header name");
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        policy()
            .authenticate(&map, None, SystemTime::UNIX_EPOCH)
            .map_or_else(|denial| denial.reason.code().to_owned(), |key| key.name.clone())
    }

    #[test]
    fn a_key_is_found_in_any_of_three_headers() {
        for headers in [
            &[("authorization", "Bearer mg-alice")][..],
            &[("authorization", "bEARER mg-alice")],
            &[("authorization", "Bearer   mg-alice ")],
            &[("x-api-key", "mg-alice")],
            &[("api-key", "mg-alice")],
            &[("authorization", "Bearer mg-alice"), ("x-api-key", "mg-alice"), ("api-key", "mg-alice")],
            &[("authorization", "Basic dTpw"), ("x-api-key", "mg-alice")],
            &[("authorization", "Bearer "), ("x-api-key", "mg-alice")],
            &[("authorization", "Bearer mg-alice"), ("x-api-key", "")],
            &[(
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.mg-alice, openai-beta.realtime-v1",
            )],
            &[
                ("sec-websocket-protocol", "realtime"),
                ("sec-websocket-protocol", "openai-insecure-api-key.mg-alice"),
            ],
            &[("sec-websocket-protocol", "realtime"), ("x-api-key", "mg-alice")],
        ] {
            assert_eq!(who(headers), "alice", "{headers:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = format!("Bearer {}", "x".repeat(513));
        for (headers, code) in [
            (&[][..], "missing_api_key"),
            (&[("authorization", "Bearer ")], "missing_api_key"),
            (&[("authorization", "Bearer")], "missing_api_key"),
            (&[("authorization", "Bea")], "missing_api_key"),
            (&[("authorization", "Basic dTpw")], "missing_api_key"),
            (&[("authorization", "Bearermg-alice")], "missing_api_key"),
            (&[("authorization", "mg-alice")], "missing_api_key"),
            (&[("x-api-key", "  ")], "missing_api_key"),
            (&[("authorization", "Bearer mg-eve")], "invalid_api_key"),
            (&[("authorization", "Bearer MG-ALICE")], "invalid_api_key"),
            (&[("authorization", "Bearer mg-alice, Bearer mg-bob")], "invalid_api_key"),
            (&[("authorization", "Bearer \u{e9}")], "invalid_api_key"),
            (&[("authorization", long.as_str())], "invalid_api_key"),
        ] {
            assert_eq!(who(headers), code, "{headers:?}");
        }
    }

    #[test]
    fn two_keys_are_one_too_many() {
        for headers in [
            [("authorization", "Bearer mg-alice"), ("x-api-key", "mg-bob")],
            [("authorization", "Bearer mg-eve"), ("x-api-key", "mg-alice")],
            [("x-api-key", "mg-alice"), ("api-key", "mg-bob")],
            [("authorization", "Bearer mg-alice"), ("authorization", "Bearer mg-alice")],
            [("authorization", "Basic dTpw"), ("authorization", "Bearer mg-alice")],
            [("x-api-key", "mg-alice"), ("x-api-key", "mg-alice")],
            [("sec-websocket-protocol", "openai-insecure-api-key.mg-alice"), ("api-key", "mg-bob")],
            [
                ("sec-websocket-protocol", "openai-insecure-api-key.mg-alice"),
                ("sec-websocket-protocol", "openai-insecure-api-key.mg-bob"),
            ],
        ] {
            assert_eq!(who(&headers), "conflicting_api_keys", "{headers:?}");
        }
    }

    /// Claude Code sends its own token in `Authorization` beside the gateway's key in `x-api-key`.
    #[test]
    fn a_refusal_names_the_headers_and_an_operator_may_have_the_known_one_taken() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            let mut map = HeaderMap::new();
            for (name, value) in pairs.iter().map(pair) {
                map.append(name, value);
            }
            map
        };
        let named = vec![HeaderName::from_static("apikey")];
        let (strict, lax) = (policy().with_key_headers(named.clone()), policy().with_key_headers(named));
        let lax = lax.ignoring_foreign(true);
        let who = |policy: &Policy, headers: &HeaderMap| {
            let found = policy.authenticate(headers, None, SystemTime::UNIX_EPOCH);
            found.map_or_else(|denial| denial.reason.to_string(), |key| key.name.clone())
        };
        let between = |one: &str, other: &str| {
            format!(
                "the request holds more than one API key: one in the header {one}, another in {other}; send one alone"
            )
        };
        let unknown = Reason::UnknownKey.to_string();
        for (pairs, one, other, taken) in [
            (
                &[("authorization", "Bearer sk-ant-oat01-x"), ("x-api-key", "mg-alice")][..],
                "authorization",
                "x-api-key",
                "alice",
            ),
            (
                &[("authorization", "Bearer mg-alice"), ("x-api-key", "sk-ant-x")],
                "authorization",
                "x-api-key",
                "alice",
            ),
            (
                &[("api-key", "a"), ("apikey", "Bearer mg-bob"), ("x-api-key", "b")],
                "x-api-key",
                "api-key",
                "bob",
            ),
            (
                &[("x-api-key", "x"), ("sec-websocket-protocol", "openai-insecure-api-key.mg-bob")],
                "x-api-key",
                "sec-websocket-protocol",
                "bob",
            ),
            (
                &[("authorization", "Bearer x"), ("x-api-key", "y")],
                "authorization",
                "x-api-key",
                unknown.as_str(),
            ),
        ] {
            let headers = headers(pairs);
            assert_eq!(who(&strict, &headers), between(one, other), "{pairs:?}");
            assert_eq!(who(&lax, &headers), taken, "{pairs:?}");
        }
        // Two known keys, and ambiguous headers.
        let both =
            headers(&[("authorization", "Bearer mg-alice"), ("api-key", "x"), ("x-api-key", "mg-bob")]);
        assert_eq!(who(&lax, &both), between("authorization", "x-api-key"));
        let twice = headers(&[("x-api-key", "mg-alice"), ("x-api-key", "x"), ("authorization", "Bearer y")]);
        let repeated =
            "the request holds more than one API key: the header x-api-key is there twice; send one alone";
        assert_eq!([who(&strict, &twice), who(&lax, &twice)], [repeated, repeated]);
        let shown = headers(&[("authorization", "Bearer x"), ("x-api-key", "mg-alice")]);
        assert_eq!(
            lax.shown_key(&shown, SystemTime::UNIX_EPOCH),
            Some(&b"mg-alice"[..]),
            "for whoever looks where else it stands"
        );
    }

    #[test]
    fn further_headers_hold_keys_once_they_are_named() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            pairs.iter().map(pair).collect::<HeaderMap>()
        };
        let named = ["apikey", "x-litellm-api-key"].map(HeaderName::from_static).to_vec();
        let (without, with) = (policy(), policy().with_key_headers(named));
        let who = |policy: &Policy, headers: &HeaderMap| {
            let found = policy.authenticate(headers, None, SystemTime::UNIX_EPOCH);
            found.map_or_else(|denial| denial.reason.code().to_owned(), |key| key.name.clone())
        };
        for (pairs, before, after) in [
            (&[("apikey", "mg-alice")][..], "missing_api_key", "alice"),
            (&[("apikey", " Bearer mg-alice ")], "missing_api_key", "alice"),
            (&[("x-litellm-api-key", "bearer mg-bob")], "missing_api_key", "bob"),
            (&[("apikey", "mg-bob"), ("authorization", "Bearer mg-bob")], "bob", "bob"),
            (&[("apikey", "mg-bob"), ("authorization", "Bearer mg-alice")], "alice", "conflicting_api_keys"),
            (
                &[("apikey", "mg-bob"), ("x-litellm-api-key", "mg-alice")],
                "missing_api_key",
                "conflicting_api_keys",
            ),
            (&[("apikey", ""), ("authorization", "Bearer mg-alice")], "alice", "alice"),
            (&[("api_key", "mg-alice")], "missing_api_key", "missing_api_key"),
        ] {
            let headers = headers(pairs);
            assert_eq!(
                (who(&without, &headers).as_str(), who(&with, &headers).as_str()),
                (before, after),
                "{pairs:?}"
            );
        }
        let mut twice = headers(&[("apikey", "mg-alice")]);
        twice.append("apikey", HeaderValue::from_static("mg-alice"));
        assert_eq!(who(&with, &twice), "conflicting_api_keys");
    }

    #[test]
    fn keys_are_counted_by_digest() {
        assert_eq!(policy().key_count(), 2, "alice is there twice");
    }

    #[test]
    fn a_key_is_changed_and_taken_out_by_each_of_its_digests() {
        let [new, old, other] = ["new", "old", "other"].map(KeyDigest::of);
        let key = |name: &str, digest| Key::new(name, Arc::new(Consumer::new("team")), digest);
        let rotated = Key { previous: Some((old, SystemTime::UNIX_EPOCH)), ..key("alice", new) };
        let mut policy = Policy::new(vec![rotated, key("bob", other)], Vec::new());
        assert!(!policy.has_contested() && policy.key_count() == 2);
        policy.edit_keys(|key| match key.name.as_str() {
            "alice" => Edit::Change(Arc::new(Key { disabled: true, ..Key::clone(key) })),
            _ => Edit::Keep,
        });
        let disabled = |digest| policy.key(&digest).map(|key| key.disabled);
        assert_eq!([new, old, other].map(disabled), [Some(true), Some(true), Some(false)]);
        policy.edit_keys(|key| if key.name == "alice" { Edit::Remove } else { Edit::Keep });
        let known = |digest| policy.key(&digest).is_some();
        assert_eq!(([new, old, other].map(known), policy.key_count()), ([false, false, true], 1));
    }

    #[test]
    fn of_two_that_claim_a_digest_the_first_counts_and_each_is_there_once() {
        let [shared, own] = ["shared", "own"].map(KeyDigest::of);
        let key = |name: &str, digest| Key::new(name, Arc::new(Consumer::new("team")), digest);
        let of_file = key("file", shared);
        let rotated = Key { previous: Some((own, SystemTime::UNIX_EPOCH)), ..key("store", shared) };
        let mut policy = Policy::new(vec![of_file, rotated], Vec::new());
        let owner = |policy: &Policy, digest| policy.key(&digest).map(|key| key.name.clone());
        assert_eq!([shared, own].map(|digest| owner(&policy, digest).expect("a key")), ["file", "store"]);
        assert_eq!(policy.key_count(), 2, "also the one that is known only by what it was");
        assert!(policy.keys().all(|key| policy.is_contested(key)));
        policy.edit_keys(|_| Edit::Remove);
        assert_eq!([shared, own].map(|digest| owner(&policy, digest)), [None, None]);
    }

    /// The keys of the file and of the store are put together again and again: a key met a second time is not in its own way.
    #[test]
    fn a_key_that_is_added_again_is_not_contested() {
        let key = Arc::new(Key::new("alice", Arc::new(Consumer::new("team")), KeyDigest::of("a")));
        let mut policy = Policy::default();
        policy.add_keys([Arc::clone(&key), Arc::clone(&key)]);
        assert!(!policy.has_contested() && !policy.is_contested(&key));
        let twin = Arc::new(Key::clone(&key));
        policy.add_keys([Arc::clone(&twin)]);
        assert!(policy.has_contested() && policy.is_contested(&twin));
        let other = Key::new("bob", Arc::new(Consumer::new("team")), KeyDigest::of("b"));
        assert!(!policy.is_contested(&other));
    }

    /// While the store has not answered, a client must not hear that its key is wrong: it would stop asking.
    #[test]
    fn an_unknown_key_may_become_known_while_keys_are_missing() {
        let code = |policy: &Policy, key: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("x-api-key"),
                HeaderValue::from_str(key).expect("a value"),
            )]);
            let found = policy.authenticate(&headers, None, SystemTime::UNIX_EPOCH);
            found.map_or_else(|denial| denial.reason.code(), |_| "ok")
        };
        let new = NewKey::generate().expect("randomness");
        let mistyped = &new.reveal()[..new.reveal().len() - 1];
        let long = "x".repeat(MAX_KEY_LEN + 1);
        let (whole, part) = (policy(), policy().incomplete());
        assert!(!whole.is_incomplete() && part.is_incomplete());
        for (key, expected, while_incomplete) in [
            ("mg-alice", "ok", "ok"),
            (new.reveal(), "invalid_api_key", "api_keys_unavailable"),
            (mistyped, "mistyped_api_key", "mistyped_api_key"),
            (&long, "invalid_api_key", "invalid_api_key"),
        ] {
            assert_eq!((code(&whole, key), code(&part, key)), (expected, while_incomplete), "{key}");
        }
    }

    /// A header with a key goes to no server, so these are the headers that are taken away.
    #[test]
    fn the_headers_that_hold_keys() {
        let policy = policy().with_key_headers(vec![HeaderName::from_static("apikey")]);
        for (name, is_read) in [
            ("authorization", true),
            ("x-api-key", true),
            ("api-key", true),
            ("sec-websocket-protocol", true),
            ("apikey", true),
            ("x-litellm-api-key", false),
            ("content-type", false),
        ] {
            assert_eq!(policy.reads_keys_in(&HeaderName::from_static(name)), is_read, "{name}");
        }
    }

    #[test]
    fn the_longest_key_is_still_looked_up() {
        let long = "x".repeat(MAX_KEY_LEN);
        let policy = policy();
        let bob = policy.key(&KeyDigest::of("mg-bob")).expect("bob");
        let key = Key { digest: KeyDigest::of(&long), ..Key::clone(bob) };
        let policy = Policy::new(vec![key], Vec::new());
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-api-key"),
            HeaderValue::from_str(&long).expect("a value"),
        )]);
        assert_eq!(policy.authenticate(&headers, None, SystemTime::UNIX_EPOCH).expect("the key").name, "bob");
    }

    #[test]
    fn the_first_matching_limit_wins() {
        let entry = |pattern: &str, requests| ModelLimit {
            models: ModelGlobs::parse(&[pattern.to_owned()]).expect("a pattern"),
            limits: Rate::per_minute(requests, None).expect("a rate").into(),
        };
        let policy = Policy::new(Vec::new(), vec![entry("llama3*", 1), entry("llama*", 2)]);
        let limit = |model| policy.model_limits(model).map(|limits| limits.rates()[0].amount());
        assert_eq!((limit("llama3.1"), limit("llama2"), limit("qwen")), (Some(1), Some(2), None));
        let all: Vec<u32> = policy.limits_of_models().map(|limits| limits.rates()[0].amount()).collect();
        assert_eq!(all, [1, 2]);
    }

    /// Without a price a request is refused only where there is a budget, and prices are not asked for where there is none.
    #[test]
    fn a_budget_is_found_wherever_it_is_set() {
        let none = Limits::from(Rate::per_minute(9, None).expect("a rate"));
        let quota = Quota::budget(1, Calendar::Day, Reserve::Usual).expect("a budget");
        let budget = Limits::new(Vec::new(), vec![quota]);
        let digest = KeyDigest::of("mg-alice");
        // Of a key, of its consumer, of a model, of a consumer who is known by tokens.
        for place in 1..=7 {
            let at = |wanted| if place == wanted { budget.clone() } else { none.clone() };
            let consumer = |all, each| {
                Arc::new(Consumer { limits: at(all), limits_per_model: at(each), ..Consumer::new("team") })
            };
            let owner = consumer(3, 4);
            let key = Key {
                limits: at(1),
                limits_per_model: at(2),
                ..Key::new("alice", Arc::clone(&owner), digest)
            };
            let told = (owner.has_budget(), key.has_budget());
            assert_eq!(told, ([3, 4].contains(&place), (1..=4).contains(&place)), "{place}");
            let models = ModelLimit { models: ModelGlobs::all(), limits: at(5) };
            let policy = Policy::new(vec![key], vec![models])
                .with_issuers(Vec::new(), HashMap::from([("team".to_owned(), consumer(6, 7))]));
            assert!(policy.has_budgets(), "{place}");
            assert_eq!(policy.consumer("team").map(|team| team.has_budget()), Some(place > 5));
            assert_eq!(policy.consumer("other"), None);
        }
        let without = Key { limits: none, ..Key::new("alice", Arc::new(Consumer::new("team")), digest) };
        assert!(!Policy::new(vec![without], Vec::new()).has_budgets());
    }

    /// The keys that the store knows are read apart from those of a file: with the revoked ones of neither nobody would be told who
    /// still uses an old key.
    #[test]
    fn revoked_keys_are_shared_and_told() {
        let digest = KeyDigest::of("mg-old");
        let old =
            || RevokedKey { digest, name: "old".into(), consumer: "team".into(), at: SystemTime::UNIX_EPOCH };
        let mut before = policy();
        assert!(before.revoked().is_empty());
        before.revoked_mut().add([old()]);
        assert!(!before.revoked().is_empty());
        let mut after = policy();
        after.share_revoked_of(&before);
        assert_eq!(after.revoked().get(&digest, SystemTime::UNIX_EPOCH), Some(&old()));
    }
}
