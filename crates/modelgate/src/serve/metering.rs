//! What servers and Traefik tell about requests after they have been answered (`listen.telemetry`): it is told to the ledger
//! of open reservations, whose settlements correct limits and usage. What servers have counted is kept beside it.
//!
//! ```text
//! bookkeeper.rs  which server a request belongs to, when a server is idle, what comes of a balance
//! exchange.rs    receipts that reach another Modelgate than the one that let the request pass
//! wire.rs        the form in which they are passed on
//! ```

mod bookkeeper;
mod exchange;
mod wire;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bookkeeper::Bookkeeper;
use discovery::metrics::{self, MetricsReading};
use exchange::Exchange;
use metering::{Ledger, LedgerCounts, LedgerOptions, Openings, Receipt, Told, UsageKind};
use otlp_receiver::{Counts, Reception};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, error};
use web::{Corrections, Family, Metered, Shared};

use super::open_telemetry;
use crate::config::Config;

/// Receipts that may wait, each about 300 bytes.
const RECEIPTS_CAPACITY: usize = 16 * 1024;
/// Receipts that are told to the ledger before limits in Redis are corrected, all in one call.
const RECEIPTS_AT_ONCE: usize = 256;
/// Admitted requests that may wait for the ledger; those of a second at the highest speed that was measured.
const OPENINGS_CAPACITY: usize = 8 * 1024;
/// Readings of servers' counters that may wait.
const READINGS_CAPACITY: usize = 256;
/// How often the books of servers that are gone are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// After this time without a word about any open request nobody is expected to tell.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the ledger takes the requests that were admitted.
const EVERY: Duration = Duration::from_millis(50);

/// The ledger of open reservations, and what is told to it.
pub(super) struct Metering {
    receipts: mpsc::Receiver<Receipt>,
    openings: Openings<Metered>,
    readings: mpsc::Receiver<MetricsReading>,
    ledger: Ledger<Metered>,
    bookkeeper: Bookkeeper,
    /// If limits are shared.
    exchange: Option<Exchange>,
    start: Instant,
    /// When something was told last, or nothing was open.
    heard: Instant,
    shared: Arc<Shared>,
    tokens: Arc<Tokens>,
}

impl Metering {
    /// Starts to listen. From now on each admitted request is handed over.
    pub(super) fn start(
        listener: TcpListener,
        config: &Config,
        shared: &Arc<Shared>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (sender, receipts) = mpsc::channel(RECEIPTS_CAPACITY);
        let (opener, openings) = metering::queue(OPENINGS_CAPACITY);
        let pass_on = open_telemetry::forward(&config.metering, shared);
        let reception = Reception::new(config.listen.telemetry_token.clone(), sender, pass_on);
        let (counted, tokens) = (Arc::clone(&reception), Arc::new(Tokens::default()));
        let bookkeeper = Bookkeeper::new(shared);
        let (settled, balanced) = (Arc::clone(&tokens), bookkeeper.sums());
        shared.add_metrics(move || {
            let mut families = families(counted.counts());
            families.extend(settled.families());
            families.extend(balanced.families());
            families
        });
        tokio::spawn(otlp_receiver::serve(listener, reception, stopped));
        shared.meter(opener);
        let ledger = Ledger::new(LedgerOptions { wait: config.metering.wait, ..LedgerOptions::default() });
        let exchange = Exchange::start(shared);
        if let Some(exchange) = &exchange {
            shared.add_metrics(exchange.families());
        }
        let readings = read_counters(shared, config.metering.scrape);
        let (start, heard, shared) = (Instant::now(), Instant::now(), Arc::clone(shared));
        Self { receipts, openings, readings, ledger, bookkeeper, exchange, start, heard, shared, tokens }
    }

    /// Keeps the ledger; never returns.
    async fn keep(&mut self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = interval(SWEEP);
        let mut receipts = Vec::with_capacity(RECEIPTS_AT_ONCE);
        loop {
            tokio::select! {
                1.. = self.receipts.recv_many(&mut receipts, RECEIPTS_AT_ONCE) => {
                    // So that a request which is not known then is another Modelgate's.
                    self.open();
                    receipts.drain(..).for_each(|receipt| self.tell(receipt));
                }
                Some(receipt) = passed_on(&mut self.exchange) => {
                    self.open();
                    let told = self.ledger.tell_passed_on(receipt, self.start.elapsed());
                    self.note_word(told);
                    debug!(?told, "another Modelgate has passed on what it was told");
                }
                Some(reading) = self.readings.recv() => {
                    self.open();
                    self.bookkeeper.read(&reading, self.ledger.calibration_mut()).await;
                }
                _ = sweep.tick() => self.bookkeeper.sweep(),
                _ = tick.tick() => {
                    self.open();
                    self.ledger.advance(self.start.elapsed());
                    self.tokens.open.store(self.ledger.len() as u64, Ordering::Relaxed);
                    if self.ledger.is_empty() {
                        self.heard = Instant::now();
                    }
                    self.shared.metering_is_silent(self.heard.elapsed() > SILENCE);
                }
            }
            self.settle().await;
        }
    }

    /// Settles what is known; the rest stands as estimated. Modelgate is about to stop.
    pub(super) async fn close(&mut self) {
        self.open();
        while let Ok(receipt) = self.receipts.try_recv() {
            self.tell(receipt);
        }
        self.ledger.close_all();
        self.settle().await;
    }

    fn open(&mut self) {
        let now = self.start.elapsed();
        while let Some(reservation) = self.openings.next() {
            self.bookkeeper.opened(&reservation.model);
            self.ledger.open(reservation, now);
        }
    }

    fn tell(&mut self, receipt: Receipt) {
        let to_pass_on = self.exchange.as_ref().map(|_| receipt.clone());
        let told = self.ledger.tell(receipt, self.start.elapsed());
        self.note_word(told);
        debug!(?told, "a server or Traefik has told about a request");
        if let (Told::Waits, Some(exchange), Some(receipt)) = (told, &self.exchange, to_pass_on) {
            exchange.pass_on(receipt);
        }
    }

    fn note_word(&mut self, told: Told) {
        if told == Told::Counted {
            self.heard = Instant::now();
        }
    }

    /// If this is dropped while it waits for Redis, only limits in Redis are not corrected: they recover on their own.
    async fn settle(&mut self) {
        let mut corrections = Corrections::default();
        // Before anything is waited for: requests may wait for the place.
        self.ledger.take_ended(Metered::has_ended);
        self.ledger.take_provisional(|held, used| self.shared.correct(held, used, &mut corrections));
        let mut settlements = self.ledger.take_settled();
        for settlement in &settlements {
            debug!(
                request_id = %settlement.request,
                kind = ?settlement.kind,
                prompt_tokens = settlement.used.prompt,
                completion_tokens = settlement.used.completion,
                difference = settlement.difference(),
                "settled"
            );
            self.tokens.count(settlement.kind, settlement.used.prompt, settlement.used.completion);
        }
        self.shared.settle(&mut settlements, corrections).await;
        self.bookkeeper.settled(settlements);
        self.tokens.note(self.ledger.counts());
    }
}

/// The next receipt of another Modelgate, if there may be one.
async fn passed_on(exchange: &mut Option<Exchange>) -> Option<Receipt> {
    match exchange {
        Some(exchange) => exchange.next().await,
        None => pending().await,
    }
}

/// Reads the counters of servers from now on.
fn read_counters(shared: &Shared, every: Duration) -> mpsc::Receiver<MetricsReading> {
    let (sender, readings) = mpsc::channel(READINGS_CAPACITY);
    let reading = metrics::read(shared.catalogue().clone(), every, sender);
    tokio::spawn(async move {
        if let Err(error) = reading.await {
            error!(?error, "counters of servers cannot be read");
        }
    });
    readings
}

/// Keeps the ledger, if there is one; never returns.
pub(super) async fn keep(metering: Option<&mut Metering>) {
    match metering {
        Some(metering) => metering.keep().await,
        None => pending().await,
    }
}

/// What was settled so far.
#[derive(Debug, Default)]
struct Tokens {
    /// By kind, as in [`UsageKind::ALL`].
    settled: [Settled; UsageKind::ALL.len()],
    open: AtomicU64,
    late: AtomicU64,
    unproven: AtomicU64,
}

#[derive(Debug, Default)]
struct Settled {
    requests: AtomicU64,
    prompt: AtomicU64,
    completion: AtomicU64,
}

impl Tokens {
    fn count(&self, kind: UsageKind, prompt: u64, completion: u64) {
        for (settled, _) in self.settled.iter().zip(UsageKind::ALL).filter(|(_, other)| *other == kind) {
            settled.requests.fetch_add(1, Ordering::Relaxed);
            settled.prompt.fetch_add(prompt, Ordering::Relaxed);
            settled.completion.fetch_add(completion, Ordering::Relaxed);
        }
    }

    fn note(&self, counts: LedgerCounts) {
        self.late.store(counts.late, Ordering::Relaxed);
        self.unproven.store(counts.unproven, Ordering::Relaxed);
    }

    fn families(&self) -> Vec<Family> {
        let mut requests = Family::counter(
            "modelgate_settled_requests",
            "Admitted requests whose tokens are final, by how well they are known.",
        );
        let mut tokens = Family::counter(
            "modelgate_settled_tokens",
            "Tokens of admitted requests, by how well they are known.",
        );
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (settled, kind) in self.settled.iter().zip(UsageKind::ALL) {
            let known = kind.name();
            requests = requests.with(&[("known", known)], value(&settled.requests));
            tokens = tokens
                .with(&[("known", known), ("type", "prompt")], value(&settled.prompt))
                .with(&[("known", known), ("type", "completion")], value(&settled.completion));
        }
        let open =
            Family::gauge("modelgate_open_requests", "Admitted requests whose tokens are not final yet.");
        let useless = Family::counter(
            "modelgate_receipts_useless",
            "Spans and records that changed nothing: late, or without proof that the sender has had the request.",
        );
        vec![
            requests,
            tokens,
            open.with(&[], value(&self.open)),
            useless
                .with(&[("reason", "late")], value(&self.late))
                .with(&[("reason", "unproven")], value(&self.unproven)),
        ]
    }
}

fn families(counts: &Counts) -> Vec<Family> {
    let receipts = Family::counter(
        "modelgate_receipts",
        "What servers (span) and Traefik (record) have told about requests.",
    );
    let receipts = receipts
        .with(&[("kind", "span")], counts.spans() as f64)
        .with(&[("kind", "record")], counts.records() as f64);
    let counter = |name, help, count: u64| Family::counter(name, help).with(&[], count as f64);
    vec![
        receipts,
        counter(
            "modelgate_receipts_dropped",
            "Spans and records that were dropped, because too many came at once.",
            counts.dropped(),
        ),
        counter(
            "modelgate_receipts_others",
            "Spans and records that tell nothing about a request, such as those of loading a model.",
            counts.others(),
        ),
        counter(
            "modelgate_exports_refused",
            "Exports with a wrong token, too many at once, or that could not be read.",
            counts.refused(),
        ),
    ]
}
