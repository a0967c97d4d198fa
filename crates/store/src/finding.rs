//! Findings about accounts that are not in force, and about files with counts, as values.

use std::{fmt, path::PathBuf};

use accounts::{AccountKind, Unfit, Unusable};

use crate::Unreadable;

/// An account that is not in force, and why. The words also say what helps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccountFinding {
    /// It does not fit the other accounts.
    Unusable(Unusable),
    /// It cannot be read.
    Unreadable(Unreadable),
}

/// A file with counts that a stop could not write to the store, and that a start has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    /// The file.
    pub path: PathBuf,
    /// Whether it is counted, and why it is left. Quotes nothing of it.
    pub why: String,
}

impl LeftFile {
    /// The code, for programs.
    pub fn code(&self) -> &'static str {
        "counts_left_in_file"
    }
}

impl AccountFinding {
    /// The code, for programs. It stays the same when the words change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unusable(unusable) => match unusable.why {
                Unfit::Taken => "account_name_taken",
                Unfit::WithoutPlan(_) => "account_without_plan",
            },
            Self::Unreadable(_) => "unreadable_account",
        }
    }

    /// Which account it is.
    pub fn account(&self) -> (AccountKind, &str) {
        match self {
            Self::Unusable(unusable) => (unusable.kind, &unusable.name),
            Self::Unreadable(unreadable) => (unreadable.kind, &unreadable.name),
        }
    }
}

impl fmt::Display for AccountFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(unusable) => unusable.fmt(f),
            Self::Unreadable(Unreadable { kind, name, why }) => {
                let effect = match kind {
                    AccountKind::Consumer => "; until it can, its keys are refused",
                    AccountKind::Key | AccountKind::Plan => "",
                };
                write!(f, "{kind} {name:?} is not in force: it cannot be read: {why}{effect}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NotReadable;

    #[test]
    fn each_has_a_code_of_its_own_and_names_its_account() {
        let unusable =
            |why| AccountFinding::Unusable(Unusable { kind: AccountKind::Key, name: "alice".into(), why });
        let unreadable = |kind| {
            let why = NotReadable::OtherName;
            AccountFinding::Unreadable(Unreadable { kind, name: "alice".into(), why })
        };
        for (finding, code, words) in [
            (
                unusable(Unfit::Taken),
                "account_name_taken",
                "key \"alice\" is not in force: the configuration file has one of that name; rename or delete one of the two",
            ),
            (
                unusable(Unfit::WithoutPlan("gold".into())),
                "account_without_plan",
                "key \"alice\" is not in force: its plan \"gold\" does not exist; add the plan or choose another one",
            ),
            (
                unreadable(AccountKind::Key),
                "unreadable_account",
                "key \"alice\" is not in force: it cannot be read: the document contains another name",
            ),
            (
                unreadable(AccountKind::Consumer),
                "unreadable_account",
                "consumer \"alice\" is not in force: it cannot be read: the document contains another name; until it can, its keys \
                 are refused",
            ),
        ] {
            assert_eq!((finding.code(), finding.to_string().as_str()), (code, words));
            assert_eq!(finding.account().1, "alice");
        }
    }
}
