//! What was taken of all limits so far: a cell for each rate (`cell.rs`), a count for each quota (`counts.rs`).
//!
//! They are kept outside the policy that sets the limits, so that a reload does not reset them. Requests share no lock: the
//! maps are lock-free, and a cell is changed by compare-and-swap.
//!
//! Two rules keep this correct however threads interleave:
//! - the clock is read *after* the cell was found, so it never shows less than what an earlier
//!   writer of the cell, or the sweep that removed its predecessor, had seen;
//! - the sweep marks a cell dead before it removes it, and nobody takes from a dead cell.

use std::{net::IpAddr, sync::atomic::Ordering, time::Duration};

use papaya::HashMap;

use crate::{
    cell::{Cell, DEAD, LAST, Taken},
    clock::{Clock, SystemClock},
    counts::{Quotas, signed},
    demand::{Demand, Demands, Left, QuotaDemand},
    id::{LimitId, Subject},
    network::network_of,
    quota::Reserve,
    rate::{Rate, Unit},
    reached::{LimitReached, Scope, longest},
};

/// The cells and counts of all limits.
#[derive(Debug, Default)]
pub struct Limiters<C: Clock = SystemClock> {
    cells: HashMap<LimitId, Cell>,
    /// The cells of addresses, kept apart so that neither keys nor addresses crowd the other out.
    addresses: HashMap<LimitId, Cell>,
    quotas: Quotas,
    clock: C,
}

/// What was taken for a request by an estimate. It may be settled once the real amount is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "what is not kept cannot be settled"]
pub struct Reservation {
    /// Each with the time from which it recovers.
    rates: Vec<(Demand, u64)>,
    quotas: Vec<QuotaDemand>,
}

impl Reservation {
    /// Only what counts tokens or money, which is what usage settles; the rest need not be kept until then.
    pub fn of_usage(mut self) -> Self {
        self.rates.retain(|(demand, _)| demand.rate.unit() == Unit::Tokens);
        self.quotas.retain(|demand| demand.quota.unit() != Unit::Requests);
        self.rates.shrink_to_fit();
        self.quotas.shrink_to_fit();
        self
    }

    /// Adds what was taken besides.
    pub fn add(&mut self, other: Self) {
        self.rates.extend(other.rates);
        self.quotas.extend(other.quotas);
    }

    /// What was taken from budgets.
    pub fn budgets(&self) -> impl Iterator<Item = &QuotaDemand> {
        self.quotas.iter().filter(|demand| demand.quota.unit() == Unit::Money)
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.quotas.is_empty()
    }
}

/// The outcome of a request for which something was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The request was not made: everything is given back.
    Cancelled,
    /// The request has used this many tokens.
    Tokens(u32),
}

/// The maximum number of addresses whose failures are counted apart; it bounds the memory to some 5 MB.
const MOST_ADDRESSES: usize = 50_000;

impl<C: Clock> Limiters<C> {
    /// Limiters with every limit unused.
    pub fn new(clock: C) -> Self {
        Self { cells: HashMap::new(), addresses: HashMap::new(), quotas: Quotas::default(), clock }
    }

    /// The number of cells.
    pub fn len(&self) -> usize {
        self.cells.len() + self.addresses.len()
    }

    /// Whether there are no cells.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The counts of quotas.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Drops the cells that have recovered completely; a new cell is equivalent.
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
    /// The exhausted limit with the longest wait, after which the request passes. A limit that the request can never pass comes
    /// before all others.
    pub fn reserve(&self, demands: &Demands) -> Result<Reservation, LimitReached> {
        let quotas = demands.quotas.iter().filter_map(|demand| self.quotas.peek(demand).err());
        let rates = demands.rates.iter().filter_map(|demand| self.peek(demand).err());
        if let Some(reached) = longest(rates.chain(quotas)) {
            return Err(reached);
        }
        let mut reserved = self.reserve_quotas(demands)?;
        reserved.rates.reserve_exact(demands.rates.len());
        for demand in &demands.rates {
            match self.take(&self.cells, demand) {
                Ok(from) => reserved.rates.push((*demand, from)),
                // Another request took the rest since the peek.
                Err(reached) => {
                    self.settle(&reserved, Settlement::Cancelled);
                    return Err(reached);
                }
            }
        }
        Ok(reserved)
    }

    /// Like [`reserve`](Self::reserve), for quotas only, where the rates are counted elsewhere.
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

    /// Records what was admitted elsewhere, so that it counts here if this process has to decide alone. Nothing is taken beyond
    /// a used-up burst.
    pub fn note(&self, demands: &Demands) {
        let cells = self.cells.pin();
        for demand in &demands.rates {
            loop {
                let cell = cells.get_or_insert_with(demand.id, Cell::default);
                let now = self.now();
                let later = |arrival: u64| {
                    let next = arrival.max(now).saturating_add(demand.time());
                    (arrival != DEAD).then(|| next.min(demand.ceiling(now)))
                };
                match cell.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later) {
                    Ok(_) => break,
                    Err(_) => bury(&self.cells, demand.id),
                }
            }
        }
    }

    /// Records what was taken from budgets that are counted elsewhere, whatever is left of them.
    pub fn note_budgets(&self, demands: &Demands) -> Reservation {
        let quotas: Vec<QuotaDemand> = demands.budgets().cloned().collect();
        for demand in &quotas {
            self.quotas.correct(&demand.id, signed(demand.cost));
        }
        Reservation { rates: Vec::new(), quotas }
    }

    /// Corrects what was taken by an estimate. Whoever used more than estimated owes the difference: the limit recovers that
    /// much later. A rate forgets debt beyond one full burst; a quota does not. A quota of a period that is over is corrected
    /// in that period, which no request asks for any more.
    ///
    /// A rate gets back what had not been used, but not beyond all fresh, and less the time in which it would have been all
    /// fresh anyway (`give_back`). So in any time no more is used than a burst, what recovers, and what requests that were
    /// open at its beginning get back.
    pub fn settle(&self, reserved: &Reservation, settlement: Settlement) {
        for demand in &reserved.quotas {
            let used = match (settlement, demand.quota.unit()) {
                (Settlement::Cancelled, _) => 0,
                // What it has cost is known later.
                (Settlement::Tokens(_), Unit::Requests | Unit::Money) => continue,
                (Settlement::Tokens(tokens), Unit::Tokens) => tokens.into(),
            };
            self.quotas.correct(&demand.id, signed(used) - signed(demand.cost));
        }
        for (demand, from) in &reserved.rates {
            let used = match (settlement, demand.rate.unit()) {
                (Settlement::Cancelled, _) => 0,
                (Settlement::Tokens(_), Unit::Requests | Unit::Money) => continue,
                (Settlement::Tokens(tokens), Unit::Tokens) => tokens,
            };
            match used.cmp(&demand.cost) {
                std::cmp::Ordering::Less => {
                    // What was used recovers before what was not.
                    let from = from.saturating_add(Demand { cost: used, ..*demand }.time());
                    self.give_back(&Demand { cost: demand.cost - used, ..*demand }, from);
                }
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.owe(&Demand { cost: used - demand.cost, ..*demand }),
            }
        }
    }

    /// Like [`settle`](Self::settle), but what was used may be corrected again: the reservation becomes one of these tokens.
    pub fn correct(&self, reserved: &mut Reservation, tokens: u32) {
        self.settle(reserved, Settlement::Tokens(tokens));
        for (demand, _) in &mut reserved.rates {
            if demand.rate.unit() == Unit::Tokens {
                demand.cost = tokens;
            }
        }
        for demand in &mut reserved.quotas {
            if demand.quota.unit() == Unit::Tokens {
                demand.cost = tokens.into();
            }
        }
    }

    /// Settles what was taken from budgets: it becomes what the request has cost, in units of 10⁻⁹ of the currency. `cost` gets what was
    /// taken from a budget of which kind; `None` leaves it. Returns what has changed of which budget.
    ///
    /// What it has cost may be corrected by another call, unless the budget was reset in between: then it does not count any more.
    pub fn spend(
        &self,
        reserved: &mut Reservation,
        cost: impl Fn(Reserve, u64) -> Option<u64>,
    ) -> Vec<(QuotaDemand, i64)> {
        let mut changed = Vec::new();
        for demand in &mut reserved.quotas {
            let Some(reserve) = demand.quota.reserve() else { continue };
            let forgiven = self.quotas.granted(&demand.id).forgiven;
            let before = demand.settled.replace(demand.settled.unwrap_or(forgiven));
            if before.is_some_and(|before| before != forgiven) {
                continue;
            }
            let cost = cost(reserve, demand.cost).unwrap_or(demand.cost);
            let by = signed(cost) - signed(demand.cost);
            demand.cost = cost;
            if by != 0 {
                self.quotas.correct(&demand.id, by);
                changed.push((demand.clone(), by));
            }
            let settled = if before.is_none() { signed(cost) } else { by };
            if let Some(id) = demand.id.settled().filter(|_| settled != 0) {
                self.quotas.correct(&id, settled);
            }
        }
        changed
    }

    /// Adds tokens to the quotas of a request that was settled before, or takes some away. Its rates have recovered since.
    pub fn correct_quotas(&self, reserved: &Reservation, difference: i64) {
        let tokens = reserved.quotas.iter().filter(|demand| demand.quota.unit() == Unit::Tokens);
        for demand in tokens {
            self.quotas.correct(&demand.id, difference);
        }
    }

    /// What is left of limits. Takes nothing.
    pub fn left(&self, demands: &Demands) -> Vec<Left> {
        demands.rates.iter().map(|demand| self.left_of(demand)).chain(self.quotas_left(demands)).collect()
    }

    /// Like [`left`](Self::left), for quotas only.
    pub fn quotas_left(&self, demands: &Demands) -> impl Iterator<Item = Left> {
        demands.quotas.iter().map(|demand| self.quotas.left(demand))
    }

    /// What is left of a quota, and of what was added to it.
    pub fn left_of_quota(&self, demand: &QuotaDemand) -> Left {
        self.quotas.left(demand)
    }

    fn left_of(&self, demand: &Demand) -> Left {
        let cells = self.cells.pin();
        let now = self.now();
        let arrival = cells.get(&demand.id).map_or(0, Cell::arrival).min(demand.ceiling(now));
        let busy = arrival.saturating_sub(now);
        let free = demand.rate.burst_time().saturating_sub(busy) / demand.rate.interval().max(1);
        let remaining = free.min(demand.rate.burst().into());
        Left {
            scope: demand.scope,
            limit: demand.rate.into(),
            allowed: demand.rate.burst().into(),
            remaining,
            is_exceeded: false,
            reset_after: Duration::from_nanos(busy),
        }
    }

    /// Counts a failed authentication from an address. All addresses of one [network](network_of) count together, and so do all
    /// requests without an address. There are at most 50,000 cells: further addresses share one.
    ///
    /// # Errors
    /// The limit and how long to wait, if it is used up.
    pub fn failed_from(&self, address: Option<IpAddr>, rate: Rate) -> Result<(), LimitReached> {
        let network = address.map(|address| network_of(address).to_string()).unwrap_or_default();
        let at = |network: &str| Demand::new(Scope::Address, Subject::of_address(network), rate, 1);
        let own = at(&network);
        let has_room = self.addresses.len() < MOST_ADDRESSES || self.addresses.pin().contains_key(&own.id);
        let demand = if has_room { own } else { at("") };
        self.take(&self.addresses, &demand).map(|_| ())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanos()).unwrap_or(LAST).min(LAST)
    }

    /// Whether a request would pass. Creates no cell.
    ///
    /// A cell's arrival time is further away than a full burst only if a reload has made its limit more generous: the old debt,
    /// in the old limit's longer intervals, is then cut to one used-up burst.
    fn peek(&self, demand: &Demand) -> Result<(), LimitReached> {
        let cells = self.cells.pin();
        let Some(cell) = cells.get(&demand.id) else {
            // Even an unused limit refuses more than a full burst.
            return demand.next_arrival(0, self.now()).map(|_| ());
        };
        let arrival = cell.arrival();
        let now = self.now();
        let ceiling = demand.ceiling(now);
        if arrival > ceiling {
            // If this fails, another thread has changed the cell; the next request will cut it.
            let _ = cell.0.compare_exchange(arrival, ceiling, Ordering::AcqRel, Ordering::Relaxed);
        }
        demand.next_arrival(arrival.min(ceiling), now).map(|_| ())
    }

    fn take(&self, cells: &HashMap<LimitId, Cell>, demand: &Demand) -> Result<u64, LimitReached> {
        let pinned = cells.pin();
        loop {
            let cell = pinned.get_or_insert_with(demand.id, Cell::default);
            match cell.take(demand, self.now()) {
                Taken::From(from) => return Ok(from),
                Taken::Refused(refused) => return Err(refused),
                Taken::Dead => bury(cells, demand.id),
            }
        }
    }

    /// Undoes a take, except for the time since which it has been recovering: the limit has recovered by that much on its own,
    /// and if others took it meanwhile, it would be given out twice. Until `recovers_from` it was what others had taken before
    /// that recovered, so no time is lost where a limit is in use all the time.
    fn give_back(&self, demand: &Demand, recovers_from: u64) {
        let cells = self.cells.pin();
        // A swept cell had recovered completely.
        let Some(cell) = cells.get(&demand.id) else { return };
        let mut arrival = cell.0.load(Ordering::Acquire);
        while arrival != DEAD {
            let passed = self.now().saturating_sub(recovers_from);
            let earlier = arrival.saturating_sub(demand.time().saturating_sub(passed));
            match cell.0.compare_exchange_weak(arrival, earlier, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(found) => arrival = found,
            }
        }
    }

    /// Takes more than the limit allows, for what has been used already.
    fn owe(&self, demand: &Demand) {
        let cells = self.cells.pin();
        loop {
            let cell = cells.get_or_insert_with(demand.id, Cell::default);
            let now = self.now();
            let later = |arrival: u64| {
                (arrival != DEAD).then(|| arrival.max(now).saturating_add(demand.time()).min(LAST))
            };
            match cell.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later) {
                Ok(_) => return,
                Err(_) => bury(&self.cells, demand.id),
            }
        }
    }
}

/// Removes a dead cell, unless another thread has done so and put a new one in its place.
fn bury(cells: &HashMap<LimitId, Cell>, id: LimitId) {
    // The error only means that the cell found is not dead.
    let _ = cells.pin().remove_if(&id, |_, found| found.is_dead());
}

#[cfg(test)]
mod tests;
