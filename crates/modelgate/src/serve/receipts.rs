//! What servers and Traefik tell about requests after they have been answered (`listen.telemetry`).

use std::{future::pending, sync::Arc};

use metering::Receipt;
use otlp_receiver::{Counts, Reception};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tracing::debug;
use web::{Family, Shared};

use crate::config::Listen;

/// Receipts that may wait, each about 300 bytes.
const QUEUE_CAPACITY: usize = 16 * 1024;

/// The receipts that have arrived.
pub(super) struct Receipts(mpsc::Receiver<Receipt>);

impl Receipts {
    /// Starts to listen.
    pub(super) fn start(
        listener: TcpListener,
        config: &Listen,
        shared: &Shared,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (sender, receipts) = mpsc::channel(QUEUE_CAPACITY);
        let reception = Reception::new(config.telemetry_token.clone(), sender);
        let counted = Arc::clone(&reception);
        shared.add_metrics(move || families(counted.counts()));
        tokio::spawn(otlp_receiver::serve(listener, reception, stopped));
        Self(receipts)
    }
}

/// Takes receipts; never returns.
pub(super) async fn take(receipts: Option<Receipts>) {
    if let Some(Receipts(mut queue)) = receipts {
        while let Some(receipt) = queue.recv().await {
            told(&receipt);
        }
    }
    pending::<()>().await;
}

fn told(receipt: &Receipt) {
    match receipt {
        Receipt::Span(span) => debug!(
            request_id = span.request.map(tracing::field::display),
            prompt_tokens = span.prompt_tokens,
            completion_tokens = span.completion_tokens,
            trust = ?span.trust,
            "a server has told about a request"
        ),
        Receipt::Record(record) => debug!(
            request_id = %record.request,
            status = record.status,
            server_status = record.server_status,
            answer_bytes = record.answer_bytes,
            trust = ?record.trust,
            "Traefik has told about a request"
        ),
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
