//! What all kinds of accounts have in common.

use std::fmt;

use config_reader::{ConfigErrors, Origins, Report, Section};
use serde_json::Value;

use crate::Accounts;

/// A kind of account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum AccountKind {
    Plan,
    Consumer,
    Key,
}

/// The names of the plans that may be referred to; `None` where references are checked later.
pub type PlanNames<'a> = Option<&'a [String]>;

/// A plan, a consumer or a key: an account with a name that is written as a mapping.
pub trait Account: Sized + Clone {
    /// Its kind.
    const KIND: AccountKind;

    /// Reads an account. If it cannot be used, returns `None` and adds errors to the section's report.
    fn read(section: &mut Section<'_>, plans: PlanNames<'_>) -> Option<Self>;

    /// Its name; unique among its kind.
    fn name(&self) -> &str;

    /// The plan that it refers to.
    fn plan(&self) -> Option<&str>;

    /// The owner, if it is a key.
    fn consumer(&self) -> Option<&str> {
        None
    }

    /// The accounts of this kind.
    fn among(accounts: &Accounts) -> &[Self];

    /// The account in the form that [`Self::read`] reads. Absent fields are left out.
    fn to_json(&self) -> Value;
}

impl AccountKind {
    /// All kinds; later ones refer to earlier ones.
    pub const ALL: [Self; 3] = [Self::Plan, Self::Consumer, Self::Key];

    /// The word for the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Consumer => "consumer",
            Self::Key => "key",
        }
    }

    /// The kind with this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads an account from JSON with the configuration file's keys.
///
/// # Errors
/// All errors, by key.
pub fn parse<A: Account>(json: &Value, plans: PlanNames<'_>) -> Result<A, ConfigErrors> {
    let yaml =
        serde_yaml::to_value(json).map_err(|error| ConfigErrors::one("the document", error.to_string()))?;
    read(&yaml, plans)
}

/// Reads an account from JSON text.
///
/// # Errors
/// As for [`parse`], or the text is not JSON.
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
