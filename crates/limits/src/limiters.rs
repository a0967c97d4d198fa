//! What was taken so far: a cell for each rate (`cell.rs`), a count for each quota (`counts.rs`).
//!
//! They live beside the policy that says what the limits are, so that a reload does not reset them. Requests share no
//! lock: the maps are lock-free, and a cell is changed by compare-and-swap.
//!
//! Two rules keep this right however threads interleave:
//! - the clock is read *after* the cell was found, so it never shows less than what an earlier
//!   writer of the cell, or the sweep that removed its predecessor, had seen;
//! - the sweep marks a cell dead before it removes it, and nobody takes from a dead cell.

use std::{net::IpAddr, sync::atomic::Ordering, time::Duration};

use papaya::HashMap;

use crate::{
    cell::{Cell, DEAD, LAST, Taken},
    clock::{Clock, SystemClock},
    counts::Quotas,
    demand::{Demand, Demands, Left, QuotaDemand},
    id::{LimitId, Subject},
    network::network_of,
    rate::{Rate, Unit},
    reached::{LimitReached, Scope, longest},
};

/// All limits' cells.
#[derive(Debug, Default)]
pub struct Limiters<C: Clock = SystemClock> {
    cells: HashMap<LimitId, Cell>,
    /// Those of addresses, apart: neither do many keys leave no room for them, nor they for keys.
    addresses: HashMap<LimitId, Cell>,
    quotas: Quotas,
    clock: C,
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

/// Of so many addresses at once failures are told apart; it bounds the memory to some 5 MB.
const MOST_ADDRESSES: usize = 50_000;

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
        if let Some(reached) = longest(rates.chain(quotas)) {
            return Err(reached);
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
        let arrival = cells.get(&demand.id).map_or(0, Cell::arrival).min(demand.ceiling(now));
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

    /// Notes that somebody at an address has shown a key that is none, or refuses to listen any more. All addresses of
    /// one [network](network_of) count together, and so do all requests without an address. There are never more than
    /// 50,000 cells for that: beyond, all strangers share one.
    ///
    /// # Errors
    /// How long to wait.
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

    /// Whether a request would pass. Makes no cell.
    ///
    /// A cell is further away than a full burst only when a reload has made its limit more generous:
    /// then the old debt, in the old limit's longer intervals, is cut to a burst that is used up.
    fn peek(&self, demand: &Demand) -> Result<(), LimitReached> {
        let cells = self.cells.pin();
        let Some(cell) = cells.get(&demand.id) else {
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

    fn take(&self, cells: &HashMap<LimitId, Cell>, demand: &Demand) -> Result<u64, LimitReached> {
        let pinned = cells.pin();
        loop {
            let cell = pinned.get_or_insert_with(demand.id, Cell::default);
            match cell.take(demand, self.now()) {
                Taken::At(now) => return Ok(now),
                Taken::Refused(refused) => return Err(refused),
                Taken::Dead => bury(cells, demand.id),
            }
        }
    }

    /// Undoes a take. Time that has passed since is not given back: the limit has recovered by that
    /// much on its own, and had others taken meanwhile, they would get it twice.
    fn give_back(&self, demand: &Demand, taken_at: u64) {
        let cells = self.cells.pin();
        // A cell that was swept has recovered completely.
        let Some(cell) = cells.get(&demand.id) else { return };
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

    /// Takes more than there may be: what has been used already.
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

/// Removes a dead cell, unless somebody else has done so; a new one may be in its place by now.
fn bury(cells: &HashMap<LimitId, Cell>, id: LimitId) {
    // The error only says that the cell which was found is not dead.
    let _ = cells.pin().remove_if(&id, |_, found| found.is_dead());
}

#[cfg(test)]
mod tests;
