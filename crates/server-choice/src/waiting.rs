//! Requests that wait until a server of their pool has room.
//!
//! One [`WaitingRoom`] holds the requests of all pools. It only says who is next: waking and timing are its owner's business.
//!
//! # Who is next
//!
//! Those of the highest rank; within a rank consumers take turns, and of each consumer the request that came first. So between two
//! consumers of a rank that both have requests waiting, neither ever is more than one request ahead. Every fourth place goes to
//! the rank of the request that has waited longest: a low rank is slow, but it is never forgotten.
//!
//! # Who may wait
//!
//! The room is bounded, in requests and in bytes. When it is full, the consumer with the most in it gives its newest requests up,
//! as long as it still has more than the consumer who comes. So no consumer can keep the others out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

/// Of how many places one goes to the rank of the request that has waited longest.
const OLDEST_EVERY: u32 = 4;

/// How much may wait at once, over all pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingBounds {
    /// Requests.
    pub requests: usize,
    /// The memory that they take, in bytes.
    pub bytes: usize,
}

/// A request that comes to wait.
#[derive(Debug, Clone)]
pub struct Comer<P> {
    /// The pool whose servers it waits for.
    pub pool: P,
    /// Higher ones go first.
    pub rank: u8,
    /// Whose it is.
    pub consumer: Arc<str>,
    /// The memory that it takes, in bytes.
    pub bytes: usize,
}

/// The place of a request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingPlace<P> {
    pool: P,
    rank: u8,
    consumer: Arc<str>,
    number: u64,
}

/// What happened when a request came.
#[derive(Debug)]
pub enum Arrived<P, T> {
    /// It waits.
    Waits {
        /// Its place.
        place: WaitingPlace<P>,
        /// Those that wait no longer, to make room for it, each with its pool.
        dismissed: Vec<(P, T)>,
    },
    /// There is no room for it.
    NoRoom,
}

/// The requests that wait. `P` names a pool; `T` is whatever the owner needs to wake a request.
#[derive(Debug)]
pub struct WaitingRoom<P, T> {
    bounds: WaitingBounds,
    lines: HashMap<P, Ranks<T>>,
    /// What each consumer has here.
    held: HashMap<Arc<str>, Held>,
    all: Held,
    next: u64,
}

/// The requests of one pool.
#[derive(Debug)]
struct Ranks<T> {
    ranks: BTreeMap<Reverse<u8>, Rank<T>>,
    /// How many were released since somebody began to wait here.
    released: u32,
}

/// The requests of one rank. Each consumer with something waiting is in `turns` once.
#[derive(Debug)]
struct Rank<T> {
    turns: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<WaitingEntry<T>>>,
}

#[derive(Debug)]
struct WaitingEntry<T> {
    /// In the order in which they came.
    number: u64,
    bytes: usize,
    payload: T,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    requests: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

impl<P: Clone + Eq + Hash, T> WaitingRoom<P, T> {
    /// An empty one.
    pub fn new(bounds: WaitingBounds) -> Self {
        Self { bounds, lines: HashMap::new(), held: HashMap::new(), all: Held::default(), next: 0 }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.all.requests
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.all.requests == 0
    }

    /// The memory that the requests take, in bytes.
    pub fn bytes(&self) -> usize {
        self.all.bytes
    }

    /// The pools for which requests wait, in no order.
    pub fn pools(&self) -> impl Iterator<Item = &P> {
        self.lines.keys()
    }

    /// A request comes.
    pub fn enter(&mut self, comer: Comer<P>, payload: T) -> Arrived<P, T> {
        let Some(leaving) = self.make_room(&comer) else { return Arrived::NoRoom };
        let dismissed = leaving.into_iter().filter_map(|place| {
            let pool = place.pool.clone();
            self.leave(&place).map(|payload| (pool, payload))
        });
        let dismissed = dismissed.collect();
        let Comer { pool, rank, consumer, bytes } = comer;
        let number = self.next;
        self.next += 1;
        let line = self.lines.entry(pool.clone()).or_default();
        line.ranks.entry(Reverse(rank)).or_default().push(&consumer, WaitingEntry { number, bytes, payload });
        self.held.entry(Arc::clone(&consumer)).or_default().add(bytes);
        self.all.add(bytes);
        Arrived::Waits { place: WaitingPlace { pool, rank, consumer, number }, dismissed }
    }

    /// Whose turn it is among those that wait for a pool. It waits no longer.
    pub fn release(&mut self, pool: &P) -> Option<T> {
        let line = self.lines.get_mut(pool)?;
        let (consumer, entry) = line.next()?;
        if line.ranks.is_empty() {
            self.lines.remove(pool);
        }
        self.forget(&consumer, entry.bytes);
        Some(entry.payload)
    }

    /// A request waits no longer. `None` if it did not.
    pub fn leave(&mut self, place: &WaitingPlace<P>) -> Option<T> {
        let line = self.lines.get_mut(&place.pool)?;
        let rank = line.ranks.get_mut(&Reverse(place.rank))?;
        let entry = rank.take(&place.consumer, place.number)?;
        if rank.turns.is_empty() {
            line.ranks.remove(&Reverse(place.rank));
        }
        if line.ranks.is_empty() {
            self.lines.remove(&place.pool);
        }
        self.forget(&place.consumer, entry.bytes);
        Some(entry.payload)
    }

    fn forget(&mut self, consumer: &Arc<str>, bytes: usize) {
        self.all.remove(bytes);
        if let Some(held) = self.held.get_mut(consumer) {
            held.remove(bytes);
            if held.requests == 0 {
                self.held.remove(consumer);
            }
        }
    }

    /// Who has to leave so that a request can wait; `None` if it cannot.
    fn make_room(&self, comer: &Comer<P>) -> Option<Vec<WaitingPlace<P>>> {
        let mut after = self.all;
        after.add(comer.bytes);
        let fits = |held: &Held| held.requests <= self.bounds.requests && held.bytes <= self.bounds.bytes;
        if fits(&after) {
            return Some(Vec::new());
        }
        let mut own = self.held.get(&comer.consumer).copied().unwrap_or_default();
        own.add(comer.bytes);
        let is_of_bytes = after.bytes > self.bounds.bytes;
        let size = |held: &Held| if is_of_bytes { held.bytes } else { held.requests };
        let (largest, held) = self.held.iter().max_by_key(|(name, held)| (size(held), Reverse(*name)))?;
        let (mut left, mut leaving) = (*held, Vec::new());
        for (place, bytes) in self.newest_first(largest) {
            if fits(&after) {
                break;
            }
            // Whoever has less than the one who comes keeps it.
            if size(&left) <= size(&own) {
                return None;
            }
            left.remove(bytes);
            after.remove(bytes);
            leaving.push(place);
        }
        fits(&after).then_some(leaving)
    }

    fn newest_first(&self, consumer: &Arc<str>) -> Vec<(WaitingPlace<P>, usize)> {
        let mut all = Vec::new();
        for (pool, line) in &self.lines {
            for (Reverse(rank), of_rank) in &line.ranks {
                for entry in of_rank.waiting.get(consumer).into_iter().flatten() {
                    let (pool, consumer) = (pool.clone(), Arc::clone(consumer));
                    let place = WaitingPlace { pool, rank: *rank, consumer, number: entry.number };
                    all.push((place, entry.bytes));
                }
            }
        }
        all.sort_unstable_by_key(|(place, _)| Reverse(place.number));
        all
    }
}

impl<T> Default for Ranks<T> {
    fn default() -> Self {
        Self { ranks: BTreeMap::new(), released: 0 }
    }
}

impl<T> Ranks<T> {
    fn next(&mut self) -> Option<(Arc<str>, WaitingEntry<T>)> {
        self.released = self.released.wrapping_add(1);
        let rank = match self.released.is_multiple_of(OLDEST_EVERY) {
            true => *self.ranks.iter().min_by_key(|(_, rank)| rank.oldest())?.0,
            false => *self.ranks.first_key_value()?.0,
        };
        let of_rank = self.ranks.get_mut(&rank)?;
        let next = of_rank.next();
        if of_rank.turns.is_empty() {
            self.ranks.remove(&rank);
        }
        next
    }
}

impl<T> Default for Rank<T> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), waiting: HashMap::new() }
    }
}

impl<T> Rank<T> {
    fn push(&mut self, consumer: &Arc<str>, entry: WaitingEntry<T>) {
        let own = self.waiting.entry(Arc::clone(consumer)).or_default();
        if own.is_empty() {
            self.turns.push_back(Arc::clone(consumer));
        }
        own.push_back(entry);
    }

    fn oldest(&self) -> Option<u64> {
        self.waiting.values().filter_map(|own| own.front()).map(|entry| entry.number).min()
    }

    fn next(&mut self) -> Option<(Arc<str>, WaitingEntry<T>)> {
        let consumer = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&consumer)?;
        let entry = own.pop_front()?;
        if own.is_empty() {
            self.waiting.remove(&consumer);
        } else {
            self.turns.push_back(Arc::clone(&consumer));
        }
        Some((consumer, entry))
    }

    fn take(&mut self, consumer: &Arc<str>, number: u64) -> Option<WaitingEntry<T>> {
        let own = self.waiting.get_mut(consumer)?;
        let at = own.iter().position(|entry| entry.number == number)?;
        let entry = own.remove(at);
        if own.is_empty() {
            self.waiting.remove(consumer);
            self.turns.retain(|turn| turn != consumer);
        }
        entry
    }
}
