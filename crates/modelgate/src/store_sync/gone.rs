//! Keys that were deleted from the configuration file while this Modelgate runs. The store knows those that were deleted from it.

use std::{collections::HashSet, time::SystemTime};

use access::{KeyDigest, RevokedKey, RevokedKeys};
use accounts::{AccountKind, Accounts, KeySpec};

use super::changes::Changed;

/// The keys that the file had, as far as this process has seen it.
#[derive(Debug, Default)]
pub(super) struct GoneKeys(RevokedKeys);

impl GoneKeys {
    /// Notes the digests that were in the file before and are not in it now.
    pub(super) fn note(&mut self, before: &Accounts, now: &Accounts, at: SystemTime) {
        let still: HashSet<KeyDigest> = now.keys.iter().flat_map(digests).collect();
        let gone = before.keys.iter().flat_map(|key| {
            let revoked =
                |digest| RevokedKey { digest, name: key.name.clone(), consumer: key.consumer.clone(), at };
            digests(key).filter(|digest| !still.contains(digest)).map(revoked)
        });
        self.0.add(gone);
    }

    /// Forgets keys whose names the store now has or has erased, and those of consumers whose names were erased. Of too many changes
    /// it is not known what was erased: then all are forgotten, since no erased name may come back.
    pub(super) fn follow(&mut self, Changed { names, erased, and_more }: &Changed) {
        let is_erased =
            |key: &RevokedKey| names.contains(AccountKind::Key, &key.name) || erased.contains(&key.consumer);
        self.0.forget(|key| *and_more || is_erased(key));
    }

    pub(super) fn all(&self) -> Vec<RevokedKey> {
        self.0.iter().cloned().collect()
    }
}

fn digests(key: &KeySpec) -> impl Iterator<Item = KeyDigest> {
    key.previous.map(|previous| previous.sha256).into_iter().chain([key.sha256])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: of a key that was only in the file, the consumer's name stayed until a restart.
    #[test]
    fn a_key_is_forgotten_with_its_name_or_that_of_its_consumer() {
        let key = |name: &str, consumer: &str| KeySpec::new(name, consumer, KeyDigest::of(name));
        let before = Accounts {
            keys: vec![key("a", "team"), key("b", "team"), key("c", "other")],
            ..Accounts::default()
        };
        let mut gone = GoneKeys::default();
        gone.note(&before, &Accounts::default(), SystemTime::now());
        let mut left = |names: &[(AccountKind, &str)], erased: &[&str], and_more| {
            let names = names.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect();
            let erased = erased.iter().map(|name| (*name).to_owned()).collect();
            gone.follow(&Changed { names, erased, and_more });
            let mut left: Vec<_> = gone.all().into_iter().map(|key| key.name).collect();
            left.sort();
            left.concat()
        };
        assert_eq!(left(&[(AccountKind::Consumer, "team"), (AccountKind::Plan, "a")], &["c"], false), "abc");
        assert_eq!(left(&[(AccountKind::Key, "a")], &[], false), "bc");
        assert_eq!(left(&[], &["team"], false), "c");
        // Regression: of more changes than are named, erased names came back with the full reload that follows.
        assert_eq!(left(&[], &[], true), "");
    }
}
