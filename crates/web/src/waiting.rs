//! Requests that wait until a server of their pool has room (`pick.wait`).
//!
//! A request that need not wait reads two counters of its own pool, and takes no lock. One that waits is a future on its connection's
//! task (`one_task.rs`): it holds no thread, and the connection's other requests are answered meanwhile. When its client goes away,
//! Traefik resets the stream, the future is dropped, and its place with it. Who is next, `server_choice::WaitingRoom` decides; it is
//! under one lock, which only those who wait take, and the one who releases them ([`ChoiceKeeper`](crate::ChoiceKeeper)).
//!
//! Nothing of a request is debited while it waits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use catalogue::RouteId;
use server_choice::{Arrived, Comer, WaitingBounds, WaitingPlace, WaitingRoom};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep},
};

use crate::{Family, HistogramFamily, HistogramSample};

/// How much may wait at once, over all pools. Traefik sends at most 4,096 requests over a connection at once, so others still pass.
const BOUNDS: WaitingBounds = WaitingBounds { requests: 1_000, bytes: 64 << 20 };

/// The upper bounds of the histogram's buckets, in milliseconds.
const BUCKETS: [u64; 8] = [10, 100, 500, 1_000, 2_500, 5_000, 10_000, 25_000];

/// The requests that wait.
#[derive(Debug)]
pub(crate) struct WaitingRequests {
    room: Mutex<WaitingRoom<RouteId, Waiter>>,
    freed: Arc<Notify>,
    count: AtomicUsize,
    figures: WaitFigures,
}

/// What wakes a request.
#[derive(Debug)]
struct Waiter {
    line: Arc<PoolLine>,
    turn: oneshot::Sender<WaitersTurn>,
}

/// What is counted of one pool.
#[derive(Debug, Default)]
pub(crate) struct PoolLine {
    waiting: AtomicUsize,
    /// Those whose turn has come, and who have not been sent to a server yet.
    entering: AtomicUsize,
    freed: Arc<Notify>,
}

/// A request's turn: a server has room for it. To be kept until it has been sent there, or refused.
#[derive(Debug)]
pub(crate) struct WaitersTurn(Arc<PoolLine>);

impl Drop for WaitersTurn {
    fn drop(&mut self) {
        self.0.entering.fetch_sub(1, Relaxed);
        // It may have been refused, by a limit for example: then the next one has its place.
        self.0.poke();
    }
}

/// Why a request waits no longer, without a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFault {
    /// It has waited for as long as it may.
    TooLong,
    /// Too much waits already, of its own consumer or in all.
    NoRoom,
    /// Modelgate stops.
    Stopping,
}

/// How waits have ended.
#[derive(Debug, Clone, Copy)]
enum WaitEnd {
    Released,
    TooLong,
    NoRoom,
    Stopping,
    Left,
}

const ENDS: [&str; 5] = ["server_free", "too_long", "no_room", "stopping", "client_left"];

#[derive(Debug, Default)]
struct WaitFigures {
    ends: [AtomicU64; ENDS.len()],
    micros: AtomicU64,
    /// Not cumulative; the last one is for longer waits.
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl PoolLine {
    /// Counters of a pool of these waiting requests.
    pub(crate) fn of(waiting: &WaitingRequests) -> Self {
        Self { freed: Arc::clone(&waiting.freed), ..Self::default() }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Those whose turn has come, and who have not been sent to a server yet.
    pub(crate) fn entering(&self) -> usize {
        self.entering.load(Relaxed)
    }

    /// A request's turn to be sent to a server, and how many others have one already. It is only to be kept if there is room for all.
    pub(crate) fn enter(self: &Arc<Self>) -> (WaitersTurn, usize) {
        let others = self.entering.fetch_add(1, AcqRel);
        (WaitersTurn(Arc::clone(self)), others)
    }

    /// A server may have room now.
    pub(crate) fn poke(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }
}

impl Default for WaitingRequests {
    fn default() -> Self {
        Self {
            room: Mutex::new(WaitingRoom::new(BOUNDS)),
            freed: Arc::default(),
            count: AtomicUsize::new(0),
            figures: WaitFigures::default(),
        }
    }
}

impl WaitingRequests {
    fn room(&self) -> MutexGuard<'_, WaitingRoom<RouteId, Waiter>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait, over all pools.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether a server may have room now, or somebody has begun to wait.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// The pools for which requests wait.
    pub(crate) fn pools(&self) -> Vec<RouteId> {
        self.room().pools().cloned().collect()
    }

    /// Waits until it is the request's turn, at most for `longest`.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        comer: Comer<RouteId>,
        line: &Arc<PoolLine>,
        longest: Duration,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<WaitersTurn, WaitFault> {
        let (sender, turn) = oneshot::channel();
        let Some(mut place) = self.enter(comer, Waiter { line: Arc::clone(line), turn: sender }) else {
            self.figures.ends[WaitEnd::NoRoom as usize].fetch_add(1, Relaxed);
            return Err(WaitFault::NoRoom);
        };
        // A server may have become free since it was looked at.
        self.freed.notify_one();
        let ended = tokio::select! {
            biased;
            turn = turn => turn.map_err(|_| WaitFault::NoRoom),
            _ = stopping.wait_for(|stops| *stops) => Err(WaitFault::Stopping),
            () = sleep(longest) => Err(WaitFault::TooLong),
        };
        place.end = match &ended {
            Ok(_) => WaitEnd::Released,
            Err(WaitFault::TooLong) => WaitEnd::TooLong,
            Err(WaitFault::NoRoom) => WaitEnd::NoRoom,
            Err(WaitFault::Stopping) => WaitEnd::Stopping,
        };
        ended
    }

    fn enter(self: &Arc<Self>, comer: Comer<RouteId>, waiter: Waiter) -> Option<HeldPlace> {
        let line = Arc::clone(&waiter.line);
        let mut room = self.room();
        let Arrived::Waits { place, dismissed } = room.enter(comer, waiter) else { return None };
        line.waiting.fetch_add(1, Relaxed);
        for (_, gone) in dismissed {
            // Its sender is dropped, and so it hears of it.
            gone.line.waiting.fetch_sub(1, Relaxed);
        }
        self.count.store(room.len(), Relaxed);
        drop(room);
        let (waiting, since) = (Arc::clone(self), Instant::now());
        Some(HeldPlace { waiting, place, line, since, end: WaitEnd::Left })
    }

    /// A pool has room for so many requests: they need not wait any longer.
    pub(crate) fn release(&self, pool: &RouteId, mut most: usize) {
        let mut room = self.room();
        while most > 0
            && let Some(Waiter { line, turn }) = room.release(pool)
        {
            line.waiting.fetch_sub(1, Relaxed);
            line.entering.fetch_add(1, Relaxed);
            // Whoever has gone gives the turn back at once.
            most -= usize::from(turn.send(WaitersTurn(line)).is_ok());
        }
        self.count.store(room.len(), Relaxed);
    }

    /// For `/metrics`: how many wait now, how waits have ended, and how long they took.
    pub(crate) fn figures(&self) -> (Vec<Family>, HistogramFamily) {
        let now = Family::gauge("modelgate_waiting_requests", "Requests that wait until a server has room");
        let help = "Requests that have waited until a server had room, by how that ended: a server was free, it took too long, \
                    too much was waiting, Modelgate stopped, or the client left";
        let ends = ENDS
            .iter()
            .zip(&self.figures.ends)
            .fold(Family::counter("modelgate_waits", help), |family, (end, count)| {
                family.with(&[("ended", end)], count.load(Relaxed) as f64)
            });
        (vec![now.with(&[], self.count() as f64), ends], self.figures.histogram())
    }
}

impl WaitFigures {
    fn add(&self, end: WaitEnd, waited: Duration) {
        self.ends[end as usize].fetch_add(1, Relaxed);
        self.micros.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let bucket = BUCKETS.iter().position(|most| waited <= Duration::from_millis(*most));
        self.buckets[bucket.unwrap_or(BUCKETS.len())].fetch_add(1, Relaxed);
    }

    fn histogram(&self) -> HistogramFamily {
        let limits = BUCKETS.iter().map(|most| *most as f64 / 1e3).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            limits.zip(&self.buckets).map(|(limit, count)| (limit, count.load(Relaxed))).collect();
        let sample = HistogramSample {
            label: None,
            sum: self.micros.load(Relaxed) as f64 / 1e6,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        };
        HistogramFamily {
            name: "modelgate_waited_seconds",
            help: "How long requests have waited until a server had room, however that ended",
            samples: vec![sample],
        }
    }
}

/// The place of a request that waits; given up when it is dropped.
struct HeldPlace {
    waiting: Arc<WaitingRequests>,
    place: WaitingPlace<RouteId>,
    line: Arc<PoolLine>,
    since: Instant,
    end: WaitEnd,
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        let mut room = self.waiting.room();
        if room.leave(&self.place).is_some() {
            self.line.waiting.fetch_sub(1, Relaxed);
            self.waiting.count.store(room.len(), Relaxed);
        }
        drop(room);
        self.waiting.figures.add(self.end, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// Longer than a test takes, in milliseconds.
    const LONG: u64 = 600_000;

    /// A pool, and what comes for it.
    struct Pool {
        waiting: Arc<WaitingRequests>,
        line: Arc<PoolLine>,
        stop: watch::Sender<bool>,
    }

    impl Pool {
        fn new() -> Self {
            let waiting = Arc::<WaitingRequests>::default();
            let line = Arc::new(PoolLine::of(&waiting));
            Self { waiting, line, stop: watch::Sender::new(false) }
        }

        fn route() -> RouteId {
            RouteId::of(&catalogue::ModelName::new("llama").expect("a name"))
        }

        async fn comes(
            &self,
            consumer: &str,
            bytes: usize,
            longest: u64,
        ) -> JoinHandle<Result<WaitersTurn, WaitFault>> {
            let comer = Comer { pool: Self::route(), rank: 1, consumer: consumer.into(), bytes };
            let (waiting, line, stopping) =
                (Arc::clone(&self.waiting), Arc::clone(&self.line), self.stop.subscribe());
            let longest = Duration::from_millis(longest);
            let task = tokio::spawn(async move { waiting.wait(comer, &line, longest, stopping).await });
            yield_now().await;
            task
        }

        fn ended(&self) -> [u64; ENDS.len()] {
            self.waiting.figures.ends.each_ref().map(|count| count.load(Relaxed))
        }

        fn counts(&self) -> (usize, usize, usize) {
            (self.waiting.count(), self.line.waiting(), self.line.entering())
        }
    }

    /// A place is given up in each way in which a wait can end, once, and what has been counted adds up.
    #[tokio::test]
    async fn a_wait_ends_in_five_ways_and_its_place_is_given_up() {
        let pool = Pool::new();
        let first = pool.comes("alice", 10, LONG).await;
        let second = pool.comes("alice", 10, LONG).await;
        let other = pool.comes("bob", 10, LONG).await;
        assert_eq!(pool.counts(), (3, 3, 0));
        assert_eq!(pool.waiting.pools(), [Pool::route()]);
        sleep(Duration::from_millis(60)).await;
        pool.waiting.release(&Pool::route(), 2);
        let turns = [first.await.expect("no panic"), other.await.expect("no panic")];
        assert!(turns.iter().all(Result::is_ok), "one of each");
        assert_eq!(pool.counts(), (1, 1, 2), "until they are sent to a server, they take its room");
        drop(turns);
        assert_eq!(pool.counts(), (1, 1, 0));
        pool.waiting.freed().await;
        second.abort();
        assert!(second.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!((pool.counts(), pool.ended()), ((0, 0, 0), [2, 0, 0, 0, 1]), "its client left");
        let late = pool.comes("alice", 10, 30).await;
        assert_eq!(late.await.expect("no panic").err(), Some(WaitFault::TooLong));
        let large = pool.comes("alice", BOUNDS.bytes + 1, 30).await;
        assert_eq!(large.await.expect("no panic").err(), Some(WaitFault::NoRoom));
        let mut many = Vec::new();
        for _ in 0..BOUNDS.requests {
            many.push(pool.comes("alice", 10, LONG).await);
        }
        let bobs = pool.comes("bob", 10, LONG).await;
        assert_eq!(many.pop().expect("one").await.expect("no panic").err(), Some(WaitFault::NoRoom));
        assert_eq!(pool.counts(), (BOUNDS.requests, BOUNDS.requests, 0));
        pool.stop.send_replace(true);
        for task in many.into_iter().chain([bobs]) {
            assert_eq!(task.await.expect("no panic").err(), Some(WaitFault::Stopping));
        }
        assert_eq!((pool.counts(), pool.ended()), ((0, 0, 0), [2, 1, 2, 1_000, 1]));
        let (families, histogram) = pool.waiting.figures();
        let waited = &histogram.samples[0];
        assert_eq!((waited.count, families[0].samples[0].value), (1_005, 0.0), "one did not wait at all");
        assert!((0.15..120.0).contains(&waited.sum), "two and one for 60 ms, one for 30: {}", waited.sum);
    }

    /// A turn that comes in the moment in which the time is over is not lost.
    #[tokio::test]
    async fn a_turn_that_nobody_takes_goes_to_the_next() {
        let pool = Pool::new();
        let first = pool.comes("alice", 10, LONG).await;
        let second = pool.comes("alice", 10, LONG).await;
        first.abort();
        // It has not been dropped yet.
        pool.waiting.release(&Pool::route(), 1);
        yield_now().await;
        assert_eq!(pool.counts().2, 0, "the first one's turn was given back");
        pool.waiting.freed().await;
        pool.waiting.release(&Pool::route(), 1);
        assert!(second.await.expect("no panic").is_ok());
        drop(first);
        assert_eq!(pool.counts(), (0, 0, 0));
    }
}
