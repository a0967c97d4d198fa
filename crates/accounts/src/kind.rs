//! What accounts of all kinds have in common.

use std::fmt;

use config_reader::{ConfigErrors, Origins, Report, Section};
use serde_json::Value;

use crate::Accounts;

/// A kind of account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Kind {
    Plan,
    Consumer,
    Key,
}

/// The plans that may be referred to; `None` where that is looked at later.
pub type PlanNames<'a> = Option<&'a [String]>;

/// A plan, a consumer or a key: something with a name that is written as keys with values.
pub trait Account: Sized + Clone {
    /// Which kind it is.
    const KIND: Kind;

    /// Reads it. `None` and errors in the section's report if it cannot be used.
    fn read(section: &mut Section<'_>, plans: PlanNames<'_>) -> Option<Self>;

    /// What it is called; unique among its kind.
    fn name(&self) -> &str;

    /// The plan that it refers to.
    fn plan(&self) -> Option<&str>;

    /// Who owns it, if it is a key.
    fn consumer(&self) -> Option<&str> {
        None
    }

    /// Those of its kind.
    fn among(accounts: &Accounts) -> &[Self];

    /// The same as [`Self::read`] reads it. What is not given is left out.
    fn to_json(&self) -> Value;
}

impl Kind {
    /// All kinds, in the order in which they refer to each other.
    pub const ALL: [Self; 3] = [Self::Plan, Self::Consumer, Self::Key];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Consumer => "consumer",
            Self::Key => "key",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads an account from JSON, in the words of the configuration file.
///
/// # Errors
/// All that is wrong with it, by key.
pub fn parse<A: Account>(json: &Value, plans: PlanNames<'_>) -> Result<A, ConfigErrors> {
    let yaml =
        serde_yaml::to_value(json).map_err(|error| ConfigErrors::one("the document", error.to_string()))?;
    read(&yaml, plans)
}

/// The same from text.
///
/// # Errors
/// As [`parse`], or it is no JSON.
pub fn parse_text<A: Account>(json: &str, plans: PlanNames<'_>) -> Result<A, ConfigErrors> {
    let yaml = serde_json::from_str(json)
        .map_err(|error| ConfigErrors::one("the document", format!("is not JSON: {error}")))?;
    read(&yaml, plans)
}

fn read<A: Account>(yaml: &serde_yaml::Value, plans: PlanNames<'_>) -> Result<A, ConfigErrors> {
    let serde_yaml::Value::Mapping(mapping) = yaml else {
        return Err(ConfigErrors::one(
            "the document",
            "found something else; allowed: an object with keys and values",
        ));
    };
    let report = Report::new(Origins::default(), Vec::new());
    let mut section = Section::root(&report, mapping);
    let account = A::read(&mut section, plans);
    section.finish();
    match (account, report.into_errors()) {
        (Some(account), errors) if errors.is_empty() => Ok(account),
        (_, errors) => Err(ConfigErrors(errors)),
    }
}
