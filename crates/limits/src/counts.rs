//! The counts of quotas.
//!
//! A quota is a plain count, since its period has a beginning and an end: all that was taken between
//! them. The counts outlive the process: somebody [takes what is not saved yet](Quotas::take_unsaved)
//! twice a second, adds it to a store, and [tells](Quotas::learn) what the store holds now, other
//! replicas' counts among it. Requests share no lock and never wait for that.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::SystemTime,
};

use jiff::tz::TimeZone;
use papaya::HashMap;

use crate::{
    demand::{Left, QuotaDemand},
    id::QuotaId,
    rate::Unit,
    reached::LimitReached,
};

/// The counts so far.
#[derive(Debug, Default)]
pub struct Quotas {
    counts: HashMap<QuotaId, Count>,
}

/// What operators have given on top of a budget, in units of 10⁻⁹ of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted {
    /// What was added to it for its period.
    pub added: u64,
    /// What was spent of it and does not count any more.
    pub forgiven: u64,
}

/// The counts of a budget, in units of 10⁻⁹ of the currency. They only grow, but for what requests give back of what was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BudgetCounts {
    /// What was taken of it: spent by requests that are settled, or reserved by others.
    pub used: u64,
    /// What requests have cost that are settled.
    pub settled: u64,
    /// What operators have given on top of it.
    pub granted: Granted,
}

impl BudgetCounts {
    /// The counts of the budget whose count is `id`, given each count.
    pub fn of(id: QuotaId, count: impl Fn(&QuotaId) -> u64) -> Self {
        let count = |id: Option<QuotaId>| id.as_ref().map_or(0, &count);
        let granted = Granted { added: count(id.added()), forgiven: count(id.forgiven()) };
        Self { used: count(Some(id)), settled: count(id.settled()), granted }
    }

    /// What is spent or reserved, without what does not count any more.
    pub fn spent(&self) -> u64 {
        self.used.saturating_sub(self.granted.forgiven)
    }

    /// What a reset adds to what does not count any more. What requests have reserved that are not settled stays: otherwise it would be
    /// given out once by the reset and once when they give it back.
    pub fn to_forgive(&self) -> u64 {
        self.settled.min(self.used).saturating_sub(self.granted.forgiven)
    }
}

#[derive(Debug, Default)]
struct Count {
    /// The total as far as known, including the store's.
    used: AtomicU64,
    /// The part that is not in the store yet.
    unsaved: AtomicI64,
    /// The store's last known total. Only the task that saves reads and writes it.
    stored: AtomicU64,
}

impl Quotas {
    /// The number of counts.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are no counts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The amount taken so far.
    pub fn used(&self, id: &QuotaId) -> u64 {
        self.counts.pin().get(id).map_or(0, |count| count.used.load(Ordering::Acquire))
    }

    /// What was added to a budget for its period, and what was spent of it and does not count any more.
    pub fn granted(&self, id: &QuotaId) -> Granted {
        let used = |id: Option<QuotaId>| id.map_or(0, |id| self.used(&id));
        Granted { added: used(id.added()), forgiven: used(id.forgiven()) }
    }

    /// What may be taken in all, and what of that operators have given.
    fn allowed(&self, demand: &QuotaDemand) -> (u64, Granted) {
        let granted = match demand.quota.unit() {
            Unit::Money => self.granted(&demand.id),
            Unit::Requests | Unit::Tokens => Granted::default(),
        };
        let Granted { added, forgiven } = granted;
        (demand.quota.amount().saturating_add(added).saturating_add(forgiven), granted)
    }

    /// Whether a request would pass.
    pub(crate) fn peek(&self, demand: &QuotaDemand) -> Result<(), LimitReached> {
        let used = self.used(&demand.id);
        let (allowed, granted) = self.allowed(demand);
        match used.saturating_add(demand.cost) <= allowed {
            true => Ok(()),
            false => Err(demand.reached(allowed.saturating_sub(used), granted.added)),
        }
    }

    pub(crate) fn take(&self, demand: &QuotaDemand) -> Result<(), LimitReached> {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(demand.id, Count::default);
        let (allowed, granted) = self.allowed(demand);
        let more = |used: u64| used.checked_add(demand.cost).filter(|sum| *sum <= allowed);
        match count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => {
                count.unsaved.fetch_add(signed(demand.cost), Ordering::AcqRel);
                Ok(())
            }
            Err(used) => Err(demand.reached(allowed.saturating_sub(used), granted.added)),
        }
    }

    /// What is left of a quota, and what was taken of it.
    pub(crate) fn left(&self, demand: &QuotaDemand) -> Left {
        let used = self.used(&demand.id);
        let (allowed, Granted { forgiven, .. }) = self.allowed(demand);
        Left {
            scope: demand.scope,
            limit: demand.quota.into(),
            allowed: allowed.saturating_sub(forgiven),
            remaining: allowed.saturating_sub(used),
            is_exceeded: used > allowed,
            reset_after: demand.ends_after,
        }
    }

    /// Adds to a count, or subtracts what was added before, regardless of the quota.
    pub(crate) fn correct(&self, id: &QuotaId, by: i64) {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(*id, Count::default);
        count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| used.checked_add_signed(by)).ok();
        count.unsaved.fetch_add(by, Ordering::AcqRel);
    }

    /// What was counted since the last call: the caller must add it to the store.
    pub fn take_unsaved(&self) -> Vec<(QuotaId, i64)> {
        let counts = self.counts.pin();
        let unsaved = counts.iter().map(|(id, count)| (*id, count.unsaved.swap(0, Ordering::AcqRel)));
        unsaved.filter(|(_, unsaved)| *unsaved != 0).collect()
    }

    /// Updates a count with the store's total; `ours` is the part of its increase that came from here. Only one thread may do
    /// this.
    pub fn learn(&self, id: QuotaId, stored: u64, ours: i64) {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(id, Count::default);
        let expected = count.stored.swap(stored, Ordering::AcqRel).saturating_add_signed(ours);
        let by_others =
            i64::try_from(stored).unwrap_or(i64::MAX) - i64::try_from(expected).unwrap_or(i64::MAX);
        let more = |used: u64| Some(used.saturating_add_signed(by_others));
        count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok();
    }

    /// Forgets the counts of periods that have ended and are saved. `over` is a day before now, so that a request which began
    /// before midnight keeps its count.
    pub fn forget_before(&self, over: SystemTime, zone: &TimeZone) {
        let counts = self.counts.pin();
        let is_over = |id: &QuotaId| id.period().end(zone).is_some_and(|end| end <= over);
        counts.retain(|id, count| !is_over(id) || count.unsaved.load(Ordering::Acquire) != 0);
    }
}

/// Amounts are checked to fit (`Quota::MAX_BUDGET`).
pub(crate) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use jiff::Timestamp;

    use super::*;
    use crate::{
        id::Subject,
        quota::{Calendar, Quota},
        rate::Unit,
        reached::Scope,
    };

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().expect("a time").into()
    }

    fn id(key: &str) -> QuotaId {
        let quota = Quota::new(1, Unit::Requests, Calendar::Day).expect("a quota");
        Subject::of_model(key).quota(&quota, "2026-11-21".parse().expect("a day"))
    }

    fn demand(key: &str, amount: u64, cost: u64) -> QuotaDemand {
        let quota = Quota::new(amount, Unit::Requests, Calendar::Day).expect("a quota");
        QuotaDemand {
            scope: Scope::Key,
            id: id(key),
            quota,
            cost,
            ends_after: Duration::from_secs(60),
            settled: None,
        }
    }

    #[test]
    fn a_refusal_counts_nothing_and_says_what_is_left() {
        let quotas = Quotas::default();
        assert_eq!(quotas.take(&demand("a", 10, 7)), Ok(()));
        let reached = quotas.take(&demand("a", 10, 4)).expect_err("three are left");
        assert_eq!((reached.remaining, reached.retry_after), (3, Duration::from_secs(60)));
        assert_eq!(quotas.peek(&demand("a", 10, 4)), Err(reached));
        // Of one that is exceeded nothing is left, not even for what is estimated to take nothing.
        let reached = quotas.take(&demand("a", 6, 0)).expect_err("one too many");
        assert_eq!((reached.cost, reached.remaining), (0, 0));
        assert_eq!(quotas.peek(&demand("a", 6, 0)), Err(reached));
        assert_eq!([6, 7].map(|amount| quotas.left(&demand("a", amount, 0)).is_exceeded), [true, false]);
        assert_eq!(quotas.peek(&demand("a", 7, 0)), Ok(()));
        assert_eq!(quotas.used(&id("a")), 7);
        assert_eq!(quotas.take(&demand("a", 10, 3)), Ok(()));
        // Lowering a quota by a reload makes no count negative.
        assert_eq!(quotas.take(&demand("a", 5, 1)).expect_err("over").remaining, 0);
    }

    #[test]
    fn what_others_have_counted_is_learnt_and_nothing_counts_twice() {
        let quotas = Quotas::default();
        quotas.learn(id("a"), 5, 0);
        assert_eq!(quotas.used(&id("a")), 5, "from before a restart");
        quotas.take(&demand("a", 100, 3)).expect("passes");
        let unsaved = quotas.take_unsaved();
        assert_eq!(unsaved, [(id("a"), 3)]);
        quotas.take(&demand("a", 100, 1)).expect("passes while it is being saved");
        quotas.learn(id("a"), 10, 3);
        assert_eq!(quotas.used(&id("a")), 11, "5 before, 3 and 1 here, 2 by another replica");
        let unsaved = quotas.take_unsaved();
        assert_eq!(unsaved, [(id("a"), 1)]);
        quotas.correct(&id("a"), -1);
        assert_eq!((quotas.used(&id("a")), quotas.take_unsaved()), (10, vec![(id("a"), -1)]));
    }

    /// Dashboards and alerts show what is spent: a reset, which forgives, must be seen there.
    #[test]
    fn what_is_spent_is_what_was_taken_and_not_forgiven() {
        let spent = |used, forgiven| {
            let granted = Granted { added: 9, forgiven };
            BudgetCounts { used, settled: 5, granted }.spent()
        };
        assert_eq!([spent(7, 0), spent(7, 3), spent(2, 3)], [7, 4, 0]);
    }

    #[test]
    fn counts_that_are_over_are_forgotten_once_they_are_saved() {
        let quotas = Quotas::default();
        quotas.take(&demand("a", 100, 3)).expect("passes");
        assert!(!quotas.is_empty());
        let later = at("2026-11-23T00:00:00Z");
        quotas.forget_before(later, &TimeZone::UTC);
        assert_eq!(quotas.len(), 1, "it is not saved");
        quotas.take_unsaved();
        quotas.forget_before(at("2026-11-21T23:59:59Z"), &TimeZone::UTC);
        assert_eq!(quotas.len(), 1, "it is not over");
        quotas.forget_before(at("2026-11-22T00:00:00Z"), &TimeZone::UTC);
        assert!(quotas.is_empty());
    }

    #[test]
    fn threads_never_take_more_than_there_is_and_every_count_is_saved_once() {
        const AMOUNT: u64 = 20_000;
        let quotas = Quotas::default();
        let saved = AtomicI64::new(0);
        let passed: usize = thread::scope(|scope| {
            let taker = || (0..10_000).filter(|_| quotas.take(&demand("a", AMOUNT, 1)).is_ok()).count();
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(taker)).collect();
            scope.spawn(|| {
                while quotas.used(&id("a")) < AMOUNT {
                    for (id, ours) in quotas.take_unsaved() {
                        let stored = saved.fetch_add(ours, Ordering::Relaxed) + ours;
                        quotas.learn(id, u64::try_from(stored).expect("positive"), ours);
                    }
                }
            });
            takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
        });
        assert_eq!(passed as u64, AMOUNT);
        let rest: i64 = quotas.take_unsaved().iter().map(|(_, by)| by).sum();
        assert_eq!(saved.load(Ordering::Relaxed) + rest, i64::try_from(AMOUNT).expect("fits"));
    }
}
