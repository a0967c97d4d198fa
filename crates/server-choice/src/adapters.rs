//! Which adapters (LoRA) a server is believed to have loaded.
//!
//! A server holds a few adapters at a time, and loads another one in place of the least recently used. vLLM says how many it holds, and
//! which of them requests are using (`vllm:lora_requests_info`); one that nobody uses for a moment is not named, though it is still
//! loaded. So the time at which each was last used is remembered, by what the server says and by what was sent there: the latest ones
//! are believed to be loaded, as many as it holds.
//!
//! Threads that write at the same time may lose one. It is a belief.

use std::{
    iter,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use xxhash_rust::xxh3::xxh3_64;

use crate::under_way::span_of;

/// How many adapters are remembered. A server that holds more is believed to hold these.
const REMEMBERED: usize = 64;

/// An adapter, by its name at the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AdapterId(u32);

impl AdapterId {
    /// The one of this name.
    pub fn of(name: &str) -> Self {
        Self((xxh3_64(name.as_bytes()) >> 32) as u32)
    }

    /// As a number, by which another Modelgate knows it.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The one of this number ([`Self::to_bits`]).
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What a server says of its adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldAdapters {
    /// How many it holds at once (`max_lora`).
    pub most: u32,
    /// Those that requests are using now.
    pub running: Vec<AdapterId>,
}

/// The adapters that a server is believed to have loaded.
#[derive(Debug)]
pub(crate) struct Adapters {
    /// Each an adapter, then the span of time in which it was last used; 0: none.
    used: Box<[AtomicU64]>,
    /// How many it holds at once; 0: it has not said.
    most: AtomicU32,
}

impl Adapters {
    pub(crate) fn new() -> Self {
        Self {
            used: iter::repeat_with(AtomicU64::default).take(REMEMBERED).collect(),
            most: AtomicU32::new(0),
        }
    }

    /// The memory besides its own, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.used.len() * size_of::<AtomicU64>()
    }

    /// Whether an adapter is believed to be loaded; `None` if the server does not say how many it holds.
    pub(crate) fn is_loaded(&self, adapter: AdapterId) -> Option<bool> {
        let most = self.most.load(Relaxed);
        if most == 0 {
            return None;
        }
        let used = || self.used.iter().map(|slot| slot.load(Relaxed));
        let Some(own) = used().find(|slot| is_of(*slot, adapter)).map(time_of) else { return Some(false) };
        let later = used().filter(|slot| time_of(*slot) > own).take(most as usize);
        Some(later.count() < most as usize)
    }

    /// A request for it is sent there, or running there.
    pub(crate) fn used(&self, adapter: AdapterId, now: Duration) {
        let own = self.used.iter().find(|slot| is_of(slot.load(Relaxed), adapter));
        let oldest = || self.used.iter().min_by_key(|slot| time_of(slot.load(Relaxed)));
        if let Some(slot) = own.or_else(oldest) {
            slot.store(u64::from(adapter.0) << 32 | u64::from(span_of(now)), Relaxed);
        }
    }

    pub(crate) fn told(&self, told: &ToldAdapters, now: Duration) {
        self.most.store(told.most, Relaxed);
        told.running.iter().for_each(|adapter| self.used(*adapter, now));
    }

    /// It was started again.
    pub(crate) fn forget(&self) {
        self.used.iter().for_each(|slot| slot.store(0, Relaxed));
    }
}

fn is_of(slot: u64, adapter: AdapterId) -> bool {
    slot >> 32 == u64::from(adapter.0) && time_of(slot) > 0
}

fn time_of(slot: u64) -> u32 {
    slot as u32
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_known_before_the_server_has_said_how_many_it_holds() {
        let (adapters, a, b) = (Adapters::new(), AdapterId::of("a"), AdapterId::of("b"));
        adapters.used(a, Duration::from_secs(1));
        assert_eq!(adapters.is_loaded(a), None);
        adapters.told(&ToldAdapters { most: 1, running: vec![] }, Duration::from_secs(2));
        assert_eq!([a, b].map(|one| adapters.is_loaded(one)), [Some(true), Some(false)]);
        adapters.told(&ToldAdapters { most: 1, running: vec![b] }, Duration::from_secs(3));
        assert_eq!([a, b].map(|one| adapters.is_loaded(one)), [Some(false), Some(true)]);
        adapters.forget();
        assert_eq!([a, b].map(|one| adapters.is_loaded(one)), [Some(false); 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// As a server that replaces the least recently used does it.
        #[test]
        fn the_latest_are_loaded(used in prop::collection::vec(0..80_u32, 1..300), most in 1..70_u32) {
            let adapters = Adapters::new();
            adapters.told(&ToldAdapters { most, running: vec![] }, Duration::ZERO);
            let mut exact = VecDeque::new();
            for (second, number) in used.into_iter().enumerate() {
                let adapter = AdapterId::of(&format!("adapter-{number}"));
                adapters.used(adapter, Duration::from_secs(second as u64));
                exact.retain(|other| *other != adapter);
                exact.push_back(adapter);
                if exact.len() > REMEMBERED.min(most as usize) {
                    exact.pop_front();
                }
                for number in 0..80 {
                    let adapter = AdapterId::of(&format!("adapter-{number}"));
                    prop_assert_eq!(adapters.is_loaded(adapter), Some(exact.contains(&adapter)));
                }
            }
        }
    }
}
