//! Passes receipts about requests that are not known here on to the other Modelgates, and takes theirs: a server or a Traefik may
//! tell another Modelgate than the one that let the request pass.
//!
//! They go through the Redis of the shared limits. Whoever reads there sees the secret parents of requests that are over; whoever
//! writes there could change the limits anyway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metering::{Receipt, Trust};
use shared_limits::{Place, SharedLimits, Stream};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use web::{Family, Shared};

use super::wire::{pack, unpack};

/// How often receipts are exchanged: well below the two seconds in which they shall find their way.
const EVERY: Duration = Duration::from_millis(250);
/// The receipts that are passed on at once.
const MOST_AT_ONCE: usize = 4_096;
/// Of those, receipts that prove nothing here yet: anybody may send them.
const MOST_UNPROVEN_AT_ONCE: usize = 512;
/// The receipts of others that may wait for the ledger.
const CAPACITY: usize = 16 * 1024;

/// The owner's end.
pub(super) struct Exchange {
    outgoing: mpsc::Sender<Receipt>,
    incoming: mpsc::Receiver<Receipt>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
}

impl Exchange {
    /// Starts to exchange; `None` if limits are not shared.
    pub(super) fn start(shared: &Arc<Shared>) -> Option<Self> {
        shared.shared_counting()?;
        let (outgoing, to_send) = mpsc::channel(MOST_AT_ONCE);
        let (received, incoming) = mpsc::channel(CAPACITY);
        let counts = Arc::new(Counts::default());
        tokio::spawn(exchange(Arc::clone(shared), to_send, received, Arc::clone(&counts)));
        Some(Self { outgoing, incoming, counts })
    }

    /// Passes a receipt on; if too many wait, it is dropped.
    pub(super) fn pass_on(&self, receipt: Receipt) {
        if self.outgoing.try_send(receipt).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next receipt of another Modelgate.
    pub(super) async fn next(&mut self) -> Option<Receipt> {
        self.incoming.recv().await
    }

    /// What is counted.
    pub(super) fn families(&self) -> impl Fn() -> Vec<Family> + Send + Sync + use<> {
        let counts = Arc::clone(&self.counts);
        move || {
            let value = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
            let passed_on = Family::counter(
                "modelgate_receipts_passed_on",
                "Spans and records about requests of other Modelgates: sent to them, received from them, or dropped because \
                 there were too many.",
            );
            vec![
                passed_on
                    .with(&[("direction", "sent")], value(&counts.sent))
                    .with(&[("direction", "received")], value(&counts.received))
                    .with(&[("direction", "dropped")], value(&counts.dropped)),
            ]
        }
    }
}

/// Exchanges until the owner is gone.
async fn exchange(
    shared: Arc<Shared>,
    mut to_send: mpsc::Receiver<Receipt>,
    received: mpsc::Sender<Receipt>,
    counts: Arc<Counts>,
) {
    let Some(limits) = shared.shared_counting().map(web::SharedCounting::limits) else { return };
    let mut place = Place::begin(Stream::Receipts);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What could not be sent is tried once more: the number of receipts, and they.
    let mut again: (usize, Vec<Vec<u8>>) = (0, Vec::new());
    while !received.is_closed() {
        tick.tick().await;
        let receipts = take(&mut to_send, &counts);
        if limits.replicas() < 2 {
            again = (0, Vec::new());
            continue;
        }
        let new = (receipts.len(), pack(receipts));
        let messages = [&again.1[..], &new.1].concat();
        let count = |counted: &AtomicU64, receipts: usize| {
            counted.fetch_add(u64::try_from(receipts).unwrap_or(0), Ordering::Relaxed);
        };
        if once(limits, &mut place, &messages, &received, &counts).await {
            count(&counts.sent, again.0 + new.0);
            again = (0, Vec::new());
        } else {
            count(&counts.dropped, again.0);
            again = new;
        }
    }
}

/// Sends messages, and takes in all that the others have sent. Returns whether the server has answered.
async fn once(
    limits: &SharedLimits,
    place: &mut Place,
    messages: &[Vec<u8>],
    received: &mpsc::Sender<Receipt>,
    counts: &Counts,
) -> bool {
    let mut messages = messages;
    loop {
        let Ok(others) = limits.exchange(place, messages).await else { return false };
        for receipt in others.messages.iter().flat_map(|message| unpack(&message.bytes)) {
            let count = match received.try_send(receipt) {
                Ok(()) => &counts.received,
                Err(_) => &counts.dropped,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        if !others.is_full {
            return true;
        }
        messages = &[];
    }
}

/// What waits, within the bounds.
fn take(to_send: &mut mpsc::Receiver<Receipt>, counts: &Counts) -> Vec<Receipt> {
    let (mut taken, mut unproven) = (Vec::new(), 0);
    while taken.len() < MOST_AT_ONCE
        && let Ok(receipt) = to_send.try_recv()
    {
        let trust = match &receipt {
            Receipt::Span(span) => span.trust,
            Receipt::Record(record) => record.trust,
        };
        unproven += usize::from(trust == Trust::None);
        if trust == Trust::Proven || unproven <= MOST_UNPROVEN_AT_ONCE {
            taken.push(receipt);
        } else {
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    taken
}
