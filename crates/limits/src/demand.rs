//! What a request takes from its limits, and what is left of them.

use std::{num::NonZeroU32, time::Duration};

use crate::{
    id::{LimitId, QuotaId, Subject},
    limit::{Limit, Limits},
    period::Moment,
    quota::Quota,
    rate::{Rate, Unit},
    reached::{LimitReached, Scope, longest},
};

/// Limits and their subject.
#[derive(Debug, Clone, Copy)]
pub struct Limited<'l> {
    /// The kind of subject, for messages.
    pub scope: Scope,
    /// The subject's number, by which the limits are counted.
    pub subject: Subject,
    /// The limits.
    pub limits: &'l Limits,
}

/// What a request takes from a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub(crate) scope: Scope,
    pub(crate) id: LimitId,
    pub(crate) rate: Rate,
    /// The amount taken: 1 for a request, or its tokens.
    pub(crate) cost: u32,
}

/// Everything that a request takes from limits, either all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    pub(crate) rates: Vec<Demand>,
    pub(crate) quotas: Vec<QuotaDemand>,
}

/// What a request takes from a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaDemand {
    pub(crate) scope: Scope,
    pub(crate) id: QuotaId,
    pub(crate) quota: Quota,
    pub(crate) cost: u32,
    /// The time left of the period.
    pub(crate) ends_after: Duration,
}

/// The remainder of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whose limit it is.
    pub scope: Scope,
    /// The limit.
    pub limit: Limit,
    /// How much would pass at once now.
    pub remaining: u64,
    /// The time until a full burst passes again; for a quota, until its period ends.
    pub reset_after: Duration,
}

impl Demand {
    /// What a request takes from a subject's rate.
    pub(crate) fn new(scope: Scope, subject: Subject, rate: Rate, cost: u32) -> Self {
        Self { scope, id: subject.rate(&rate), rate, cost }
    }

    /// The time that it uses up, in nanoseconds.
    pub(crate) fn time(&self) -> u64 {
        self.rate.interval().saturating_mul(u64::from(self.cost))
    }

    /// The id of its limit.
    pub fn id(&self) -> LimitId {
        self.id
    }

    /// Whose limit it is.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The limit.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The time that one request or token uses up, in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        self.rate.interval()
    }

    /// The amount taken from the limit.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// The time until it passes, if a full burst passes after `reset_after`.
    fn passes_after(&self, reset_after: Duration) -> Duration {
        let full = Duration::from_nanos(self.rate.burst_time());
        (reset_after + Duration::from_nanos(self.time())).saturating_sub(full)
    }

    /// The refusal, for a limit that is counted elsewhere.
    pub fn reached(&self, retry_after: Duration, reset_after: Duration) -> LimitReached {
        let busy = u64::try_from(reset_after.as_nanos()).unwrap_or(u64::MAX);
        let remaining = self.rate.burst_time().saturating_sub(busy) / self.rate.interval();
        let (scope, limit, cost) = (self.scope, self.rate.into(), self.cost);
        LimitReached { scope, limit, cost, remaining, retry_after, reset_after }
    }

    /// The remainder, for a limit that is counted elsewhere.
    pub fn left(&self, remaining: u32, reset_after: Duration) -> Left {
        Left { scope: self.scope, limit: self.rate.into(), remaining: remaining.into(), reset_after }
    }
}

impl Demands {
    /// Adds what a request takes from limits, now; `cost` gives the amount per unit.
    pub fn add(&mut self, limited: &Limited<'_>, now: &Moment<'_>, mut cost: impl FnMut(Unit) -> u32) {
        let Limited { scope, subject, limits } = *limited;
        for rate in limits.rates() {
            self.rates.push(Demand::new(scope, subject, *rate, cost(rate.unit())));
        }
        for quota in limits.quotas() {
            let (period, ends_after) = now.period(quota.per());
            let (id, cost) = (subject.quota(quota, period), cost(quota.unit()));
            self.quotas.push(QuotaDemand { scope, id, quota: *quota, cost, ends_after });
        }
    }

    /// The demands on rates.
    pub fn rates(&self) -> &[Demand] {
        &self.rates
    }

    /// The demands on quotas.
    pub fn quotas(&self) -> &[QuotaDemand] {
        &self.quotas
    }

    /// The limit that refuses the request, given what is left of each, in this order: rates, then quotas. If several refuse,
    /// the one that [`Limiters::reserve`](crate::Limiters::reserve) would return.
    pub fn reached(&self, left: &[Left]) -> Option<LimitReached> {
        let rates = self.rates.iter().map(|demand| (demand.cost, Some(demand)));
        let all: Vec<_> = rates.chain(self.quotas.iter().map(|demand| (demand.cost, None))).collect();
        let refusing = all.iter().zip(left).filter(|((cost, _), left)| u64::from(*cost) > left.remaining);
        longest(refusing.map(|((cost, rate), left)| LimitReached {
            scope: left.scope,
            limit: left.limit,
            cost: *cost,
            remaining: left.remaining,
            retry_after: rate.map_or(left.reset_after, |demand| demand.passes_after(left.reset_after)),
            reset_after: left.reset_after,
        }))
    }

    /// Keeps only the demands of some scopes.
    pub fn retain(&mut self, keep: impl Fn(Scope) -> bool) {
        self.rates.retain(|demand| keep(demand.scope));
        self.quotas.retain(|demand| keep(demand.scope));
    }

    /// Whether there are no demands.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.quotas.is_empty()
    }

    /// The same demands on one replica's share of each limit.
    #[must_use]
    pub fn shared_by(mut self, replicas: NonZeroU32) -> Self {
        for demand in &mut self.rates {
            demand.rate = demand.rate.shared_by(replicas);
        }
        self
    }

    /// The demands on rates only.
    #[must_use]
    pub fn without_quotas(self) -> Self {
        Self { quotas: Vec::new(), ..self }
    }
}

impl QuotaDemand {
    /// Whose quota it is.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The quota.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The amount taken from the quota.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// The refusal, if this much has been used.
    pub(crate) fn reached(&self, used: u64) -> LimitReached {
        let cost = u64::from(self.cost);
        debug_assert!(used + cost > self.quota.amount());
        LimitReached {
            scope: self.scope,
            limit: self.quota.into(),
            cost: self.cost,
            remaining: self.quota.amount().saturating_sub(used),
            retry_after: self.ends_after,
            reset_after: self.ends_after,
        }
    }
}
