//! Which blocks a server is believed to have in its prefix cache.
//!
//! A table of fixed size: buckets of eight slots, one cache line each; a slot has half of a block's hash and the **epoch** in
//! which the block was last used. A new epoch begins whenever the current one has a 32nd of the capacity. How many blocks were
//! last used in each epoch is counted, so the epoch before which everything is forgotten (the **horizon**) is known without
//! looking at the slots: the newest epochs that together have as many blocks as the server's cache are remembered. That is LRU, to
//! within a 32nd.
//!
//! All blocks of a prompt get the same epoch, so when a block is remembered, the blocks before it are, too. The length of the
//! part that a server has is therefore found by bisection: some 10 look-ups for a prompt of 200 KB.
//!
//! Threads that write at the same time may lose a block or miscount by one. It is a belief: the server itself decides what it has.

use std::{
    hint::black_box,
    iter,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// What the epochs' counts are kept for. More than 32, because epochs become empty when their blocks are used again.
const EPOCHS: u32 = 1_024;
/// How many epochs the capacity is made of.
const SHARES: u32 = 32;
const WAYS: usize = 8;
/// With at least this many servers, their tables do not fit into a processor's own caches.
const MANY: usize = 32;
/// As many reads as a processor has under way, or somewhat more.
const FETCHED_AT_ONCE: usize = 16;

/// The blocks that a server is believed to have.
#[derive(Debug)]
pub struct Belief {
    buckets: Box<[Bucket]>,
    /// How many blocks were last used in an epoch, by its number modulo [`EPOCHS`].
    counts: Box<[AtomicU32]>,
    /// The current epoch. 0 is never current: it stands for an empty slot.
    epoch: AtomicU32,
    /// The oldest epoch that is remembered.
    horizon: AtomicU32,
    capacity: AtomicU32,
    most: u32,
}

/// Looks for the first block that a server does not have.
#[derive(Debug, Clone, Copy)]
struct Search {
    low: usize,
    high: usize,
    all: usize,
}

impl Search {
    fn of(blocks: &[u64]) -> Self {
        Self { low: 0, high: blocks.len(), all: blocks.len() }
    }

    /// The block to look for next; `None` at the end. Near the beginning first: most prompts share either nothing, or nearly
    /// everything.
    fn place(&self) -> Option<usize> {
        let first = self.low == 0 && self.high == self.all;
        (self.low < self.high).then(|| if first { 0 } else { self.low + (self.high - self.low) / 2 })
    }

    fn found(&mut self, place: usize, has: bool) {
        if has { self.low = place + 1 } else { self.high = place }
    }
}

/// Each slot: the upper half of a hash, then an epoch.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

impl Belief {
    /// For a server whose cache has at most `most` blocks (at least 32).
    pub fn new(most: u32) -> Self {
        let most = most.clamp(SHARES, 1 << 28);
        // Twice as many slots as blocks, so that hardly a bucket is full of blocks that are remembered.
        let buckets = (2 * most as usize).next_power_of_two() / WAYS;
        Self {
            buckets: iter::repeat_with(Bucket::default).take(buckets).collect(),
            counts: iter::repeat_with(AtomicU32::default).take(EPOCHS as usize).collect(),
            epoch: AtomicU32::new(1),
            horizon: AtomicU32::new(1),
            capacity: AtomicU32::new(most),
            most,
        }
    }

    /// The number of blocks that the server's cache is believed to have room for.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    /// The size with which the belief was made.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Sets it, to at most the size with which the belief was made. Whatever is then too much is forgotten with the next epoch.
    pub fn set_capacity(&self, blocks: u32) {
        self.capacity.store(blocks.clamp(SHARES, self.most), Relaxed);
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>() + self.counts.len() * size_of::<AtomicU32>()
    }

    /// How many of these blocks, from the first on, the server is believed to have.
    pub fn cached(&self, blocks: &[u64]) -> usize {
        let mut search = Search::of(blocks);
        while let Some(place) = search.place() {
            search.found(place, self.has_near(blocks, place));
        }
        search.low
    }

    /// The same for several servers at once, in the time that memory takes for a few: their tables are asked for together.
    pub fn cached_at_each<'b>(beliefs: impl Iterator<Item = &'b Self> + Clone, blocks: &[u64]) -> Vec<usize> {
        if beliefs.clone().count() < MANY {
            return beliefs.map(|belief| belief.cached(blocks)).collect();
        }
        let mut searches: Vec<Search> = beliefs.clone().map(|_| Search::of(blocks)).collect();
        loop {
            let (mut fetched, mut is_open) = (0, false);
            for (belief, place) in beliefs.clone().zip(&searches).filter_map(|(b, s)| Some((b, s.place()?))) {
                is_open = true;
                fetched ^= belief.fetch(blocks[place]);
                fetched ^= blocks.get(place + 1).map_or(0, |next| belief.fetch(*next));
            }
            black_box(fetched);
            if !is_open {
                return searches.iter().map(|search| search.low).collect();
            }
            for (belief, search) in beliefs.clone().zip(&mut searches) {
                if let Some(place) = search.place() {
                    search.found(place, belief.has_near(blocks, place));
                }
            }
        }
    }

    /// A block that found its bucket full is missing although the next ones are there; so two are looked for.
    fn has_near(&self, blocks: &[u64], place: usize) -> bool {
        let horizon = self.horizon.load(Relaxed);
        self.has(blocks[place], horizon) || blocks.get(place + 1).is_some_and(|next| self.has(*next, horizon))
    }

    /// Reads a block's bucket, so that it is at hand. Reads that do not depend on each other are under way together.
    fn fetch(&self, hash: u64) -> u64 {
        self.bucket(hash).0[0].load(Relaxed)
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        // The number of buckets is a power of two.
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    fn has(&self, hash: u64, horizon: u32) -> bool {
        self.bucket(hash).0.iter().any(|slot| {
            let slot = slot.load(Relaxed);
            is_of(slot, hash) && epoch_of(slot) >= horizon
        })
    }

    /// The server reads these blocks now, and makes room for `answer` more that nobody knows yet.
    pub fn used(&self, blocks: &[u64], answer: u32) {
        let epoch = self.epoch.load(Relaxed);
        for blocks in blocks.chunks(FETCHED_AT_ONCE) {
            black_box(blocks.iter().fold(0, |fetched, hash| fetched ^ self.fetch(*hash)));
            for hash in blocks {
                self.touch(*hash, epoch);
            }
        }
        let count = self.count(epoch).fetch_add(answer, Relaxed) + answer;
        if count >= (self.capacity() / SHARES).max(1) {
            self.next_epoch(epoch);
        }
    }

    fn touch(&self, hash: u64, epoch: u32) {
        let slots = &self.bucket(hash).0;
        let known = slots.iter().find(|slot| is_of(slot.load(Relaxed), hash));
        let Some(slot) = known.or_else(|| slots.iter().min_by_key(|slot| epoch_of(slot.load(Relaxed))))
        else {
            return;
        };
        let before = slot.load(Relaxed);
        let after = hash >> 32 << 32 | u64::from(epoch);
        if before != after && slot.compare_exchange(before, after, Relaxed, Relaxed).is_ok() {
            if epoch_of(before) >= self.horizon.load(Relaxed) {
                let count = self.count(epoch_of(before));
                let _ = count.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_sub(1)));
            }
            self.count(epoch).fetch_add(1, Relaxed);
        }
    }

    fn count(&self, epoch: u32) -> &AtomicU32 {
        &self.counts[(epoch % EPOCHS) as usize]
    }

    /// Begins the next epoch, and forgets what the server no longer has room for.
    fn next_epoch(&self, current: u32) {
        // After 2^32 epochs, which takes years of full speed, everything is forgotten once.
        let next = current.checked_add(1).unwrap_or(1);
        if self.epoch.compare_exchange(current, next, Relaxed, Relaxed).is_err() {
            return; // another thread does it
        }
        self.count(next).store(0, Relaxed);
        let oldest = next.saturating_sub(EPOCHS - 1).max(self.horizon.load(Relaxed)).max(1);
        let capacity = self.capacity();
        let mut room = capacity - capacity / SHARES;
        let mut horizon = next;
        while horizon > oldest {
            let Some(left) = room.checked_sub(self.count(horizon - 1).load(Relaxed)) else { break };
            room = left;
            horizon -= 1;
        }
        self.horizon.store(horizon, Relaxed);
    }

    /// Forgets everything: the server was started again.
    pub fn forget(&self) {
        let epoch = self.epoch.load(Relaxed);
        self.horizon.store(epoch.saturating_add(1), Relaxed);
        self.next_epoch(epoch);
    }
}

fn is_of(slot: u64, hash: u64) -> bool {
    slot >> 32 == hash >> 32
}

fn epoch_of(slot: u64) -> u32 {
    slot as u32
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, iter};

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    use super::{Belief, MANY};

    /// A prompt's blocks: `shared` of its family, then `own`.
    fn prompt(family: u64, shared: u64, own: u64, number: u64) -> Vec<u64> {
        let spread = |value: u64| xxh3_64_with_seed(&value.to_le_bytes(), 1);
        (0..shared)
            .map(|block| spread(family << 20 | block))
            .chain((0..own).map(|block| spread(1 << 60 | number << 20 | block)))
            .collect()
    }

    /// An exact LRU of blocks, as a server has it.
    #[derive(Default)]
    struct Exact(VecDeque<u64>);

    impl Exact {
        fn used(&mut self, blocks: &[u64], capacity: usize) {
            self.0.retain(|block| !blocks.contains(block));
            // The end of a prompt goes first, as in vLLM: what comes after a missing block is of no use.
            self.0.extend(blocks.iter().rev());
            let excess = self.0.len().saturating_sub(capacity);
            self.0.drain(..excess);
        }

        fn cached(&self, blocks: &[u64]) -> usize {
            blocks.iter().take_while(|block| self.0.contains(block)).count()
        }
    }

    #[test]
    fn a_restart_is_forgotten_and_then_learned_anew() {
        let belief = Belief::new(64);
        let blocks = prompt(1, 5, 0, 0);
        belief.used(&blocks, 0);
        assert_eq!(belief.cached(&blocks), 5);
        belief.forget();
        assert_eq!(belief.cached(&blocks), 0);
        belief.used(&blocks, 0);
        assert_eq!(belief.cached(&blocks), 5);
    }

    #[test]
    fn answers_take_room_as_prompts_do() {
        let belief = Belief::new(320);
        let blocks = prompt(1, 10, 0, 0);
        belief.used(&blocks, 0);
        (0..29).for_each(|_| belief.used(&[], 10));
        assert_eq!(belief.cached(&blocks), 10, "300 of 320");
        (0..4).for_each(|_| belief.used(&[], 10));
        assert_eq!(belief.cached(&blocks), 0, "340 of 320");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// What is remembered is what an LRU has that is smaller by a tenth and a prompt, and nothing that one does not have that
        /// is as much larger. The odd block that finds its bucket full may be missing.
        #[test]
        fn it_forgets_as_an_lru_does(
            requests in proptest::collection::vec((0..12_u64, 0..20_u64, 0..30_u64), 1..200),
            capacity in 300..600_u32,
        ) {
            let (belief, nothing) = (Belief::new(capacity), Belief::new(capacity));
            let (mut less, mut more) = (Exact::default(), Exact::default());
            let (mut asked, mut missing) = (0_usize, 0_usize);
            for (number, (family, shared, own)) in requests.iter().enumerate() {
                let blocks = prompt(*family, *shared, *own, number as u64);
                let believed = belief.cached(&blocks);
                let many = iter::repeat_n(&belief, MANY).chain([&nothing]);
                let at_each = Belief::cached_at_each(many.clone(), &blocks);
                prop_assert_eq!(&at_each[..MANY], &[believed; MANY]);
                prop_assert_eq!(at_each[MANY..].to_vec(), Belief::cached_at_each([&nothing].into_iter(), &blocks));
                prop_assert!(believed <= more.cached(&blocks), "it remembers what is gone");
                asked += blocks.len();
                missing += less.cached(&blocks).saturating_sub(believed);
                belief.used(&blocks, 0);
                less.used(&blocks, capacity as usize * 9 / 10 - 50);
                more.used(&blocks, capacity as usize * 11 / 10 + 50);
            }
            prop_assert!(missing * 50 <= asked, "{missing} of {asked} forgotten too early");
        }
    }
}
