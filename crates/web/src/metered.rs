//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference.

use std::sync::Arc;

use access::{
    Grant, Key,
    estimate::{Answers, Sum},
};
use metering::{
    MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape, ReservedTokens,
    SpanId,
};

use tracing::debug;

use crate::{Shared, counting::SharedReservation};

/// Whose request it was, and what it has taken from limits of tokens.
#[derive(Debug)]
pub struct Metered {
    key: Arc<Key>,
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

/// Hands a request over. If too many wait already, its estimate stands.
pub(crate) fn open(opener: &Opener<Metered>, grant: Grant, admitted: Admitted<'_>) {
    let Admitted { request, parent, uri, sum, shared } = admitted;
    let tokens = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let reservation = RequestReservation {
        request,
        parent,
        // Empty if the client may have invented it, as in the usage.
        model: grant.known_model().unwrap_or_default().into(),
        shape: shape(uri, grant.answers, grant.may_export_spans),
        reserved: ReservedTokens {
            prompt: tokens(sum.prompt),
            completion: tokens(sum.answer),
            is_open: sum.open.is_some(),
        },
        held: Metered { key: grant.key, reservation: grant.reservation.of_tokens(), shared },
    };
    if let Err(reservation) = opener.open(reservation) {
        debug!(request_id = %reservation.request, "too many requests wait for the ledger: the estimate stands");
    }
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
    /// Corrects limits and usage by what requests have really used. Only limits that several replicas share are waited for.
    pub async fn settle(&self, settlements: &[RequestSettlement<Metered>]) {
        self.note_outcomes(settlements);
        let mut in_shared = Vec::new();
        for settlement in settlements {
            let difference = settlement.difference();
            if difference == 0 {
                continue;
            }
            let Metered { key, reservation, shared } = &settlement.held;
            let used = u32::try_from(settlement.used.total()).unwrap_or(u32::MAX);
            self.usage().correct(&key.name, &key.consumer.name, &settlement.model, difference);
            self.limiters().settle(reservation, limits::Settlement::Tokens(used));
            in_shared.extend(shared.used(used));
        }
        if let Some(counting) = self.shared_counting() {
            counting.settle(&in_shared).await;
        }
    }
}
