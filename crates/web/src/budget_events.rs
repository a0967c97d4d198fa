//! Tells whoever listens when half, four fifths, or all of a budget is spent.
//!
//! What is spent is known where requests are settled, so that is where the levels are compared, behind a lock that `/auth` never
//! takes. `/auth` tells only of refusals, through a queue without a lock. If nobody reads the queue, or not fast enough, events are
//! dropped.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use access::{Denial, Key, Reason};
use limits::{Left, Limit, LimitReached, Limiters, Quota, QuotaDemand, QuotaId, Scope, SystemClock, Unit};
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
    /// request was refused; those events may repeat.
    pub percent: u8,
}

const LEVELS: [u8; 3] = [50, 80, 100];
/// The most budgets whose levels are remembered. Beyond that all are forgotten, and may be told once more.
const MOST: usize = 100_000;

/// Which levels were told.
#[derive(Debug)]
pub(crate) struct BudgetEvents {
    told: Mutex<HashMap<QuotaId, u8>>,
    sender: mpsc::Sender<BudgetEvent>,
}

impl BudgetEvents {
    pub(crate) fn new(sender: mpsc::Sender<BudgetEvent>) -> Self {
        Self { told: Mutex::default(), sender }
    }

    /// A request was settled that has taken from these budgets. What other requests have reserved counts as spent.
    pub(crate) fn settled<'b>(
        &self,
        budgets: impl Iterator<Item = &'b QuotaDemand>,
        limiters: &Limiters<SystemClock>,
        (key, model): (&Key, &str),
    ) {
        for demand in budgets {
            let left = limiters.left_of_quota(demand);
            if let Some(percent) = self.reaches(demand.id(), &left) {
                self.tell(BudgetEvent {
                    scope: demand.scope(),
                    key: key.name.clone(),
                    consumer: key.consumer.name.clone(),
                    model: model.to_owned(),
                    budget: demand.quota(),
                    percent,
                });
            }
        }
    }

    /// The level that a budget has reached, if that is a higher one than was told.
    fn reaches(&self, id: QuotaId, left: &Left) -> Option<u8> {
        let spent = u128::from(left.allowed.saturating_sub(left.remaining));
        let is_reached = |level: &u8| spent * 100 >= u128::from(left.allowed) * u128::from(*level);
        let level = LEVELS.into_iter().rev().find(is_reached).unwrap_or(0);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST {
            told.clear();
        }
        let before = told.get(&id).copied().unwrap_or(0);
        if level != before {
            // A budget that was added to can reach a level again.
            told.insert(id, level);
        }
        (level > before).then_some(level)
    }

    /// A request was refused. Takes no lock.
    pub(crate) fn refused(&self, denial: &Denial) {
        let Reason::LimitReached(LimitReached { scope, limit: Limit::Quota(budget), .. }) = denial.reason
        else {
            return;
        };
        if budget.unit() == Unit::Money {
            let name = |name: Option<&String>| name.cloned().unwrap_or_default();
            self.tell(BudgetEvent {
                scope,
                key: name(denial.key.as_ref().map(|key| &key.name)),
                consumer: name(denial.consumer.as_ref().map(|consumer| &consumer.name)),
                model: name(denial.model.as_ref()),
                budget,
                percent: 100,
            });
        }
    }

    fn tell(&self, event: BudgetEvent) {
        // A full queue means that whoever listens has more than enough to tell.
        let _ = self.sender.try_send(event);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use access::{Consumer, KeyDigest, Policy};
    use limits::{Calendar, Demands, Limited, Limits, Moment, Reserve, Subject};

    use super::*;

    #[test]
    fn each_level_is_told_once_and_a_refusal_each_time() {
        let (sender, mut receiver) = mpsc::channel(3);
        let (events, limiters) = (BudgetEvents::new(sender), Limiters::new(SystemClock::new()));
        let key = Key::new("key", Arc::new(Consumer::new("team")), KeyDigest::of("mg-key"));
        let budget = Quota::budget(100, Calendar::Ever, Reserve::Usual).expect("a budget");
        let limits = Limits::from(budget);
        let (mut demands, policy) = (Demands::default(), Policy::default());
        let limited = Limited { scope: Scope::Key, subject: Subject::of(1), limits: &limits };
        demands.add(&limited, &Moment::new(SystemTime::UNIX_EPOCH, policy.time_zone()), |_| 1);
        let mut spend = |cost| {
            demands.price(|_| cost);
            let _ = limiters.reserve(&demands).expect("it is left");
            events.settled(demands.budgets(), &limiters, (&key, "llama"));
            let mut told = Vec::new();
            while let Ok(event) = receiver.try_recv() {
                assert_eq!((&*event.key, &*event.consumer, &*event.model), ("key", "team", "llama"));
                told.push(event.percent);
            }
            told
        };
        assert_eq!([49, 1, 5, 40, 5].map(&mut spend), [vec![], vec![50], vec![], vec![80], vec![100]]);
        demands.price(|_| 1);
        let reached = limiters.reserve(&demands).expect_err("nothing is left");
        let denial = Denial {
            reason: reached.into(),
            consumer: None,
            key: Some(Arc::new(key)),
            tokens: None,
            sum: None,
            model: None,
        };
        // More than the queue holds.
        (0..5).for_each(|_| events.refused(&denial));
        let told = std::iter::from_fn(|| receiver.try_recv().ok()).map(|event| event.percent);
        assert_eq!(told.collect::<Vec<_>>(), [100; 3]);
    }
}
