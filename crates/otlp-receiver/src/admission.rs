//! How much the receiver takes on: bodies at a time, and exports and receipts a second.
//!
//! Senders that have proven who they are and all others are bounded apart, so that nobody without the token can keep out
//! those that have it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use metering::Trust;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Bodies that are read at a time. Each may take [`MAX_BODY`](crate::http::MAX_BODY) and
/// [`MAX_MESSAGE`](crate::http::MAX_MESSAGE) bytes.
const MAX_BODIES_AT_ONCE: usize = 4;
/// How long an export waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Exports a second. An exporter sends one every few seconds, or as soon as it has 512 items.
const MAX_EXPORTS_PER_SECOND: f64 = 500.0;
/// Spans and records a second.
const MAX_ITEMS_PER_SECOND: f64 = 50_000.0;

/// Why an export is not taken now; the sender should try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// The bounds for one kind of senders.
#[derive(Debug)]
struct Lane {
    turns: Arc<Semaphore>,
    exports: Mutex<Bucket>,
    items: Mutex<Bucket>,
}

/// The bounds.
#[derive(Debug)]
pub(crate) struct Admission {
    proven: Lane,
    others: Lane,
}

impl Admission {
    pub(crate) fn new(now: Instant) -> Self {
        let lane = || Lane {
            turns: Arc::new(Semaphore::new(MAX_BODIES_AT_ONCE)),
            exports: Mutex::new(Bucket::full(MAX_EXPORTS_PER_SECOND, now)),
            items: Mutex::new(Bucket::full(MAX_ITEMS_PER_SECOND, now)),
        };
        Self { proven: lane(), others: lane() }
    }

    /// Waits for a turn to read one body.
    pub(crate) async fn turn(&self, sender: Trust) -> Result<OwnedSemaphorePermit, Busy> {
        let lane = self.lane(sender);
        if !take(&lane.exports, 1.0) {
            return Err(Busy);
        }
        match timeout(TURN_TIMEOUT, Arc::clone(&lane.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Busy),
        }
    }

    /// Whether this many spans and records may be taken now.
    pub(crate) fn items(&self, sender: Trust, items: usize) -> bool {
        take(&self.lane(sender).items, items as f64)
    }

    fn lane(&self, sender: Trust) -> &Lane {
        match sender {
            Trust::Proven => &self.proven,
            Trust::None => &self.others,
        }
    }
}

fn take(bucket: &Mutex<Bucket>, amount: f64) -> bool {
    bucket.lock().unwrap_or_else(PoisonError::into_inner).take(amount, Instant::now())
}

/// A token bucket that holds one second's amount.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_second: f64, now: Instant) -> Self {
        Self { per_second, left: per_second, at: now }
    }

    fn take(&mut self, amount: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.per_second);
        self.at = now;
        let fits = amount <= self.left;
        if fits {
            self.left -= amount;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10.0, start);
        assert!(bucket.take(7.0, start) && !bucket.take(4.0, start) && bucket.take(3.0, start));
        let later = start + Duration::from_millis(500);
        assert!(bucket.take(5.0, later) && !bucket.take(1.0, later));
        assert!(!bucket.take(10.5, later + Duration::from_secs(60)), "never more than one second's");
    }

    #[test]
    fn who_has_no_token_keeps_nobody_out() {
        let admission = Admission::new(Instant::now());
        while admission.items(Trust::None, 10_000) {}
        assert!(admission.items(Trust::Proven, 10_000));
    }

    #[tokio::test]
    async fn bodies_wait_for_their_turn_but_not_for_ever() {
        let admission = Admission::new(Instant::now());
        let mut turns = Vec::new();
        for _ in 0..MAX_BODIES_AT_ONCE {
            turns.push(admission.turn(Trust::None).await.expect("a turn"));
        }
        assert!(admission.turn(Trust::None).await.is_err());
        assert!(admission.turn(Trust::Proven).await.is_ok());
        turns.pop();
        assert!(admission.turn(Trust::None).await.is_ok());
    }
}
