//! Names of accounts, by kind.

use std::collections::{HashMap, HashSet};

use accounts::{Account, AccountKind, Accounts, ConsumerSpec, KeySpec, Plan};
use store::AccountFinding;

/// Names of accounts, grouped by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccountNames(HashMap<AccountKind, HashSet<String>>);

impl AccountNames {
    /// The names of all accounts.
    pub(super) fn of(accounts: &Accounts) -> Self {
        fn names<'a, A: Account + 'a>(accounts: &'a Accounts) -> impl Iterator<Item = (AccountKind, String)> {
            A::among(accounts).iter().map(|account| (A::KIND, account.name().to_owned()))
        }
        let (plans, consumers) = (names::<Plan>(accounts), names::<ConsumerSpec>(accounts));
        plans.chain(consumers).chain(names::<KeySpec>(accounts)).collect()
    }

    pub(crate) fn contains(&self, kind: AccountKind, name: &str) -> bool {
        self.0.get(&kind).is_some_and(|names| names.contains(name))
    }

    /// Whether the account of a finding is among them.
    pub(super) fn has(&self, finding: &AccountFinding) -> bool {
        let (kind, name) = finding.account();
        self.contains(kind, name)
    }

    /// The names of one kind.
    pub(crate) fn of_kind(&self, kind: AccountKind) -> impl Iterator<Item = &String> {
        self.0.get(&kind).into_iter().flatten()
    }

    /// Adds all names of another set.
    pub(crate) fn add(&mut self, others: &Self) {
        for (kind, names) in &others.0 {
            self.0.entry(*kind).or_default().extend(names.iter().cloned());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<(AccountKind, String)> for AccountNames {
    fn extend<I: IntoIterator<Item = (AccountKind, String)>>(&mut self, names: I) {
        for (kind, name) in names {
            self.0.entry(kind).or_default().insert(name);
        }
    }
}

impl FromIterator<(AccountKind, String)> for AccountNames {
    fn from_iter<I: IntoIterator<Item = (AccountKind, String)>>(names: I) -> Self {
        let mut all = Self::default();
        all.extend(names);
        all
    }
}
