//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference.

use std::sync::Arc;

use access::{
    Consumer, Grant, Key,
    estimate::{Answers, Sum},
};
use metering::{
    MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape, ReservedTokens,
    SpanId,
};

use crate::{
    Shared,
    counting::{self, SharedReservation},
};

/// Whose request it was, and what it has taken from limits of tokens.
#[derive(Debug)]
pub struct Metered {
    key: Arc<Key>,
    consumer: Arc<Consumer>,
    /// The model under which its usage is counted; empty if the client may have invented it.
    model: Arc<str>,
    reservation: limits::Reservation,
    shared: SharedReservation,
}

/// An admitted request, as far as it must be known later.
pub(crate) struct Admitted<'g> {
    pub(crate) request: RequestId,
    pub(crate) parent: SpanId,
    pub(crate) uri: &'g str,
    pub(crate) sum: Sum,
    pub(crate) shared: SharedReservation,
}

/// Hands a request over. If too many wait already, its estimate stands; then this is `false`.
pub(crate) fn open(opener: &Opener<Metered>, grant: Grant, admitted: Admitted<'_>) -> bool {
    let Admitted { request, parent, uri, sum, shared } = admitted;
    let model: Arc<str> = grant.known_model().unwrap_or_default().into();
    let tokens = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let reservation = RequestReservation {
        request,
        parent,
        model: Arc::clone(&model),
        shape: shape(uri, grant.answers, grant.may_export_spans),
        reserved: ReservedTokens {
            prompt: tokens(sum.prompt),
            completion: tokens(sum.answer),
            is_open: sum.open.is_some(),
        },
        held: Metered {
            key: grant.key,
            consumer: grant.consumer,
            model,
            reservation: grant.reservation.of_tokens(),
            shared,
        },
    };
    opener.open(reservation).is_ok()
}

fn shape(uri: &str, answers: Answers, traces: bool) -> RequestShape {
    let endpoint = MeteredEndpoint::of(uri);
    // Ollama's own endpoints stream unless they are told not to
    // (<https://github.com/ollama/ollama/blob/main/docs/api.md#streaming-responses>).
    let usual = matches!(endpoint, MeteredEndpoint::OllamaChat | MeteredEndpoint::OllamaGenerate);
    let Answers { choices, prompts, streams } = answers;
    RequestShape { endpoint, streams: streams.unwrap_or(usual), traces, choices, prompts }
}

impl Shared {
    /// Corrects limits and usage by what a request has really used.
    pub async fn settle(&self, settlement: &RequestSettlement<Metered>) {
        let difference = settlement.difference();
        if difference == 0 {
            return;
        }
        let Metered { key, consumer, model, reservation, shared } = &settlement.held;
        let used = u32::try_from(settlement.used.total()).unwrap_or(u32::MAX);
        self.usage().correct(&key.name, &consumer.name, model, difference);
        counting::settle(self.shared_counting(), self.limiters(), (reservation, shared), used).await;
    }
}
