//! What holds for requests that wait, whatever comes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use proptest::prelude::*;
use server_choice::{Arrived, Comer, WaitingBounds, WaitingPlace, WaitingRoom};

const PLENTY: WaitingBounds = WaitingBounds { requests: 10_000, bytes: 1 << 30 };

/// What a test's request is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Id {
    number: usize,
    pool: u8,
    rank: u8,
    consumer: u8,
    bytes: usize,
}

type Room = WaitingRoom<u8, Id>;
/// A pool, a rank and two consumers.
type Pair = (u8, u8, u8, u8);

fn comer(id: Id) -> Comer<u8> {
    Comer { pool: id.pool, rank: id.rank, consumer: Arc::from(format!("c{}", id.consumer)), bytes: id.bytes }
}

/// Something that happens to a room.
#[derive(Debug, Clone)]
enum RoomEvent {
    Comes { pool: u8, rank: u8, consumer: u8, bytes: usize },
    Leaves(prop::sample::Index),
    HasRoom(u8),
}

fn events() -> impl Strategy<Value = Vec<RoomEvent>> {
    let event = prop_oneof![
        5 => (0..2_u8, 0..3_u8, 0..5_u8, 1..60_usize)
            .prop_map(|(pool, rank, consumer, bytes)| RoomEvent::Comes { pool, rank, consumer, bytes }),
        1 => any::<prop::sample::Index>().prop_map(RoomEvent::Leaves),
        3 => (0..2_u8).prop_map(RoomEvent::HasRoom),
    ];
    prop::collection::vec(event, 1..300)
}

/// Everything that is known of a room from outside.
struct SeenRoom {
    room: Room,
    places: HashMap<Id, WaitingPlace<u8>>,
    count: usize,
}

impl SeenRoom {
    fn new(bounds: WaitingBounds) -> Self {
        Self { room: Room::new(bounds), places: HashMap::new(), count: 0 }
    }

    fn held(&self, consumer: u8) -> (usize, usize) {
        let own = self.places.keys().filter(|id| id.consumer == consumer);
        own.fold((0, 0), |(count, bytes), id| (count + 1, bytes + id.bytes))
    }

    /// Who waits there, by rank and consumer.
    fn waiting(&self, pool: u8) -> HashSet<(u8, u8)> {
        self.places.keys().filter(|id| id.pool == pool).map(|id| (id.rank, id.consumer)).collect()
    }

    /// The request, and those that had to go for it; `None` if it may not wait.
    fn comes(&mut self, pool: u8, rank: u8, consumer: u8, bytes: usize) -> (Id, Option<Vec<Id>>) {
        let id = Id { number: self.count, pool, rank, consumer, bytes };
        self.count += 1;
        match self.room.enter(comer(id), id) {
            Arrived::NoRoom => (id, None),
            Arrived::Waits { place, dismissed } => {
                let dismissed: Vec<Id> = dismissed.into_iter().map(|(_, id)| id).collect();
                for gone in &dismissed {
                    self.places.remove(gone).expect("it waited");
                }
                self.places.insert(id, place);
                (id, Some(dismissed))
            }
        }
    }

    fn has_room(&mut self, pool: u8) -> Option<Id> {
        let released = self.room.release(&pool);
        if let Some(id) = released {
            assert_eq!(id.pool, pool);
            self.places.remove(&id).expect("it waited");
        }
        released
    }

    fn leaves(&mut self, which: &prop::sample::Index) {
        let mut ids: Vec<Id> = self.places.keys().copied().collect();
        ids.sort_unstable_by_key(|id| id.number);
        if !ids.is_empty() {
            let id = ids[which.index(ids.len())];
            let place = self.places.remove(&id).expect("a place");
            assert_eq!(self.room.leave(&place), Some(id));
            assert_eq!(self.room.leave(&place), None, "only once");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Between two consumers of a rank that both wait all the time, neither is ever more than one request ahead; each consumer's
    /// requests go in the order in which they came.
    #[test]
    fn consumers_take_turns(events in events()) {
        let mut seen = SeenRoom::new(PLENTY);
        // For each pair: by how much the first was ahead of the second, in the time in which both waited; its extremes.
        let mut ahead: HashMap<Pair, (i32, i32, i32)> = HashMap::new();
        let mut last: HashMap<(u8, u8, u8), usize> = HashMap::new();
        for event in events {
            let released = match event {
                RoomEvent::Comes { pool, rank, consumer, bytes } => {
                    seen.comes(pool, rank, consumer, bytes);
                    None
                }
                RoomEvent::Leaves(which) => {
                    seen.leaves(&which);
                    None
                }
                RoomEvent::HasRoom(pool) => seen.has_room(pool),
            };
            if let Some(id) = released {
                let before = last.insert((id.pool, id.rank, id.consumer), id.number);
                prop_assert!(before < Some(id.number), "in the order in which they came");
                for other in 0..5 {
                    let own = (id.pool, id.rank, id.consumer, other);
                    if let Some((now, _, most)) = ahead.get_mut(&own) {
                        *now += 1;
                        *most = (*most).max(*now);
                    }
                    let theirs = (id.pool, id.rank, other, id.consumer);
                    if let Some((now, least, _)) = ahead.get_mut(&theirs) {
                        *now -= 1;
                        *least = (*least).min(*now);
                    }
                }
            }
            for ((_, _, first, second), (_, least, most)) in &ahead {
                prop_assert!(*most - *least <= 1, "c{first} and c{second}: {least} to {most}");
            }
            for pool in 0..2 {
                let waiting = seen.waiting(pool);
                for rank in 0..3 {
                    for pair in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                        let both = [pair.0, pair.1].iter().all(|one| waiting.contains(&(rank, *one)));
                        let key = (pool, rank, pair.0, pair.1);
                        if both {
                            ahead.entry(key).or_default();
                        } else {
                            ahead.remove(&key);
                        }
                    }
                }
            }
        }
    }

    /// Of four places three or more go to the highest rank that waits then.
    #[test]
    fn a_higher_rank_goes_first(events in events()) {
        let mut seen = SeenRoom::new(PLENTY);
        let mut latest: BTreeMap<u8, Vec<bool>> = BTreeMap::new();
        for event in events {
            match event {
                RoomEvent::Comes { pool, rank, consumer, bytes } => drop(seen.comes(pool, rank, consumer, bytes)),
                RoomEvent::Leaves(which) => seen.leaves(&which),
                RoomEvent::HasRoom(pool) => {
                    let highest = seen.waiting(pool).into_iter().map(|(rank, _)| rank).max();
                    let released = seen.has_room(pool);
                    prop_assert_eq!(released.is_some(), highest.is_some(), "whoever waits gets a place");
                    let places = latest.entry(pool).or_default();
                    if let Some(id) = released {
                        places.push(Some(id.rank) == highest);
                    }
                    let of_four = places.iter().rev().take(4).filter(|highest| **highest).count();
                    prop_assert!(places.len() < 4 || of_four >= 3, "{places:?}");
                    if seen.waiting(pool).is_empty() {
                        latest.remove(&pool);
                    }
                }
            }
        }
    }

    /// Nothing starves: however many of a higher rank and of other consumers keep coming, a request gets a place after at most
    /// four times as many places as there are consumers, for each request that came before it and itself.
    #[test]
    fn nothing_starves(before in prop::collection::vec((0..3_u8, 0..4_u8), 0..12), rank in 0..3_u8) {
        let mut seen = SeenRoom::new(PLENTY);
        for (rank, consumer) in &before {
            seen.comes(0, *rank, *consumer, 1);
        }
        let (own, _) = seen.comes(0, rank, 4, 1);
        let most = 4 * 5 * (before.len() + 1);
        for places in 0.. {
            prop_assert!(places <= most, "{places} places, {own:?}");
            // Of each of the others one in each rank.
            for (rank, consumer) in (0..3).flat_map(|rank| (0..4).map(move |consumer| (rank, consumer))) {
                seen.comes(0, rank, consumer, 1);
            }
            if seen.has_room(0) == Some(own) {
                break;
            }
        }
    }

    /// The room is never over its bounds, nothing is lost in it, and only whoever has more than the one who comes gives anything up:
    /// the newest of it.
    #[test]
    fn it_is_bounded_and_shared(events in events(), requests in 1..20_usize, bytes in 60..400_usize) {
        let mut seen = SeenRoom::new(WaitingBounds { requests, bytes });
        for event in events {
            match event {
                RoomEvent::Comes { pool, rank, consumer, bytes: own } => {
                    let before: HashMap<u8, _> = (0..5).map(|one| (one, seen.held(one))).collect();
                    let newest: HashMap<u8, Vec<usize>> = (0..5).map(|one| {
                        let of = seen.places.keys().filter(|id| id.consumer == one);
                        let mut numbers: Vec<usize> = of.map(|id| id.number).collect();
                        numbers.sort_unstable_by(|a, b| b.cmp(a));
                        (one, numbers)
                    }).collect();
                    let over_bytes = seen.room.bytes() + own > bytes;
                    let size = |(requests, bytes): (usize, usize)| if over_bytes { bytes } else { requests };
                    let (id, dismissed) = seen.comes(pool, rank, consumer, own);
                    let mine = (before[&consumer].0 + 1, before[&consumer].1 + own);
                    match dismissed {
                        None => {
                            let most = before.values().map(|held| size(*held)).max().unwrap_or(0);
                            prop_assert!(over_bytes || seen.room.len() == requests, "there was room for {id:?}");
                            // What is lacking, and one request, which is shorter than 60 bytes, is more than what the largest has
                            // above the newcomer.
                            let lacking = if over_bytes { seen.room.bytes() + own - bytes + 60 } else { 0 };
                            prop_assert!(most <= size(mine) + lacking, "{id:?} of {mine:?}, {before:?}");
                        }
                        Some(dismissed) => {
                            for gone in &dismissed {
                                prop_assert!(size(before[&gone.consumer]) > size(mine), "{gone:?} for {id:?}");
                            }
                            let numbers: Vec<usize> = dismissed.iter().map(|gone| gone.number).collect();
                            if let Some(first) = dismissed.first() {
                                prop_assert_eq!(&numbers, &newest[&first.consumer][..numbers.len()]);
                            }
                        }
                    }
                }
                RoomEvent::Leaves(which) => seen.leaves(&which),
                RoomEvent::HasRoom(pool) => drop(seen.has_room(pool)),
            }
            prop_assert!(seen.room.len() <= requests && seen.room.bytes() <= bytes);
            prop_assert_eq!(seen.room.len(), seen.places.len());
            prop_assert_eq!(seen.room.bytes(), seen.places.keys().map(|id| id.bytes).sum::<usize>());
            prop_assert_eq!(seen.room.is_empty(), seen.places.is_empty());
        }
        // All that is left comes out, pool by pool.
        for pool in 0..2 {
            while seen.has_room(pool).is_some() {}
        }
        prop_assert_eq!((seen.places.len(), seen.room.bytes(), seen.room.pools().count()), (0, 0, 0));
    }
}
