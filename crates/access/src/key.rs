//! API keys. Only their SHA-256 digests are kept, so that the configuration reveals no key.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use catalogue::Pool;
use ipnet::IpNet;
use limits::Limits;
use sha2::{Digest, Sha256};

use crate::{Consumer, ModelGlobs, Reason, WaitPriority};

/// The SHA-256 digest of an API key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

/// A text that is not a digest. The error does not repeat it: people paste keys by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a SHA-256 digest: it must be 64 hexadecimal digits")]
pub struct InvalidDigest;

/// A newly made key in plain text. It is shown once and never stored.
pub struct NewKey {
    secret: String,
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// An API key and its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The name shown to people; unique.
    pub name: String,
    /// Its owner.
    pub consumer: Arc<Consumer>,
    /// The digest by which it is recognised; unique.
    pub digest: KeyDigest,
    /// Its digest before it was rotated, and until when the old key still works.
    pub previous: Option<(KeyDigest, SystemTime)>,
    /// The models that it may use.
    pub models: ModelGlobs,
    /// Its limits over all models.
    pub limits: Limits,
    /// Its limits for each model on its own.
    pub limits_per_model: Limits,
    /// Who goes first among requests that wait, if the key's plan says; otherwise its consumer's plan may.
    pub priority: Option<WaitPriority>,
    /// The plan that it refers to; decisions do not use it.
    pub plan: Option<PlanOfKey>,
    /// Whether it may use paths that manage a server.
    pub manage: bool,
    /// Whether it may use what servers store for everybody: files, batches, responses, conversations.
    pub stored_data: bool,
    /// When it stops working.
    pub expires: Option<SystemTime>,
    /// It is disabled.
    pub disabled: bool,
    /// The client networks from which it works; empty means any.
    pub networks: Vec<IpNet>,
    /// The number under which its counts are stored; rotation does not change it.
    pub id: u128,
    /// Its requests whose tokens are not final yet.
    pub open_requests: OpenRequests,
}

/// A count of requests whose tokens are not final yet: limits may get some of them back. It belongs to no policy, so a copy of
/// a key starts at none, and it does not tell keys apart.
#[derive(Debug, Default)]
pub struct OpenRequests(AtomicU32);

impl OpenRequests {
    /// Counts a request that was admitted.
    pub fn opened(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts its end.
    pub fn closed(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Clone for OpenRequests {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for OpenRequests {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OpenRequests {}

/// Which parts of a key come from a plan, and change with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOfKey {
    /// The plan.
    pub name: Arc<str>,
    /// The key's models are the plan's.
    pub models: bool,
    /// The key's limits are the plan's.
    pub limits: bool,
    /// The key's limits for each model are the plan's.
    pub limits_per_model: bool,
}

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    pub(crate) fn of_bytes(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse_hex(text: &str) -> Result<Self, InvalidDigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidDigest)?;
        Ok(Self(bytes))
    }

    /// The digest as 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The digest as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first half of it, which is enough to distinguish keys.
    pub(crate) fn prefix(&self) -> u128 {
        self.0.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
    }
}

/// Shows only the first four digits: enough to find the key, too few to look it up in a table.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({}…)", hex::encode(&self.0[..2]))
    }
}

impl NewKey {
    const PREFIX: &str = "mg-";
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// 62^43 is just above 2^256.
    const LENGTH: usize = 43;
    /// 62^6 is above 2^32.
    const CHECKSUM: usize = 6;

    /// Makes a key of 256 random bits.
    ///
    /// # Errors
    /// If the operating system gives no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut secret = String::from(Self::PREFIX);
        while secret.len() < Self::PREFIX.len() + Self::LENGTH {
            let mut bytes = [0; 64];
            getrandom::fill(&mut bytes)?;
            let missing = Self::PREFIX.len() + Self::LENGTH - secret.len();
            secret.extend(bytes.iter().filter_map(|byte| Self::letter(*byte)).take(missing));
        }
        secret.push_str(&Self::checksum(&secret));
        Ok(Self { secret })
    }

    /// Whether a text has the form of Modelgate's keys but the wrong checksum. Older keys have no checksum.
    pub(crate) fn is_mistyped(text: &[u8]) -> bool {
        let Some(letters) = text.strip_prefix(Self::PREFIX.as_bytes()) else { return false };
        let long = letters.len().abs_diff(Self::LENGTH + Self::CHECKSUM) <= 3;
        if !long || !letters.iter().all(u8::is_ascii_alphanumeric) || letters.len() == Self::LENGTH {
            return false;
        }
        let (key, checksum) = text.split_at(text.len() - Self::CHECKSUM);
        std::str::from_utf8(key).is_ok_and(|key| Self::checksum(key).as_bytes() != checksum)
    }

    /// The CRC-32 of a text in six letters, by which secret scanners recognise a key.
    fn checksum(text: &str) -> String {
        let mut rest = crc32fast::hash(text.as_bytes()) as usize;
        let mut letters = [b'0'; Self::CHECKSUM];
        for letter in letters.iter_mut().rev() {
            *letter = Self::ALPHABET[rest % 62];
            rest /= 62;
        }
        letters.map(char::from).iter().collect()
    }

    /// The letter for a random byte. The last eight byte values have none, since they would make the first eight letters
    /// likelier.
    fn letter(byte: u8) -> Option<char> {
        let byte = usize::from(byte);
        (byte < 4 * Self::ALPHABET.len()).then(|| char::from(Self::ALPHABET[byte % Self::ALPHABET.len()]))
    }

    /// The key in plain text.
    pub fn reveal(&self) -> &str {
        &self.secret
    }

    /// Its digest, for the configuration.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.secret)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(…)")
    }
}

impl Key {
    /// Whether it or its consumer has a budget, over all models or for each.
    pub fn has_budget(&self) -> bool {
        self.limits.has_budget() || self.limits_per_model.has_budget() || self.consumer.has_budget()
    }

    /// A key for every model, without limits.
    pub fn new(name: impl Into<String>, consumer: Arc<Consumer>, digest: KeyDigest) -> Self {
        let name = name.into();
        let id = KeyDigest::of(&format!("key\n{name}")).prefix();
        Self {
            name,
            consumer,
            digest,
            previous: None,
            models: ModelGlobs::all(),
            limits: Limits::default(),
            limits_per_model: Limits::default(),
            priority: None,
            plan: None,
            manage: false,
            stored_data: false,
            expires: None,
            disabled: false,
            networks: Vec::new(),
            id,
            open_requests: OpenRequests::default(),
        }
    }

    /// Who goes first among requests that wait.
    pub fn priority(&self) -> WaitPriority {
        self.priority.or(self.consumer.priority).unwrap_or_default()
    }

    /// Its digest, and the one before it was rotated.
    pub(crate) fn digests(&self) -> impl Iterator<Item = KeyDigest> + use<> {
        let previous = self.previous.as_ref().map(|(digest, _)| *digest);
        previous.into_iter().chain([self.digest])
    }

    /// Whether it works at this time, from this address, with this digest.
    pub(crate) fn check(&self, by: &KeyDigest, from: Option<IpAddr>, now: SystemTime) -> Result<(), Reason> {
        let over = |time: SystemTime| now >= time;
        if self.digest != *by && self.previous.as_ref().is_none_or(|(_, until)| over(*until)) {
            return Err(Reason::ExpiredKey);
        }
        if self.disabled || self.consumer.disabled {
            return Err(Reason::DisabledKey);
        }
        if self.expires.is_some_and(over) {
            return Err(Reason::ExpiredKey);
        }
        let inside = |address: IpAddr| self.networks.iter().any(|network| network.contains(&address));
        if !self.networks.is_empty() && !from.is_some_and(inside) {
            return Err(Reason::WrongNetwork);
        }
        Ok(())
    }

    /// Whether this key may use every model.
    pub fn may_use_all(&self) -> bool {
        self.models.match_all()
    }

    /// Whether this key may use the name of a model for which no server is known.
    pub fn may_use_name(&self, model: &str) -> bool {
        self.models.matches(model)
    }

    /// Whether this key may use the servers of a model.
    pub fn may_use(&self, pool: &Pool) -> bool {
        pool.is_among(&self.models)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Limits wait for the tokens of open requests; a copy of a key has none, and is the same key all the same.
    #[test]
    fn open_requests_are_counted_and_belong_to_no_copy() {
        let open = OpenRequests::default();
        assert!(!open.any());
        open.opened();
        open.opened();
        open.closed();
        let copy = open.clone();
        assert!(open.any() && !copy.any() && copy == open);
        open.closed();
        assert!(!open.any());
    }

    /// Only what has the form of a new key can be mistyped: an older key, or one of another program, is unknown.
    #[test]
    fn what_has_the_form_of_a_key_and_another_checksum_is_mistyped() {
        let key = NewKey::generate().expect("randomness").secret;
        let (whole, cut) = (key.as_bytes(), &key.as_bytes()[..key.len() - 1]);
        let with = |more: &str| [whole, more.as_bytes()].concat();
        for (text, is_mistyped) in [
            (whole.to_vec(), false),
            (cut.to_vec(), true),
            (whole[..key.len() - 3].to_vec(), true),
            (whole[..key.len() - 4].to_vec(), false),
            (whole[..key.len() - 6].to_vec(), false),
            (with("x"), true),
            (with("xyz"), true),
            (with("xyzw"), false),
            ([cut, b"-"].concat(), false),
            (key.replacen("mg-", "sk-", 1).into_bytes(), false),
        ] {
            assert_eq!(NewKey::is_mistyped(&text), is_mistyped, "{} letters", text.len());
        }
    }

    #[test]
    fn open_requests_are_there_until_the_last_has_ended() {
        let open = OpenRequests::default();
        assert!(!open.any());
        open.opened();
        open.opened();
        open.closed();
        assert!(open.any() && !open.clone().any(), "another key has its own");
        open.closed();
        assert!(!open.any());
    }

    #[test]
    fn a_digest_survives_being_written_and_read() {
        // From `printf abc | sha256sum`.
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = KeyDigest::of("abc");
        assert_eq!(digest.to_hex(), hex);
        assert_eq!(KeyDigest::parse_hex(hex), Ok(digest));
        assert_eq!(KeyDigest::parse_hex(&hex.to_uppercase()), Ok(digest));
        assert_eq!(format!("{digest:?}"), "KeyDigest(ba78…)");
        assert_eq!(digest.prefix(), 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223);
    }

    #[test]
    fn what_is_not_a_digest_is_refused_without_repeating_it() {
        let almost = format!("{}+f", "0".repeat(62));
        for text in
            ["", "mg-secret", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &almost, &"é".repeat(32)]
        {
            let error = KeyDigest::parse_hex(text).expect_err(text);
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }

    #[test]
    fn new_keys_are_long_plain_and_different() {
        let keys: Vec<_> = (0..200).map(|_| NewKey::generate().expect("random bytes")).collect();
        let mut letters = HashSet::new();
        for key in &keys {
            let tail = key.reveal().strip_prefix("mg-").expect("the prefix");
            assert_eq!(tail.len(), 49);
            assert!(!NewKey::is_mistyped(key.reveal().as_bytes()));
            let mut mistyped = key.reveal().as_bytes().to_vec();
            mistyped[20] = if mistyped[20] == b'a' { b'b' } else { b'a' };
            assert!(NewKey::is_mistyped(&mistyped));
            assert!(NewKey::is_mistyped(&key.reveal().as_bytes()[..50]), "cut off");
            assert!(tail.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert_eq!(key.digest(), KeyDigest::of(key.reveal()));
            assert_eq!(format!("{key:?}"), "NewKey(…)");
            letters.extend(tail.chars());
        }
        assert_eq!(letters.len(), 62, "every letter occurs");
        assert_eq!(keys.iter().map(NewKey::reveal).collect::<HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn every_letter_stands_for_four_bytes() {
        let mut counts = std::collections::BTreeMap::new();
        for letter in (0..=u8::MAX).filter_map(NewKey::letter) {
            *counts.entry(letter).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|count| *count == 4), "no letter is likelier than another");
    }
}
