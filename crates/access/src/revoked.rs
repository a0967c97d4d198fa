//! Keys that were revoked: deleted, or replaced by a rotation whose old key is not kept any more.
//!
//! They are refused like keys that nobody knows. Operators are told whose they were, since somebody goes on using one.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use crate::KeyDigest;

/// A key that was revoked. The key itself is not known, only its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// Its digest.
    pub digest: KeyDigest,
    /// The name that it had.
    pub name: String,
    /// The consumer that it had.
    pub consumer: String,
    /// When it was revoked.
    pub at: SystemTime,
}

/// The keys that were revoked lately, by their digest.
#[derive(Debug, Clone, Default)]
pub struct RevokedKeys(HashMap<KeyDigest, RevokedKey>);

impl RevokedKeys {
    /// How long a revoked key is known.
    pub const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
    /// The maximum number of revoked keys that are known: those that were revoked last. They take some 2 MB.
    pub const MOST: usize = 10_000;

    /// Adds keys. Of too many, those that were revoked first are forgotten.
    pub fn add(&mut self, keys: impl IntoIterator<Item = RevokedKey>) {
        self.0.extend(keys.into_iter().map(|key| (key.digest, key)));
        if self.0.len() > Self::MOST {
            let order = |key: &RevokedKey| (key.at, *key.digest.as_bytes());
            let mut all: Vec<_> = self.0.values().map(order).collect();
            let (_, first_kept, _) = all.select_nth_unstable(self.0.len() - Self::MOST);
            self.0.retain(|_, key| order(key) >= *first_kept);
        }
    }

    /// Forgets those of which this is true.
    pub fn forget(&mut self, mut is_it: impl FnMut(&RevokedKey) -> bool) {
        self.0.retain(|_, key| !is_it(key));
    }

    /// The key with a digest, if it was revoked lately.
    pub fn get(&self, digest: &KeyDigest, now: SystemTime) -> Option<&RevokedKey> {
        self.0.get(digest).filter(|key| now.duration_since(key.at).unwrap_or_default() < Self::KEEP)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RevokedKey> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_thousand_of_ninety_days_are_known() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let key = |number: u64| RevokedKey {
            digest: KeyDigest::of(&format!("mg-{number}")),
            name: format!("k{number}"),
            consumer: "team".into(),
            // Some at the same moment.
            at: at(number / 4),
        };
        let mut revoked = RevokedKeys::default();
        let most = RevokedKeys::MOST as u64;
        revoked.add((0..most + 10).map(key));
        assert_eq!((revoked.len(), revoked.iter().count()), (RevokedKeys::MOST, RevokedKeys::MOST));
        assert!(revoked.iter().all(|key| key.name != "k0" && &*key.consumer == "team"));
        assert_eq!((RevokedKeys::MOST, RevokedKeys::KEEP.as_secs()), (10_000, 7_776_000));
        let known = |revoked: &RevokedKeys, number: u64, now| {
            revoked.get(&key(number).digest, now).map(|key| key.name.clone())
        };
        let now = at(most);
        assert_eq!(known(&revoked, 0, now), None, "one of the first");
        assert_eq!(known(&revoked, most + 9, now).as_deref(), Some(&*format!("k{}", most + 9)));
        let last = key(most).at;
        assert!(known(&revoked, most, last + RevokedKeys::KEEP - Duration::from_secs(1)).is_some());
        assert_eq!(known(&revoked, most, last + RevokedKeys::KEEP), None);
        revoked.forget(|key| key.name == format!("k{most}"));
        assert_eq!(known(&revoked, most, now), None);
    }
}
