//! The state of one rate limit in one atomic number, by the *generic cell rate algorithm* (GCRA; ITU-T I.371, and
//! <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>).
//!
//! The number is the *theoretical arrival time*: when the limit will have recovered completely. A request moves it one interval
//! into the future; if that would be more than a full burst from now, the request is refused. No background task has to refill
//! anything.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{demand::Demand, reached::LimitReached};

/// The theoretical arrival time in nanoseconds of the clock, or [`DEAD`].
#[derive(Debug, Default)]
pub(crate) struct Cell(pub(crate) AtomicU64);

/// The result of taking from a cell.
pub(crate) enum Taken {
    /// The request passed. What it took recovers from this time on: from now, or after what was taken before.
    From(u64),
    Refused(LimitReached),
    /// The sweep has marked the cell dead; a new one is needed.
    Dead,
}

/// The mark of a dead cell, set by the sweep. Times never reach it: they stop at [`LAST`].
pub(crate) const DEAD: u64 = u64::MAX;
/// The latest time, 584 years after the clock's start.
pub(crate) const LAST: u64 = DEAD - 1;

impl Cell {
    /// The arrival time; a dead cell has recovered completely.
    pub(crate) fn arrival(&self) -> u64 {
        match self.0.load(Ordering::Acquire) {
            DEAD => 0,
            arrival => arrival,
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.load(Ordering::Acquire) == DEAD
    }

    /// Marks the cell dead if it has recovered completely. Fails if somebody takes from it at the same time.
    pub(crate) fn condemn(&self, now: u64) -> bool {
        let arrival = self.0.load(Ordering::Acquire);
        arrival == DEAD
            || arrival <= now
                && self.0.compare_exchange(arrival, DEAD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn take(&self, demand: &Demand, now: u64) -> Taken {
        let mut arrival = self.0.load(Ordering::Acquire);
        while arrival != DEAD {
            let next = match demand.next_arrival(arrival, now) {
                Ok(next) => next,
                Err(refused) => return Taken::Refused(refused),
            };
            match self.0.compare_exchange_weak(arrival, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Taken::From(arrival.max(now)),
                Err(found) => arrival = found,
            }
        }
        Taken::Dead
    }
}

impl Demand {
    /// The arrival time at which the burst is used up.
    pub(crate) fn ceiling(&self, now: u64) -> u64 {
        now.saturating_add(self.rate.burst_time()).min(LAST)
    }

    /// The arrival time after one more request, or its refusal.
    pub(crate) fn next_arrival(&self, arrival: u64, now: u64) -> Result<u64, LimitReached> {
        let busy_until = arrival.max(now);
        let next = busy_until.saturating_add(self.time()).min(LAST);
        let ceiling = self.ceiling(now);
        if next <= ceiling {
            return Ok(next);
        }
        Err(self.reached(Duration::from_nanos(next - ceiling), Duration::from_nanos(busy_until - now)))
    }
}
