//! What is left of the limits of a key or a consumer, updated while the page is open.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::{Consumer, Key, KeyDigest, Policy};
use accounts::{Account, AccountKind, ConsumerSpec, Plan};
use askama::Template;
use catalogue::{Catalogue, Pool};
use limits::{Left, Scope, Unit};
use prices::Amount;
use telemetry::{Filter, RECENT};

use super::usage;
use crate::{Admin, format};

/// For how many models limits are shown.
const MODELS: usize = 5;

const NOT_IN_FORCE: &str = "It is not in force, so nothing is counted.";
const SURVEYING: &str = "The first look for servers is not finished.";
const UNLIMITED: &str = "There are none.";

/// The limits of a key or a consumer.
#[derive(Debug)]
pub(crate) struct Meters {
    kind: AccountKind,
    name: String,
    /// The models that it has used in the last days.
    used: Vec<String>,
    /// The key that was found, and the policy in which it was found. With 100,000 keys, searching every second would be too slow.
    found: Option<(Arc<Policy>, Option<Arc<Key>>)>,
}

/// What is left of the limits.
#[derive(Debug, Default, Template)]
#[template(path = "parts/limits.html")]
pub(super) struct Limits {
    /// Why there is nothing to show.
    note: Option<&'static str>,
    rows: Vec<Limit>,
    /// Whether more models have limits.
    has_more: bool,
}

/// One limit.
#[derive(Debug)]
struct Limit {
    scope: String,
    limit: String,
    used: u64,
    /// The usage in words: how much of how much.
    used_of: String,
    /// How many pass at once if nothing has been used.
    at_once: u64,
    remaining: String,
    resets: String,
}

impl Meters {
    /// The meters of an account.
    pub(super) fn of<A: Account>(account: &A, used: Vec<String>) -> Self {
        Self { kind: A::KIND, name: account.name().to_owned(), used, found: None }
    }

    /// The meters of the page at a path.
    pub(crate) async fn at(admin: &Admin, path: &str) -> Option<Self> {
        let (kind, name) = match path.strip_prefix('/')?.split_once('/')? {
            ("keys", name) => (AccountKind::Key, name),
            ("consumers", name) => (AccountKind::Consumer, name),
            _ => return None,
        };
        let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?.into_owned();
        let (is_there, used) = match kind {
            AccountKind::Key => {
                let used = usage::of_key(admin, &name).await;
                (admin.registry.get::<accounts::KeySpec>(&name).await.ok()?.is_some(), usage::models(&used))
            }
            _ => (admin.registry.get_or_named::<ConsumerSpec>(&name).await.ok()?.is_some(), Vec::new()),
        };
        is_there.then_some(Self { kind, name, used, found: None })
    }

    /// The meters as HTML, for a page that is open.
    pub(crate) async fn render(&mut self, admin: &Admin) -> askama::Result<String> {
        self.read(admin).await.render()
    }

    /// What is left now. Debits nothing.
    pub(super) async fn read(&mut self, admin: &Admin) -> Limits {
        let policy = admin.shared.policy().clone();
        let nothing = |note| Limits { note: Some(note), ..Limits::default() };
        let Some(key) = self.find(admin, &policy).await else { return nothing(NOT_IN_FORCE) };
        let loaded = admin.shared.catalogue().load().clone();
        let Some(catalogue) = loaded.as_deref() else { return nothing(SURVEYING) };
        let now = SystemTime::now();
        let demands = |pool: Option<&Pool>| {
            let mut demands = access::limits_of(&policy, &key, catalogue, pool, now);
            demands.retain(|scope| match pool {
                Some(_) => self.shows_of_models(scope),
                None => self.shows_of_all(scope),
            });
            demands
        };
        let mut rows: Vec<Limit> = Vec::new();
        rows.extend(admin.shared.left(&demands(None)).await.iter().map(|left| limit(left, None)));
        let pools = self.pools(admin, catalogue, &key);
        let limited =
            pools.iter().map(|pool| (pool, demands(Some(pool)))).filter(|(_, demands)| !demands.is_empty());
        let mut limited: Vec<_> = limited.take(MODELS + 1).collect();
        let has_more = limited.len() > MODELS;
        limited.truncate(MODELS);
        for (pool, demands) in limited {
            let left = admin.shared.left(&demands).await;
            rows.extend(left.iter().map(|left| limit(left, Some(pool.model.as_str()))));
        }
        Limits { note: rows.is_empty().then_some(UNLIMITED), rows, has_more }
    }

    /// Whether a limit is shown among the limits over all models.
    fn shows_of_all(&self, scope: Scope) -> bool {
        match scope {
            Scope::Key => self.kind == AccountKind::Key,
            Scope::Consumer => true,
            Scope::ConsumerAndModel | Scope::KeyAndModel | Scope::Model | Scope::Address => false,
        }
    }

    /// Whether a limit is shown among the limits of single models.
    fn shows_of_models(&self, scope: Scope) -> bool {
        match scope {
            Scope::ConsumerAndModel => true,
            Scope::KeyAndModel | Scope::Model | Scope::Address => self.kind == AccountKind::Key,
            Scope::Key | Scope::Consumer => false,
        }
    }

    /// The key, or a key that represents all keys of the consumer.
    async fn find(&mut self, admin: &Admin, policy: &Arc<Policy>) -> Option<Arc<Key>> {
        if let Some((_, key)) = self.found.as_ref().filter(|(known, _)| Arc::ptr_eq(known, policy)) {
            return key.clone();
        }
        let key = match self.kind {
            AccountKind::Key => policy.keys().find(|key| key.name == self.name).cloned(),
            _ => consumer(admin, &self.name).await.map(|consumer| {
                // This key is in no policy, so no request can use it.
                Arc::new(Key::new("", consumer, KeyDigest::of("")))
            }),
        };
        self.found = Some((Arc::clone(policy), key.clone()));
        key
    }

    /// The models that the key may use, without repetitions: first those of its latest requests, then those of the last days.
    fn pools<'c>(&self, admin: &Admin, catalogue: &'c Catalogue, key: &Key) -> Vec<&'c Pool> {
        let name = Some(self.name.clone());
        let filter = match self.kind {
            AccountKind::Key => Filter { key: name, ..Filter::default() },
            _ => Filter { consumer: name, ..Filter::default() },
        };
        let records = admin.shared.telemetry().recent(&filter, RECENT);
        let lately = records.iter().filter_map(|record| record.model());
        let used =
            lately.chain(self.used.iter().map(String::as_str)).filter_map(|model| pool(catalogue, model));
        let all = catalogue.pools().map(AsRef::as_ref);
        let usable = used.chain(all).filter(|pool| key.may_use(pool));
        // All names of a model share its limits.
        let own = usable.map(|found| pool(catalogue, found.canonical.as_str()).unwrap_or(found));
        let mut seen = HashSet::new();
        own.filter(|pool| seen.insert(pool.model.as_str())).collect()
    }
}

/// The pool of a model: the one for everybody, else one of a selection.
fn pool<'c>(catalogue: &'c Catalogue, model: &str) -> Option<&'c Pool> {
    let chosen = || catalogue.selections().iter().find_map(|selection| selection.pool(model));
    catalogue.pool(model).or_else(chosen).map(AsRef::as_ref)
}

/// A consumer with its limits, or with those of its plan.
async fn consumer(admin: &Admin, name: &str) -> Option<Arc<Consumer>> {
    let spec = admin.registry.get_or_named::<ConsumerSpec>(name).await.ok()??.account;
    let plan = match &spec.plan {
        Some(plan) => Some(admin.registry.get::<Plan>(plan).await.ok()??.account),
        None => None,
    };
    Some(Arc::new(spec.with_plan(plan.as_ref())))
}

fn limit(left: &Left, model: Option<&str>) -> Limit {
    let scope = match model {
        Some(model) => format!("{} ({model})", left.scope),
        None => left.scope.to_string(),
    };
    let resets = match left.reset_after {
        Duration::ZERO => "now".into(),
        Duration::MAX => "never".into(),
        after => format!("in {}", format::span(after)),
    };
    if left.limit.unit() == Unit::Money {
        return budget(left, scope, resets);
    }
    let (amount, at_once) = (left.limit.amount(), left.limit.at_once());
    // Usage is debited from the burst, which may be smaller or larger than the amount.
    let used = at_once.saturating_sub(left.remaining);
    let mut text = left.limit.to_string().replacen(&amount.to_string(), &format::count(amount), 1);
    if at_once != amount {
        text.push_str(&format!(", {} at once", format::count(at_once)));
    }
    Limit {
        scope,
        limit: text,
        used,
        used_of: format!("{} of {}", format::count(used), format::count(at_once)),
        at_once,
        remaining: format::count(left.remaining),
        resets,
    }
}

/// A budget: what is spent or reserved of it, and of what was added to it.
fn budget(left: &Left, scope: String, resets: String) -> Limit {
    let money = |amount: u64| Amount(i64::try_from(amount).unwrap_or(i64::MAX)).rounded();
    let used = left.allowed.saturating_sub(left.remaining);
    let added = left.allowed.saturating_sub(left.limit.amount());
    let mut text = format!("budget of {}", left.limit);
    if added > 0 {
        text.push_str(&format!(", and {} added", money(added)));
    }
    Limit {
        scope,
        limit: text,
        used,
        used_of: format!("{} of {}", money(used), money(left.allowed)),
        at_once: left.allowed,
        remaining: money(left.remaining),
        resets,
    }
}

#[cfg(test)]
mod tests {
    use limits::{Calendar, Quota, Rate, Reserve};

    use super::*;

    #[test]
    fn what_is_used_is_used_of_the_burst() {
        for (burst, remaining, used_of) in [
            (Some(10), 10, "0 of 10"),
            (Some(10), 4, "6 of 10"),
            (None, 60, "0 of 60"),
            (Some(100), 60, "40 of 100"),
        ] {
            let rate = Rate::per_minute(60, burst).expect("a rate");
            let allowed = rate.burst().into();
            let left = Left {
                scope: Scope::Key,
                limit: rate.into(),
                allowed,
                remaining,
                is_exceeded: false,
                reset_after: Duration::ZERO,
            };
            let shown = limit(&left, None);
            assert_eq!(shown.used_of, used_of);
            assert_eq!(shown.limit.contains("at once"), burst.is_some(), "{}", shown.limit);
        }
    }

    #[test]
    fn a_budget_is_shown_as_money() {
        let quota = Quota::budget(49_500_000_000, Calendar::Ever, Reserve::Hard).expect("a budget");
        let (allowed, remaining) = (59_500_000_000, 20_250_000_000);
        let (scope, limit_of, reset_after) = (Scope::Key, quota.into(), Duration::MAX);
        let left = Left { scope, limit: limit_of, allowed, remaining, is_exceeded: false, reset_after };
        let Limit { limit, used_of, remaining, resets, .. } = limit(&left, None);
        assert_eq!(
            [limit, used_of, remaining, resets].map(|text| text.replace("0000", "")),
            ["budget of 49.5 in all, and 10. added", "39.2500 of 59.5000", "20.2500", "never"]
        );
    }
}
