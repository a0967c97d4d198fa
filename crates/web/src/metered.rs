//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference. Limits do not wait for the last word: a record
//! of Traefik's comes seconds before a server's span, and what a key may use is gone until then.

use std::{mem, sync::Arc};

use access::{
    Grant, Key, UsageHour, UsageOf, UsedCounts,
    estimate::{Answers, Sum},
};
use metering::{
    Ending, MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape,
    ReservedTokens, SpanId, UsageCorrection, UsageKind,
};
use shared_limits::Settled;
use tracing::debug;

use crate::{Shared, counting::SharedReservation};

/// Whose request it was and when, and what it has taken from limits of tokens.
#[derive(Debug)]
pub struct Metered {
    key: Arc<Key>,
    hour: UsageHour,
    reservation: limits::Reservation,
    shared: SharedReservation,
    /// What limits have been told last.
    taken: u32,
    is_open: bool,
}

impl Metered {
    fn new(
        key: Arc<Key>,
        hour: UsageHour,
        (reservation, shared): (limits::Reservation, SharedReservation),
        taken: u32,
    ) -> Self {
        key.open_requests.opened();
        Self { key, hour, reservation, shared, taken, is_open: true }
    }

    /// Its tokens are final. What is kept of it after that may only be corrected by its server's counters.
    fn is_final(&mut self) {
        if mem::take(&mut self.is_open) {
            self.key.open_requests.closed();
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.is_final();
    }
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
    let reserved = ReservedTokens { prompt, completion, is_open: sum.open.is_some() };
    let taken = u32::try_from(reserved.total()).unwrap_or(u32::MAX);
    let reservation = RequestReservation {
        request,
        parent,
        // Empty if the client may have invented it, as in the usage.
        model: grant.known_model().unwrap_or_default().into(),
        shape: shape(uri, grant.answers, grant.may_export_spans),
        reserved,
        held: Metered::new(grant.key, hour, (grant.reservation.of_tokens(), shared), taken),
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
    /// `corrections` are those that limits in Redis wait for already.
    pub async fn settle(&self, settlements: &mut [RequestSettlement<Metered>], mut corrections: Corrections) {
        self.note_outcomes(settlements);
        for settlement in settlements {
            let used = settlement.used_of_limits();
            self.correct(&mut settlement.held, used, &mut corrections);
            settlement.held.is_final();
            let Metered { key, hour, .. } = &settlement.held;
            let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model: &settlement.model };
            self.usage().settled(of, *hour, correction(settlement));
        }
        self.correct_shared(corrections).await;
    }

    /// Corrects the limits of a request by what is known of it so far. `corrections` are those of limits that several replicas
    /// share, for [`settle`](Self::settle).
    pub fn correct(&self, held: &mut Metered, used: u64, corrections: &mut Corrections) {
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        if used != held.taken {
            held.taken = used;
            self.limiters().correct(&mut held.reservation, used);
            corrections.0.extend(held.shared.correct(used));
        }
    }

    /// Corrects the limits that several replicas share.
    async fn correct_shared(&self, corrections: Corrections) {
        if let Some(counting) = self.shared_counting() {
            counting.settle(&corrections.0).await;
        }
    }

    /// Corrects quotas and usage of requests that were settled before, by what their server has counted.
    pub fn correct_by_counters(&self, corrections: &[UsageCorrection<Metered>]) {
        for correction in corrections {
            let Metered { key, hour, reservation, .. } = &correction.whose;
            let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model: &correction.model };
            self.usage().settled(of, *hour, corrected(correction));
            self.limiters().correct_quotas(reservation, correction.difference());
        }
    }
}

/// What limits that several replicas share get back, or are owed.
#[derive(Debug, Default)]
pub struct Corrections(Vec<Settled>);

/// What a correction changes in the usage. What was estimated is measured now: by the server's counters.
fn corrected<T>(correction: &UsageCorrection<T>) -> UsedCounts {
    let UsageCorrection { prompt, cached, completion, kind, settled, .. } = *correction;
    let settled = i64::try_from(settled).unwrap_or(i64::MAX);
    let estimated = if kind == UsageKind::Estimated { -settled } else { 0 };
    let measured = correction.difference().saturating_sub(estimated);
    UsedCounts { prompt, cached, completion, estimated, measured, ..UsedCounts::default() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_estimated_is_measured_once_it_is_corrected() {
        let correction = |kind| UsageCorrection {
            request: RequestId(1),
            whose: (),
            model: "llama".into(),
            kind,
            settled: 1_010,
            prompt: -3,
            cached: 2,
            completion: -900,
        };
        let [estimated, measured] =
            [UsageKind::Estimated, UsageKind::Measured].map(|kind| corrected(&correction(kind)));
        assert_eq!((estimated.estimated, estimated.measured), (-1_010, 107));
        assert_eq!((measured.estimated, measured.measured), (0, -903));
        for counts in [estimated, measured] {
            assert_eq!((counts.prompt, counts.cached, counts.completion), (-3, 2, -900));
        }
    }
}
