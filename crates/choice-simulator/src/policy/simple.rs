//! Policies that know nothing of caches.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Policy, Seen};
use crate::{load::SimulatedRequest, random::Random};

/// One after another: what Traefik does.
#[derive(Debug, Default)]
pub struct RoundRobin(usize);

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round robin"
    }

    fn choose(&mut self, _asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.0 += 1;
        self.0 % seen.open.len()
    }
}

/// Of two servers at random, the one with fewer open requests: Traefik's `p2c`.
#[derive(Debug)]
pub struct TwoAtRandom(pub Random);

impl Policy for TwoAtRandom {
    fn name(&self) -> &'static str {
        "p2c"
    }

    fn choose(&mut self, _asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        let count = seen.open.len();
        let first = self.0.below(count);
        let second = (first + 1 + self.0.below(count - 1)) % count;
        if seen.open[second] < seen.open[first] { second } else { first }
    }
}

/// The server with the fewest open requests.
#[derive(Debug, Default)]
pub struct LeastBusy(usize);

impl Policy for LeastBusy {
    fn name(&self) -> &'static str {
        "least busy"
    }

    fn choose(&mut self, _asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.0 += 1;
        seen.least_open(self.0)
    }
}

/// Consistent hashing by the prompt up to its first own message: what vllm-router does with `consistent_hash` and a session's id.
/// Each server has 160 places on the ring.
#[derive(Debug)]
pub struct ByConversation {
    ring: Vec<(u64, usize)>,
}

impl ByConversation {
    /// For so many servers.
    pub fn new(servers: usize) -> Self {
        let place =
            |server: usize, number: u64| (xxh3_64_with_seed(&number.to_le_bytes(), server as u64), server);
        let mut ring: Vec<_> =
            (0..servers).flat_map(|server| (0..160).map(move |number| place(server, number))).collect();
        ring.sort_unstable();
        Self { ring }
    }
}

impl Policy for ByConversation {
    fn name(&self) -> &'static str {
        "consistent hashing"
    }

    fn choose(&mut self, asked: &SimulatedRequest, _seen: &Seen<'_>) -> usize {
        let hash = xxh3_64_with_seed(&asked.conversation.to_le_bytes(), 0);
        let after = self.ring.partition_point(|(place, _)| *place < hash);
        self.ring[after % self.ring.len()].1
    }
}
