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
use limits::Reserve;
use metering::{
    Ending, MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape,
    ReservedTokens, SpanId, UsageCorrection, UsageKind,
};
use prices::{Amount, Billed, Charge, Price};
use shared_limits::{Settled, Spent};
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
    charge: Charge,
    is_open: bool,
}

impl Metered {
    fn new(
        key: Arc<Key>,
        hour: UsageHour,
        (reservation, shared): (limits::Reservation, SharedReservation),
        taken: u32,
        charge: Charge,
    ) -> Self {
        key.open_requests.opened();
        Self { key, hour, reservation, shared, taken, charge, is_open: true }
    }

    /// Whose request it was.
    pub(crate) fn consumer(&self) -> &str {
        &self.key.consumer.name
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
    /// What the usage has counted for it.
    pub(crate) charge: Charge,
    pub(crate) shared: SharedReservation,
}

/// The estimated tokens of a request: of the prompt and of the answer. Usage counts what the ledger settles later.
pub(crate) fn estimated(sum: &Sum) -> [u32; 2] {
    [sum.prompt, sum.answer].map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// What a request costs by a price and its estimated tokens.
pub(crate) fn charge(price: Option<Arc<Price>>, tokens: [u32; 2]) -> Charge {
    let [prompt, completion] = tokens.map(i64::from);
    Charge::new(price, Billed { requests: 1, prompt, completion, ..Billed::default() })
}

/// Hands a request over. If too many wait already, its estimate stands.
pub(crate) fn open(opener: &Opener<Metered>, grant: Grant, admitted: Admitted<'_>) {
    let Admitted { request, parent, uri, hour, sum, charge, shared } = admitted;
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
        held: Metered::new(grant.key, hour, (grant.reservation.of_usage(), shared), taken, charge),
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
    let Answers { choices, prompts, streams, is_shaped } = answers;
    RequestShape { endpoint, streams: streams.unwrap_or(usual), traces, is_shaped, choices, prompts }
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
            let cost = settlement.held.charge.replace(billed(settlement)).0;
            let by = UsedCounts { cost, ..correction(settlement) };
            let is_known = settlement.kind != UsageKind::Estimated || settlement.ending == Ending::Refused;
            self.spend(&mut settlement.held, &settlement.model, is_known, &mut corrections);
            let Metered { key, hour, .. } = &settlement.held;
            let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model: &settlement.model };
            self.usage().settled(of, *hour, by);
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
            corrections.tokens.extend(held.shared.correct(used));
        }
    }

    /// Corrects the budgets of a request by what it costs. Where nobody knows what it has used, hard budgets keep the most that it
    /// can have cost.
    fn spend(&self, held: &mut Metered, model: &str, is_known: bool, corrections: &mut Corrections) {
        let cost = never_below_zero(held.charge.amount());
        let changed = self.limiters().spend(&mut held.reservation, |reserve| match reserve {
            Reserve::Usual => Some(cost),
            Reserve::Hard => is_known.then_some(cost),
        });
        corrections.spent.extend(held.shared.spend(changed));
        if let Some(events) = self.budget_events() {
            events.settled(held.reservation.budgets(), self.limiters(), (&held.key, model));
        }
    }

    /// Corrects the limits that several replicas share.
    async fn correct_shared(&self, corrections: Corrections) {
        if let Some(counting) = self.shared_counting() {
            counting.settle(&corrections.tokens, &corrections.spent).await;
        }
    }

    /// Corrects quotas and usage of requests that were settled before, by what their server has counted.
    pub async fn correct_by_counters(&self, corrections: &mut [UsageCorrection<Metered>]) {
        let mut shared = Corrections::default();
        for correction in corrections {
            let by = corrected(correction);
            let difference = correction.difference();
            let UsageCorrection { prompt, cached, completion, ref model, ref mut whose, .. } = *correction;
            let more = Billed { prompt, cached, completion, ..Billed::default() };
            let cost = whose.charge.add(more).0;
            self.spend(whose, model, true, &mut shared);
            let Metered { key, hour, reservation, .. } = &*whose;
            let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model };
            self.usage().settled(of, *hour, UsedCounts { cost, ..by });
            self.limiters().correct_quotas(reservation, difference);
        }
        self.correct_shared(shared).await;
    }
}

/// What limits that several replicas share get back, or are owed.
#[derive(Debug, Default)]
pub struct Corrections {
    tokens: Vec<Settled>,
    spent: Vec<Spent>,
}

/// What a request takes from budgets and adds to metrics for what it costs, in units of 10⁻⁹ of the currency.
fn never_below_zero(amount: Amount) -> u64 {
    u64::try_from(amount.0).unwrap_or(0)
}

/// What a correction changes in the usage. What was estimated is measured now: by the server's counters.
fn corrected<T>(correction: &UsageCorrection<T>) -> UsedCounts {
    let UsageCorrection { prompt, cached, completion, kind, settled, .. } = *correction;
    let settled = i64::try_from(settled).unwrap_or(i64::MAX);
    let estimated = if kind == UsageKind::Estimated { -settled } else { 0 };
    let measured = correction.difference().saturating_sub(estimated);
    UsedCounts { prompt, cached, completion, estimated, measured, ..UsedCounts::default() }
}

/// What a settled request costs, in units of 10⁻⁹ of the currency.
pub(crate) fn cost(settlement: &RequestSettlement<Metered>) -> u64 {
    let mut charge = settlement.held.charge.clone();
    charge.replace(billed(settlement));
    never_below_zero(charge.amount())
}

/// What is paid for a request. One that its server refused is paid only for the tokens that the server says it used.
fn billed<T>(settlement: &RequestSettlement<T>) -> Billed {
    let RequestSettlement { used, ending, duration, .. } = settlement;
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let tokens = Billed {
        prompt: signed(used.prompt),
        cached: signed(used.cached.unwrap_or(0)),
        completion: signed(used.completion),
        ..Billed::default()
    };
    match ending {
        Ending::Refused => tokens,
        Ending::Finished | Ending::Aborted | Ending::Unknown => {
            let milliseconds = duration.map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
            Billed { requests: 1, milliseconds, ..tokens }
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use access::{Consumer, KeyDigest, ModelGlobs, UsageEstimate};
    use metering::UsedTokens;
    use prices::{Amount, Price, PriceEntry, PriceList};

    use super::*;

    /// A token of prompts costs 1,000 units of 10⁻⁹, and 2,000 from the second 7,200 on.
    fn prices() -> PriceList {
        let entry = |from, prompt: &str| PriceEntry {
            text: "llama".into(),
            models: ModelGlobs::parse(&["llama".into()]).expect("a name"),
            from,
            price: Price {
                prompt: prompt.parse().expect("an amount"),
                cached_prompt: Some(Amount(0)),
                request: Amount(7),
                second: Amount(1_000_000),
                ..Price::default()
            },
        };
        PriceList::new("EUR".into(), vec![entry(0, "1"), entry(7_200, "2")])
    }

    /// A request for 100 tokens at a time, as `/auth` counts it.
    fn come(shared: &Shared, model: &str, seconds: u64) -> Metered {
        let key = Arc::new(Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key")));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let charge = charge(prices().at(model, at).cloned(), [100, 0]);
        let of = UsageOf { key: "key", consumer: "alice", model };
        let estimate = UsageEstimate { prompt: 100, completion: 0, cost: charge.amount().0 };
        let hour = shared.usage().allowed(of, at, estimate);
        let reservation = (limits::Reservation::default(), SharedReservation::default());
        Metered::new(key, hour, reservation, 100, charge)
    }

    fn settlement(held: Metered, model: &str, ending: Ending, prompt: u64) -> RequestSettlement<Metered> {
        RequestSettlement {
            request: RequestId(1),
            model: model.into(),
            shape: shape("/v1/chat/completions", Answers::default(), false),
            reserved: ReservedTokens { prompt: 100, completion: 0, is_open: false },
            held,
            kind: UsageKind::Measured,
            used: UsedTokens { prompt, cached: Some(10).filter(|cached| *cached <= prompt), completion: 0 },
            ending,
            status: None,
            time_to_first_token: None,
            duration: Some(Duration::from_millis(1_500)),
            server: None,
            answer_bytes: None,
        }
    }

    #[tokio::test]
    async fn a_request_costs_what_it_used_by_the_price_of_the_moment_it_came() {
        let shared = Shared::empty();
        let sum = |shared: &Shared| -> (i64, i64) {
            let used = shared.usage().take();
            used.iter()
                .fold((0, 0), |(cost, tokens), used| (cost + used.counts.cost, tokens + used.counts.tokens()))
        };
        let held = come(&shared, "llama", 7_199);
        assert_eq!(sum(&shared), (100_007, 100), "the estimate");
        // 20 tokens that were not cached, the request, and 1.5 seconds; by the price of when it came, whenever it is settled.
        let mut settlements = [settlement(held, "llama", Ending::Finished, 30)];
        shared.settle(&mut settlements, Corrections::default()).await;
        assert_eq!(sum(&shared), (20_007 + 1_500_000 - 100_007, 30 - 100));
        let [RequestSettlement { held, model, .. }] = settlements;
        let correction = UsageCorrection {
            request: RequestId(1),
            whose: held,
            model,
            kind: UsageKind::Measured,
            settled: 30,
            prompt: 5,
            cached: -1,
            completion: 0,
        };
        shared.correct_by_counters(&mut [correction]).await;
        assert_eq!(sum(&shared), (6_000, 5), "a server's counters");

        let (dearer, refused, free) =
            (come(&shared, "llama", 7_200), come(&shared, "llama", 7_200), come(&shared, "qwen", 7_200));
        assert_eq!(sum(&shared), (2 * 200_007, 300));
        let mut settlements = [
            settlement(dearer, "llama", Ending::Aborted, 30),
            settlement(refused, "llama", Ending::Refused, 0),
            settlement(free, "qwen", Ending::Finished, 30),
        ];
        shared.settle(&mut settlements, Corrections::default()).await;
        assert_eq!(sum(&shared), (40_007 + 1_500_000 - 2 * 200_007, 60 - 300));
    }

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
