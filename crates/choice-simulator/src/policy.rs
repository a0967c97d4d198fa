//! The policies that are compared: round robin, two at random, fewest requests, hashing, the cache-aware policies of two routers, ours,
//! and one that knows everything.

mod cache_aware;
mod known;
mod several;
mod simple;

pub use cache_aware::{CacheAware, SGLANG, VLLM};
pub use known::{Greedy, Ours};
pub use several::Several;
pub use simple::{ByConversation, LeastBusy, RoundRobin, TwoAtRandom};

use crate::{load::SimulatedRequest, machine::Machine};

/// Chooses a server for each request.
pub trait Policy {
    /// What it is called in the table.
    fn name(&self) -> &'static str;

    /// The place of the server that gets a request.
    fn choose(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize;

    /// A request that was sent there has been answered.
    fn answered(&mut self, place: usize, request: usize, now: f64) {
        let _ = (place, request, now);
    }

    /// A server's `/metrics` have been read; each second.
    fn heard(&mut self, place: usize, machine: &Machine, now: f64) {
        let _ = (place, machine, now);
    }
}

/// What a policy may look at.
#[derive(Debug)]
pub struct Seen<'s> {
    /// Seconds from the beginning.
    pub now: f64,
    /// The number of the request.
    pub request: usize,
    /// For each server, the requests that were sent there and have not been answered. Who carries the answers knows this exactly.
    pub open: &'s [u32],
    /// The servers themselves. Only [`Greedy`] looks at them.
    pub machines: &'s [Machine],
}

impl Seen<'_> {
    /// The server with the fewest open requests; of equals, the first from `turn` on.
    fn least_open(&self, turn: usize) -> usize {
        let count = self.open.len();
        let places = (0..count).map(|place| (turn + place) % count);
        places.min_by_key(|place| self.open[*place]).unwrap_or(0)
    }
}
