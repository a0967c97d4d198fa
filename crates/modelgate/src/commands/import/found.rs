//! What an importer has found: accounts as they stand in the configuration file, and what is said of them on stderr.
//!
//! A restriction of the other gateway that has no counterpart here **holds** the keys that it restricts: they are taken
//! over disabled, unless the operator does without the restriction (`--without NAME`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use limits::{Quota, Rate};
use serde::Serialize;

use super::names::Names;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Imported {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<Requests>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) consumers: Vec<Consumer>,
    pub(super) keys: Vec<Key>,
    /// What is said of it.
    #[serde(skip)]
    pub(super) said: Vec<Said>,
}

/// How clients send their keys.
#[derive(Debug, Serialize)]
pub(super) struct Requests {
    /// Further headers with keys.
    pub(super) key_headers: Vec<String>,
}

/// Who owns keys.
#[derive(Debug, Serialize)]
pub(super) struct Consumer {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Limit::is_empty")]
    pub(super) limit: Limit,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) disabled: bool,
    /// What it is called elsewhere, if that cannot be its name here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// An API key.
#[derive(Debug, Default, Serialize)]
pub(super) struct Key {
    pub(super) name: String,
    /// The name that it would have if no other key had it.
    #[serde(skip)]
    pub(super) wanted: String,
    pub(super) consumer: String,
    pub(super) sha256: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) models: Vec<String>,
    #[serde(skip_serializing_if = "Limit::is_empty")]
    pub(super) limit: Limit,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) disabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) networks: Vec<String>,
    /// The restrictions that hold it.
    #[serde(skip)]
    pub(super) held_by: BTreeSet<String>,
}

/// Limits, in the words of the configuration file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Limit(BTreeMap<Per, u64>);

/// What is limited, and in how much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Per {
    RequestsPerSecond,
    RequestsPerMinute,
    RequestsPerHour,
    RequestsPerDay,
    RequestsPerMonth,
    TokensPerMinute,
    TokensPerDay,
    TokensPerMonth,
}

/// A line for stderr.
#[derive(Debug)]
pub(super) struct Said {
    /// Of what, in the file: `keys[3] batch`.
    pub(super) place: String,
    pub(super) text: String,
    /// The restriction that it tells of.
    pub(super) holds: Option<String>,
}

/// What is said of one item, and what holds its keys.
#[derive(Debug, Default)]
pub(super) struct Findings {
    said: Vec<(String, Option<String>)>,
    pub(super) holds: BTreeSet<String>,
}

impl Imported {
    /// Says something that holds nothing.
    pub(super) fn say(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.said.push(Said { place: place.into(), text: text.into(), holds: None });
    }

    /// Says what was found of an item.
    pub(super) fn say_all(&mut self, place: &str, findings: Findings) -> BTreeSet<String> {
        let said = |(text, holds)| Said { place: place.to_owned(), text, holds };
        self.said.extend(findings.said.into_iter().map(said));
        findings.holds
    }

    /// Takes each API key once, as the configuration demands. What holds or ends one of several holds for all.
    pub(super) fn take_each_once(&mut self) {
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut taken: Vec<Key> = Vec::with_capacity(self.keys.len());
        for key in std::mem::take(&mut self.keys) {
            let Some(&at) = first.get(&key.sha256) else {
                first.insert(key.sha256.clone(), taken.len());
                taken.push(key);
                continue;
            };
            taken[at].disabled |= key.disabled;
            taken[at].held_by.extend(key.held_by);
            self.said.push(Said {
                place: format!("key {}", key.name),
                text: "another one is the same API key".into(),
                holds: None,
            });
        }
        self.keys = taken;
    }

    /// Disables the keys that are held, and counts them by what holds them.
    pub(super) fn disable_held(&mut self, without: &BTreeSet<String>) -> BTreeMap<String, usize> {
        let mut held = BTreeMap::new();
        for key in &mut self.keys {
            for by in key.held_by.difference(without) {
                key.disabled = true;
                *held.entry(by.clone()).or_insert(0) += 1;
            }
        }
        held
    }
}

impl Consumer {
    /// Nothing is said of it yet but what it is called elsewhere.
    pub(super) fn new(name: String, elsewhere: &str) -> Self {
        let note = (!Names::fits(elsewhere)).then(|| {
            elsewhere.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect::<String>()
        });
        let note = note.filter(|note| !note.trim().is_empty());
        Self { name, limit: Limit::default(), disabled: false, note }
    }

    /// Whether there is more to it than its name.
    pub(super) fn says_something(&self) -> bool {
        !self.limit.is_empty() || self.disabled || self.note.is_some()
    }
}

impl Limit {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a limit; the smaller one counts. What is more than can be written is the most that can be.
    pub(super) fn add(&mut self, per: Per, amount: u64) {
        let amount = amount.min(per.most());
        let limit = self.0.entry(per).or_insert(amount);
        *limit = amount.min(*limit);
    }

    /// Adds all of another.
    pub(super) fn add_all(&mut self, other: &Self) {
        for (per, amount) in &other.0 {
            self.add(*per, *amount);
        }
    }
}

impl Per {
    /// The most that the configuration takes.
    pub(super) fn most(self) -> u64 {
        match self {
            Self::RequestsPerDay | Self::RequestsPerMonth | Self::TokensPerDay | Self::TokensPerMonth => {
                Quota::MAX
            }
            _ => u64::from(Rate::MAX),
        }
    }
}

impl Findings {
    /// Says what is not taken over.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.said.push((text.into(), None));
    }

    /// Says what restricts the key elsewhere and cannot here.
    pub(super) fn hold(&mut self, restriction: impl Into<String>, text: impl Into<String>) {
        let restriction = restriction.into();
        self.holds.insert(restriction.clone());
        self.said.push((text.into(), Some(restriction)));
    }
}

impl Said {
    /// As it is printed.
    pub(super) fn line(&self, without: &BTreeSet<String>) -> String {
        let what = match &self.holds {
            Some(restriction) if !without.contains(restriction) => "disabled",
            _ => "left out",
        };
        format!("{what}: {}: {}", self.place, self.text)
    }
}
