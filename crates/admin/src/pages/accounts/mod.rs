//! Keys, consumers and plans: listed, created, changed, rotated, revoked. Those of the configuration file are read-only.
//!
//! The registry checks, writes and audits. Its errors about a form name the field.

mod budgets;
mod form;
mod list;
mod meters;
mod one;
mod secret;
mod usage;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use accounts::{Account, AccountKind, ConsumerSpec, KeySpec, Plan};
use axum::routing::{MethodRouter, get};

pub(crate) use meters::Meters;

use crate::{
    Admin,
    api::disabled_consumers,
    pages::{status, with_status},
};

/// A kind of account that has pages.
pub(crate) trait Pages: Account + Send + Sync + 'static {
    /// The path of its list.
    const PATH: &'static str;
    /// The plural of its kind.
    const PLURAL: &'static str;

    /// The row of the list: the cells beside the name, and the state.
    fn row(&self) -> list::AccountRow;
    /// The consumer on which it depends whether it works.
    fn owner(&self) -> Option<&str> {
        None
    }
    /// Until when the key that was replaced in a rotation works, if it still does.
    fn old_key_until(&self) -> Option<SystemTime> {
        None
    }

    /// The headings of the list's columns.
    const COLUMNS: &'static [&'static str];
}

/// The routes of all three kinds.
pub(crate) fn routes() -> Vec<(String, MethodRouter<Admin>)> {
    [of::<KeySpec>(), of::<ConsumerSpec>(), of::<Plan>()].into_iter().flatten().collect()
}

/// Their rows in a list, in the same order.
async fn rows<A: Pages>(admin: &Admin, accounts: impl Iterator<Item = &A> + Clone) -> Vec<list::AccountRow> {
    let owners = accounts.clone().filter_map(|account| account.owner().map(str::to_owned)).collect();
    // Without the store, what is known shows.
    let disabled = disabled_consumers(&admin.registry, owners).await.unwrap_or_default();
    let is_refused = |account: &A| account.owner().is_some_and(|owner| disabled.contains(owner));
    accounts
        .map(|account| if is_refused(account) { account.row().refused() } else { account.row() })
        .collect()
}

fn of<A: Pages>() -> [(String, MethodRouter<Admin>); 3] {
    [
        (A::PATH.to_owned(), get(list::show::<A>).post(form::create::<A>)),
        // No account can have this name.
        (new_path::<A>(), get(form::new::<A>)),
        (format!("{}/{{name}}", A::PATH), get(one::show::<A>).post(one::act::<A>)),
    ]
}

/// The path of the form for a new account.
fn new_path<A: Pages>() -> String {
    format!("/new/{}", A::KIND.as_str())
}

/// The page of one account.
fn link<A: Pages>(name: &str) -> String {
    format!("{}/{}", A::PATH, crate::list::encode(name))
}

impl Pages for KeySpec {
    const PATH: &'static str = "/keys";
    const PLURAL: &'static str = "API keys";
    const COLUMNS: &'static [&'static str] = &["Consumer", "Plan", "Models", "Expires", "Note"];

    fn owner(&self) -> Option<&str> {
        Some(&self.consumer)
    }

    fn old_key_until(&self) -> Option<SystemTime> {
        self.previous.map(|old| old.until).filter(|until| *until > SystemTime::now())
    }

    fn row(&self) -> list::AccountRow {
        let is_over = self.expires.is_some_and(|time| time <= SystemTime::now());
        let (class, state) = match (self.disabled, is_over) {
            (true, _) => ("off", "disabled"),
            (false, true) => ("off", "expired"),
            (false, false) => ("good", "works"),
        };
        let models = self.models.as_ref().map_or_else(String::new, |models| models.texts().join(", "));
        let cells = vec![
            self.consumer.clone(),
            self.plan.clone().unwrap_or_default(),
            models,
            self.expires.map_or_else(String::new, |time| crate::format::time(time).people),
            self.note.clone().unwrap_or_default(),
        ];
        list::AccountRow::new::<Self>(&self.name, class, state, cells)
    }
}

impl Pages for ConsumerSpec {
    const PATH: &'static str = "/consumers";
    const PLURAL: &'static str = "Consumers";
    const COLUMNS: &'static [&'static str] = &["Plan", "Limits", "Note"];

    fn row(&self) -> list::AccountRow {
        let (class, state) = if self.disabled { ("off", "disabled") } else { ("good", "works") };
        let cells = vec![
            self.plan.clone().unwrap_or_default(),
            list::limits(self.limits.as_ref(), self.limits_per_model.as_ref()),
            self.note.clone().unwrap_or_default(),
        ];
        list::AccountRow::new::<Self>(&self.name, class, state, cells)
    }
}

impl Pages for Plan {
    const PATH: &'static str = "/plans";
    const PLURAL: &'static str = "Plans";
    const COLUMNS: &'static [&'static str] = &["Models", "Limits", "Note"];

    fn row(&self) -> list::AccountRow {
        let models = self.models.as_ref().map_or_else(String::new, |models| models.texts().join(", "));
        let limits = list::limits(self.limits.as_ref(), self.limits_per_model.as_ref());
        let cells = vec![models, limits, self.note.clone().unwrap_or_default()];
        list::AccountRow::new::<Self>(&self.name, "", "", cells)
    }
}

/// `key`, `consumer` or `plan`, capitalised.
fn one_is_called(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::Key => "API key",
        AccountKind::Consumer => "Consumer",
        AccountKind::Plan => "Plan",
    }
}
