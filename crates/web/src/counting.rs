//! Who counts what limits have let pass: this Modelgate alone, or a Redis that several of them share.
//!
//! Quotas are counted here in either case, and put together by the store.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use access::{Decision, Pending, Reason};
use limits::{Demand, Demands, Left, Limit, LimitReached, Limiters, Reservation, Settlement, SystemClock};
use shared_limits::{Outcome, SharedLimits};

/// Limits that several Modelgates share.
#[derive(Debug)]
pub struct SharedCounting {
    limits: SharedLimits,
    on_failure: OnFailure,
    /// Decisions that were made without the server, as [`OnFailure`] says.
    alone: AtomicU64,
}

/// What happens to limited requests while the server of shared limits does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They pass; quotas hold.
    Open,
    /// They are refused.
    Closed,
    /// Each Modelgate enforces its part of each limit. What it has let pass before counts, so that neither an outage nor
    /// an answer that comes too late lets more pass than the limit.
    Local,
}

impl OnFailure {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }
}

impl SharedCounting {
    /// Counts there, and does this if nobody answers.
    pub fn new(limits: SharedLimits, on_failure: OnFailure) -> Self {
        Self { limits, on_failure, alone: AtomicU64::new(0) }
    }

    /// The connection.
    pub fn limits(&self) -> &SharedLimits {
        &self.limits
    }

    /// What happens if nobody answers.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// How many decisions were made without the server.
    pub fn alone(&self) -> u64 {
        self.alone.load(Ordering::Relaxed)
    }

    /// Of how many Modelgates this is one.
    fn replicas(&self) -> NonZeroU32 {
        NonZeroU32::new(self.limits.replicas()).unwrap_or(NonZeroU32::MIN)
    }

    async fn admit(&self, limiters: &Limiters<SystemClock>, pending: Pending) -> Decision {
        // Quotas first: they need no way to anywhere, and can be given back.
        let reserved = match limiters.reserve_quotas(pending.demands()) {
            Ok(reserved) => Reserved { limiters, reserved: Some(reserved) },
            Err(reached) => return pending.deny(reached.into()),
        };
        let demands: Vec<_> = pending.demands().rates().iter().map(translate).collect();
        let refused = match self.limits.admit(&demands).await {
            Outcome::Admitted { .. } => {
                limiters.note(&self.part_of(&pending));
                return pending.allow(reserved.keep());
            }
            Outcome::Refused { index, retry_after, reset_after } => {
                let demand = pending.demands().rates().get(index);
                demand.map_or(Reason::LimitsUnavailable, |demand| {
                    demand.reached(retry_after, reset_after).into()
                })
            }
            Outcome::Unavailable => {
                self.alone.fetch_add(1, Ordering::Relaxed);
                match self.on_failure {
                    OnFailure::Open => return pending.allow(reserved.keep()),
                    OnFailure::Closed => Reason::LimitsUnavailable,
                    OnFailure::Local => match limiters.reserve(&self.part_of(&pending)) {
                        Ok(_) => return pending.allow(reserved.keep()),
                        Err(reached) => whole(reached, pending.demands()).into(),
                    },
                }
            }
        };
        drop(reserved);
        pending.deny(refused)
    }

    /// What a request takes from our part of the limits.
    fn part_of(&self, pending: &Pending) -> Demands {
        pending.demands().clone().without_quotas().shared_by(self.replicas())
    }

    async fn left(&self, limiters: &Limiters<SystemClock>, demands: &Demands) -> Vec<Left> {
        let asked: Vec<_> = demands.rates().iter().map(translate).collect();
        let Ok(left) = self.limits.left(&asked).await else {
            let mut left = limiters.left(&demands.clone().shared_by(self.replicas()));
            // What is left is our part's, the limit is the whole one.
            for (left, demand) in left.iter_mut().zip(demands.rates()) {
                left.limit = demand.rate().into();
            }
            return left;
        };
        let rates = demands.rates().iter().zip(left);
        let rates = rates.map(|(demand, left)| demand.left(left.remaining, left.reset_after));
        rates.chain(limiters.quotas_left(demands)).collect()
    }
}

/// Quotas of a request that is not decided yet. Should it be refused, or its client be gone before, they are given back.
struct Reserved<'l> {
    limiters: &'l Limiters<SystemClock>,
    reserved: Option<Reservation>,
}

impl Reserved<'_> {
    fn keep(mut self) -> Reservation {
        self.reserved.take().unwrap_or_default()
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(reserved) = &self.reserved {
            self.limiters.settle(reserved, Settlement::Cancelled);
        }
    }
}

/// What is said of a limit of which only a part is left to us is said of the whole: what is too large for the part passes
/// when the server is back.
fn whole(reached: LimitReached, demands: &Demands) -> LimitReached {
    let is_same = |demand: &&Demand| {
        let rate = demand.rate();
        demand.scope() == reached.scope
            && matches!(reached.limit, Limit::Rate(part) if (part.unit(), part.per()) == (rate.unit(), rate.per()))
    };
    let limit = demands.rates().iter().find(is_same).map_or(reached.limit, |demand| demand.rate().into());
    LimitReached { limit, ..reached }
}

/// Debits the limits of a request, all or none.
pub(crate) async fn admit(
    shared: Option<&SharedCounting>,
    limiters: &Limiters<SystemClock>,
    pending: Pending,
) -> Decision {
    match shared {
        Some(shared) if !pending.demands().rates().is_empty() => shared.admit(limiters, pending).await,
        _ => pending.admit(limiters),
    }
}

/// What is left of limits.
pub(crate) async fn left(
    shared: Option<&SharedCounting>,
    limiters: &Limiters<SystemClock>,
    demands: &Demands,
) -> Vec<Left> {
    match shared {
        Some(shared) if !demands.rates().is_empty() => shared.left(limiters, demands).await,
        _ => limiters.left(demands),
    }
}

fn translate(demand: &Demand) -> shared_limits::Demand {
    shared_limits::Demand {
        id: demand.id(),
        interval_ns: demand.interval_ns(),
        burst: demand.rate().burst(),
        cost: demand.cost(),
    }
}
