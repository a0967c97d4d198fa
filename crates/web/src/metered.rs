//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference.

use std::sync::Arc;

use access::{
    Grant, Key, UsageHour, UsageOf, UsedCounts,
    estimate::{Answers, Sum},
};
use metering::{
    Ending, MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape,
    ReservedTokens, SpanId, UsageKind,
};

use tracing::debug;

use crate::{Shared, counting::SharedReservation};

/// Whose request it was and when, and what it has taken from limits of tokens.
#[derive(Debug)]
pub struct Metered {
    key: Arc<Key>,
    hour: UsageHour,
    reservation: limits::Reservation,
    shared: SharedReservation,
}

/// An admitted request, as far as it must be known later.
pub(crate) struct Admitted<'g> {
    pub(crate) request: RequestId,
    pub(crate) parent: SpanId,
    pub(crate) uri: &'g str,
    /// Where its usage was counted.
    pub(crate) hour: UsageHour,
    pub(crate) sum: Sum,
    pub(crate) shared: SharedReservation,
}

/// The estimated tokens of a request: of the prompt and of the answer. Usage counts what the ledger settles later.
pub(crate) fn estimated(sum: &Sum) -> [u32; 2] {
    [sum.prompt, sum.answer].map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// Hands a request over. If too many wait already, its estimate stands.
pub(crate) fn open(opener: &Opener<Metered>, grant: Grant, admitted: Admitted<'_>) {
    let Admitted { request, parent, uri, hour, sum, shared } = admitted;
    let [prompt, completion] = estimated(&sum);
    let reservation = RequestReservation {
        request,
        parent,
        // Empty if the client may have invented it, as in the usage.
        model: grant.known_model().unwrap_or_default().into(),
        shape: shape(uri, grant.answers, grant.may_export_spans),
        reserved: ReservedTokens { prompt, completion, is_open: sum.open.is_some() },
        held: Metered { key: grant.key, hour, reservation: grant.reservation.of_tokens(), shared },
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
        let mut in_shared = Vec::new();
        for settlement in settlements {
            let Metered { key, hour, reservation, shared } = &settlement.held;
            let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model: &settlement.model };
            self.usage().settled(of, *hour, correction(settlement));
            if settlement.difference() == 0 {
                continue;
            }
            let used = u32::try_from(settlement.used.total()).unwrap_or(u32::MAX);
            self.limiters().settle(reservation, limits::Settlement::Tokens(used));
            in_shared.extend(shared.used(used));
        }
        if let Some(counting) = self.shared_counting() {
            counting.settle(&in_shared).await;
        }
    }
}

/// What a settlement changes in the usage, which has counted the request and its estimate.
fn correction<T>(settlement: &RequestSettlement<T>) -> UsedCounts {
    let RequestSettlement { reserved, used, kind, ending, duration, .. } = settlement;
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (reserved, total) = ([reserved.prompt, reserved.completion].map(i64::from), signed(used.total()));
    let mut counts = UsedCounts {
        errors: i64::from(*ending == Ending::Refused),
        aborted: i64::from(*ending == Ending::Aborted),
        milliseconds: duration.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX)),
        prompt: signed(used.prompt) - reserved[0],
        cached: signed(used.cached.unwrap_or(0)),
        completion: signed(used.completion) - reserved[1],
        estimated: -reserved.iter().sum::<i64>(),
        ..UsedCounts::default()
    };
    match kind {
        UsageKind::Exact => counts.exact += total,
        UsageKind::Measured => counts.measured += total,
        UsageKind::Estimated => counts.estimated += total,
    }
    counts
}
