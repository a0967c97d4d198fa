//! Which blocks a server is believed to have in its prefix cache.
//!
//! A table of fixed size: buckets of eight slots, one cache line each; a slot has half of a block's hash and the **epoch** in
//! which the block was last used. A new epoch begins whenever the current one has a 128th of the capacity. Of each epoch it is known
//! how many blocks were last used in it, how many of its requests are under way, and when the last of these has ended.
//!
//! A server keeps what its requests under way need, and of the rest what was needed last, where the **end** of a request counts. So
//! whole epochs are forgotten: those of which no request is under way, in the order in which their last ones have ended. Where nobody
//! tells the ends of requests, that is LRU by the time when they were sent.
//!
//! A long prompt has up to four epochs, of which that of its end is forgotten first, as a server does. So when a block is remembered,
//! the blocks before it are, too. The length of the part that a server has is therefore found by bisection: some 10 look-ups for a prompt
//! of 200 KB.
//!
//! Threads that write at the same time may lose a block or miscount by one. It is a belief: the server itself decides what it has.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hint::black_box,
    iter,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// How many epochs are kept. More than the capacity is made of, because a long prompt has some of its own, and epochs become empty when
/// their blocks are used again.
const EPOCHS: u32 = 2_048;
/// How many epochs the capacity is made of.
const SHARES: u32 = 128;
/// How many epochs a long prompt has at most.
const PARTS: usize = 4;
/// The smallest capacity, in blocks.
const LEAST: u32 = 32;
/// What requests under way need is not forgotten, as long as it is at most so many quarters of the capacity: more wait there, or their
/// ends were not told.
const HELD_AT_MOST: u64 = 6;
const WAYS: usize = 8;
/// With at least this many servers, their tables do not fit into a processor's own caches.
const MANY: usize = 32;
/// As many reads as a processor has under way, or somewhat more.
const FETCHED_AT_ONCE: usize = 16;

/// The blocks that a server is believed to have.
#[derive(Debug)]
pub struct Belief {
    buckets: Box<[Bucket]>,
    /// By their numbers modulo [`EPOCHS`].
    epochs: Box<[Epoch]>,
    /// The current epoch. 0 is never current: it stands for an empty slot.
    epoch: AtomicU32,
    /// Counts beginnings of epochs and ends of requests.
    clock: AtomicU32,
    /// Whether the end of a request was ever told.
    are_ends_told: AtomicBool,
    capacity: AtomicU32,
    most: u32,
}

/// What a request under way needs: the epochs of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    first: u32,
    epochs: u32,
}

impl Needed {
    const EPOCH_BITS: u32 = 3;
    /// How many bits it takes.
    pub(crate) const BITS: u32 = u32::BITS + Self::EPOCH_BITS;

    fn numbers(self) -> Range<u32> {
        self.first..self.first + self.epochs
    }

    /// In the lower [`Self::BITS`] bits; never 0.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.first) << Self::EPOCH_BITS | u64::from(self.epochs)
    }

    pub(crate) fn unpack(bits: u64) -> Self {
        Self { first: (bits >> Self::EPOCH_BITS) as u32, epochs: bits as u32 & ((1 << Self::EPOCH_BITS) - 1) }
    }
}

/// What is known of the blocks that were last used in an epoch.
#[derive(Debug, Default)]
struct Epoch {
    /// The number of the epoch that is remembered here; 0: none.
    number: AtomicU32,
    blocks: AtomicU32,
    /// Requests under way whose blocks these are.
    under_way: AtomicU32,
    /// By the clock: when it began, or later the end of the last request.
    left: AtomicU32,
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
        let most = most.clamp(LEAST, 1 << 28);
        // Twice as many slots as blocks, so that hardly a bucket is full of blocks that are remembered.
        let buckets = (2 * most as usize).next_power_of_two() / WAYS;
        Self {
            buckets: iter::repeat_with(Bucket::default).take(buckets).collect(),
            epochs: epochs(),
            epoch: AtomicU32::new(1),
            clock: AtomicU32::new(1),
            are_ends_told: AtomicBool::new(false),
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
        self.capacity.store(blocks.clamp(LEAST, self.most), Relaxed);
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>() + self.epochs.len() * size_of::<Epoch>()
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
        self.has(blocks[place]) || blocks.get(place + 1).is_some_and(|next| self.has(*next))
    }

    /// Reads a block's bucket, so that it is at hand. Reads that do not depend on each other are under way together.
    fn fetch(&self, hash: u64) -> u64 {
        self.bucket(hash).0[0].load(Relaxed)
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        // The number of buckets is a power of two.
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    fn has(&self, hash: u64) -> bool {
        self.bucket(hash).0.iter().any(|slot| {
            let slot = slot.load(Relaxed);
            is_of(slot, hash) && self.remembers(epoch_of(slot))
        })
    }

    fn remembers(&self, number: u32) -> bool {
        number != 0 && self.of(number).number.load(Relaxed) == number
    }

    fn of(&self, number: u32) -> &Epoch {
        &self.epochs[(number % EPOCHS) as usize]
    }

    /// A request that needs these blocks is under way from now on; the server makes room for `answer` more that nobody knows yet.
    /// What is returned is to be told when it has ended ([`Self::ended`]).
    pub fn used(&self, blocks: &[u64], answer: u32) -> Needed {
        let share = self.share();
        if blocks.len() <= share {
            let number = self.epoch.load(Relaxed);
            let count = self.needs(number, blocks, answer);
            if count as usize >= share {
                self.next_epochs(1);
            }
            return Needed { first: number, epochs: 1 };
        }
        // A long one has epochs of its own. Its end is forgotten first, so it is in the oldest of them.
        let epochs = blocks.len().div_ceil(share).min(PARTS);
        let first = self.next_epochs(epochs as u32);
        let needed = Needed { first, epochs: epochs as u32 };
        let parts = blocks.chunks(blocks.len().div_ceil(epochs)).rev();
        for (number, blocks) in needed.numbers().zip(parts) {
            self.needs(number, blocks, if number == first { answer } else { 0 });
        }
        needed
    }

    /// How many blocks an epoch has before the next one begins.
    fn share(&self) -> usize {
        (self.capacity() / SHARES).max(1) as usize
    }

    /// A request of this epoch needs these blocks. Returns how many blocks the epoch has.
    fn needs(&self, number: u32, blocks: &[u64], answer: u32) -> u32 {
        let epoch = self.of(number);
        epoch.under_way.fetch_add(1, Relaxed);
        for blocks in blocks.chunks(FETCHED_AT_ONCE) {
            black_box(blocks.iter().fold(0, |fetched, hash| fetched ^ self.fetch(*hash)));
            for hash in blocks {
                self.touch(*hash, number);
            }
        }
        epoch.blocks.fetch_add(answer, Relaxed) + answer
    }

    /// A request has ended: the server may forget its blocks, but not before those that nobody has needed for longer.
    pub fn ended(&self, needed: Needed) {
        if !self.are_ends_told.load(Relaxed) {
            self.are_ends_told.store(true, Relaxed);
        }
        for number in needed.numbers().filter(|number| self.remembers(*number)) {
            let epoch = self.of(number);
            let _ = epoch.under_way.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
            epoch.left.store(self.tick(), Relaxed);
        }
    }

    fn tick(&self) -> u32 {
        self.clock.fetch_add(1, Relaxed)
    }

    fn touch(&self, hash: u64, epoch: u32) {
        let slots = &self.bucket(hash).0;
        let known = slots.iter().find(|slot| is_of(slot.load(Relaxed), hash));
        let unused = || slots.iter().find(|slot| !self.remembers(epoch_of(slot.load(Relaxed))));
        let oldest = || slots.iter().min_by_key(|slot| epoch_of(slot.load(Relaxed)));
        let Some(slot) = known.or_else(unused).or_else(oldest) else { return };
        let before = slot.load(Relaxed);
        let after = hash >> 32 << 32 | u64::from(epoch);
        if before != after && slot.compare_exchange(before, after, Relaxed, Relaxed).is_ok() {
            if self.remembers(epoch_of(before)) {
                let count = &self.of(epoch_of(before)).blocks;
                let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
            }
            self.of(epoch).blocks.fetch_add(1, Relaxed);
        }
    }

    /// Begins so many epochs, and forgets what the server no longer has room for. Returns the first of them.
    fn next_epochs(&self, count: u32) -> u32 {
        let before = self.epoch.fetch_add(count, Relaxed);
        let Some(current) = before.checked_add(count).filter(|current| *current < u32::MAX) else {
            // After 2^32 epochs, which takes weeks of full speed, everything is forgotten once.
            self.forget();
            return self.next_epochs(count);
        };
        for number in before + 1..=current {
            self.of(number).begin(number, self.tick());
        }
        self.make_room(current);
        before + 1
    }

    /// Forgets what nobody needs, until there is room for a share; and what is needed, if that is too much.
    fn make_room(&self, current: u32) {
        let capacity = u64::from(self.capacity());
        let most = capacity - capacity / u64::from(SHARES);
        let mut held: u64 = self.remembered().map(Epoch::held).sum();
        if held <= most {
            return;
        }
        let (now, are_ends_told) = (self.clock.load(Relaxed), self.are_ends_told.load(Relaxed));
        // Without blocks, one has just begun, or has nothing to forget.
        let others = self
            .remembered()
            .filter(|epoch| epoch.number.load(Relaxed) != current && epoch.held() > 0)
            .map(|epoch| {
                Reverse((are_ends_told && epoch.is_needed(), epoch.order(now), epoch.number.load(Relaxed)))
            });
        let mut others: BinaryHeap<_> = others.collect();
        while held > most
            && let Some(Reverse((is_needed, _, number))) = others.pop()
            && (!is_needed || 4 * held > HELD_AT_MOST * capacity)
        {
            let first = self.of(number);
            first.number.store(0, Relaxed);
            held = held.saturating_sub(first.held());
        }
    }

    fn remembered(&self) -> impl Iterator<Item = &Epoch> {
        self.epochs.iter().filter(|epoch| epoch.number.load(Relaxed) != 0)
    }

    /// Forgets everything: the server was started again.
    pub fn forget(&self) {
        self.epochs.iter().for_each(|epoch| epoch.number.store(0, Relaxed));
        self.next_epochs(1);
    }
}

impl Epoch {
    /// The number of its blocks.
    fn held(&self) -> u64 {
        u64::from(self.blocks.load(Relaxed))
    }

    fn is_needed(&self) -> bool {
        self.under_way.load(Relaxed) > 0
    }

    /// The smaller, the longer nobody has needed it.
    fn order(&self, now: u32) -> u32 {
        u32::MAX - now.wrapping_sub(self.left.load(Relaxed))
    }

    fn begin(&self, number: u32, now: u32) {
        // What is told of the one before it no longer counts.
        self.number.store(0, Relaxed);
        self.blocks.store(0, Relaxed);
        self.under_way.store(0, Relaxed);
        self.left.store(now, Relaxed);
        self.number.store(number, Relaxed);
    }
}

fn epochs() -> Box<[Epoch]> {
    let epochs: Box<[Epoch]> = iter::repeat_with(Epoch::default).take(EPOCHS as usize).collect();
    epochs[1].begin(1, 0);
    epochs
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

    use super::{Belief, MANY, Relaxed};

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
        (0..29).for_each(|_| _ = belief.used(&[], 10));
        assert_eq!(belief.cached(&blocks), 10, "300 of 320");
        (0..4).for_each(|_| _ = belief.used(&[], 10));
        assert_eq!(belief.cached(&blocks), 0, "340 of 320");
    }

    /// Some prompts, each with blocks of its own.
    fn prompts(count: u64, length: u64) -> Vec<Vec<u64>> {
        (0..count).map(|number| prompt(0, 0, length, number)).collect()
    }

    /// Regression: blocks were forgotten by the time when their request was sent, although servers keep them until it ends, and
    /// count its end as their last use.
    #[test]
    fn what_requests_under_way_need_is_kept_and_their_ends_count_as_use() {
        for length in [1, 10, 40] {
            let belief = Belief::new(400);
            let [long, brief] = [prompt(1, length, 0, 0), prompt(2, length, 0, 0)];
            let long_needs = belief.used(&long, 0);
            // Short ones share what is known of them.
            prompts(5, 1).iter().for_each(|blocks| belief.ended(belief.used(blocks, 0)));
            let brief_needs = belief.used(&brief, 0);
            belief.ended(brief_needs);
            let has = |blocks: &[u64]| belief.cached(blocks) == blocks.len();
            let others = prompts(3 * 400 / length, length);
            others.iter().for_each(|blocks| belief.ended(belief.used(blocks, 0)));
            assert_eq!((has(&long), has(&brief)), (true, false), "{length}: one is under way");
            belief.ended(long_needs);
            others[..200 / length as usize].iter().for_each(|blocks| belief.ended(belief.used(blocks, 0)));
            assert!(has(&long), "{length}: it has ended not long ago");
            others.iter().for_each(|blocks| belief.ended(belief.used(blocks, 0)));
            assert!(!has(&long), "{length}: others were needed since");
        }
    }

    /// Ends that are never told do not fill the belief.
    #[test]
    fn where_ends_are_lost_the_oldest_are_forgotten_in_time() {
        let belief = Belief::new(400);
        let ends = belief.used(&prompt(1, 10, 0, 0), 0);
        belief.ended(ends);
        let lost = prompts(200, 10);
        lost.iter().for_each(|blocks| _ = belief.used(blocks, 0));
        let kept = lost.iter().filter(|blocks| belief.cached(blocks) > 0).count();
        assert!((50..=70).contains(&kept), "{kept} of 200: one and a half times the capacity");
        assert_eq!((belief.cached(&lost[199]), belief.cached(&lost[0])), (10, 0));
    }

    #[test]
    fn after_the_last_number_epochs_begin_anew() {
        for left in 0..12 {
            let belief = Belief::new(400);
            belief.epoch.store(u32::MAX - left, Relaxed);
            for blocks in prompts(20, 10) {
                let needed = belief.used(&blocks, 0);
                assert!((8..=10).contains(&belief.cached(&blocks)), "{left} left");
                belief.ended(needed);
            }
            assert!(belief.epoch.load(Relaxed) < 100, "{left} left");
        }
    }

    /// The end of a long prompt is of no use without what is before it, so a server forgets it first.
    #[test]
    fn a_long_prompt_is_forgotten_from_its_end() {
        let belief = Belief::new(400);
        let long = prompt(1, 200, 0, 0);
        belief.ended(belief.used(&long, 0));
        let mut before = 200;
        for blocks in prompts(60, 10) {
            belief.ended(belief.used(&blocks, 0));
            let now = belief.cached(&long);
            assert!(now <= before, "{now} after {before}");
            before = now;
            if (1..200).contains(&now) {
                return;
            }
        }
        panic!("it was forgotten as a whole");
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
