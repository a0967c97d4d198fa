//! Names that the configuration accepts, for whatever things are called elsewhere.

use std::collections::{HashMap, HashSet};

use access::KeyDigest;

/// Names, each once.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// The number to try first, by name: hundreds of keys of one team may have no name of their own.
    next: HashMap<String, u32>,
}

impl Names {
    /// The longest, as [`accounts::NAME`] says.
    const LONGEST: usize = 64;

    /// None of these.
    pub(super) fn but(taken: HashSet<String>) -> Self {
        Self { taken, ..Self::default() }
    }

    /// Whether it can be a name here as it stands.
    pub(super) fn fits(name: &str) -> bool {
        accounts::name(name).is_some()
    }

    /// The name if it fits; else what fits of it, and a mark. Different names never come to the same.
    pub(super) fn plain(name: &str) -> String {
        if Self::fits(name) { name.to_owned() } else { Self::marked(name, name) }
    }

    /// What fits of a name, and a mark that is made of what tells it from others: the same in each import.
    pub(super) fn marked(name: &str, id: &str) -> String {
        // 48 bits: of 20,000 names without a letter that fits, two are the same in one case of a million.
        const MARK: usize = 12;
        let mark = &KeyDigest::of(id).to_hex()[..MARK];
        let fits = |c: char| if Self::fits(c.encode_utf8(&mut [0; 4])) { c } else { '-' };
        let fitting: String = name.chars().map(fits).collect();
        let words: Vec<&str> = fitting.split('-').filter(|word| !word.is_empty()).collect();
        let kept: String = words.join("-").chars().take(Self::LONGEST - MARK - 1).collect();
        if kept.is_empty() { format!("imported-{mark}") } else { format!("{kept}-{mark}") }
    }

    /// The same as [`Self::plain`], with a number behind it if it is taken.
    pub(super) fn unique(&mut self, name: &str) -> String {
        let name = Self::plain(name);
        if self.taken.insert(name.clone()) {
            return name;
        }
        let next = self.next.entry(name.clone()).or_insert(2);
        loop {
            let number = format!("-{next}");
            *next += 1;
            // It is ASCII.
            let start = &name[..name.len().min(Self::LONGEST - number.len())];
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
        let plain: HashSet<String> = names.iter().map(|name| Names::plain(name)).collect();
        assert_eq!(plain.len(), names.len(), "{plain:?}");
        assert!(plain.iter().all(|name| Names::fits(name)), "{plain:?}");
        assert_eq!(Names::plain("ada@x.org"), "ada@x.org");
        assert!(Names::plain("команда-1").starts_with("1-"));
        assert_eq!(Names::plain("Ада"), Names::plain("Ада"), "in each import");
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut names = Names::default();
        let long = "x".repeat(64);
        let found: Vec<String> =
            ["a", "a", "a-2", &long, &long].iter().map(|name| names.unique(name)).collect();
        assert_eq!(found, ["a", "a-2", "a-2-2", &long, &format!("{}-2", "x".repeat(62))]);
    }
}
