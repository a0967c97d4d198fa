//! Makes names that the configuration accepts from the other gateway's names.

use std::collections::{HashMap, HashSet};

use access::KeyDigest;

/// Names that are unique.
#[derive(Debug, Default)]
pub(super) struct UniqueNames {
    taken: HashSet<String>,
    /// The next number to try, by name: hundreds of keys of one team may have no name of their own.
    next: HashMap<String, u32>,
}

impl UniqueNames {
    /// The maximum length of a name.
    const MAX_NAME: usize = 64;

    /// Names that avoid the taken ones.
    pub(super) fn but(taken: HashSet<String>) -> Self {
        Self { taken, ..Self::default() }
    }

    /// Whether a name is valid here unchanged.
    pub(super) fn fits(name: &str) -> bool {
        accounts::name(name).is_some()
    }

    /// The name if it is valid; else its valid characters and a mark. Different names never become the same.
    pub(super) fn plain(name: &str) -> String {
        if Self::fits(name) { name.to_owned() } else { Self::marked(name, name) }
    }

    /// The valid characters of a name, and a mark that is derived from its id, so that it is the same in each import.
    pub(super) fn marked(name: &str, id: &str) -> String {
        // 48 bits: among 20,000 names without a valid character, two collide with a probability of one in a million.
        const MARK: usize = 12;
        let mark = &KeyDigest::of(id).to_hex()[..MARK];
        let fits = |c: char| if Self::fits(c.encode_utf8(&mut [0; 4])) { c } else { '-' };
        let fitting: String = name.chars().map(fits).collect();
        let words: Vec<&str> = fitting.split('-').filter(|word| !word.is_empty()).collect();
        let kept: String = words.join("-").chars().take(Self::MAX_NAME - MARK - 1).collect();
        if kept.is_empty() { format!("imported-{mark}") } else { format!("{kept}-{mark}") }
    }

    /// As [`Self::plain`], with a number appended if the name is taken.
    pub(super) fn unique(&mut self, name: &str) -> String {
        let name = Self::plain(name);
        if self.taken.insert(name.clone()) {
            return name;
        }
        let next = self.next.entry(name.clone()).or_insert(2);
        loop {
            let number = format!("-{next}");
            *next += 1;
            // The name is ASCII, so any index is a boundary.
            let start = &name[..name.len().min(Self::MAX_NAME - number.len())];
            let numbered = format!("{start}{number}");
            if self.taken.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_stay_different() {
        let long = "x".repeat(65);
        let names = [
            "ada",
            "ada ",
            "ada@x.org",
            "ada+llm@x.org",
            "ada llm@x.org",
            "Ада",
            "Яна",
            "李雷",
            "韩梅",
            "-",
            "--",
            "",
            " ",
            "команда-1",
            "отдел-1",
            &long,
            &format!("{long}y"),
            "a/b",
            "a b",
            "a-b",
        ];
        let plain: HashSet<String> = names.iter().map(|name| UniqueNames::plain(name)).collect();
        assert_eq!(plain.len(), names.len(), "{plain:?}");
        assert!(plain.iter().all(|name| UniqueNames::fits(name)), "{plain:?}");
        assert_eq!(UniqueNames::plain("ada@x.org"), "ada@x.org");
        assert!(UniqueNames::plain("команда-1").starts_with("1-"));
        assert_eq!(UniqueNames::plain("Ада"), UniqueNames::plain("Ада"), "in each import");
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut names = UniqueNames::default();
        let long = "x".repeat(64);
        let found: Vec<String> =
            ["a", "a", "a-2", &long, &long].iter().map(|name| names.unique(name)).collect();
        assert_eq!(found, ["a", "a-2", "a-2-2", &long, &format!("{}-2", "x".repeat(62))]);
    }
}
