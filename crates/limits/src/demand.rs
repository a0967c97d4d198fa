//! What a request takes from its limits, and what is left of them.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use crate::{
    id::{LimitId, QuotaId, Subject},
    limit::{Limit, Limits},
    period::Moment,
    quota::{Quota, Reserve},
    rate::{Rate, Unit},
    reached::{LimitReached, ReachedQuota, Scope, longest},
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
    /// The amount taken: 1 for a request, its tokens, or what it costs in units of 10⁻⁹ of the currency.
    pub(crate) cost: u64,
    /// The time left of the period; [`Duration::MAX`] if it never ends.
    pub(crate) ends_after: Duration,
    /// Of a budget, once its request is settled: what was forgiven by then.
    pub(crate) settled: Option<u64>,
}

/// The remainder of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whose limit it is.
    pub scope: Scope,
    /// The limit.
    pub limit: Limit,
    /// How much passes at once if nothing has been used; for a budget, together with what was added to it.
    pub allowed: u64,
    /// How much would pass at once now.
    pub remaining: u64,
    /// More than all of it is used, so not even a request that takes nothing passes.
    pub is_exceeded: bool,
    /// The time until a full burst passes again; for a quota, until its period ends: [`Duration::MAX`] if it never does.
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
        let (scope, limit, cost) = (self.scope, self.rate.into(), self.cost.into());
        LimitReached { scope, limit, cost, remaining, retry_after, reset_after, quota: None }
    }

    /// The remainder, for a limit that is counted elsewhere.
    pub fn left(&self, remaining: u32, reset_after: Duration) -> Left {
        let allowed = self.rate.burst().into();
        let (scope, limit, remaining) = (self.scope, self.rate.into(), remaining.into());
        Left { scope, limit, allowed, remaining, is_exceeded: false, reset_after }
    }
}

impl Demands {
    /// Adds what a request takes from limits, now; `cost` gives the amount per unit. Budgets take nothing until
    /// [`price`](Self::price) says what.
    pub fn add(&mut self, limited: &Limited<'_>, now: &Moment<'_>, mut cost: impl FnMut(Unit) -> u32) {
        let Limited { scope, subject, limits } = *limited;
        for rate in limits.rates() {
            self.rates.push(Demand::new(scope, subject, *rate, cost(rate.unit())));
        }
        for quota in limits.quotas() {
            let (period, ends_after) = now.period(quota.per());
            let cost = match quota.unit() {
                Unit::Money => 0,
                unit => cost(unit).into(),
            };
            let (id, ends_after) = (subject.quota(quota, period), ends_after.unwrap_or(Duration::MAX));
            self.quotas.push(QuotaDemand { scope, id, quota: *quota, cost, ends_after, settled: None });
        }
    }

    /// Whether a request takes from a budget, or from a hard one.
    pub fn has_budget(&self, reserve: Reserve) -> bool {
        self.quotas.iter().any(|demand| demand.quota.reserve() == Some(reserve))
    }

    /// Whether a request takes something from such a budget, once it is [priced](Self::price).
    pub fn takes_from_budget(&self, reserve: Reserve) -> bool {
        self.quotas.iter().any(|demand| demand.quota.reserve() == Some(reserve) && demand.cost > 0)
    }

    /// Sets what a request takes from budgets, in units of 10⁻⁹ of the currency.
    pub fn price(&mut self, cost: impl Fn(Reserve) -> u64) {
        for demand in &mut self.quotas {
            if let Some(reserve) = demand.quota.reserve() {
                demand.cost = cost(reserve).min(Quota::MAX_BUDGET);
            }
        }
    }

    /// Drops what a request takes from budgets: it is free.
    pub fn drop_budgets(&mut self) {
        self.quotas.retain(|demand| demand.quota.unit() != Unit::Money);
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
        let rates = self.rates.iter().map(|demand| (u64::from(demand.cost), Some(demand), None));
        let quotas = self.quotas.iter().map(|demand| (demand.cost, None, Some(demand)));
        let all: Vec<_> = rates.chain(quotas).collect();
        let refuses = |left: &Left, cost: u64| cost > left.remaining || left.is_exceeded;
        let refusing = all.iter().zip(left).filter(|((cost, ..), left)| refuses(left, *cost));
        longest(refusing.map(|((cost, rate, quota), left)| LimitReached {
            scope: left.scope,
            limit: left.limit,
            cost: *cost,
            remaining: left.remaining,
            retry_after: rate.map_or(left.reset_after, |demand| demand.passes_after(left.reset_after)),
            reset_after: left.reset_after,
            quota: quota.map(|demand| demand.of_quota(left.allowed.saturating_sub(demand.quota.amount()))),
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

    /// The demands on budgets.
    pub fn budgets(&self) -> impl Iterator<Item = &QuotaDemand> {
        self.quotas.iter().filter(|demand| demand.quota.unit() == Unit::Money)
    }

    /// The demands on budgets only.
    #[must_use]
    pub fn only_budgets(&self) -> Self {
        Self { rates: Vec::new(), quotas: self.budgets().cloned().collect() }
    }

    /// The demands on quotas, each with what is left of it, given what is left of each limit as for [`reached`](Self::reached).
    pub fn quotas_with<'a>(&'a self, left: &'a [Left]) -> impl Iterator<Item = (&'a QuotaDemand, &'a Left)> {
        self.quotas.iter().zip(left.iter().skip(self.rates.len()))
    }

    /// All demands but those on budgets.
    #[must_use]
    pub fn without_budgets(&self) -> Self {
        let mut others = self.clone();
        others.drop_budgets();
        others
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

    /// The id of its count.
    pub fn id(&self) -> QuotaId {
        self.id
    }

    /// The time left of the period; [`Duration::MAX`] if it never ends.
    pub fn ends_after(&self) -> Duration {
        self.ends_after
    }

    /// The amount taken from the quota; of a budget in units of 10⁻⁹ of the currency.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    fn of_quota(&self, added: u64) -> ReachedQuota {
        // A digest, which is never 0 but by a chance of 2⁻⁶⁴.
        ReachedQuota { tag: NonZeroU64::new(self.id.tag()).unwrap_or(NonZeroU64::MIN), added }
    }

    /// The refusal, if no more is left than this of it and what was added to it.
    pub fn reached(&self, remaining: u64, added: u64) -> LimitReached {
        // Of a budget that is exceeded, nothing is left for what is estimated to cost nothing.
        debug_assert!(self.cost > remaining || self.cost == 0 && remaining == 0);
        LimitReached {
            scope: self.scope,
            limit: self.quota.into(),
            cost: self.cost,
            remaining,
            retry_after: self.ends_after,
            reset_after: self.ends_after,
            quota: Some(self.of_quota(added)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::SystemTime};

    use jiff::tz::TimeZone;

    use super::*;
    use crate::{quota::Calendar, rate::Per};

    const SECOND: Duration = Duration::from_secs(1);

    /// A limit of each kind: six rates and four quotas.
    fn all_limits() -> Limits {
        let units = [Unit::Requests, Unit::Tokens];
        let rate = |per| units.map(|unit| Rate::new(60, unit, per, Some(5)).expect("a rate"));
        let quota = |per| units.map(|unit| Quota::new(10, unit, per).expect("a quota"));
        let rates = [Per::Second, Per::Minute, Per::Hour].map(rate).concat();
        Limits::new(rates, [Calendar::Day, Calendar::Month].map(quota).concat())
    }

    fn demands(subject: Subject, limits: &Limits) -> Demands {
        let mut demands = Demands::default();
        let zone = TimeZone::UTC;
        let now = Moment::new(SystemTime::UNIX_EPOCH, &zone);
        demands.add(&Limited { scope: Scope::Key, subject, limits }, &now, |unit| match unit {
            Unit::Requests => 1,
            Unit::Tokens => 7,
            Unit::Money => panic!("budgets are priced later"),
        });
        demands
    }

    /// Whoever settles a request looks for this first: without it nothing is reserved.
    #[test]
    fn a_request_takes_from_a_budget_once_it_is_priced() {
        use Reserve::{Hard, Usual};
        let of = |quotas: Vec<Quota>| Limits::new(Vec::new(), quotas);
        let tokens = Quota::new(10, Unit::Tokens, Calendar::Day).expect("a quota");
        let hard = Quota::budget(10, Calendar::Day, Hard).expect("a budget");
        let found = |limits: &Limits, cost| {
            let mut demands = demands(Subject::of(1), limits);
            demands.price(|_| cost);
            [Usual, Hard].map(|reserve| (demands.has_budget(reserve), demands.takes_from_budget(reserve)))
        };
        let (without, with) = (of(vec![tokens]), of(vec![tokens, hard]));
        assert_eq!((without.has_budget(), with.has_budget()), (false, true));
        assert_eq!(found(&without, 5), [(false, false); 2]);
        assert_eq!(found(&with, 0), [(false, false), (true, false)]);
        assert_eq!(found(&with, 5), [(false, false), (true, true)]);
    }

    /// All limits that several Modelgates share could have been counted as one, and no test would have noticed.
    #[test]
    fn each_limit_of_each_subject_is_counted_on_its_own() {
        let (limits, model) = (all_limits(), Subject::of_model("a"));
        let of = [Subject::of(1), Subject::of(2), model, Subject::of(1).for_model(model)];
        let all: Vec<Demands> = of.iter().map(|subject| demands(*subject, &limits)).collect();
        let rates: HashSet<_> = all.iter().flat_map(Demands::rates).map(Demand::id).collect();
        let quotas: HashSet<_> = all.iter().flat_map(Demands::quotas).map(|demand| demand.id).collect();
        assert_eq!((rates.len(), quotas.len()), (4 * 6, 4 * 4));
        assert!(rates.iter().filter(|id| id.who == 1 && id.model == 0).count() == 6);
    }

    #[test]
    fn tokens_cost_what_they_are_and_a_request_is_one() {
        let demands = demands(Subject::of(1), &all_limits());
        for demand in demands.rates() {
            assert_eq!(demand.cost(), if demand.rate().unit() == Unit::Tokens { 7 } else { 1 });
            assert_eq!((demand.scope(), demand.rate().burst()), (Scope::Key, 5));
        }
        let quotas: Vec<_> =
            demands.quotas().iter().map(|demand| (demand.quota().unit(), demand.cost())).collect();
        assert_eq!(quotas, [(Unit::Requests, 1), (Unit::Tokens, 7)].repeat(2));
        let intervals: Vec<u64> = demands.rates().iter().map(Demand::interval_ns).collect();
        assert_eq!(
            intervals,
            [16_666_667, 16_666_667, 1_000_000_000, 1_000_000_000, 60_000_000_000, 60_000_000_000]
        );
        assert_eq!(demands.rates()[3].time(), 7_000_000_000);
    }

    /// One request a second, five at once.
    #[test]
    fn what_is_counted_elsewhere_is_told_alike() {
        let rate = Rate::per_minute(60, Some(5)).expect("a rate");
        let demand = Demand::new(Scope::Model, Subject::of_model("a"), rate, 2);
        let reached = demand.reached(SECOND, 4 * SECOND);
        assert_eq!(
            (reached.scope, reached.limit, reached.cost, reached.remaining),
            (Scope::Model, rate.into(), 2, 1)
        );
        assert_eq!((reached.retry_after, reached.reset_after), (SECOND, 4 * SECOND));
        assert_eq!(demand.reached(SECOND, 9 * SECOND).remaining, 0);
        let left = demand.left(3, 2 * SECOND);
        assert_eq!(
            (left.scope, left.limit, left.remaining, left.reset_after),
            (Scope::Model, rate.into(), 3, 2 * SECOND)
        );
        assert_eq!(
            [2, 3, 5].map(|after| demand.passes_after(after * SECOND)),
            [Duration::ZERO, Duration::ZERO, 2 * SECOND]
        );
    }

    /// Rates first, then quotas; of those that refuse, the one with the longest wait.
    #[test]
    fn of_what_is_left_the_longest_wait_refuses() {
        let demands = demands(Subject::of(1), &all_limits());
        let mut left: Vec<Left> =
            demands.rates().iter().map(|demand| demand.left(7, Duration::ZERO)).collect();
        left.extend(demands.quotas().iter().map(|demand| {
            let (scope, limit) = (demand.scope(), demand.quota().into());
            Left { scope, limit, allowed: 10, remaining: 7, is_exceeded: false, reset_after: 60 * SECOND }
        }));
        assert_eq!(demands.reached(&left), None, "there is enough of each");
        let of_quotas: Vec<Limit> = demands.quotas_with(&left).map(|(_, left)| left.limit).collect();
        assert_eq!(
            of_quotas,
            demands.quotas().iter().map(|demand| demand.quota().into()).collect::<Vec<_>>()
        );
        let empty = |at: usize, reset_after| {
            let mut left = left.clone();
            (left[at].remaining, left[at].reset_after) = (0, reset_after);
            demands.reached(&left)
        };
        let by_rate = empty(2, 5 * SECOND).expect("a refusal");
        assert_eq!(
            (by_rate.limit, by_rate.cost, by_rate.retry_after),
            (demands.rates()[2].rate().into(), 1, SECOND)
        );
        // Regression: a request that costs nothing was said to pass a budget that is exceeded, and got a 402.
        let (mut free, mut spent) = (demands.clone(), left.clone());
        free.quotas[0].cost = 0;
        spent[6].remaining = 0;
        assert_eq!(free.reached(&spent), None, "all of it is used, and nothing more is taken");
        spent[6].is_exceeded = true;
        let exceeded = free.reached(&spent).expect("a refusal");
        assert_eq!((exceeded.cost, exceeded.remaining), (0, 0));
        let by_quota = empty(7, 60 * SECOND).expect("a refusal");
        assert_eq!((by_quota.limit, by_quota.cost), (demands.quotas()[1].quota().into(), 7));
        assert_eq!(by_quota.retry_after, 60 * SECOND);
    }

    #[test]
    fn demands_can_be_chosen_and_shared() {
        let all = demands(Subject::of(1), &all_limits());
        assert!(!all.is_empty() && Demands::default().is_empty());
        let only_quotas = Demands { rates: Vec::new(), ..all.clone() };
        assert!(!only_quotas.is_empty() && only_quotas.clone().without_quotas().is_empty());
        let rates = all.clone().without_quotas();
        assert!(!rates.is_empty() && rates.quotas().is_empty() && rates.rates() == all.rates());
        let mut none = all.clone();
        none.retain(|scope| scope != Scope::Key);
        assert!(none.is_empty());
        let mut same = all.clone();
        same.retain(|scope| scope == Scope::Key);
        assert_eq!(same, all);
        let share = all.clone().shared_by(NonZeroU32::new(2).expect("not 0"));
        assert_eq!(share.rates().iter().map(|demand| demand.rate().burst()).collect::<Vec<_>>(), [2; 6]);
        assert_eq!(share.quotas(), all.quotas(), "the store adds quotas up");
    }

    /// Budgets are counted elsewhere than other limits if several Modelgates share them, and free requests take nothing from them.
    #[test]
    fn budgets_can_be_told_from_other_limits() {
        let others = all_limits();
        let budget = Quota::budget(10, Calendar::Week, Reserve::Usual).expect("a budget");
        let with = Limits::new(others.rates().to_vec(), [&[budget], others.quotas()].concat());
        let (all, expected) = (demands(Subject::of(1), &with), demands(Subject::of(1), &others));
        let budgets = all.only_budgets();
        assert!(budgets.rates().is_empty());
        assert_eq!(budgets.quotas().iter().map(QuotaDemand::quota).collect::<Vec<_>>(), [budget]);
        assert!(all.budgets().eq(budgets.quotas()) && expected.budgets().next().is_none());
        assert_eq!(all.without_budgets(), expected);
        let mut free = all;
        free.drop_budgets();
        assert_eq!(free, expected);
    }
}
