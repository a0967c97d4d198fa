//! Where admitted requests are counted for rates and budgets: in this Modelgate alone, or in a Redis that several replicas share.
//!
//! All other quotas are counted in this process; the store adds the replicas' counts up. What requests take from budgets in Redis is
//! counted here as well: for the store, and in case that Redis loses it.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use access::{Decision, Pending, Reason};
use limits::{
    Demand, Demands, Granted, Left, Limit, LimitReached, Limiters, QuotaDemand, Reservation, Reserve,
    Settlement, SystemClock, Unit,
};
use shared_limits::{BudgetDemand, Epoch, Outcome, ServerTime, Settled, SharedLimits, Spent};

/// The corrections in one call of the server, which works on nothing else meanwhile.
const SETTLED_AT_ONCE: usize = 128;

/// After so long each replica has written to the store what it had counted, unless the store does not answer it: it writes twice a second.
const COUNTS_ARE_WRITTEN: Duration = Duration::from_secs(2);

/// Limits that several replicas share.
#[derive(Debug)]
pub struct SharedCounting {
    limits: SharedLimits,
    on_failure: OnFailure,
    /// The number of decisions made without the server, as [`OnFailure`] says.
    alone: AtomicU64,
    /// Since when it counts; and when the latest exchange with the store that is complete began, in nanoseconds after that.
    since: Instant,
    heard: AtomicU64,
}

/// What happens to limited requests while the server of shared limits does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They pass; quotas still apply.
    Open,
    /// They are refused.
    Closed,
    /// Each replica enforces its share of each limit. What it has admitted before counts, so that neither an outage nor a late
    /// answer lets more pass than the limit.
    Local,
}

impl OnFailure {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }
}

impl SharedCounting {
    /// Counts in `limits`, and applies `on_failure` if the server does not answer.
    pub fn new(limits: SharedLimits, on_failure: OnFailure) -> Self {
        let (alone, heard) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limits, on_failure, alone, since: Instant::now(), heard }
    }

    /// The connection to the server.
    pub fn limits(&self) -> &SharedLimits {
        &self.limits
    }

    /// What happens if the server does not answer.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The number of decisions made without the server.
    pub fn alone(&self) -> u64 {
        self.alone.load(Ordering::Relaxed)
    }

    /// Notes that an exchange with the store is complete that began then: what other replicas had written is known here.
    pub fn has_heard_store(&self, began: Instant) {
        let after = u64::try_from(began.saturating_duration_since(self.since).as_nanos());
        self.heard.fetch_max(after.unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// Whether it is known what was spent before the server lost its data, if it ever has: the store has told it since, late enough for
    /// every replica to have written what it had counted.
    fn knows_what_was_lost(&self) -> bool {
        let heard = self.since + Duration::from_nanos(self.heard.load(Ordering::Acquire));
        self.limits.lost_at().is_none_or(|lost| heard >= lost.into_std() + COUNTS_ARE_WRITTEN)
    }

    /// The number of replicas, including this one.
    fn replicas(&self) -> NonZeroU32 {
        NonZeroU32::new(self.limits.replicas()).unwrap_or(NonZeroU32::MIN)
    }

    async fn admit(
        &self,
        limiters: &Limiters<SystemClock>,
        pending: Pending,
    ) -> (Decision, SharedReservation) {
        let nothing = SharedReservation::default();
        // The epoch first: a loss that is noticed after the question whether it is made good is a new epoch for the server.
        let epoch = self.limits.epoch();
        if pending.demands().takes_from_budget(Reserve::Hard) && !self.knows_what_was_lost() {
            return (pending.deny(Reason::LimitsUnavailable), nothing);
        }
        // Quotas first: they need no round trip, and can be given back.
        let others = pending.demands().budgets().next().map(|_| pending.demands().without_budgets());
        let mut reserved = match limiters.reserve_quotas(others.as_ref().unwrap_or(pending.demands())) {
            Ok(reserved) => Reserved { limiters, reserved: Some(reserved) },
            Err(reached) => return (pending.deny(reached.into()), nothing),
        };
        let demands: Vec<_> = pending.demands().rates().iter().map(translate).collect();
        let budgets = pending.demands().budgets().map(|demand| asked_of(demand, limiters, epoch));
        let budgets: Vec<_> = budgets.collect();
        let refused = match self.limits.admit(&demands, &budgets).await {
            Outcome::Admitted { recovers_from, .. } => {
                limiters.note(&self.part_of(&pending));
                reserved.spent(limiters.note_budgets(pending.demands()));
                let taken = SharedReservation::of_tokens(pending.demands(), &recovers_from, epoch);
                return (pending.allow(reserved.keep()), taken);
            }
            Outcome::Overspent { index, remaining } => {
                let demand = pending.demands().budgets().nth(index);
                demand.map_or(Reason::LimitsUnavailable, |demand| {
                    let Granted { added, .. } = limiters.quotas().granted(&demand.id());
                    demand.reached(remaining, added).into()
                })
            }
            Outcome::Refused { index, retry_after, reset_after } => {
                let demand = pending.demands().rates().get(index);
                demand.map_or(Reason::LimitsUnavailable, |demand| {
                    demand.reached(retry_after, reset_after).into()
                })
            }
            Outcome::Unavailable => {
                self.alone.fetch_add(1, Ordering::Relaxed);
                match self.decide_alone(limiters, &pending) {
                    Ok(spent) => {
                        reserved.spent(spent);
                        let taken = SharedReservation { has_spent: false, epoch, ..nothing };
                        return (pending.allow(reserved.keep()), taken);
                    }
                    Err(reason) => reason,
                }
            }
        };
        drop(reserved);
        (pending.deny(refused), nothing)
    }

    /// Decides without the server. Returns what was taken from budgets, of which only this Modelgate and the store know then.
    /// Nobody knows what other replicas take from a hard budget meanwhile.
    fn decide_alone(
        &self,
        limiters: &Limiters<SystemClock>,
        pending: &Pending,
    ) -> Result<Reservation, Reason> {
        if self.on_failure == OnFailure::Closed || pending.demands().takes_from_budget(Reserve::Hard) {
            return Err(Reason::LimitsUnavailable);
        }
        let spent = Reserved {
            limiters,
            reserved: Some(limiters.reserve_quotas(&pending.demands().only_budgets())?),
        };
        if self.on_failure == OnFailure::Local {
            let taken = limiters.reserve(&self.part_of(pending));
            // The rates recover on their own.
            drop(taken.map_err(|reached| whole(reached, pending.demands()))?);
        }
        Ok(spent.keep())
    }

    /// Gives back what requests have not used, or takes what they have used beyond that. Without the server the limits recover
    /// on their own, and budgets keep what was reserved.
    pub(crate) async fn settle(&self, settled: &[Settled], spent: &[Spent]) {
        for batch in settled.chunks(SETTLED_AT_ONCE) {
            let _ = self.limits.settle(batch).await;
        }
        for batch in spent.chunks(SETTLED_AT_ONCE) {
            let _ = self.limits.spend(batch).await;
        }
    }

    /// What a request takes from this replica's share of the limits.
    fn part_of(&self, pending: &Pending) -> Demands {
        pending.demands().clone().without_quotas().shared_by(self.replicas())
    }

    async fn left(&self, limiters: &Limiters<SystemClock>, demands: &Demands) -> Vec<Left> {
        let asked: Vec<_> = demands.rates().iter().map(translate).collect();
        let Ok(left) = self.limits.left(&asked).await else {
            let mut left = limiters.left(&demands.clone().shared_by(self.replicas()));
            // The remainder is that of this replica's share; the limit shown is the whole one.
            for (left, demand) in left.iter_mut().zip(demands.rates()) {
                left.limit = demand.rate().into();
            }
            return left;
        };
        let rates = demands.rates().iter().zip(left);
        let rates: Vec<_> =
            rates.map(|(demand, left)| demand.left(left.remaining, left.reset_after)).collect();
        let ids: Vec<_> = demands.budgets().map(QuotaDemand::id).collect();
        let spent = self.limits.spent(&ids).await.unwrap_or_default();
        let mut spent = spent.into_iter();
        let quotas = demands.quotas().iter().zip(limiters.quotas_left(demands)).map(|(demand, left)| {
            let is_budget = demand.quota().unit() == Unit::Money;
            match is_budget.then(|| spent.next()).flatten().flatten() {
                Some(spent) => {
                    let allowed = allowed(demand, limiters);
                    Left { remaining: allowed.saturating_sub(spent), is_exceeded: spent > allowed, ..left }
                }
                None => left,
            }
        });
        rates.into_iter().chain(quotas).collect()
    }
}

/// What a request has taken from limits of tokens and from budgets that several replicas share.
#[derive(Debug, Clone)]
pub(crate) struct SharedReservation {
    tokens: Box<[Settled]>,
    /// The server knows what was taken from budgets.
    has_spent: bool,
    /// When it was taken.
    epoch: Epoch,
}

impl Default for SharedReservation {
    fn default() -> Self {
        Self { tokens: Box::default(), has_spent: true, epoch: Epoch::default() }
    }
}

impl SharedReservation {
    fn of_tokens(demands: &Demands, recovers_from: &[ServerTime], epoch: Epoch) -> Self {
        let taken = demands
            .rates()
            .iter()
            .zip(recovers_from)
            .filter(|(demand, _)| demand.rate().unit() == Unit::Tokens);
        let tokens = taken.map(|(demand, from)| {
            let demand = translate(demand);
            Settled { demand, recovers_from: *from, used: demand.cost }
        });
        Self { tokens: tokens.collect(), has_spent: true, epoch }
    }

    /// What the server is to add to budgets that were changed in this process.
    pub(crate) fn spend(&mut self, changed: Vec<(QuotaDemand, i64)>) -> impl Iterator<Item = Spent> + use<> {
        let (has_spent, epoch) = (self.has_spent, self.epoch);
        self.has_spent |= !changed.is_empty();
        changed.into_iter().map(move |(demand, by)| {
            let all = i64::try_from(demand.cost()).unwrap_or(i64::MAX);
            let by = if has_spent { by } else { all };
            Spent { id: demand.id(), by, epoch, ends_after: ends_after(&demand) }
        })
    }

    /// What has come of it, if the request has used these tokens. From now on they are what is taken.
    pub(crate) fn correct(&mut self, tokens: u32) -> impl Iterator<Item = Settled> {
        self.tokens.iter_mut().filter(move |taken| taken.demand.cost != tokens).map(move |taken| {
            let settled = Settled { used: tokens, ..*taken };
            taken.demand.cost = tokens;
            settled
        })
    }
}

/// The quotas taken by an undecided request. They are given back if it is refused or its client leaves.
struct Reserved<'l> {
    limiters: &'l Limiters<SystemClock>,
    reserved: Option<Reservation>,
}

impl Reserved<'_> {
    /// Adds what was taken from budgets.
    fn spent(&mut self, spent: Reservation) {
        if let Some(reserved) = &mut self.reserved {
            reserved.add(spent);
        }
    }

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

/// A refusal by this replica's share, restated for the whole limit: a request too large for the share passes once the server is
/// back.
fn whole(reached: LimitReached, demands: &Demands) -> LimitReached {
    let is_same = |demand: &&Demand| {
        let rate = demand.rate();
        demand.scope() == reached.scope
            && matches!(reached.limit, Limit::Rate(part) if (part.unit(), part.per()) == (rate.unit(), rate.per()))
    };
    let limit = demands.rates().iter().find(is_same).map_or(reached.limit, |demand| demand.rate().into());
    LimitReached { limit, ..reached }
}

/// Debits the limits of a request, either all or none.
pub(crate) async fn admit(
    shared: Option<&SharedCounting>,
    limiters: &Limiters<SystemClock>,
    pending: Pending,
) -> (Decision, SharedReservation) {
    match shared {
        Some(shared) if has_shared(pending.demands()) => shared.admit(limiters, pending).await,
        _ => (pending.admit(limiters), SharedReservation::default()),
    }
}

/// Whether it is known what was spent of the hard budgets from which a request takes something: the store was read once, or the server that
/// replicas share knows it. Otherwise they would begin at zero.
pub(crate) async fn knows_hard_budgets(
    shared: Option<&SharedCounting>,
    store_was_read: bool,
    demands: &Demands,
) -> bool {
    if store_was_read || !demands.takes_from_budget(Reserve::Hard) {
        return true;
    }
    let is_hard = |demand: &&QuotaDemand| demand.quota().reserve() == Some(Reserve::Hard);
    let Some(shared) = shared else { return false };
    let hard: Vec<_> = demands.budgets().filter(is_hard).map(QuotaDemand::id).collect();
    shared.limits.spent(&hard).await.is_ok_and(|spent| spent.iter().all(Option::is_some))
}

/// What is left of limits.
pub(crate) async fn left(
    shared: Option<&SharedCounting>,
    limiters: &Limiters<SystemClock>,
    demands: &Demands,
) -> Vec<Left> {
    match shared {
        Some(shared) if has_shared(demands) => shared.left(limiters, demands).await,
        _ => limiters.left(demands),
    }
}

/// Whether some demand is on a limit that replicas share in Redis.
fn has_shared(demands: &Demands) -> bool {
    !demands.rates().is_empty() || demands.budgets().next().is_some()
}

fn asked_of(demand: &QuotaDemand, limiters: &Limiters<SystemClock>, epoch: Epoch) -> BudgetDemand {
    let id = demand.id();
    let (allowed, used) = (allowed(demand, limiters), limiters.quotas().used(&id));
    BudgetDemand { id, allowed, cost: demand.cost(), used, epoch, ends_after: ends_after(demand) }
}

/// What may be taken from a budget in all, together with what operators have given.
fn allowed(demand: &QuotaDemand, limiters: &Limiters<SystemClock>) -> u64 {
    let Granted { added, forgiven } = limiters.quotas().granted(&demand.id());
    demand.quota().amount().saturating_add(added).saturating_add(forgiven)
}

fn ends_after(demand: &QuotaDemand) -> Option<Duration> {
    Some(demand.ends_after()).filter(|after| *after != Duration::MAX)
}

fn translate(demand: &Demand) -> shared_limits::Demand {
    shared_limits::Demand {
        id: demand.id(),
        interval_ns: demand.interval_ns(),
        burst: demand.rate().burst(),
        cost: demand.cost(),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use access::{Consumer, Key, KeyDigest, Mode, Policy, Request, prepare};
    use axum::http::{HeaderMap, header::AUTHORIZATION};
    use catalogue::Catalogue;
    use limits::{Calendar, Limited, Limits, Moment, Quota, Rate, Scope, Subject, Unit};
    use shared_limits::Options;

    use super::*;

    /// A request through a gate, of a key with two requests a day and many a minute.
    fn pending() -> Pending {
        let quota = Quota::new(2, Unit::Requests, Calendar::Day).expect("a quota");
        let rate = Rate::per_minute(600, None).expect("a rate");
        let limits = Limits::new(vec![rate], vec![quota]);
        let key =
            Key { limits, ..Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key")) };
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer mg-key".parse().expect("a value"))]);
        let request = Request {
            method: "GET",
            uri: "/v1/voices",
            host: None,
            headers: &headers,
            body: b"",
            mode: Mode::Gate { model: Some("mine"), body_forwarded: true, single_model: true },
            trusted: false,
            from: None,
            now: SystemTime::UNIX_EPOCH,
        };
        let policy = Policy::new(vec![key], Vec::new());
        prepare(&policy, &Catalogue::assemble([], Vec::new()), &request).expect("it may pass")
    }

    /// With Redis emptied and the store down, a Modelgate that had begun anew let a hard budget be spent a second time.
    #[tokio::test]
    async fn hard_budgets_are_unknown_until_the_store_or_the_server_has_told_them() {
        let nobody = SharedLimits::connect("redis://127.0.0.1:1", Options::default()).await.expect("options");
        let counting = SharedCounting::new(nobody, OnFailure::Open);
        for (reserve, expected) in [(Reserve::Usual, [true; 4]), (Reserve::Hard, [true, true, false, false])]
        {
            let budget = Quota::budget(2, Calendar::Month, reserve).expect("a budget");
            let (limits, mut demands) = (Limits::new(Vec::new(), vec![budget]), Demands::default());
            let limited = Limited { scope: Scope::Key, subject: Subject::of(1), limits: &limits };
            demands.add(&limited, &Moment::new(SystemTime::UNIX_EPOCH, Policy::default().time_zone()), |_| 1);
            demands.price(|_| 1);
            let cases = [(None, true), (Some(&counting), true), (None, false), (Some(&counting), false)];
            for ((shared, store_was_read), expected) in cases.into_iter().zip(expected) {
                let found = knows_hard_budgets(shared, store_was_read, &demands).await;
                assert_eq!(found, expected, "{reserve:?} {store_was_read}");
            }
            // Regression: what costs nothing had to wait as well.
            demands.price(|_| 0);
            for (shared, store_was_read) in cases {
                assert!(knows_hard_budgets(shared, store_was_read, &demands).await, "{reserve:?}");
            }
        }
    }

    /// While the server is away each request would have taken two from a quota if the local rates were reserved with it.
    #[tokio::test]
    async fn a_quota_is_taken_once_while_the_server_is_away() {
        for (on_failure, passing) in [(OnFailure::Open, 2), (OnFailure::Local, 2), (OnFailure::Closed, 0)] {
            let nobody =
                SharedLimits::connect("redis://127.0.0.1:1", Options::default()).await.expect("options");
            let (counting, limiters) =
                (SharedCounting::new(nobody, on_failure), Limiters::new(SystemClock::new()));
            let mut passed = 0;
            for _ in 0..3 {
                match admit(Some(&counting), &limiters, pending()).await.0 {
                    Decision::Allow(_) => passed += 1,
                    Decision::Deny(denial) if passing == 0 => {
                        assert_eq!(denial.reason, Reason::LimitsUnavailable);
                        let left = limiters.quotas_left(pending().demands()).collect::<Vec<_>>();
                        assert_eq!(left[0].remaining, 2, "a refused request takes nothing");
                    }
                    Decision::Deny(denial) => assert_eq!(denial.reason.code(), "quota_exceeded"),
                }
            }
            assert_eq!(passed, passing, "{on_failure:?}");
            let asked = if passing == 0 { 3 } else { 2 };
            assert_eq!(counting.alone(), asked, "{on_failure:?}: what a quota refuses is not asked about");
        }
    }
}
