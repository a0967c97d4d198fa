//! What `/auth` has decided, for those who look: counters, latencies, the last hour and the last
//! decisions.
//!
//! ```text
//! /auth ─decided()─▶ counters, histogram ─┐
//!            └─────▶ queue ───────────────┴─collect()─▶ the last hour, the last 1,000, subscribers
//! ```
//!
//! Deciders take no lock and wait for nobody: [`Telemetry::decided`] counts up a few atomic numbers and
//! puts a record into a queue that drops the oldest when it is full. A task of the program calls
//! [`Telemetry::collect`] every [`COLLECT_EVERY`]; all that readers see comes from there. There is no I/O
//! and no runtime here, and time is passed in.
//!
//! Memory is bounded: 1,000 records and a queue of 4,096, of at most 2 KiB each, and for the last hour 3,660
//! points of 96 bytes, and 24 for each reason that occurs in one.

mod counters;
mod histogram;
mod record;
mod series;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use counters::Counters;
use crossbeam_queue::ArrayQueue;
use histogram::Histogram;
use series::{Series, Snapshot};
use tokio::sync::broadcast;

pub use histogram::Latencies;
pub use record::{Decided, Record, Refused};
pub use series::Point;

/// How often to call [`Telemetry::collect`].
pub const COLLECT_EVERY: Duration = Duration::from_millis(100);
/// How many of the last decisions are kept.
pub const RECENT: usize = 1000;
/// How many decisions fit between two collections: 40,000 a second.
const QUEUE: usize = 4096;
/// How many collections a slow subscriber may lag behind: 6 s.
const LAG: usize = 64;

/// The decisions of one collection, oldest first.
pub type Batch = Arc<[Arc<Record>]>;

/// All that is known about decisions.
#[derive(Debug)]
pub struct Telemetry {
    counters: Counters,
    latencies: Histogram,
    queue: ArrayQueue<Record>,
    lost: AtomicU64,
    live: broadcast::Sender<Batch>,
    collected: Mutex<Collected>,
}

/// What readers see besides the counters.
#[derive(Debug, Default)]
struct Collected {
    series: Series,
    recent: VecDeque<Arc<Record>>,
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
    /// Decisions that are counted, but were too many at once to be shown one by one.
    pub not_shown: u64,
}

/// Which decisions to show; what is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whether it was allowed.
    pub allowed: Option<bool>,
    /// The code of its reason.
    pub reason: Option<String>,
    /// Whose it was.
    pub consumer: Option<String>,
    /// With which key, by its name.
    pub key: Option<String>,
    /// For which model.
    pub model: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
}

impl Filter {
    /// Whether a decision is to be shown.
    pub fn matches(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        self.allowed.is_none_or(|allowed| allowed == record.refused.is_none())
            && same(&self.reason, record.refused)
            && same(&self.consumer, record.consumer())
            && same(&self.key, record.key())
            && same(&self.model, record.model())
            && same(&self.request_id, Some(record.request_id()))
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
            collected: Mutex::default(),
        }
    }
}

impl Telemetry {
    /// Nothing has been decided yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hears of a decision, or of a refusal that nobody had to think about. Takes no lock and does not wait.
    pub fn decided(&self, decided: &Decided<'_>) {
        self.keep(self.count(decided));
    }

    /// The same of a decision of which more is known in a moment: it is counted now, and [kept](Self::keep) then.
    #[must_use]
    pub fn count(&self, decided: &Decided<'_>) -> Record {
        self.counters.add(decided.refused.as_ref().map(|refused| refused.code));
        if let Some(latency) = decided.latency {
            self.latencies.add(latency);
        }
        Record::new(decided)
    }

    /// Keeps a decision for readers and subscribers. Takes no lock and does not wait.
    pub fn keep(&self, record: Record) {
        if self.queue.force_push(record).is_some() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Collects what has been decided since the last time, for readers and subscribers.
    pub fn collect(&self, now: SystemTime) {
        let mut collected = self.collected();
        collected.series.read(now, self.snapshot());
        // Not all that comes meanwhile, or a flood would never let go of the lock.
        let batch: Batch = (0..QUEUE).map_while(|_| self.queue.pop()).map(Arc::new).collect();
        if batch.is_empty() {
            return;
        }
        let newest = &batch[batch.len().saturating_sub(RECENT)..];
        let too_many = (collected.recent.len() + newest.len()).saturating_sub(RECENT);
        collected.recent.drain(..too_many);
        collected.recent.extend(newest.iter().cloned());
        // The error only says that nobody listens.
        let _ = self.live.send(batch);
    }

    /// All decisions since the start, up to this very moment.
    pub fn totals(&self) -> Totals {
        let Snapshot { counts, latencies } = self.snapshot();
        Totals {
            allowed: counts.allowed,
            refused: counts.refused().into_iter().collect(),
            latencies,
            not_shown: self.lost.load(Ordering::Relaxed),
        }
    }

    /// The last hour in 60 points of a minute, oldest first. The last one is under way; the others
    /// are whole, apart from the one in which the program started. None before the first collection.
    pub fn last_hour(&self) -> Vec<Point> {
        self.collected().series.minutes()
    }

    /// The last `count` seconds that are over, oldest first; at most 3,600. None before the first collection.
    pub fn per_second(&self, count: usize) -> Vec<Point> {
        self.collected().series.seconds(count)
    }

    /// What `percent` of 100 decisions of the last minute did not exceed; `None` if there were none.
    pub fn latency(&self, percent: f64) -> Option<Duration> {
        self.collected().series.lately().percentile(percent)
    }

    /// The last decisions that a filter lets pass, newest first, at most `count` of the last [`RECENT`].
    pub fn recent(&self, filter: &Filter, count: usize) -> Vec<Arc<Record>> {
        let collected = self.collected();
        collected.recent.iter().rev().filter(|record| filter.matches(record)).take(count).cloned().collect()
    }

    /// Decisions as they are made, a batch for every collection that has any. Who is slow misses the
    /// oldest batches, and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.live.subscribe()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { counts: self.counters.read(), latencies: self.latencies.read() }
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
