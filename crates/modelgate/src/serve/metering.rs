//! What servers and Traefik tell about requests after they have been answered (`listen.telemetry`): it is told to the ledger
//! of open reservations, whose settlements correct limits and usage.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metering::{Ledger, LedgerCounts, LedgerOptions, Openings, Receipt, UsageKind};
use otlp_receiver::{Counts, Reception};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::debug;
use web::{Corrections, Family, Metered, Shared};

use crate::config::Listen;

/// Receipts that may wait, each about 300 bytes.
const RECEIPTS_CAPACITY: usize = 16 * 1024;
/// Admitted requests that may wait for the ledger; those of a second at the highest speed that was measured.
const OPENINGS_CAPACITY: usize = 8 * 1024;
/// How long a request stays open without a word: longer than the longest answer takes, since what is told later is lost.
const WAIT: Duration = Duration::from_secs(3_600);
/// How often the ledger takes the requests that were admitted.
const EVERY: Duration = Duration::from_millis(50);

/// The ledger of open reservations, and what is told to it.
pub(super) struct Metering {
    receipts: mpsc::Receiver<Receipt>,
    openings: Openings<Metered>,
    ledger: Ledger<Metered>,
    start: Instant,
    shared: Arc<Shared>,
    tokens: Arc<Tokens>,
}

impl Metering {
    /// Starts to listen. From now on each admitted request is handed over.
    pub(super) fn start(
        listener: TcpListener,
        config: &Listen,
        shared: &Arc<Shared>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (sender, receipts) = mpsc::channel(RECEIPTS_CAPACITY);
        let (opener, openings) = metering::queue(OPENINGS_CAPACITY);
        let reception = Reception::new(config.telemetry_token.clone(), sender);
        let (counted, tokens) = (Arc::clone(&reception), Arc::new(Tokens::default()));
        let settled = Arc::clone(&tokens);
        shared.add_metrics(move || {
            let mut families = families(counted.counts());
            families.extend(settled.families());
            families
        });
        tokio::spawn(otlp_receiver::serve(listener, reception, stopped));
        shared.meter(opener);
        let ledger = Ledger::new(LedgerOptions { wait: WAIT, ..LedgerOptions::default() });
        Self { receipts, openings, ledger, start: Instant::now(), shared: Arc::clone(shared), tokens }
    }

    /// Keeps the ledger; never returns.
    async fn keep(&mut self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(receipt) = self.receipts.recv() => self.tell(receipt),
                _ = tick.tick() => {
                    self.open();
                    self.ledger.advance(self.start.elapsed());
                    self.tokens.open.store(self.ledger.len() as u64, Ordering::Relaxed);
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
            self.ledger.open(reservation, now);
        }
    }

    fn tell(&mut self, receipt: Receipt) {
        let told = self.ledger.tell(receipt, self.start.elapsed());
        debug!(?told, "a server or Traefik has told about a request");
    }

    /// If this is dropped while it waits for Redis, only limits in Redis are not corrected: they recover on their own.
    async fn settle(&mut self) {
        let mut corrections = Corrections::default();
        self.ledger.take_provisional(|held, used| self.shared.correct(held, used.total(), &mut corrections));
        self.shared.correct_shared(corrections).await;
        let settlements = self.ledger.take_settled();
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
        self.shared.settle(settlements).await;
        self.tokens.note(self.ledger.counts());
    }
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
    /// By kind, as in [`KINDS`].
    settled: [Settled; KINDS.len()],
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

const KINDS: [(UsageKind, &str); 3] =
    [(UsageKind::Exact, "exact"), (UsageKind::Measured, "measured"), (UsageKind::Estimated, "estimated")];

impl Tokens {
    fn count(&self, kind: UsageKind, prompt: u64, completion: u64) {
        for (settled, _) in self.settled.iter().zip(KINDS).filter(|(_, (other, _))| *other == kind) {
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
        for (settled, (_, known)) in self.settled.iter().zip(KINDS) {
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
