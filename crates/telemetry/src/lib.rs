//! Records what `/auth` has decided, for people and metrics: counters, latency histograms, the last hour and the latest
//! decisions. With metering, also what became of the admitted requests.
//!
//! ```text
//! /auth ─decided()─▶ counters, histogram ─┐
//!            └─────▶ queue ───────────────┴─collect()─▶ the last hour, the last 1,000, subscribers
//!                                                                          ▲
//! the ledger ─settled()─▶ performance of models and servers, subscribers ───┘ outcomes
//!            └───────────▶ tallies of consumers, models and servers, for metrics ◀─allowed(), refused()─ usage
//! ```
//!
//! Recording a decision takes no lock and does not block: [`Telemetry::decided`] increments a few atomic numbers and puts a
//! record into a queue that drops the oldest one when it is full. A task of the program calls [`Telemetry::collect`] every
//! [`COLLECT_EVERY`]; everything that readers see, except the totals, comes from there. There is no I/O and no async runtime
//! here, and time is passed in.
//!
//! Memory is bounded: 1,000 records and a queue of 4,096, of at most 2 KiB each, and for the last hour 3,660 points of 96 bytes,
//! plus 24 bytes for each reason that occurs in a point. For models and
//! servers see `performance.rs` and `tally.rs`.

mod chosen;
mod counters;
mod histogram;
mod network;
mod performance;
mod recent;
mod record;
mod series;
mod settled;
mod tally;
mod trace;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use counters::Counters;
use crossbeam_queue::ArrayQueue;
use histogram::Histogram;
use metering::Ending;
use performance::Performances;
use recent::Recent;
use series::{Series, Snapshot};
use tokio::sync::broadcast::{self, error::TryRecvError};

pub use chosen::ChosenServer;
pub use histogram::Latencies;
pub use network::Network;
pub use performance::{MAX_SUBJECTS, Performance, RequestCounts};
pub use recent::RECENT;
pub use record::{Decided, Record, Refused};
pub use series::Point;
pub use settled::{AnsweringServer, SettledRequest};
pub use tally::{
    Allowed, CorrectionTally, MAX_REASONS, MOST_TALLIES, OTHER_REASON, OTHERS, Tallies, TalliesOf, Tally,
    TallyBounds, TimeTally, TokenTally, UNKNOWN,
};
pub use trace::{DecisionSpan, OperationSpan, Sampler};

/// How often to call [`Telemetry::collect`].
pub const COLLECT_EVERY: Duration = Duration::from_millis(100);
/// How many decisions fit between two collections: 40,000 a second.
const QUEUE: usize = 4096;
/// How many collections a slow subscriber may lag behind: 6 s.
const LAG: usize = 64;

/// The decisions of one collection, oldest first.
pub type Batch = Arc<[Arc<Record>]>;
/// Requests that were settled together.
pub type SettledBatch = Arc<[Arc<SettledRequest>]>;

/// Hands over what is waiting for a subscriber now, such as before the process ends. Some may have been missed.
pub fn take_waiting(decisions: &mut broadcast::Receiver<Batch>, mut each: impl FnMut(&Batch)) {
    loop {
        match decisions.try_recv() {
            Ok(batch) => each(&batch),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// All that is recorded about decisions.
#[derive(Debug)]
pub struct Telemetry {
    counters: Counters,
    latencies: Histogram,
    queue: ArrayQueue<Record>,
    lost: AtomicU64,
    live: broadcast::Sender<Batch>,
    settled: broadcast::Sender<SettledBatch>,
    collected: Mutex<Collected>,
    performances: Mutex<Performances>,
    tallies: Mutex<Tallies>,
    notes_networks: AtomicBool,
}

/// What readers see besides the counters.
#[derive(Debug, Default)]
struct Collected {
    series: Series,
    recent: Recent,
}

/// All decisions since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// How long the decisions took.
    pub latencies: Latencies,
    /// Decisions that were counted, but dropped from the queue because there were too many at once.
    pub not_shown: u64,
}

/// Which decisions to show; absent filters match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whether the request was allowed.
    pub allowed: Option<bool>,
    /// How the request ended; this matches admitted requests only.
    pub ending: Option<Ending>,
    /// The code of the reason.
    pub reason: Option<String>,
    /// The consumer.
    pub consumer: Option<String>,
    /// The name of the key.
    pub key: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The request's id: Modelgate's, or the client's own.
    pub request_id: Option<String>,
}

impl Filter {
    /// Whether a decision is to be shown.
    pub fn matches(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        self.allowed.is_none_or(|allowed| allowed == record.refused.is_none())
            && self.ending.is_none_or(|ending| record.ending() == Some(ending))
            && same(&self.reason, record.refused)
            && same(&self.consumer, record.consumer())
            && same(&self.key, record.key())
            && same(&self.model, record.model())
            && (same(&self.request_id, Some(record.request_id()))
                || same(&self.request_id, record.client_request_id()))
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            latencies: Histogram::default(),
            queue: ArrayQueue::new(QUEUE),
            lost: AtomicU64::new(0),
            live: broadcast::Sender::new(LAG),
            settled: broadcast::Sender::new(LAG),
            collected: Mutex::default(),
            performances: Mutex::default(),
            tallies: Mutex::default(),
            notes_networks: AtomicBool::new(false),
        }
    }
}

impl Telemetry {
    /// Telemetry without any decisions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a decision, or a refusal that was made without asking `/auth`. Takes no lock and does not block.
    pub fn decided(&self, decided: &Decided<'_>) {
        self.keep(self.count(decided));
    }

    /// Counts a decision now; its record is returned to be completed and then [kept](Self::keep).
    #[must_use]
    pub fn count(&self, decided: &Decided<'_>) -> Record {
        self.counters.add(decided.refused.as_ref().map(|refused| refused.code));
        if let Some(latency) = decided.latency {
            self.latencies.add(latency);
        }
        Record::new(decided)
    }

    /// Keeps a decision for readers and subscribers. Takes no lock and does not block.
    pub fn keep(&self, record: Record) {
        if self.queue.force_push(record).is_some() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Collects the decisions since the last call, for readers and subscribers.
    pub fn collect(&self, now: SystemTime) {
        let mut collected = self.collected();
        collected.series.read(now, self.snapshot());
        // At most one queue's worth: otherwise a flood of decisions would keep the lock taken forever.
        let batch: Batch = (0..QUEUE).map_while(|_| self.queue.pop()).map(Arc::new).collect();
        if batch.is_empty() {
            return;
        }
        collected.recent.add(&batch);
        // The only error is that there are no subscribers.
        let _ = self.live.send(batch);
    }

    /// All decisions since the start, up to this moment.
    pub fn totals(&self) -> Totals {
        let Snapshot { counts, latencies } = self.snapshot();
        Totals {
            allowed: counts.allowed,
            refused: counts.refused().into_iter().collect(),
            latencies,
            not_shown: self.lost.load(Ordering::Relaxed),
        }
    }

    /// The last hour as 60 points of a minute, oldest first. The last one is the current minute; the others are complete, except
    /// the one in which the program started. Empty before the first collection.
    pub fn last_hour(&self) -> Vec<Point> {
        self.collected().series.minutes()
    }

    /// The last `count` complete seconds, oldest first; at most 3,600. Empty before the first collection.
    pub fn per_second(&self, count: usize) -> Vec<Point> {
        self.collected().series.seconds(count)
    }

    /// The latency that `percent` of 100 decisions of the last minute did not exceed; `None` if there were none.
    pub fn latency(&self, percent: f64) -> Option<Duration> {
        self.collected().series.lately().percentile(percent)
    }

    /// The latest decisions that match a filter, newest first; at most `count` of the last [`RECENT`].
    pub fn recent(&self, filter: &Filter, count: usize) -> Vec<Arc<Record>> {
        let collected = self.collected();
        collected.recent.newest_first().filter(|record| filter.matches(record)).take(count).cloned().collect()
    }

    /// Notes what became of admitted requests. Takes locks that readers and [`collect`](Self::collect) take, so it is not for
    /// `/auth`.
    pub fn settled(&self, requests: &[Arc<SettledRequest>], now: Instant) {
        let mut performances = self.performances();
        requests.iter().for_each(|settled| performances.add(settled, now));
        drop(performances);
        let mut tallies = self.tallies_mut();
        requests.iter().for_each(|settled| tallies.settle(settled, now));
        drop(tallies);
        let mut collected = self.collected();
        requests.iter().for_each(|settled| collected.recent.settle(settled));
        drop(collected);
        if self.settled.receiver_count() > 0 {
            // The only error is that there are no subscribers.
            let _ = self.settled.send(requests.into());
        }
    }

    /// Sets whether records are to have the network from which the request came.
    pub fn note_networks(&self, notes: bool) {
        self.notes_networks.store(notes, Ordering::Relaxed);
    }

    /// Whether records are to have the network from which the request came.
    pub fn notes_networks(&self) -> bool {
        self.notes_networks.load(Ordering::Relaxed)
    }

    /// Sets how many consumers, models and servers have counts of their own in [`tallies`](Self::tallies).
    pub fn bound_tallies(&self, bounds: TallyBounds) {
        self.tallies_mut().bound(bounds);
    }

    /// Counts requests of a consumer to a model that were allowed since the last time. Not for `/auth`.
    pub fn allowed(&self, consumer: &str, model: &str, allowed: &Allowed, now: Instant) {
        self.tallies_mut().allow(consumer, model, allowed, now);
    }

    /// Counts requests of a consumer that were refused since the last time; `model` only if it is known to exist. Not for
    /// `/auth`.
    pub fn refused(&self, consumer: &str, model: Option<&str>, code: &'static str, count: u64, now: Instant) {
        self.tallies_mut().refuse(consumer, model, code, count, now);
    }

    /// Counts what a server's counters have corrected in requests that were settled before: tokens of prompts and of answers, below
    /// zero if there were fewer. Not for `/auth`.
    pub fn corrected(&self, consumer: &str, model: &str, tokens: [i64; 2], now: Instant) {
        self.tallies_mut().correct(consumer, model, tokens, now);
    }

    /// What was counted for each consumer, model and server.
    pub fn tallies(&self) -> Tallies {
        self.tallies_mut().clone()
    }

    /// How the requests to a model have gone; `None` if none was settled.
    pub fn of_model(&self, model: &str, now: Instant) -> Option<Performance> {
        let performances = self.performances();
        performances.of(&performances.models, model, now)
    }

    /// How the requests to a server have gone, by its id; `None` if none was settled.
    pub fn of_server(&self, id: &str, now: Instant) -> Option<Performance> {
        let performances = self.performances();
        performances.of(&performances.servers, id, now)
    }

    /// How the requests to all models have gone, by name; at most [`MAX_SUBJECTS`].
    pub fn of_models(&self, now: Instant) -> BTreeMap<Arc<str>, Performance> {
        let performances = self.performances();
        performances.all(&performances.models, now)
    }

    /// How the requests to all servers have gone, by id; at most [`MAX_SUBJECTS`].
    pub fn of_servers(&self, now: Instant) -> BTreeMap<Arc<str>, Performance> {
        let performances = self.performances();
        performances.all(&performances.servers, now)
    }

    /// Whether Traefik has told about any request since the start.
    pub fn does_traefik_tell(&self) -> bool {
        self.performances().does_traefik_tell
    }

    /// Subscribes to decisions, in one batch for every collection that has any. A slow subscriber loses the oldest batches, and
    /// gets an error that says so.
    pub fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.live.subscribe()
    }

    /// Subscribes to what becomes of admitted requests. A slow subscriber loses the oldest batches, and gets an error that says so.
    pub fn subscribe_settled(&self) -> broadcast::Receiver<SettledBatch> {
        self.settled.subscribe()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { counts: self.counters.read(), latencies: self.latencies.read() }
    }

    fn performances(&self) -> MutexGuard<'_, Performances> {
        self.performances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tallies_mut(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
