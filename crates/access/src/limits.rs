//! What was taken so far.
//!
//! Each limit is a cell of one atomic number, after the *generic cell rate algorithm* (GCRA; ITU-T
//! I.371, and <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>). The number is the
//! *theoretical arrival time*: when the limit will be all fresh again. A request moves it
//! by one interval into the future; if that would take it further than a full burst from now, the
//! request is refused. Nothing has to run in the background to fill a bucket up.
//!
//! Cells live beside the [`Policy`](crate::Policy), so that a reload does not reset them. Requests
//! share no lock: the map is lock-free and a cell is changed by compare-and-swap.
//!
//! Two rules keep this right however threads interleave:
//! - the clock is read *after* the cell was found, so it never shows less than what an earlier
//!   writer of the cell, or the sweep that removed its predecessor, had seen;
//! - the sweep marks a cell dead before it removes it, and nobody takes from a dead cell.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use papaya::HashMap;

use crate::{
    Clock, Consumer, Key, KeyDigest, Limit, LimitReached, Quotas, Rate, Scope, SystemClock, Unit,
    quota::QuotaDemand,
};

/// All limits' cells.
#[derive(Debug, Default)]
pub struct Limiters<C: Clock = SystemClock> {
    cells: HashMap<CellId, Cell>,
    /// Those of addresses, apart: neither do many keys leave no room for them, nor they for keys.
    addresses: HashMap<CellId, Cell>,
    quotas: Quotas,
    clock: C,
}

/// Which cell: of a key or a consumer, of a model, or of both, for one unit and time. Halves of
/// SHA-256 digests, so that a look-up allocates nothing; an absent half is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CellId {
    pub(crate) who: u128,
    pub(crate) model: u128,
    pub(crate) window: u8,
}

/// What a request takes from a limit that recovers all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub(crate) scope: Scope,
    pub(crate) cell: CellId,
    pub(crate) rate: Rate,
    /// How much of it the request takes: 1, or its tokens.
    pub(crate) cost: u32,
}

/// All that a request takes from limits: all of it, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    pub(crate) rates: Vec<Demand>,
    pub(crate) quotas: Vec<QuotaDemand>,
}

/// What was taken for a request by an estimate. It is settled when one knows better, and need not be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "what is not kept cannot be settled"]
pub struct Reservation {
    /// With the limiters' time at which it was taken.
    rates: Vec<(Demand, u64)>,
    quotas: Vec<QuotaDemand>,
}

/// What became of a request for which something was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It was not made: everything is given back.
    Cancelled,
    /// It has used so many tokens.
    Tokens(u32),
}

/// The theoretical arrival time in nanoseconds of the clock, or [`DEAD`].
#[derive(Debug, Default)]
struct Cell(AtomicU64);

/// Of so many addresses at once failures are told apart; it bounds the memory to some 5 MB.
const MOST_ADDRESSES: usize = 50_000;

/// The sweep has condemned the cell. Times never get there: they stop at [`LAST`].
const DEAD: u64 = u64::MAX;
/// The last time, 584 years after the clock's start.
const LAST: u64 = DEAD - 1;

/// What taking from a cell came to.
enum Taken {
    /// It passed, at this time.
    At(u64),
    Refused(LimitReached),
    /// The sweep was quicker; a new cell is needed.
    Dead,
}

impl CellId {
    pub(crate) fn of_key(key: &Key) -> Self {
        Self { who: key.id, model: 0, window: 0 }
    }

    pub(crate) fn of_consumer(consumer: &Consumer) -> Self {
        Self { who: consumer.id, model: 0, window: 0 }
    }

    pub(crate) fn of_model(model: &str) -> Self {
        Self { who: 0, model: KeyDigest::of(model).prefix(), window: 0 }
    }

    /// Whoever fails to say who they are, by where they come from.
    pub(crate) fn of_address(address: &str) -> Self {
        Self { who: KeyDigest::of(&format!("address\n{address}")).prefix(), model: 0, window: 0 }
    }

    /// The same for a model.
    pub(crate) fn for_model(self, model: Self) -> Self {
        Self { model: model.model, ..self }
    }
}

impl Demand {
    /// What a request takes from a limit of a subject.
    pub(crate) fn new(scope: Scope, subject: CellId, rate: Rate, cost: u32) -> Self {
        Self { scope, cell: CellId { window: rate.window(), ..subject }, rate, cost }
    }

    /// The time that it uses up, in nanoseconds.
    fn time(&self) -> u64 {
        self.rate.interval().saturating_mul(u64::from(self.cost))
    }

    /// What tells its limit from all others: halves of SHA-256 digests of whose and of which model it is, and
    /// the unit and time.
    pub fn id(&self) -> (u128, u128, u8) {
        (self.cell.who, self.cell.model, self.cell.window)
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

    /// How much of the limit the request takes.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// How long until it passes, if a full burst passes after `reset_after`.
    pub(crate) fn passes_after(&self, reset_after: Duration) -> Duration {
        let full = Duration::from_nanos(self.rate.burst_time());
        (reset_after + Duration::from_nanos(self.time())).saturating_sub(full)
    }

    /// The refusal, if somebody else has counted.
    pub fn reached(&self, retry_after: Duration, reset_after: Duration) -> LimitReached {
        let busy = u64::try_from(reset_after.as_nanos()).unwrap_or(u64::MAX);
        let remaining = self.rate.burst_time().saturating_sub(busy) / self.rate.interval();
        let (scope, limit, cost) = (self.scope, self.rate.into(), self.cost);
        LimitReached { scope, limit, cost, remaining, retry_after, reset_after }
    }

    /// What is left, if somebody else has counted.
    pub fn left(&self, remaining: u32, reset_after: Duration) -> Left {
        Left { scope: self.scope, limit: self.rate.into(), remaining: remaining.into(), reset_after }
    }
}

impl Demands {
    /// Those of limits that recover all the time.
    pub fn rates(&self) -> &[Demand] {
        &self.rates
    }

    /// Keeps those of some scopes.
    pub fn retain(&mut self, keep: impl Fn(Scope) -> bool) {
        self.rates.retain(|demand| keep(demand.scope));
        self.quotas.retain(|demand| keep(demand.scope));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.quotas.is_empty()
    }

    /// The same with the part of each limit that one of several Modelgates enforces on its own.
    #[must_use]
    pub fn shared_by(mut self, replicas: NonZeroU32) -> Self {
        for demand in &mut self.rates {
            demand.rate = demand.rate.shared_by(replicas);
        }
        self
    }

    /// Without what quotas ask.
    #[must_use]
    pub fn without_quotas(self) -> Self {
        Self { quotas: Vec::new(), ..self }
    }
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whose limit it is.
    pub scope: Scope,
    /// The limit.
    pub limit: Limit,
    /// How much passes at once now.
    pub remaining: u64,
    /// How long until a full burst passes again; of a quota, until its period ends.
    pub reset_after: Duration,
}

impl<C: Clock> Limiters<C> {
    /// No limit has been used yet.
    pub fn new(clock: C) -> Self {
        Self { cells: HashMap::new(), addresses: HashMap::new(), quotas: Quotas::default(), clock }
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.cells.len() + self.addresses.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was counted by days and months.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Drops the cells that are all fresh again; a new cell says the same.
    pub fn sweep(&self) {
        let now = self.now();
        for cells in [&self.cells, &self.addresses] {
            for (id, cell) in &cells.pin() {
                if cell.condemn(now) {
                    bury(cells, *id);
                }
            }
        }
    }

    /// Takes what a request needs from all limits, or from none.
    ///
    /// # Errors
    /// Of the limits that are used up, the one with the longest wait: whoever waits that long passes. One of which more
    /// is asked than ever passes stands before all others.
    pub fn reserve(&self, demands: &Demands) -> Result<Reservation, LimitReached> {
        let quotas = demands.quotas.iter().filter_map(|demand| self.quotas.peek(demand).err());
        let rates = demands.rates.iter().filter_map(|demand| self.peek(demand).err());
        // Of equals, `max_by_key` gives the last one; the first is the more telling.
        if let Some(longest) =
            rates.chain(quotas).rev().max_by_key(|reached| (reached.never_passes(), reached.retry_after))
        {
            return Err(longest);
        }
        let mut reserved = self.reserve_quotas(demands)?;
        reserved.rates.reserve_exact(demands.rates.len());
        for demand in &demands.rates {
            match self.take(&self.cells, demand) {
                Ok(at) => reserved.rates.push((*demand, at)),
                // Somebody else took the last one since the peek.
                Err(reached) => {
                    self.settle(&reserved, Settlement::Cancelled);
                    return Err(reached);
                }
            }
        }
        Ok(reserved)
    }

    /// The same for quotas only, where somebody else counts the other limits.
    ///
    /// # Errors
    /// A quota is used up.
    pub fn reserve_quotas(&self, demands: &Demands) -> Result<Reservation, LimitReached> {
        let mut reserved = Reservation::default();
        for demand in &demands.quotas {
            match self.quotas.take(demand) {
                Ok(()) => reserved.quotas.push(demand.clone()),
                Err(reached) => {
                    self.settle(&reserved, Settlement::Cancelled);
                    return Err(reached);
                }
            }
        }
        Ok(reserved)
    }

    /// Notes what somebody else has let pass: should we have to decide alone, it has been used here, too. Of a limit
    /// that is used up nothing more is taken.
    pub fn note(&self, demands: &Demands) {
        let cells = self.cells.pin();
        for demand in &demands.rates {
            loop {
                let cell = cells.get_or_insert_with(demand.cell, Cell::default);
                let now = self.now();
                let later = |arrival: u64| {
                    let next = arrival.max(now).saturating_add(demand.time());
                    (arrival != DEAD).then(|| next.min(demand.ceiling(now)))
                };
                match cell.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later) {
                    Ok(_) => break,
                    Err(_) => bury(&self.cells, demand.cell),
                }
            }
        }
    }

    /// Corrects what was taken by an estimate. Who has used more than estimated owes it: the limit
    /// recovers that much later. Of what is owed beyond a full burst the next request knows nothing; quotas do.
    pub fn settle(&self, reserved: &Reservation, settlement: Settlement) {
        let used = |unit: Unit, cost: u32| match (settlement, unit) {
            (Settlement::Cancelled, _) => 0,
            (Settlement::Tokens(_), Unit::Requests) => cost,
            (Settlement::Tokens(tokens), Unit::Tokens) => tokens,
        };
        for demand in &reserved.quotas {
            let used = used(demand.quota.unit(), demand.cost);
            self.quotas.correct(&demand.id, i64::from(used) - i64::from(demand.cost));
        }
        for (demand, at) in &reserved.rates {
            let used = used(demand.rate.unit(), demand.cost);
            match used.cmp(&demand.cost) {
                std::cmp::Ordering::Less => {
                    self.give_back(&Demand { cost: demand.cost - used, ..*demand }, *at);
                }
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.owe(&Demand { cost: used - demand.cost, ..*demand }),
            }
        }
    }

    /// What is left of limits. Takes nothing.
    pub fn left(&self, demands: &Demands) -> Vec<Left> {
        demands.rates.iter().map(|demand| self.left_of(demand)).chain(self.quotas_left(demands)).collect()
    }

    /// The same for quotas only.
    pub fn quotas_left(&self, demands: &Demands) -> impl Iterator<Item = Left> {
        demands.quotas.iter().map(|demand| Left {
            scope: demand.scope,
            limit: demand.quota.into(),
            remaining: demand.quota.amount().saturating_sub(self.quotas.used(&demand.id)),
            reset_after: demand.ends_after,
        })
    }

    fn left_of(&self, demand: &Demand) -> Left {
        let cells = self.cells.pin();
        let now = self.now();
        let arrival = cells.get(&demand.cell).map_or(0, Cell::arrival).min(demand.ceiling(now));
        let busy = arrival.saturating_sub(now);
        let free = demand.rate.burst_time().saturating_sub(busy) / demand.rate.interval().max(1);
        let remaining = free.min(demand.rate.burst().into());
        Left {
            scope: demand.scope,
            limit: demand.rate.into(),
            remaining,
            reset_after: Duration::from_nanos(busy),
        }
    }

    /// Notes that somebody at an address has shown a key that is none, or refuses to listen any more.
    /// There are never more than 50,000 cells for that: beyond, all strangers share one.
    ///
    /// # Errors
    /// How long to wait.
    pub fn failed_from(&self, address: &str, rate: Rate) -> Result<(), LimitReached> {
        let own = Demand::new(Scope::Address, CellId::of_address(address), rate, 1);
        let has_room = self.addresses.len() < MOST_ADDRESSES || self.addresses.pin().contains_key(&own.cell);
        let demand = if has_room { own } else { Demand { cell: CellId::of_address(""), ..own } };
        self.take(&self.addresses, &demand).map(|_| ())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanos()).unwrap_or(LAST).min(LAST)
    }

    /// Whether a request would pass. Makes no cell.
    ///
    /// A cell is further away than a full burst only when a reload has made its limit more generous:
    /// then the old debt, in the old limit's longer intervals, is cut to a burst that is used up.
    fn peek(&self, demand: &Demand) -> Result<(), LimitReached> {
        let cells = self.cells.pin();
        let Some(cell) = cells.get(&demand.cell) else {
            // Even a fresh limit refuses what is more than a full burst.
            return demand.next_arrival(0, self.now()).map(|_| ());
        };
        let arrival = cell.arrival();
        let now = self.now();
        let ceiling = demand.ceiling(now);
        if arrival > ceiling {
            // If this fails, somebody else has changed the cell; the next one will cut it.
            let _ = cell.0.compare_exchange(arrival, ceiling, Ordering::AcqRel, Ordering::Relaxed);
        }
        demand.next_arrival(arrival.min(ceiling), now).map(|_| ())
    }

    fn take(&self, cells: &HashMap<CellId, Cell>, demand: &Demand) -> Result<u64, LimitReached> {
        let pinned = cells.pin();
        loop {
            let cell = pinned.get_or_insert_with(demand.cell, Cell::default);
            match cell.take(demand, self.now()) {
                Taken::At(now) => return Ok(now),
                Taken::Refused(refused) => return Err(refused),
                Taken::Dead => bury(cells, demand.cell),
            }
        }
    }

    /// Undoes a take. Time that has passed since is not given back: the limit has recovered by that
    /// much on its own, and had others taken meanwhile, they would get it twice.
    fn give_back(&self, demand: &Demand, taken_at: u64) {
        let cells = self.cells.pin();
        // A cell that was swept has recovered completely.
        let Some(cell) = cells.get(&demand.cell) else { return };
        let mut arrival = cell.0.load(Ordering::Acquire);
        while arrival != DEAD {
            let passed = self.now().saturating_sub(taken_at);
            let earlier = arrival.saturating_sub(demand.time().saturating_sub(passed));
            match cell.0.compare_exchange_weak(arrival, earlier, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(found) => arrival = found,
            }
        }
    }
}

impl<C: Clock> Limiters<C> {
    /// Takes more than there may be: what has been used already.
    fn owe(&self, demand: &Demand) {
        let cells = self.cells.pin();
        loop {
            let cell = cells.get_or_insert_with(demand.cell, Cell::default);
            let now = self.now();
            let later = |arrival: u64| {
                (arrival != DEAD).then(|| arrival.max(now).saturating_add(demand.time()).min(LAST))
            };
            match cell.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later) {
                Ok(_) => return,
                Err(_) => bury(&self.cells, demand.cell),
            }
        }
    }
}

/// Removes a dead cell, unless somebody else has done so; a new one may be in its place by now.
fn bury(cells: &HashMap<CellId, Cell>, id: CellId) {
    // The error only says that the cell which was found is not dead.
    let _ = cells.pin().remove_if(&id, |_, found| found.is_dead());
}

impl Cell {
    /// The time it holds; a dead cell is all fresh.
    fn arrival(&self) -> u64 {
        match self.0.load(Ordering::Acquire) {
            DEAD => 0,
            arrival => arrival,
        }
    }

    fn is_dead(&self) -> bool {
        self.0.load(Ordering::Acquire) == DEAD
    }

    /// Marks it dead if it is all fresh. Whoever takes from it meanwhile makes this fail.
    fn condemn(&self, now: u64) -> bool {
        let arrival = self.0.load(Ordering::Acquire);
        arrival == DEAD
            || arrival <= now
                && self.0.compare_exchange(arrival, DEAD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn take(&self, demand: &Demand, now: u64) -> Taken {
        let mut arrival = self.0.load(Ordering::Acquire);
        while arrival != DEAD {
            let next = match demand.next_arrival(arrival, now) {
                Ok(next) => next,
                Err(refused) => return Taken::Refused(refused),
            };
            match self.0.compare_exchange_weak(arrival, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Taken::At(now),
                Err(found) => arrival = found,
            }
        }
        Taken::Dead
    }
}

impl Demand {
    /// The arrival time of a burst that is used up.
    fn ceiling(&self, now: u64) -> u64 {
        now.saturating_add(self.rate.burst_time()).min(LAST)
    }

    /// Where one more request moves the arrival time.
    fn next_arrival(&self, arrival: u64, now: u64) -> Result<u64, LimitReached> {
        let busy_until = arrival.max(now);
        let next = busy_until.saturating_add(self.time()).min(LAST);
        let ceiling = self.ceiling(now);
        if next <= ceiling {
            return Ok(next);
        }
        Err(self.reached(Duration::from_nanos(next - ceiling), Duration::from_nanos(busy_until - now)))
    }
}

#[cfg(test)]
mod tests;
