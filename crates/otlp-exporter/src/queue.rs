//! What waits for its export: bounded, and nobody waits for room.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Sums and histograms.
    Metrics,
    /// Lines of the log.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The name, for programs; also the end of the path of an export.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// What became of spans, metrics or lines, in items.
#[derive(Debug, Default)]
pub struct ExportCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl ExportCounts {
    /// Items that the collector has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Items that were dropped: there was no room, or the collector does not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Attempts that failed, in exports.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn add_sent(&self, items: u64) {
        self.sent.fetch_add(items, Ordering::Relaxed);
    }

    pub(crate) fn add_dropped(&self, items: u64) {
        self.dropped.fetch_add(items, Ordering::Relaxed);
    }

    pub(crate) fn add_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// Encoded items that wait.
#[derive(Debug)]
pub(crate) struct Queue {
    items: ArrayQueue<Vec<u8>>,
    /// From so many on they are sent at once.
    batch: usize,
    full: Notify,
    pub(crate) counts: Arc<ExportCounts>,
}

impl Queue {
    pub(crate) fn new(capacity: usize, batch: usize) -> Self {
        let counts = Arc::default();
        Self { items: ArrayQueue::new(capacity), batch, full: Notify::new(), counts }
    }

    /// Takes no lock and does not wait.
    pub(crate) fn push(&self, item: Vec<u8>) {
        match self.items.push(item) {
            Ok(()) if self.items.len() == self.batch => self.full.notify_one(),
            Ok(()) => {}
            Err(_) => self.counts.add_dropped(1),
        }
    }

    /// Waits until there is a batch.
    pub(crate) async fn batch_is_there(&self) {
        self.full.notified().await;
    }

    /// The oldest items, at most a batch.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        (0..self.batch).map_while(|_| self.items.pop()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let queue = Queue::new(3, 2);
        for item in 0..5 {
            queue.push(vec![item]);
        }
        assert_eq!(queue.counts.dropped(), 2);
        assert_eq!(
            [queue.take(), queue.take(), queue.take()],
            [vec![vec![0], vec![1]], vec![vec![2]], vec![]]
        );
    }
}
