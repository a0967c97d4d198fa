//! What the configuration allows: the keys, and the limits of the models.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use jiff::tz::TimeZone;
use limits::Limits;

use crate::{Consumer, Denial, Issuer, Key, KeyDigest, ModelGlobs, NewKey, Reason, jwt};

/// A limit of some models over all keys.
#[derive(Debug, Clone)]
pub struct ModelLimit {
    /// The models; each has the limit on its own.
    pub models: ModelGlobs,
    /// The limits.
    pub limits: Limits,
}

/// All keys and limits. A reload makes a new one; what was taken so far lives in
/// [`Limiters`](limits::Limiters).
#[derive(Debug, Clone)]
pub struct Policy {
    keys: HashSet<ByDigest>,
    /// By what they were before they were rotated.
    previous: HashMap<KeyDigest, Arc<Key>>,
    /// More than one key has them, or had them before it was rotated.
    contested: HashSet<KeyDigest>,
    model_limits: Vec<ModelLimit>,
    issuers: Vec<Issuer>,
    consumers: HashMap<String, Arc<Consumer>>,
    key_headers: Vec<HeaderName>,
    time_zone: TimeZone,
    is_incomplete: bool,
}

/// A key that is found by its digest. 100,000 digests beside their keys would be 5 MB more, for each policy that is made.
#[derive(Debug, Clone)]
struct ByDigest(Arc<Key>);

/// What becomes of a key.
#[derive(Debug)]
pub enum Edit {
    /// It stays as it is.
    Keep,
    /// It is another one from now on, recognised by the same digests.
    Change(Arc<Key>),
    /// It is taken out.
    Remove,
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// What stands before a key among WebSocket protocols.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// The longest key that is looked up, in bytes.
const MAX_KEY_LEN: usize = 512;

impl Default for Policy {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new())
    }
}

impl Policy {
    /// Puts a policy together. Of keys with the same digest the first one counts.
    pub fn new(keys: Vec<Key>, model_limits: Vec<ModelLimit>) -> Self {
        let mut policy = Self {
            keys: HashSet::with_capacity(keys.len()),
            previous: HashMap::new(),
            contested: HashSet::new(),
            model_limits,
            issuers: Vec::new(),
            consumers: HashMap::new(),
            key_headers: Vec::new(),
            time_zone: TimeZone::UTC,
            is_incomplete: false,
        };
        policy.add_keys(keys.into_iter().map(Arc::new));
        policy
    }

    /// Adds keys. Those that are there already count, if one is the same API key.
    pub fn add_keys(&mut self, keys: impl IntoIterator<Item = Arc<Key>>) {
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

    /// Asks of each key what becomes of it. Where one that is taken out was [contested](Self::is_contested), the other
    /// one does not take its place.
    pub fn edit_keys(&mut self, mut edit: impl FnMut(&Arc<Key>) -> Edit) {
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

    /// Whether another key has, or had, one of its digests: then one of the two is not in force, or was not.
    pub fn is_contested(&self, key: &Key) -> bool {
        key.digests().any(|digest| self.contested.contains(&digest))
    }

    /// Whether that is so of any keys, as far as it is known: also of some that are not there any more.
    pub fn has_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    /// The same, which also takes tokens of identity providers; `consumers` are those that have limits.
    #[must_use]
    pub fn with_issuers(self, issuers: Vec<Issuer>, consumers: HashMap<String, Arc<Consumer>>) -> Self {
        Self { issuers, consumers, ..self }
    }

    /// The same with days and months of another time zone than UTC.
    #[must_use]
    pub fn with_time_zone(self, time_zone: TimeZone) -> Self {
        Self { time_zone, ..self }
    }

    /// The same, which reads keys in further headers too, such as Kong's `apikey`.
    #[must_use]
    pub fn with_key_headers(self, key_headers: Vec<HeaderName>) -> Self {
        Self { key_headers, ..self }
    }

    /// The same, which does not know all keys: unknown ones may be known later, and are not called wrong.
    #[must_use]
    pub fn incomplete(self) -> Self {
        Self { is_incomplete: true, ..self }
    }

    /// Whether there may be keys that are not known yet.
    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Each key once.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<Key>> {
        // One whose own digest is another's stands here only as what it was before it was rotated.
        let stands_alone =
            |key: &&Arc<Key>| !self.keys.get(&key.digest).is_some_and(|own| Arc::ptr_eq(&own.0, key));
        self.keys.iter().map(|ByDigest(key)| key).chain(self.previous.values().filter(stands_alone))
    }

    /// The key that is recognised by a digest.
    pub fn key(&self, digest: &KeyDigest) -> Option<&Arc<Key>> {
        self.keys.get(digest).map(|ByDigest(key)| key).or_else(|| self.previous.get(digest))
    }

    /// Whose midnight ends the days and months of quotas.
    pub fn time_zone(&self) -> &TimeZone {
        &self.time_zone
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.keys().count()
    }

    /// The limit of a model over all keys: that of the first entry which matches.
    pub fn model_limits(&self, model: &str) -> Option<&Limits> {
        self.model_limits.iter().find(|entry| entry.models.matches(model)).map(|entry| &entry.limits)
    }

    /// Whose request this is.
    ///
    /// The key stands in `Authorization: Bearer` (RFC 6750 §2.1; OpenAI's clients), `x-api-key`
    /// (Anthropic's), `api-key` (Azure's) or, since pages cannot set headers of a WebSocket, among
    /// the protocols of `Sec-WebSocket-Protocol`, behind `openai-insecure-api-key.`
    /// (<https://platform.openai.com/docs/guides/realtime-websocket>); and in the headers that the operator names
    /// ([`with_key_headers`](Self::with_key_headers)), with or without `Bearer`. It may stand in several of
    /// them, if it is the same.
    ///
    /// # Errors
    /// If there is no key, an unknown one, more than one, or one that does not work now or from there; such a one is named,
    /// so that operators learn who still uses it.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        from: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Arc<Key>, Box<Denial>> {
        let given = given_key(headers, &self.key_headers).and_then(|given| given.ok_or(Reason::MissingKey));
        let given = given.map_err(Denial::of_nobody)?;
        // The map is keyed by digests, so how long a look-up takes tells nothing about a key.
        let digest = (given.len() <= MAX_KEY_LEN).then(|| KeyDigest::of_bytes(given));
        // Before tokens, since a key that an operator has given out may look like one.
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
        Err(Denial::of_nobody(match digest {
            None => Reason::UnknownKey,
            Some(_) if NewKey::is_mistyped(given) => Reason::MistypedKey,
            Some(_) if self.is_incomplete => Reason::KeysUnavailable,
            Some(_) => Reason::UnknownKey,
        }))
    }

    /// The key or token by which [`authenticate`](Self::authenticate) tells whose request this is, right or not.
    pub fn shown_key<'h>(&self, headers: &'h HeaderMap) -> Option<&'h [u8]> {
        given_key(headers, &self.key_headers).ok().flatten()
    }

    /// Whether keys are read in the header of this name.
    pub fn reads_keys_in(&self, name: &HeaderName) -> bool {
        [AUTHORIZATION, X_API_KEY, API_KEY, SEC_WEBSOCKET_PROTOCOL].contains(name)
            || self.key_headers.contains(name)
    }

    /// Whether the headers hold what has the form of an identity provider's token, whether it is one or not.
    pub fn shows_token(&self, headers: &HeaderMap) -> bool {
        self.shown_key(headers).is_some_and(|given| {
            self.key(&KeyDigest::of_bytes(given)).is_none() && jwt::Shown::of(given).is_some()
        })
    }

    /// Whether tokens of identity providers are taken at all.
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

/// The one key that the headers give, `further` ones among them.
fn given_key<'h>(headers: &'h HeaderMap, further: &[HeaderName]) -> Result<Option<&'h [u8]>, Reason> {
    let mut given = None;
    let mut take = |key: &'h [u8]| match given {
        _ if key.is_empty() => Ok(()),
        Some(other) if other != key => Err(Reason::ConflictingKeys),
        _ => {
            given = Some(key);
            Ok(())
        }
    };
    if let Some(key) = single(headers, &AUTHORIZATION)?.and_then(bearer) {
        take(key)?;
    }
    for name in [&X_API_KEY, &API_KEY] {
        if let Some(value) = single(headers, name)? {
            take(value.as_bytes().trim_ascii())?;
        }
    }
    for name in further {
        if let Some(value) = single(headers, name)? {
            // LiteLLM's clients write `x-litellm-api-key: Bearer …`, Kong's `apikey: …`.
            take(bearer(value).unwrap_or_else(|| value.as_bytes().trim_ascii()))?;
        }
    }
    for key in websocket_protocols(headers).filter_map(key_among_protocols) {
        take(key.as_bytes())?;
    }
    Ok(given)
}

/// The protocols that a WebSocket client offers (RFC 6455 §11.3.4).
fn websocket_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The key that a protocol holds. Nobody writes the prefix in another case, but then it would be no
/// less a key, which must not reach a server.
fn key_among_protocols(protocol: &str) -> Option<&str> {
    let (prefix, key) = protocol.split_at_checked(KEY_PROTOCOL.len())?;
    prefix.eq_ignore_ascii_case(KEY_PROTOCOL).then_some(key)
}

/// The protocols that the server is to see: those that hold no key. `None` if there are none.
pub(crate) fn protocols_without_key(headers: &HeaderMap) -> Option<String> {
    let kept: Vec<&str> = websocket_protocols(headers).filter(|p| key_among_protocols(p).is_none()).collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Reason> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Reason::ConflictingKeys),
    }
}

/// The key in `Bearer <key>`; the scheme's case does not matter (RFC 9110 §11.1). Another scheme
/// is none of ours.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, key) = value.as_bytes().trim_ascii().split_at_checked(SCHEME.len())?;
    (scheme.eq_ignore_ascii_case(SCHEME) && key.first() == Some(&b' ')).then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use limits::Rate;

    use super::*;

    fn policy() -> Policy {
        let key = |name: &str| {
            let consumer = Arc::new(Consumer::new(name));
            Key::new(name, consumer, KeyDigest::of(&format!("mg-{name}")))
        };
        Policy::new(vec![key("alice"), key("bob"), key("alice")], Vec::new())
    }

    /// Who it is: a name, or the code of the refusal.
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
    fn a_server_sees_the_protocols_without_the_key() {
        let seen = |protocols: &'static str| {
            let headers =
                HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols))]);
            protocols_without_key(&headers)
        };
        assert_eq!(seen("realtime, openai-insecure-api-key.mg-alice,b").as_deref(), Some("realtime, b"));
        assert_eq!(seen("openai-insecure-api-key.mg-alice"), None);
        assert_eq!(seen("OpenAI-Insecure-API-Key.mg-alice, a, openai-insecure-api-key."), Some("a".into()));
        assert_eq!(protocols_without_key(&HeaderMap::new()), None);
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

    #[test]
    fn the_longest_key_is_still_looked_up() {
        let long = "x".repeat(MAX_KEY_LEN);
        let policy = policy();
        let bob = policy.key(&KeyDigest::of("mg-bob")).expect("bob");
        let key = Key { digest: KeyDigest::of(&long), ..Key::clone(bob) };
        let policy = Policy::new(vec![key], Vec::new());
        let headers = HeaderMap::from_iter([(X_API_KEY, HeaderValue::from_str(&long).expect("a value"))]);
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
    }
}
