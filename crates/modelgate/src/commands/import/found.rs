//! What an importer has found: accounts in the form of the configuration file, and messages about them for stderr.
//!
//! A restriction of the other gateway that Modelgate does not have **holds** the keys that it restricts: they are imported as
//! disabled, unless the operator drops the restriction (`--without NAME`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};

use limits::{Calendar, Field, Quota, Rate};
use serde::{Serialize, Serializer};

use super::names::UniqueNames;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Imported {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<Requests>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) consumers: Vec<Consumer>,
    pub(super) keys: Vec<ImportedKey>,
    /// The messages about it.
    #[serde(skip)]
    pub(super) said: Vec<Said>,
}

/// How clients send their keys.
#[derive(Debug, Serialize)]
pub(super) struct Requests {
    /// Further headers with keys.
    pub(super) key_headers: Vec<String>,
}

/// An owner of keys.
#[derive(Debug, Serialize)]
pub(super) struct Consumer {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Limit::is_empty")]
    pub(super) limit: Limit,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) disabled: bool,
    /// Its name in the other gateway, if that cannot be its name here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// An API key.
#[derive(Debug, Default, Serialize)]
pub(super) struct ImportedKey {
    pub(super) name: String,
    /// Its preferred name; the final one differs if another key has the same.
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
    /// The restrictions that hold it (see above).
    #[serde(skip)]
    pub(super) held_by: BTreeSet<String>,
}

/// Limits, with the configuration file's keys.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    amounts: BTreeMap<Per, u64>,
    /// What is spent of budgets already. The configuration file has no place for it.
    spent: BTreeMap<Per, BudgetSpent>,
}

/// What is spent of a budget in the other gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BudgetSpent {
    /// In units of 10⁻⁹ of the currency.
    pub(super) amount: u64,
    /// When the budget begins anew there, if it does.
    pub(super) until: Option<SystemTime>,
}

/// What is limited, and over which time.
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
    /// In units of 10⁻⁹ of the currency, as all budgets.
    BudgetPerDay,
    BudgetPerWeek,
    BudgetPerMonth,
    BudgetTotal,
}

/// A message for stderr.
#[derive(Debug)]
pub(super) struct Said {
    /// The place in the file: `keys[3] batch`.
    pub(super) place: String,
    pub(super) text: String,
    pub(super) became: Became,
}

/// What became of what a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    /// It is not imported.
    LeftOut,
    /// What it is part of is imported without it.
    Without,
    /// It is taken over, and is not quite the same here.
    Differs,
    /// It is disabled there, and so are the keys here.
    Disabled,
    /// Modelgate does not have this restriction, so the keys that it holds are disabled.
    Held(String),
}

impl Became {
    /// The restriction that holds the keys.
    pub(super) fn restriction(&self) -> Option<&String> {
        match self {
            Self::Held(restriction) => Some(restriction),
            Self::LeftOut | Self::Without | Self::Differs | Self::Disabled => None,
        }
    }
}

/// How messages begin that say what an item is imported without.
pub(super) const WITHOUT: &str = "imported without this";

/// The messages about one item, and the restrictions that hold its keys.
#[derive(Debug, Default)]
pub(super) struct Findings {
    said: Vec<(String, Became)>,
    pub(super) holds: BTreeSet<String>,
}

impl Imported {
    /// Adds a message that holds no keys.
    pub(super) fn say(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.said.push(Said { place: place.into(), text: text.into(), became: Became::LeftOut });
    }

    /// Adds the messages about an item, and returns the restrictions that hold its keys.
    pub(super) fn say_all(&mut self, place: &str, findings: Findings) -> BTreeSet<String> {
        let said = |(text, became)| Said { place: place.to_owned(), text, became };
        self.said.extend(findings.said.into_iter().map(said));
        findings.holds
    }

    /// Keeps each API key once, because the configuration demands it. If one of several entries is held or disabled, so is the key.
    pub(super) fn take_each_once(&mut self) {
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut taken: Vec<ImportedKey> = Vec::with_capacity(self.keys.len());
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
                became: Became::LeftOut,
            });
        }
        self.keys = taken;
    }

    /// Disables the keys that are held, and counts them by restriction.
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
    /// A consumer with nothing but a name, and a note of its name elsewhere.
    pub(super) fn new(name: String, elsewhere: &str) -> Self {
        let note = (!UniqueNames::fits(elsewhere)).then(|| {
            elsewhere.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect::<String>()
        });
        let note = note.filter(|note| !note.trim().is_empty());
        Self { name, limit: Limit::default(), disabled: false, note }
    }

    /// Whether the consumer has anything besides its name.
    pub(super) fn says_something(&self) -> bool {
        !self.limit.is_empty() || self.disabled || self.note.is_some()
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |per: Per, amount| match per.budget() {
            Some(field) => accounts::limit_to_json(field, amount),
            None => amount.into(),
        };
        serializer.collect_map(self.amounts.iter().map(|(per, amount)| (per, value(*per, *amount))))
    }
}

impl Limit {
    /// Whether anything but money is limited.
    pub(super) fn has_more_than_budgets(&self) -> bool {
        self.amounts.keys().any(|per| per.budget().is_none())
    }

    /// Its budgets in words, if it has any: `budget_per_month: 1.5`.
    pub(super) fn budgets(&self) -> Option<String> {
        let words = |(per, amount): (&Per, &u64)| {
            let field = per.budget()?;
            Some(format!("{}: {}", field.name(), accounts::limit_to_json(field, *amount)))
        };
        let budgets: Vec<_> = self.amounts.iter().filter_map(words).collect();
        (!budgets.is_empty()).then(|| budgets.join(", "))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.amounts.is_empty()
    }

    /// Adds a limit; the smaller one applies. Amounts beyond the configuration's maximum are set to that maximum.
    pub(super) fn add(&mut self, per: Per, amount: u64) {
        let amount = amount.min(per.most());
        let limit = self.amounts.entry(per).or_insert(amount);
        *limit = amount.min(*limit);
    }

    /// Notes what is spent of a budget; the larger amount applies.
    pub(super) fn spend(&mut self, per: Per, spent: BudgetSpent) {
        let known = self.spent.entry(per).or_insert(spent);
        if spent.amount > known.amount {
            *known = spent;
        }
    }

    /// What is spent of each budget.
    pub(super) fn spent(&self) -> impl Iterator<Item = (Calendar, BudgetSpent)> {
        self.spent.iter().filter(|(_, spent)| spent.amount > 0).filter_map(|(per, spent)| {
            let field = per.budget()?;
            Some((Calendar::ALL.into_iter().find(|per| Field::budget(*per) == field)?, *spent))
        })
    }

    /// Adds all limits of another.
    pub(super) fn add_all(&mut self, other: &Self) {
        for (per, amount) in &other.amounts {
            self.add(*per, *amount);
        }
        for (per, spent) in &other.spent {
            self.spend(*per, *spent);
        }
    }
}

impl Per {
    /// The maximum that the configuration accepts.
    pub(super) fn most(self) -> u64 {
        match self {
            Self::RequestsPerDay | Self::RequestsPerMonth | Self::TokensPerDay | Self::TokensPerMonth => {
                Quota::MAX
            }
            Self::BudgetPerDay | Self::BudgetPerWeek | Self::BudgetPerMonth | Self::BudgetTotal => {
                Quota::MAX_BUDGET
            }
            _ => u64::from(Rate::MAX),
        }
    }

    /// The field of a budget.
    fn budget(self) -> Option<Field> {
        match self {
            Self::BudgetPerDay => Some(Field::BudgetPerDay),
            Self::BudgetPerWeek => Some(Field::BudgetPerWeek),
            Self::BudgetPerMonth => Some(Field::BudgetPerMonth),
            Self::BudgetTotal => Some(Field::BudgetTotal),
            _ => None,
        }
    }
}

impl Findings {
    /// Whether there is nothing to report.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Reports what the item is imported without.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.said.push((text.into(), Became::Without));
    }

    /// Reports why the item is not imported.
    pub(super) fn leave_out(&mut self, why: impl Into<String>) {
        self.said.push((why.into(), Became::LeftOut));
    }

    /// Reports what is imported and is not quite the same here.
    pub(super) fn differ(&mut self, text: impl Into<String>) {
        self.said.push((text.into(), Became::Differs));
    }

    /// Reports what is disabled there, too.
    pub(super) fn is_disabled(&mut self, text: impl Into<String>) {
        self.said.push((text.into(), Became::Disabled));
    }

    /// Reports a restriction that Modelgate does not have; it holds the key.
    pub(super) fn hold(&mut self, restriction: impl Into<String>, text: impl Into<String>) {
        let restriction = restriction.into();
        self.holds.insert(restriction.clone());
        self.said.push((text.into(), Became::Held(restriction)));
    }
}

impl Said {
    /// The message as it is printed: one line.
    pub(super) fn line(&self, without: &BTreeSet<String>) -> String {
        let what = match &self.became {
            Became::Held(restriction) if !without.contains(restriction) => "disabled",
            Became::Disabled => "disabled",
            Became::Differs => "differs",
            Became::Without | Became::Held(_) => WITHOUT,
            Became::LeftOut => "left out",
        };
        let line = format!("{what}: {}: {}", self.place, self.text);
        // Names in the file may hold anything, and a terminal obeys control characters.
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}
