//! `cache_aware` of vllm-router and sglang-router, from what their documentation says of it and with its defaults:
//! <https://github.com/vllm-project/router/blob/main/docs/load_balancing/README.md>,
//! <https://github.com/lightseekorg/smg/blob/main/docs/concepts/routing/cache-aware.md>.
//!
//! A tree of the prompts sent to each server. While the servers have about as many open requests, a request goes where most of its
//! prompt was sent before, if that is more than a share of it; otherwise to the smallest tree (vllm-router) or to the
//! fewest open requests (sglang-router). While they do not, it goes to the fewest open requests.
//!
//! Here a tree is a set of blocks, and the size of a tree is the number of its blocks.

use std::collections::HashMap;

use super::{Policy, Seen};
use crate::load::SimulatedRequest;

/// The settings of one of the two.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    name: &'static str,
    cache_threshold: f64,
    balance_abs: u32,
    balance_rel: f64,
    eviction_seconds: f64,
    most_nodes: usize,
    /// Where a prompt goes that is not known well enough.
    unknown: Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Unknown {
    SmallestTree,
    FewestOpen,
}

/// vllm-router's defaults.
pub const VLLM: Settings = Settings {
    name: "vllm-router cache_aware",
    cache_threshold: 0.5,
    balance_abs: 32,
    balance_rel: 1.1,
    eviction_seconds: 30.0,
    most_nodes: 10_000,
    unknown: Unknown::SmallestTree,
};

/// sglang-router's defaults.
pub const SGLANG: Settings = Settings {
    name: "sglang-router cache_aware",
    cache_threshold: 0.3,
    balance_abs: 64,
    balance_rel: 1.5,
    eviction_seconds: 120.0,
    most_nodes: 67_108_864,
    unknown: Unknown::FewestOpen,
};

/// The policy.
#[derive(Debug)]
pub struct CacheAware {
    settings: Settings,
    /// For each server its blocks, with the number of the request that used each last.
    trees: Vec<HashMap<u64, u64>>,
    evicted: f64,
    turn: u64,
}

impl CacheAware {
    /// For so many servers.
    pub fn new(settings: Settings, servers: usize) -> Self {
        Self { settings, trees: vec![HashMap::new(); servers], evicted: 0.0, turn: 0 }
    }

    fn evict(&mut self, now: f64) {
        if now - self.evicted < self.settings.eviction_seconds {
            return;
        }
        self.evicted = now;
        for tree in &mut self.trees {
            let excess = tree.len().saturating_sub(self.settings.most_nodes);
            if excess > 0 {
                let mut uses: Vec<u64> = tree.values().copied().collect();
                let (_, oldest, _) = uses.select_nth_unstable(excess - 1);
                tree.retain(|_, used| *used > *oldest);
            }
        }
    }

    fn place(&self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        let turn = self.turn as usize;
        let most = seen.open.iter().copied().max().unwrap_or(0);
        let least = seen.open.iter().copied().min().unwrap_or(0);
        let settings = &self.settings;
        if most - least > settings.balance_abs && f64::from(most) > f64::from(least) * settings.balance_rel {
            return seen.least_open(turn);
        }
        let count = self.trees.len();
        let known = |place: usize| {
            asked.blocks.iter().take_while(|block| self.trees[place].contains_key(block)).count()
        };
        let places = || (0..count).map(|place| (turn + place) % count);
        let (best, blocks) =
            places().map(|place| (place, known(place))).max_by_key(|(_, known)| *known).unwrap_or((0, 0));
        if blocks as f64 > settings.cache_threshold * asked.blocks.len() as f64 {
            return best;
        }
        match settings.unknown {
            Unknown::FewestOpen => seen.least_open(turn),
            Unknown::SmallestTree => places().min_by_key(|place| self.trees[*place].len()).unwrap_or(0),
        }
    }
}

impl Policy for CacheAware {
    fn name(&self) -> &'static str {
        self.settings.name
    }

    fn choose(&mut self, asked: &SimulatedRequest, seen: &Seen<'_>) -> usize {
        self.evict(seen.now);
        self.turn += 1;
        let place = self.place(asked, seen);
        self.trees[place].extend(asked.blocks.iter().map(|block| (*block, self.turn)));
        place
    }
}
