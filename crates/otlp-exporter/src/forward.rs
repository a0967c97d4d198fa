//! Passes on what came in for metering, as it came. It may hold prompts, so it is never logged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::Client;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    destination::{Destination, ExportError, client},
    queue::{ExportCounts, Signal},
};

/// How many bytes may wait.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How many exports may wait.
const MOST_EXPORTS: usize = 4096;
/// For how long an export is tried again.
const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An export that came, as it is passed on.
#[derive(Debug, Clone)]
pub struct ForwardedExport {
    /// What it is.
    pub signal: Signal,
    /// How it is written: a media type of OTLP.
    pub content_type: &'static str,
    /// The message, not compressed.
    pub body: Bytes,
}

/// Passes exports on to one collector.
#[derive(Debug, Clone)]
pub struct Forwarder {
    queue: mpsc::Sender<ForwardedExport>,
    waiting: Arc<AtomicUsize>,
    counts: Arc<ExportCounts>,
}

impl Forwarder {
    /// Starts a task that sends to `v1/traces` and `v1/logs` below an address.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn start(destination: &Destination) -> Result<Self, ExportError> {
        let client = client(&[])?;
        let (queue, exports) = mpsc::channel(MOST_EXPORTS);
        let (waiting, counts) = (Arc::<AtomicUsize>::default(), Arc::<ExportCounts>::default());
        let run = Sender {
            client,
            destinations: Signal::ALL.map(|signal| destination.with_path(&format!("v1/{}", signal.name()))),
            counts: Arc::clone(&counts),
            is_down: false,
        };
        tokio::spawn(run.run(exports, Arc::clone(&waiting)));
        Ok(Self { queue, waiting, counts })
    }

    /// Takes an export, or drops it if too much waits. Does not wait.
    pub fn pass_on(&self, export: ForwardedExport) {
        let bytes = export.body.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > MOST_BYTES || self.queue.try_send(export).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.add_dropped(1);
        }
    }

    /// What became of exports.
    pub fn counts(&self) -> Arc<ExportCounts> {
        Arc::clone(&self.counts)
    }
}

struct Sender {
    client: Client,
    /// By signal, as in [`Signal::ALL`].
    destinations: [Destination; 3],
    counts: Arc<ExportCounts>,
    is_down: bool,
}

impl Sender {
    async fn run(mut self, mut exports: mpsc::Receiver<ForwardedExport>, waiting: Arc<AtomicUsize>) {
        while let Some(export) = exports.recv().await {
            let bytes = export.body.len();
            self.send(export).await;
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Sends one export, again and again for some minutes.
    async fn send(&mut self, export: ForwardedExport) {
        let (since, mut pause) = (Instant::now(), FIRST_PAUSE);
        let [traces, metrics, logs] = &self.destinations;
        let destination = match export.signal {
            Signal::Traces => traces,
            Signal::Metrics => metrics,
            Signal::Logs => logs,
        };
        loop {
            let sent = destination.send(&self.client, export.content_type, export.body.clone()).await;
            let Err(error) = sent else {
                self.counts.add_sent(1);
                if std::mem::take(&mut self.is_down) {
                    info!("the collector takes what is passed on again");
                }
                return;
            };
            self.counts.add_failure();
            if !std::mem::replace(&mut self.is_down, true) {
                let collector = destination.url.origin();
                warn!(%error, collector, signal = export.signal.name(), "what came for metering cannot be passed on");
            }
            if error.is_final() || since.elapsed() > PATIENCE {
                self.counts.add_dropped(1);
                return;
            }
            sleep(pause.max(error.retry_after())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
