//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference. Limits do not wait for the last word: a record
//! of Traefik's comes seconds before a server's span, and what a key may use is gone until then.

use std::sync::Arc;

use access::{
    Grant, Key,
    estimate::{Answers, Sum},
};
use metering::{
    MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape, ReservedTokens,
    SpanId,
};
use shared_limits::Settled;
use tracing::debug;

use crate::{Shared, counting::SharedReservation};

/// Whose request it was, and what it has taken from limits of tokens.
#[derive(Debug)]
pub struct Metered {
    key: Arc<Key>,
    reservation: limits::Reservation,
    shared: SharedReservation,
    /// What limits have been told last.
    taken: u32,
}

impl Metered {
    fn new(key: Arc<Key>, reservation: limits::Reservation, shared: SharedReservation, taken: u32) -> Self {
        key.open_requests.opened();
        Self { key, reservation, shared, taken }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.key.open_requests.closed();
    }
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
    let reserved = ReservedTokens {
        prompt: tokens(sum.prompt),
        completion: tokens(sum.answer),
        is_open: sum.open.is_some(),
    };
    let taken = tokens(reserved.total());
    let reservation = RequestReservation {
        request,
        parent,
        // Empty if the client may have invented it, as in the usage.
        model: grant.known_model().unwrap_or_default().into(),
        shape: shape(uri, grant.answers, grant.may_export_spans),
        reserved,
        held: Metered::new(grant.key, grant.reservation.of_tokens(), shared, taken),
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
    pub async fn settle(&self, settlements: Vec<RequestSettlement<Metered>>) {
        let mut corrections = Corrections::default();
        for mut settlement in settlements {
            let (difference, used) = (settlement.difference(), settlement.used_of_limits());
            self.correct(&mut settlement.held, used, &mut corrections);
            if difference != 0 {
                let Key { name, consumer, .. } = &*settlement.held.key;
                self.usage().correct(name, &consumer.name, &settlement.model, difference);
            }
        }
        self.correct_shared(corrections).await;
    }

    /// Corrects the limits of a request by what is known of it so far. `corrections` are those of limits that several replicas
    /// share, for [`correct_shared`](Self::correct_shared).
    pub fn correct(&self, held: &mut Metered, used: u64, corrections: &mut Corrections) {
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        if used != held.taken {
            held.taken = used;
            self.limiters().correct(&mut held.reservation, used);
            corrections.0.extend(held.shared.correct(used));
        }
    }

    /// Corrects the limits that several replicas share.
    pub async fn correct_shared(&self, corrections: Corrections) {
        if let Some(counting) = self.shared_counting() {
            counting.settle(&corrections.0).await;
        }
    }
}

/// What limits that several replicas share get back, or are owed.
#[derive(Debug, Default)]
pub struct Corrections(Vec<Settled>);
