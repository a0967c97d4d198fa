//! Which budgets are spent to 50, 80 or 100 %: tells whoever listens when one comes to such a level, and says at any time which are
//! at one.
//!
//! What is spent is known where requests are settled, or where they are admitted if nothing tells what they have used. So that is
//! where levels are compared, without a lock: `/auth` comes here. If nobody reads a queue of events, or not fast enough, events are
//! dropped; what holds now is not lost by that.

use std::{
    cell::LazyCell,
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use access::{Consumer, Denial, Key, KeyDigest, Policy, Reason};
use arc_swap::{ArcSwap, ArcSwapOption};
use catalogue::{Catalogue, Pool};
use limits::{
    Calendar, Left, Limit, LimitReached, Limiters, Limits, Quota, QuotaDemand, ReachedQuota, Scope,
    SystemClock, Unit,
};
use tokio::sync::mpsc;

/// A budget that is spent to a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetEvent {
    /// Whose budget it is.
    pub scope: Scope,
    /// The key whose request has spent it, or was refused.
    pub key: String,
    /// The key's consumer.
    pub consumer: String,
    /// The model of that request; empty if it names none.
    pub model: String,
    /// The budget.
    pub budget: Quota,
    /// The level that is reached, in percent of the budget and what was added to it: 50, 80 or 100. At 100 nothing is left, or a
    /// request was refused while 80 or more was spent; those events may repeat.
    pub percent: u8,
}

/// How much of a budget is spent or reserved now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetUsed {
    /// Whose budget it is.
    pub scope: Scope,
    /// The key that has spent of it first.
    pub key: String,
    /// The key's consumer.
    pub consumer: String,
    /// The model, if the budget is one of a model.
    pub model: Option<String>,
    /// The budget.
    pub budget: Quota,
    /// What may be spent in the period, together with what was added, in units of 10⁻⁹ of the currency.
    pub allowed: u64,
    /// What is spent or reserved of that.
    pub spent: u64,
    /// The level that is reached, in percent: 0, 50, 80 or 100.
    pub level: u8,
    /// When it has refused a request last, and what was left then, if it counts as spent for that reason as well.
    pub refused: Option<(SystemTime, u64)>,
}

/// The levels that are told, in percent.
pub const BUDGET_LEVELS: [u8; 3] = [50, 80, 100];
/// At most this many budgets are known from the moment at which something is first spent of them.
const ROWS: usize = 1_000;
/// At most this many are known in all: beyond [`ROWS`] only those that have come to a level. [`BudgetEvents::find`] looks at no more
/// budgets of models.
const MOST: usize = 100_000;
/// How long a budget counts as spent after it has refused a request, if [`NEARLY`] all of it is spent.
const REFUSED: Duration = Duration::from_secs(600);
const NEARLY: u8 = 80;

/// The budgets of which something is spent, and who listens.
#[derive(Debug, Default)]
pub(crate) struct BudgetEvents {
    /// By the tags of their counts.
    used: papaya::HashMap<u64, Used>,
    listeners: ArcSwap<Vec<mpsc::Sender<BudgetEvent>>>,
    /// Whose counts from before the start have been looked up, at the last look.
    looked_at: ArcSwapOption<LookedBudgets>,
}

/// The keys, consumers and models whose budgets were looked at. If such a budget is not among those of which something is spent, then nothing
/// of it is spent, or it is not there any more.
#[derive(Debug)]
pub struct LookedBudgets {
    policy: Arc<Policy>,
    /// The names of the models.
    models: HashSet<Box<str>>,
    /// Of some keys the budgets of models were left out, since there are too many.
    leaves_out_models: bool,
}

/// A budget by the names of its owner and model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedBudget<'a> {
    /// `key`, `consumer` or `model`.
    pub kind: &'a str,
    /// The name of the key, the consumer or the model.
    pub name: &'a str,
    /// The model, if the budget of a key or a consumer is for one.
    pub of_model: Option<&'a str>,
}

/// A budget that has refused a request before the start.
#[derive(Debug, Clone, Copy)]
pub struct RefusedBudget<'a> {
    /// Whose budget it is.
    pub budget: NamedBudget<'a>,
    /// Its period.
    pub per: Calendar,
    /// When it has refused a request last.
    pub at: SystemTime,
    /// What was left then, in units of 10⁻⁹ of the currency.
    pub remaining: u64,
}

/// A budget of which something is spent.
#[derive(Debug)]
struct Used {
    demand: QuotaDemand,
    /// One whose budget it is: that was seen first, or took its place.
    key: ArcSwap<Key>,
    model: Box<str>,
    /// Keys of identity providers' tokens are in no policy, and a model's own budget is no key's.
    is_of_policy: bool,
    /// The level that was told last.
    told: AtomicU8,
    /// When a request was refused last, in seconds since 1970, and what was left then.
    refused_at: AtomicU64,
    refused_with: AtomicU64,
}

impl BudgetEvents {
    /// Tells one more listener from now on.
    pub(crate) fn tell(&self, listener: &mpsc::Sender<BudgetEvent>) {
        self.listeners.rcu(|listeners| {
            let mut listeners = Vec::clone(listeners);
            listeners.push(listener.clone());
            listeners
        });
    }

    /// A request has taken from these budgets, or it has become known what it has cost. What requests have reserved counts as spent.
    pub(crate) fn spent<'b>(
        &self,
        budgets: impl Iterator<Item = &'b QuotaDemand>,
        (limiters, policy): (&Limiters<SystemClock>, &Policy),
        (key, model): (&Arc<Key>, &str),
    ) {
        for demand in budgets {
            let left = limiters.left_of_quota(demand);
            if self.reaches(demand, &left, (key, model, policy)) {
                self.send(&BudgetEvent {
                    scope: demand.scope(),
                    key: key.name.clone(),
                    consumer: key.consumer.name.clone(),
                    model: model.to_owned(),
                    budget: demand.quota(),
                    percent: level(&left),
                });
            }
        }
    }

    /// A request has taken from these budgets, and it is not known yet what it has cost.
    pub(crate) fn know<'b>(
        &self,
        budgets: impl Iterator<Item = &'b QuotaDemand>,
        policy: &Policy,
        (key, model): (&Arc<Key>, &str),
    ) {
        for demand in budgets {
            let used = self.used.pin();
            if used.len() < ROWS && !used.contains_key(&demand.id().tag()) {
                used.insert(demand.id().tag(), Used::new(demand, (key, model, policy), 0));
            }
        }
    }

    /// Looks for budgets of which something is spent: the counts come from the store as well. Nothing is told of them; whoever asks
    /// what holds now hears of them.
    pub(crate) fn find(
        &self,
        limiters: &Limiters<SystemClock>,
        policy: &Arc<Policy>,
        catalogue: Option<&Catalogue>,
        now: SystemTime,
    ) {
        self.find_some(limiters, (policy, catalogue), MOST, now);
    }

    /// Looks at the budgets for models of so many keys and models, and at all others.
    fn find_some(
        &self,
        limiters: &Limiters<SystemClock>,
        (policy, catalogue): (&Arc<Policy>, Option<&Catalogue>),
        most: usize,
        now: SystemTime,
    ) {
        let nothing = Catalogue::default();
        let catalogue = catalogue.unwrap_or(&nothing);
        let is_own = |pool: &&Arc<Pool>| pool.model == pool.canonical;
        let models: Vec<&Arc<Pool>> = catalogue.pools().filter(is_own).collect();
        let mut leaves_out_models = false;
        if !limiters.quotas().is_empty() {
            let mut looked = 0;
            // The consumers of tokens may have no keys.
            let nobodys = policy.consumers().filter(|consumer| consumer.has_budget()).map(key_of);
            let keys = policy.keys().filter(|key| key.has_budget()).cloned();
            for key in keys.chain(nobodys) {
                self.find_of(&key, (limiters, policy, catalogue), None, now);
                if !key.limits_per_model.has_budget() && !key.consumer.limits_per_model.has_budget() {
                    continue;
                }
                looked += models.len();
                leaves_out_models |= looked > most;
                if looked <= most {
                    models.iter().for_each(|pool| {
                        self.find_of(&key, (limiters, policy, catalogue), Some(pool), now);
                    });
                }
            }
            // Those of models alone.
            let has_own = |pool: &&&Arc<Pool>| {
                let own = pool.own_limits.as_ref().map(|own| &own.limits);
                policy.model_limits(pool.canonical.as_str()).or(own).is_some_and(Limits::has_budget)
            };
            let anybody = key_of(&Arc::new(Consumer::new("")));
            for pool in models.iter().filter(has_own) {
                self.find_of(&anybody, (limiters, policy, catalogue), Some(pool), now);
            }
        }
        let models = models.iter().map(|pool| pool.model.as_str().into()).collect();
        let policy = Arc::clone(policy);
        self.looked_at.store(Some(Arc::new(LookedBudgets { policy, models, leaves_out_models })));
    }

    fn find_of(
        &self,
        key: &Arc<Key>,
        (limiters, policy, catalogue): (&Limiters<SystemClock>, &Policy, &Catalogue),
        pool: Option<&Pool>,
        now: SystemTime,
    ) {
        let model = pool.map_or("", |pool| pool.model.as_str());
        for demand in access::limits_of(policy, key, catalogue, pool, now).budgets() {
            let left = limiters.left_of_quota(demand);
            if left.remaining < left.allowed {
                self.reaches(demand, &left, (key, model, policy));
            }
        }
    }

    pub(crate) fn looked_at(&self) -> Option<Arc<LookedBudgets>> {
        self.looked_at.load_full()
    }

    /// Notes how much is left of a budget. Returns whether it has come to a higher level than was told.
    fn reaches(
        &self,
        demand: &QuotaDemand,
        left: &Left,
        (key, model, policy): (&Arc<Key>, &str, &Policy),
    ) -> bool {
        let (used, level, tag) = (self.used.pin(), level(left), demand.id().tag());
        let known = used.get(&tag);
        if known.is_none() && used.len() >= if level == 0 { ROWS } else { MOST } {
            return false;
        }
        let before = known.map_or(0, |known| known.told.load(Ordering::Relaxed));
        if let Some(known) = known.filter(|known| known.demand.quota() == demand.quota()) {
            // Of several threads one tells it. A budget that was added to can come to a level again.
            let told = &known.told;
            return level != before
                && told.compare_exchange(before, level, Ordering::Relaxed, Ordering::Relaxed) == Ok(before)
                && level > before;
        }
        // A new one, or one of another amount.
        used.insert(tag, Used::new(demand, (key, model, policy), level));
        level > before
    }

    /// A request was refused.
    pub(crate) fn refused(&self, denial: &Denial, at: SystemTime) {
        let Reason::LimitReached(LimitReached {
            scope, limit: Limit::Quota(budget), remaining, quota, ..
        }) = denial.reason
        else {
            return;
        };
        if budget.unit() != Unit::Money {
            return;
        }
        // Whoever asks for more than there is at once has not spent it by that.
        let allowed = budget.amount().saturating_add(quota.map_or(0, |quota| quota.added));
        let is_nearly_spent = |remaining| level_of(allowed, remaining) >= NEARLY;
        let mut is_news = is_nearly_spent(remaining);
        if let Some(ReachedQuota { tag, .. }) = quota
            && let Some(used) = self.used.pin().get(&tag.get())
        {
            let since = seconds(at).saturating_sub(used.refused_at.load(Ordering::Relaxed));
            let was_told =
                since < REFUSED.as_secs() && is_nearly_spent(used.refused_with.load(Ordering::Relaxed));
            is_news &= !was_told;
            used.refused(remaining, at);
        }
        if !is_news {
            return;
        }
        let name = |name: Option<&String>| name.cloned().unwrap_or_default();
        self.send(&BudgetEvent {
            scope,
            key: name(denial.key.as_ref().map(|key| &key.name)),
            consumer: name(denial.consumer.as_ref().map(|consumer| &consumer.name)),
            model: name(denial.model.as_ref()),
            budget,
            percent: 100,
        });
    }

    /// Before the start requests were refused, when this much of these budgets was left. Returns for each whether that is settled: the
    /// budget is known, or it is too long ago.
    pub(crate) fn were_refused(&self, refused: &[RefusedBudget<'_>], now: SystemTime) -> Vec<bool> {
        let is_over = |at: SystemTime| seconds(now).saturating_sub(seconds(at)) >= REFUSED.as_secs();
        let mut settled: Vec<bool> = refused.iter().map(|refused| is_over(refused.at)).collect();
        let open = refused.iter().enumerate().filter(|(index, _)| !settled[*index]);
        let wanted: HashMap<_, usize> =
            open.map(|(index, refused)| ((refused.budget, refused.per.name()), index)).collect();
        if wanted.is_empty() {
            return settled;
        }
        for used in self.used.pin().values() {
            let (key, per) = (used.key.load(), used.demand.quota().per().name());
            let names = (key.name.as_str(), key.consumer.name.as_str());
            let budget = NamedBudget::of(used.demand.scope(), names, used.model());
            let Some(&index) = wanted.get(&(budget, per)) else { continue };
            settled[index] = true;
            let RefusedBudget { at, remaining, .. } = refused[index];
            // It may have refused another one since.
            if used.refused_at.load(Ordering::Relaxed) < seconds(at) {
                used.refused(remaining, at);
            }
        }
        settled
    }

    fn send(&self, event: &BudgetEvent) {
        for listener in self.listeners.load().iter() {
            // A full queue means that whoever listens has more than enough to tell.
            let _ = listener.try_send(event.clone());
        }
    }

    /// The budgets of which something is spent, those that have come to a level all of them. Forgets those of periods that are
    /// over and of limits that do not apply any more.
    pub(crate) fn used(
        &self,
        limiters: &Limiters<SystemClock>,
        (policy, catalogue): (&Policy, Option<&Catalogue>),
        now: SystemTime,
    ) -> Vec<BudgetUsed> {
        let used = self.used.pin();
        let is_over = |used: &Used| {
            let end = used.demand.id().period().end(policy.time_zone());
            end.is_some_and(|end| end <= now)
        };
        let in_force = LazyCell::new(|| KeysInForce::new(policy));
        let is_gone = |key: &Key| policy.key(&key.digest).is_none();
        for known in used.values().filter(|known| known.is_of_policy && is_gone(&known.key.load())) {
            if let Some(key) = in_force.instead_of(known) {
                known.key.store(Arc::clone(key));
            }
        }
        used.retain(|_, used| !is_over(used) && used.applies(policy, catalogue));
        let mut found: Vec<_> = used.values().map(|used| used.now(limiters, now)).collect();
        let order = |used: &BudgetUsed| used.budget.per().name();
        found.sort_by(|a, b| a.names().cmp(&b.names()).then_with(|| order(a).cmp(order(b))));
        found
    }
}

/// The keys of a policy, by their names and those of their consumers.
struct KeysInForce<'a> {
    by_name: HashMap<&'a str, &'a Arc<Key>>,
    by_consumer: HashMap<&'a str, &'a Arc<Key>>,
}

impl<'a> KeysInForce<'a> {
    fn new(policy: &'a Policy) -> Self {
        Self {
            by_name: policy.keys().map(|key| (key.name.as_str(), key)).collect(),
            by_consumer: policy.keys().map(|key| (key.consumer.name.as_str(), key)).collect(),
        }
    }

    /// Whoever else has the budget of a key that was replaced or deleted: its successor, or another key of its consumer.
    fn instead_of(&self, used: &Used) -> Option<&'a Arc<Key>> {
        let key = used.key.load();
        match used.demand.scope() {
            Scope::Key | Scope::KeyAndModel => self.by_name.get(key.name.as_str()),
            Scope::Consumer | Scope::ConsumerAndModel => self.by_consumer.get(key.consumer.name.as_str()),
            Scope::Model | Scope::Address => None,
        }
        .copied()
    }
}

/// The level that a budget has come to.
fn level(left: &Left) -> u8 {
    level_of(left.allowed, left.remaining)
}

fn level_of(allowed: u64, remaining: u64) -> u8 {
    let spent = u128::from(allowed.saturating_sub(remaining));
    let is_reached = |level: &u8| spent * 100 >= u128::from(allowed) * u128::from(*level);
    BUDGET_LEVELS.into_iter().rev().find(is_reached).unwrap_or(0)
}

/// A key with no limits of its own.
fn key_of(consumer: &Arc<Consumer>) -> Arc<Key> {
    Arc::new(Key::new("", Arc::clone(consumer), KeyDigest::of("")))
}

impl LookedBudgets {
    /// Those of some budgets that were not looked at, by their place: of tokens, of consumers that the policy does not name, of models
    /// without servers, and those that were too many.
    pub fn leaves_out<'b>(&self, budgets: impl Iterator<Item = NamedBudget<'b>>) -> Vec<bool> {
        let (mut keys, mut consumers) = (HashSet::new(), HashSet::new());
        for key in self.policy.keys() {
            keys.insert(key.name.as_str());
            consumers.insert(key.consumer.name.as_str());
        }
        consumers.extend(self.policy.consumers().map(|consumer| consumer.name.as_str()));
        let is_looked_at = |NamedBudget { kind, name, of_model }: NamedBudget<'_>| {
            let is_there = match kind {
                "key" => keys.contains(name),
                "consumer" => consumers.contains(name),
                _ => self.models.contains(name),
            };
            let has_model =
                of_model.is_none_or(|model| !self.leaves_out_models && self.models.contains(model));
            // A key that was deleted has no budget.
            let is_gone = kind == "key" && !is_there && !access::is_of_token(name);
            is_there && has_model || is_gone
        };
        budgets.map(|budget| !is_looked_at(budget)).collect()
    }
}

impl Used {
    fn new(demand: &QuotaDemand, (key, model, policy): (&Arc<Key>, &str, &Policy), told: u8) -> Self {
        let is_of_model_alone = matches!(demand.scope(), Scope::Model | Scope::Address);
        Self {
            demand: demand.clone(),
            key: ArcSwap::new(Arc::clone(key)),
            model: model.into(),
            is_of_policy: !is_of_model_alone && policy.key(&key.digest).is_some(),
            told: AtomicU8::new(told),
            refused_at: AtomicU64::new(0),
            refused_with: AtomicU64::new(0),
        }
    }

    /// The model, if it is a budget of one.
    fn model(&self) -> Option<&str> {
        let is_of_model =
            matches!(self.demand.scope(), Scope::Model | Scope::KeyAndModel | Scope::ConsumerAndModel);
        is_of_model.then_some(&*self.model)
    }

    fn refused(&self, remaining: u64, at: SystemTime) {
        self.refused_at.store(seconds(at), Ordering::Relaxed);
        self.refused_with.store(remaining, Ordering::Relaxed);
    }

    /// Whether the limit still is what it was, and the key is there.
    fn applies(&self, policy: &Policy, catalogue: Option<&Catalogue>) -> bool {
        let has = |limits: &Limits| limits.quotas().contains(&self.demand.quota());
        if let Scope::Model | Scope::Address = self.demand.scope() {
            return self.applies_to_model(policy, catalogue, has);
        }
        if !self.is_of_policy {
            let of_consumer = |limits: fn(&Consumer) -> &Limits| {
                policy.consumer(&self.key.load().consumer.name).is_some_and(|consumer| has(limits(consumer)))
            };
            return match self.demand.scope() {
                Scope::Consumer => of_consumer(|consumer| &consumer.limits),
                Scope::ConsumerAndModel => of_consumer(|consumer| &consumer.limits_per_model),
                // The plan of a token is known once it is shown.
                Scope::Key | Scope::KeyAndModel | Scope::Model | Scope::Address => true,
            };
        }
        let Some(key) = policy.key(&self.key.load().digest) else { return false };
        match self.demand.scope() {
            Scope::Key => has(&key.limits),
            Scope::KeyAndModel => has(&key.limits_per_model),
            Scope::Consumer => has(&key.consumer.limits),
            Scope::ConsumerAndModel => has(&key.consumer.limits_per_model),
            Scope::Model | Scope::Address => true,
        }
    }

    /// Whether its model still has the limit. Before the first survey (`None`) it is not known what limits servers set.
    fn applies_to_model(
        &self,
        policy: &Policy,
        catalogue: Option<&Catalogue>,
        has: impl Fn(&Limits) -> bool,
    ) -> bool {
        if self.model.is_empty() {
            // All names that clients make up share their counts.
            return policy.limits_of_models().any(has);
        }
        if let Some(limits) = policy.model_limits(&self.model).filter(|limits| !limits.is_empty()) {
            return has(limits);
        }
        catalogue.is_none_or(|catalogue| {
            let pools = catalogue.pools().filter(|pool| pool.canonical.as_str() == &*self.model);
            pools.filter_map(|pool| pool.own_limits.as_ref()).any(|own| has(&own.limits))
        })
    }

    fn now(&self, limiters: &Limiters<SystemClock>, now: SystemTime) -> BudgetUsed {
        let left = limiters.left_of_quota(&self.demand);
        // One that was added to or reset since can come to a level again.
        self.told.fetch_min(level(&left), Ordering::Relaxed);
        let (refused_at, refused_with) =
            (self.refused_at.load(Ordering::Relaxed), self.refused_with.load(Ordering::Relaxed));
        let since = seconds(now).saturating_sub(refused_at);
        // Once there is more left than when a request was refused, it may pass.
        let is_refusing = since < REFUSED.as_secs() && left.remaining <= refused_with;
        let (level, refused) = match level(&left) {
            level @ NEARLY.. if is_refusing => {
                (level.max(100), Some((UNIX_EPOCH + Duration::from_secs(refused_at), refused_with)))
            }
            level => (level, None),
        };
        let (scope, key) = (self.demand.scope(), self.key.load());
        BudgetUsed {
            scope,
            key: key.name.clone(),
            consumer: key.consumer.name.clone(),
            model: self.model().map(str::to_owned),
            budget: self.demand.quota(),
            allowed: left.allowed,
            spent: left.allowed.saturating_sub(left.remaining),
            level,
            refused,
        }
    }
}

impl BudgetUsed {
    /// Whose it is, in two words: `key` and a name, `consumer` and a name, or `model` and a name.
    pub fn owner(&self) -> (&str, &str) {
        let NamedBudget { kind, name, .. } = self.names();
        (kind, name)
    }

    /// The model, if the budget is one of a model and of somebody.
    pub fn of_model(&self) -> Option<&str> {
        self.names().of_model
    }

    fn names(&self) -> NamedBudget<'_> {
        NamedBudget::of(self.scope, (&self.key, &self.consumer), self.model.as_deref())
    }
}

impl<'a> NamedBudget<'a> {
    fn of(scope: Scope, (key, consumer): (&'a str, &'a str), model: Option<&'a str>) -> Self {
        let (kind, name) = match scope {
            Scope::Key | Scope::KeyAndModel => ("key", key),
            Scope::Consumer | Scope::ConsumerAndModel => ("consumer", consumer),
            Scope::Model | Scope::Address => ("model", model.unwrap_or_default()),
        };
        Self { kind, name, of_model: model.filter(|_| scope != Scope::Model) }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use access::{Consumer, KeyDigest, ModelGlobs, ModelLimit, Policy};
    use limits::{Demands, Limited, Limits, Moment, Reserve, Subject};

    use super::*;
    use crate::testing::{catalogue_of, server, set_up};

    #[test]
    fn each_level_is_told_once_and_a_refusal_where_it_is_nearly_spent_once_in_ten_minutes() {
        let (sender, mut receiver) = mpsc::channel(3);
        let (other, mut others) = mpsc::channel(100);
        let (events, limiters) = (BudgetEvents::default(), Limiters::new(SystemClock::new()));
        events.tell(&sender);
        events.tell(&other);
        let budget = Quota::budget(100, Calendar::Ever, Reserve::Usual).expect("a budget");
        let limits = Limits::from(budget);
        let key = Key::new("key", Arc::new(Consumer::new("team")), KeyDigest::of("mg-key"));
        let key = Arc::new(Key { limits: limits.clone(), ..key });
        let mut policy = Policy::default();
        policy.add_keys([Arc::clone(&key)]);
        let mut demands = Demands::default();
        let limited = Limited { scope: Scope::Key, subject: Subject::of(1), limits: &limits };
        demands.add(&limited, &Moment::new(SystemTime::UNIX_EPOCH, policy.time_zone()), |_| 1);
        let mut spending = demands.clone();
        let mut spend = |cost| {
            spending.price(|_| cost);
            let _ = limiters.reserve(&spending).expect("it is left");
            events.spent(spending.budgets(), (&limiters, &policy), (&key, "llama"));
            let mut told = Vec::new();
            while let Ok(event) = receiver.try_recv() {
                assert_eq!((&*event.key, &*event.consumer, &*event.model), ("key", "team", "llama"));
                told.push(event.percent);
            }
            told
        };
        assert_eq!([49, 1, 5, 40].map(&mut spend), [vec![], vec![50], vec![], vec![80]]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let used = |at| -> Vec<_> {
            let used = events.used(&limiters, (&policy, None), at).into_iter();
            used.map(|used| (used.owner() == ("key", "key"), used.spent, used.allowed, used.level)).collect()
        };
        assert_eq!(used(now), [(true, 95, 100, 80)]);
        // The same after a restart, once the counts are read from the store: nothing is told again.
        let restarted = BudgetEvents::default();
        let (quiet, mut nothing) = mpsc::channel(9);
        restarted.tell(&quiet);
        let limited = Arc::new(Key { limits: limits.clone(), ..Key::clone(&key) });
        let mut limited_policy = Policy::default();
        limited_policy.add_keys([Arc::clone(&limited)]);
        let limited_policy = Arc::new(limited_policy);
        assert!(restarted.looked_at().is_none());
        let counts = Limiters::new(SystemClock::new());
        restarted.find(&counts, &limited_policy, None, now);
        assert!(
            restarted.looked_at().is_some()
                && restarted.used(&counts, (&limited_policy, None), now).is_empty()
        );
        let of_key = access::limits_of(&limited_policy, &limited, &Catalogue::default(), None, now);
        counts.quotas().learn(of_key.quotas()[0].id(), 85, 0);
        restarted.find(&counts, &limited_policy, None, now);
        let found = restarted.used(&counts, (&limited_policy, None), now);
        assert_eq!(found.iter().map(|used| (used.spent, used.level)).collect::<Vec<_>>(), [(85, 80)]);
        assert!(nothing.try_recv().is_err());
        // It had refused a request before: the alert was told to be over, although the ten minutes were not.
        let was_refused = |name, at, remaining| {
            let budget = NamedBudget { kind: "key", name, of_model: None };
            let one = RefusedBudget { budget, per: Calendar::Ever, at, remaining };
            let of_day = RefusedBudget { per: Calendar::Day, ..one };
            let settled = restarted.were_refused(&[of_day, one], now);
            assert_eq!(settled[0], at + REFUSED <= now, "a budget of a day is not known");
            settled[1]
        };
        let before = now - REFUSED / 2;
        assert!(!was_refused("other", before, 15), "nobody knows it");
        assert!(was_refused("other", now - REFUSED, 15), "too long ago");
        let level = |at| restarted.used(&counts, (&limited_policy, None), at)[0].level;
        for (left, expected) in [(14, 80), (15, 100)] {
            assert!(was_refused("key", before + Duration::from_secs(left), left));
            assert_eq!(level(now), expected, "{left} were left, and 15 are");
        }
        assert!(was_refused("key", before, 1), "an earlier one");
        assert_eq!([level(before + REFUSED), level(now + REFUSED)], [100, 80]);
        // A budget is known as soon as a request takes from it, so a refusal counts although nothing was settled.
        let unheard = BudgetEvents::default();
        unheard.know(demands.budgets(), &policy, (&key, "llama"));
        assert_eq!(unheard.used(&limiters, (&policy, None), now)[0].level, 80);
        // A request that does not fit any more says that the budget is spent, for some time, or until there is more of it.
        demands.price(|_| 6);
        let reached = limiters.reserve(&demands).expect_err("five are left");
        let denial_for = |key: &Arc<Key>, reached: LimitReached| Denial {
            reason: reached.into(),
            consumer: Some(Arc::clone(&key.consumer)),
            key: Some(Arc::clone(key)),
            tokens: None,
            sum: None,
            model: Some("llama".into()),
        };
        let denial = |key| denial_for(key, reached);
        // Regression: with most of it left, each request that was too large wrote that the budget has come to 100 %.
        events.refused(&denial_for(&key, LimitReached { remaining: 21, ..reached }), now);
        (0..3).for_each(|_| events.refused(&denial(&key), now));
        assert_eq!(used(now)[0].3, 100);
        assert_eq!(used(now + REFUSED)[0].3, 80);
        limiters.quotas().learn(demands.quotas()[0].id().added().expect("a budget"), 100, 0);
        assert_eq!(used(now), [(true, 95, 200, 0)], "added to");
        assert_eq!(spend(5), [100, 50], "the refusal, and it comes to the level again");
        assert_eq!(spend(100), [100]);
        limiters.quotas().learn(demands.quotas()[0].id().forgiven().expect("a budget"), 200, 0);
        assert_eq!(used(now), [(true, 0, 200, 0)], "reset");
        // More than the first queue holds.
        (1..=5).for_each(|times| events.refused(&denial(&key), now + times * REFUSED));
        let told = std::iter::from_fn(|| receiver.try_recv().ok()).map(|event| event.percent);
        assert_eq!(told.collect::<Vec<_>>(), [100; 3]);
        let told = std::iter::from_fn(|| others.try_recv().ok()).map(|event| event.percent);
        assert_eq!(
            told.collect::<Vec<_>>(),
            [50, 80, 100, 50, 100, 100, 100, 100, 100, 100],
            "each listener"
        );
        // The key is gone.
        assert_eq!(events.used(&limiters, (&Policy::default(), None), now), []);
    }

    /// It seemed to be over, until somebody else spent of it or it was looked for again.
    #[test]
    fn a_budget_stays_when_the_key_that_was_seen_first_is_replaced_or_deleted() {
        let budget = |per| Limits::from(Quota::budget(100, per, Reserve::Usual).expect("a budget"));
        let team = Consumer { limits: budget(Calendar::Day), ..Consumer::new("team") };
        let key = |name: &str, secret: &str| Key {
            limits: budget(Calendar::Ever),
            ..Key::new(name, Arc::new(team.clone()), KeyDigest::of(secret))
        };
        let policy = |keys: Vec<Key>| Arc::new(Policy::new(keys, Vec::new()));
        let (first, second) = (key("first", "mg-1"), key("second", "mg-2"));
        let before = policy(vec![first.clone(), second.clone()]);
        let (events, counts) = (BudgetEvents::default(), Limiters::new(SystemClock::new()));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of_first = access::limits_of(&before, &Arc::new(first), &Catalogue::default(), None, now);
        of_first.budgets().for_each(|demand| counts.quotas().learn(demand.id(), 85, 0));
        events.find(&counts, &before, None, now);
        let used = |policy: &Policy| {
            let used = events.used(&counts, (policy, None), now).into_iter();
            used.map(|used| format!("{} {} {}", used.owner().0, used.owner().1, used.level))
                .collect::<Vec<_>>()
        };
        assert_eq!(used(&before), ["consumer team 80", "key first 80"]);
        let replaced = policy(vec![key("first", "mg-3"), second.clone()]);
        assert_eq!(used(&replaced), ["consumer team 80", "key first 80"]);
        assert_eq!(used(&policy(vec![second])), ["consumer team 80"]);
        assert_eq!(used(&Policy::default()), Vec::<String>::new());
    }

    /// A budget that was told before a restart, and that nobody looks at after it, seemed to be over.
    #[test]
    fn all_that_can_be_known_is_looked_at_and_the_rest_is_named() {
        let catalogue = catalogue_of([server("gpu", &["llama", "qwen"])]);
        let limits = Limits::from(Quota::budget(100, Calendar::Ever, Reserve::Usual).expect("a budget"));
        let team = Arc::new(Consumer { limits: limits.clone(), ..Consumer::new("team") });
        let key = |name: &str| Key {
            limits: limits.clone(),
            limits_per_model: limits.clone(),
            ..Key::new(name, Arc::new(Consumer::new("own")), KeyDigest::of(name))
        };
        let keys: Vec<Key> = (0..10).map(|number| key(&format!("k{number}"))).collect();
        let all_models = ModelLimit { models: ModelGlobs::all(), limits: limits.clone() };
        let policy = Policy::new(keys.clone(), vec![all_models]);
        // A consumer whose tokens alone have spent.
        let policy = policy.with_issuers(Vec::new(), HashMap::from([("team".to_owned(), Arc::clone(&team))]));
        let (policy, counts) = (Arc::new(policy), Limiters::new(SystemClock::new()));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let pools = ["llama", "qwen"].map(|name| catalogue.pool(name).expect("a model"));
        let of_team = key_of(&team);
        for key in keys.iter().chain([&*of_team]) {
            let of = |pool| access::limits_of(&policy, key, &catalogue, pool, now);
            for pool in [None, Some(&**pools[0]), Some(&**pools[1])] {
                of(pool).budgets().for_each(|demand| counts.quotas().learn(demand.id(), 85, 0));
            }
        }
        let found = |policy: &Arc<Policy>, most: usize| {
            let events = BudgetEvents::default();
            events.find_some(&counts, (policy, Some(&catalogue)), most, now);
            let used = events.used(&counts, (policy, Some(&catalogue)), now);
            let of = |kind: &str, of_model: bool| {
                used.iter()
                    .filter(|used| used.owner().0 == kind && used.of_model().is_some() == of_model)
                    .count()
            };
            (
                [of("key", false), of("key", true), of("consumer", false), of("model", false)],
                events.looked_at(),
            )
        };
        let (all, looked) = found(&policy, MOST);
        assert_eq!(all, [10, 20, 1, 2]);
        let left_out = |looked: Option<Arc<LookedBudgets>>| {
            let named = |(kind, name, of_model)| NamedBudget { kind, name, of_model };
            let budgets = [
                ("key", "k1", None),
                ("key", "k1", Some("llama")),
                ("key", "deleted", None),
                ("consumer", "team", None),
                ("model", "qwen", None),
                ("key", "jwt:alice", None),
                ("consumer", "alice", None),
                ("key", "k1", Some("gone")),
                ("model", "gone", None),
            ];
            looked.expect("a look").leaves_out(budgets.into_iter().map(named))
        };
        assert_eq!(left_out(looked), [false, false, false, false, false, true, true, true, true]);
        let (some, looked) = found(&policy, 7);
        assert_eq!(some, [10, 6, 1, 2], "those of models are too many for all keys");
        assert_eq!(left_out(looked)[..3], [false, true, false]);
        let without_keys = Policy::clone(&policy);
        let mut without_keys = without_keys;
        without_keys.edit_keys(|_| access::Edit::Remove);
        assert_eq!(found(&Arc::new(without_keys), MOST).0, [0, 0, 1, 2]);
    }

    /// Regression: a budget of a model that was taken out of the file, or off the server's labels, stayed on pages and in metrics until its
    /// period was over.
    #[test]
    fn a_budget_of_a_model_goes_with_its_limit() {
        let budget =
            |amount| Limits::from(Quota::budget(amount, Calendar::Ever, Reserve::Usual).expect("a budget"));
        let catalogue =
            |settings: &[(&str, &str)]| catalogue_of([set_up(server("gpu", &["llama", "qwen"]), settings)]);
        let policy = |limits: Option<Limits>| {
            let models = || ModelGlobs::parse(&["llama".to_owned()]).expect("a pattern");
            let limits = limits.map(|limits| ModelLimit { models: models(), limits });
            Arc::new(Policy::new(Vec::new(), limits.into_iter().collect()))
        };
        let (events, counts) = (BudgetEvents::default(), Limiters::new(SystemClock::new()));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (of_file, of_label) =
            (policy(Some(budget(100))), catalogue(&[("limit.budget_total", "0.0000002")]));
        let anybody = key_of(&Arc::new(Consumer::new("")));
        for name in ["llama", "qwen"] {
            let pool = of_label.pool(name).map(AsRef::as_ref);
            let of = access::limits_of(&of_file, &anybody, &of_label, pool, now);
            of.budgets().for_each(|demand| counts.quotas().learn(demand.id(), 85, 0));
        }
        events.find(&counts, &of_file, Some(&of_label), now);
        let used = |policy: &Policy, catalogue: Option<&Catalogue>| {
            let used = events.used(&counts, (policy, catalogue), now).into_iter();
            used.map(|used| format!("{} {}", used.owner().1, used.allowed)).collect::<Vec<_>>()
        };
        assert_eq!(used(&of_file, Some(&of_label)), ["llama 100", "qwen 200"]);
        assert_eq!(used(&of_file, None), ["llama 100", "qwen 200"], "before the first survey");
        assert_eq!(used(&of_file, Some(&catalogue(&[]))), ["llama 100"]);
        assert_eq!(used(&policy(Some(budget(300))), Some(&of_label)), Vec::<String>::new(), "another amount");
    }
}
