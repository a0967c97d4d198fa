//! Hands admitted requests over to the ledger, and corrects limits and usage by what they have really used.
//!
//! A request has taken its tokens by an estimate. Once servers or Traefik have told what it has used, each of its limits gets
//! the difference back, or owes it; usage is corrected by the same difference. Limits do not wait for the last word: a record
//! of Traefik's comes seconds before a server's span, and what a key may use is gone until then.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use access::{
    Grant, Key, UsageHour, UsageOf, UsedCounts,
    estimate::{Answers, Media, Sum},
};
use catalogue::ModelName;
use limits::{Limiters, Reserve, SystemClock};
use metering::{
    Ending, MeteredEndpoint, Opener, RequestId, RequestReservation, RequestSettlement, RequestShape,
    ReservedTokens, SpanId, UsageCorrection, UsageKind,
};
use prices::{Amount, Billed, Charge};
use shared_limits::{Settled, Spent};
use telemetry::OperationSpan;
use tracing::debug;

use crate::{Shared, choice::UnderWay, counting::SharedReservation, metrics::tallies};

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
    media: Media,
    /// How much longer its sound may be than estimated, in milliseconds: hard budgets pay for that, too.
    longer_sound: u32,
    /// The model's own name, if it has one: usage is counted by it.
    model: Option<ModelName>,
    /// At the server that was chosen for it, until it has ended.
    under_way: Option<UnderWay>,
    is_open: bool,
    span: Option<Arc<OperationSpan>>,
}

impl Metered {
    fn new(
        key: Arc<Key>,
        hour: UsageHour,
        (reservation, shared): (limits::Reservation, SharedReservation),
        taken: u32,
        (charge, media): (Charge, Media),
    ) -> Self {
        key.open_requests.opened();
        Self {
            key,
            hour,
            reservation,
            shared,
            taken,
            charge,
            media,
            longer_sound: 0,
            model: None,
            under_way: None,
            is_open: true,
            span: None,
        }
    }

    /// A request without limits, which usage has counted in this hour as this charge and these media.
    pub fn unlimited(key: Arc<Key>, hour: UsageHour, charge: Charge, media: Media) -> Self {
        let nothing = (limits::Reservation::default(), SharedReservation::default());
        Self::new(key, hour, nothing, 0, (charge, media))
    }

    /// Where its usage is counted; `model` is the name that the client has used.
    fn usage_of<'m>(&'m self, model: &'m str) -> UsageOf<'m> {
        let model = self.model.as_ref().map_or(model, ModelName::as_str);
        UsageOf { key: &self.key.name, consumer: &self.key.consumer.name, model }
    }

    /// The most that it has cost, once its server has told its tokens: no server tells how long sound was.
    fn most_cost(&self) -> u64 {
        let mut charge = self.charge.clone();
        charge.add(Billed { sound: self.longer_sound.into(), ..Billed::default() });
        never_below_zero(charge.amount())
    }

    /// Whose request it was.
    pub(crate) fn consumer(&self) -> &str {
        &self.key.consumer.name
    }

    /// It has ended: its place at the server is free. Its tokens may not be final yet. `worked` says which server, by its URL, has worked
    /// on it, and for how long at least, if anybody has told.
    pub fn has_ended(&mut self, worked: Option<(&str, Duration)>) {
        self.under_way.iter_mut().for_each(|under_way| under_way.end(worked));
    }

    /// The server with this id has answered it, whichever was chosen for it, with this status if that was told.
    pub(crate) fn answered_by(&self, id: &str, status: Option<u16>) {
        self.under_way.iter().for_each(|under_way| under_way.answered_by(id, status));
    }

    /// Its span, if it is to have one.
    pub(crate) fn span(&self) -> Option<Arc<OperationSpan>> {
        self.span.clone()
    }

    /// Its tokens are final. What is kept of it after that may only be corrected by its server's counters.
    fn is_final(&mut self) {
        if mem::take(&mut self.is_open) {
            self.key.open_requests.closed();
            self.under_way = None;
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.is_final();
    }
}

/// What was counted for a request when it was let pass.
pub(crate) struct Counted {
    /// Its estimated tokens.
    pub(crate) sum: Sum,
    /// How long it has waited until a server had room.
    pub(crate) waited: Duration,
    /// The hour to which its usage belongs.
    pub(crate) hour: UsageHour,
    /// What it costs.
    pub(crate) charge: Charge,
    /// What it uses besides tokens.
    pub(crate) media: Media,
    /// How much longer its sound may be than estimated, in milliseconds, if it takes from budgets.
    pub(crate) longer_sound: u32,
}

/// An admitted request, as far as it must be known later.
pub(crate) struct Admitted<'g> {
    pub(crate) request: RequestId,
    pub(crate) parent: SpanId,
    pub(crate) uri: &'g str,
    pub(crate) counted: Counted,
    pub(crate) shared: SharedReservation,
    /// Its span, if it is to have one.
    pub(crate) span: Option<Arc<OperationSpan>>,
    pub(crate) under_way: Option<UnderWay>,
}

/// The estimated tokens of a request: of the prompt and of the answer. Usage counts what the ledger settles later.
pub(crate) fn estimated(sum: &Sum) -> [u32; 2] {
    [sum.prompt, sum.answer].map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// What is paid for a request by what it is estimated to use.
pub(crate) fn asked(tokens: [u32; 2], media: Media) -> Billed {
    let [prompt, completion] = tokens.map(i64::from);
    Billed { requests: 1, prompt, completion, ..of_media(media) }
}

/// What is paid for besides tokens, requests and time.
pub(crate) fn of_media(media: Media) -> Billed {
    let [images, sound, characters] = media.counts();
    Billed { images, sound, characters, ..Billed::default() }
}

/// Hands a request over. If too many wait already, its estimate stands.
pub(crate) fn open(
    (opener, limiters): (&Opener<Metered>, &Limiters<SystemClock>),
    grant: Grant,
    admitted: Admitted<'_>,
) {
    let Admitted { request, parent, uri, counted, shared, span, under_way } = admitted;
    let Counted { sum, waited, hour, charge, media, longer_sound } = counted;
    let [prompt, completion] = estimated(&sum);
    let reserved = ReservedTokens { prompt, completion, is_open: sum.open.is_some() || grant.is_open };
    let taken = u32::try_from(reserved.total()).unwrap_or(u32::MAX);
    // Empty if the client may have invented it, as in the usage.
    let model = grant.known_model().unwrap_or_default().into();
    let reserved_of = (grant.reservation.of_usage(), shared);
    let mut held = Metered::new(grant.key, hour, reserved_of, taken, (charge, media));
    held.longer_sound = longer_sound;
    held.model = grant.canonical;
    held.span = span;
    held.under_way = under_way;
    let mut shape = shape(uri, grant.answers, grant.may_export_spans);
    shape.is_mirrored = grant.is_mirrored;
    let reservation = RequestReservation { request, parent, model, shape, reserved, waited, held };
    if let Err(mut reservation) = opener.open(reservation) {
        limiters.spend(&mut reservation.held.reservation, |_, _| None);
        debug!(request_id = %reservation.request, "too many requests wait for the ledger: the estimate stands");
    }
}

fn shape(uri: &str, answers: Answers, traces: bool) -> RequestShape {
    let endpoint = MeteredEndpoint::of(uri);
    // Ollama's own endpoints stream unless they are told not to
    // (<https://github.com/ollama/ollama/blob/main/docs/api.md#streaming-responses>).
    let usual = matches!(endpoint, MeteredEndpoint::OllamaChat | MeteredEndpoint::OllamaGenerate);
    let Answers { choices, prompts, streams, is_shaped, has_beams } = answers;
    RequestShape {
        endpoint,
        streams: streams.unwrap_or(usual),
        traces,
        is_mirrored: false,
        is_shaped,
        has_beams,
        choices,
        prompts,
    }
}

impl Shared {
    /// Corrects limits and usage by what requests have really used. Only limits that several replicas share are waited for.
    /// `corrections` are those that limits in Redis wait for already.
    pub async fn settle(&self, settlements: &mut [RequestSettlement<Metered>], mut corrections: Corrections) {
        self.note_outcomes(settlements);
        for settlement in settlements {
            let used = settlement.used_of_limits();
            self.correct(&mut settlement.held, used, &mut corrections);
            if settlement.has_ended {
                let worked = settlement.server.as_deref().zip(settlement.worked);
                settlement.held.has_ended(worked);
            }
            settlement.held.is_final();
            let cost = settlement.held.charge.replace(billed(settlement, settlement.held.media)).0;
            let by = UsedCounts { cost, ..correction(settlement, settlement.held.media) };
            if settlement.ending == Ending::Refused {
                settlement.held.longer_sound = 0;
            }
            let is_known = settlement.kind == UsageKind::Exact || settlement.is_unworked;
            let attempts = is_known.then_some(settlement.attempts);
            self.spend(&mut settlement.held, &settlement.model, attempts, &mut corrections);
            let held = &settlement.held;
            self.usage().settled(held.usage_of(&settlement.model), held.hour, by);
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

    /// Corrects the budgets of a request by what it costs. Unless it is known exactly what it has used, in how many attempts, hard budgets
    /// keep the most that it can have cost: the bytes of an answer do not show tokens that print nothing, and a server that answers with an
    /// error of its own (5xx) may have worked before. No server tells how long sound is.
    fn spend(&self, held: &mut Metered, model: &str, attempts: Option<u32>, corrections: &mut Corrections) {
        let cost = never_below_zero(held.charge.amount());
        let most = attempts.map(|attempts| (held.most_cost(), attempts));
        let changed = self.limiters().spend(&mut held.reservation, |reserve, reserved| match reserve {
            Reserve::Usual => Some(cost),
            Reserve::Hard => most.map(|(most, attempts)| of_one_attempt(most, attempts, reserved)),
        });
        corrections.spent.extend(held.shared.spend(changed));
        let model = held.usage_of(model).model;
        let budgets = held.reservation.budgets();
        self.budget_events().spent(budgets, (self.limiters(), &self.policy()), (&held.key, model));
    }

    /// Corrects the limits that several replicas share.
    async fn correct_shared(&self, corrections: Corrections) {
        if let Some(counting) = self.shared_counting() {
            counting.settle(&corrections.tokens, &corrections.spent).await;
        }
    }

    /// Corrects quotas and usage of requests that were settled before, by what their server has counted.
    pub async fn correct_by_counters(&self, corrections: &mut [UsageCorrection<Metered>]) {
        let (mut shared, now) = (Corrections::default(), Instant::now());
        for correction in corrections {
            let by = corrected(correction);
            let difference = correction.difference();
            let UsageCorrection { prompt, cached, completion, ref model, ref mut whose, .. } = *correction;
            let more = Billed { prompt, cached, completion, ..Billed::default() };
            let cost = whose.charge.add(more).0;
            self.spend(whose, model, None, &mut shared);
            let of = whose.usage_of(model);
            let loaded = self.catalogue().load();
            let own_name = tallies::own_name(loaded.as_deref(), of.model);
            self.telemetry().corrected(of.consumer, own_name, [prompt, completion], now);
            drop(loaded);
            self.usage().settled(of, whose.hour, UsedCounts { cost, ..by });
            self.limiters().correct_quotas(&whose.reservation, difference);
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

/// What a hard budget pays for a request that has cost this in some attempts: those that Traefik has made besides are not what its client
/// has asked for. Together they cost no more than was reserved for one, unless one of them did. A single attempt that has cost more than it
/// could is a fault, and paid: otherwise whoever finds one has a budget without an end.
fn of_one_attempt(cost: u64, attempts: u32, reserved: u64) -> u64 {
    match attempts {
        0 | 1 => cost,
        _ => cost.min(reserved.max(cost.div_ceil(attempts.into()))),
    }
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
pub(crate) fn settled_cost(settlement: &RequestSettlement<Metered>) -> u64 {
    let mut charge = settlement.held.charge.clone();
    charge.replace(billed(settlement, settlement.held.media));
    never_below_zero(charge.amount())
}

/// What is paid for a request. One that its server refused is paid only for the tokens that the server says it used.
fn billed<T>(settlement: &RequestSettlement<T>, media: Media) -> Billed {
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
            let Billed { images, sound, characters, .. } = of_media(media);
            Billed { requests: 1, milliseconds, images, sound, characters, ..tokens }
        }
    }
}

/// What a settlement changes in the usage, which has counted the request and its estimate. What is paid for is counted only if it is paid
/// for: costs can be computed anew from what usage has counted (`recost.rs`).
fn correction<T>(settlement: &RequestSettlement<T>, media: Media) -> UsedCounts {
    let RequestSettlement { reserved, used, kind, ending, duration, .. } = settlement;
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (reserved, total) = ([reserved.prompt, reserved.completion].map(i64::from), signed(used.total()));
    let is_refused = *ending == Ending::Refused;
    let duration = duration.filter(|_| !is_refused);
    let mut counts = UsedCounts {
        errors: i64::from(is_refused),
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
    if is_refused {
        [counts.images, counts.sound, counts.characters] = media.counts().map(|count| -count);
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use access::{Consumer, KeyDigest, ModelGlobs, UsageEstimate};
    use limits::{
        BudgetCounts, Calendar, Demands, Limited, Limits, Moment, Quota, QuotaDemand, Scope, Subject,
    };
    use metering::UsedTokens;
    use prices::{Amount, Price, PriceEntry, PriceList};

    use super::*;
    use crate::recost::recost;

    /// A token of prompts costs 1,000 units of 10⁻⁹, and 2,000 from the second 7,200 on.
    fn prices() -> PriceList {
        let entry = |from, prompt: &str| PriceEntry {
            text: "llama".into(),
            models: ModelGlobs::parse(&["llama".into()]).expect("a name"),
            from,
            price: Price {
                prompt: prompt.parse().expect("an amount"),
                cached_prompt: Some(Amount(0)),
                request: Amount(3),
                image: Amount(4),
                second: Amount(1_000_000),
                ..Price::default()
            },
        };
        PriceList::new("EUR".into(), vec![entry(0, "1"), entry(7_200, "2")])
    }

    /// A request for 100 tokens and an image at a time, as `/auth` counts it.
    fn come(shared: &Shared, model: &str, seconds: u64) -> Metered {
        let key = Arc::new(Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key")));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let media = Media { images: 1, ..Media::default() };
        let charge = Charge::new(prices().at(model, at).cloned(), asked([100, 0], media));
        let of = UsageOf { key: "key", consumer: "alice", model };
        let estimate = UsageEstimate { prompt: 100, completion: 0, cost: charge.amount().0, media };
        let hour = shared.usage().allowed(of, at, estimate);
        let reservation = (limits::Reservation::default(), SharedReservation::default());
        Metered::new(key, hour, reservation, 100, (charge, media))
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
            is_unworked: ending == Ending::Refused,
            attempts: 1,
            has_ended: true,
            worked: None,
        }
    }

    #[tokio::test]
    async fn a_request_costs_what_it_used_by_the_price_of_the_moment_it_came() {
        let shared = Shared::empty();
        let mut images = 0;
        let mut sum = |shared: &Shared| -> (i64, i64) {
            let used = shared.usage().take();
            images += used.iter().map(|used| used.counts.images).sum::<i64>();
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
        assert_eq!(images, 3, "the server refused the fourth");
    }

    /// 900 of a new budget.
    fn reserve(shared: &Shared, name: &str, reserve: Reserve) -> limits::Reservation {
        let budget = Quota::budget(1_000, Calendar::Ever, reserve).expect("a budget");
        let (limits, mut demands) = (Limits::new(Vec::new(), vec![budget]), Demands::default());
        let limited = Limited { scope: Scope::Key, subject: Subject::of_model(name), limits: &limits };
        let policy = shared.policy();
        demands.add(&limited, &Moment::new(SystemTime::UNIX_EPOCH, policy.time_zone()), |_| 1);
        demands.price(|_| 900);
        shared.limiters().reserve(&demands).expect("it is enough")
    }

    /// llama.cpp answers 500 after it has generated all that `max_tokens` allows, where that is no whole JSON: five such requests were
    /// free. And what Traefik had sent four times cost a hard budget four times what was reserved.
    #[tokio::test]
    async fn a_hard_budget_gives_back_what_is_known_not_to_be_used_and_pays_for_one_attempt() {
        use Ending::{Finished, Refused};
        use UsageKind::{Exact, Measured};
        let shared = Shared::empty();
        let price = Arc::new(Price { completion: Amount(1_000_000), ..Price::default() });
        for (number, (ending, is_unworked, kind, attempts, tokens, hard)) in [
            (Refused, true, Measured, 1, 0, 0),
            (Refused, false, Measured, 1, 0, 900),
            (Refused, false, Exact, 1, 7, 7),
            (Finished, false, Measured, 1, 7, 900),
            (Finished, false, Exact, 1, 7, 7),
            (Finished, false, Exact, 2, 800, 800),
            (Finished, false, Exact, 4, 3_600, 900),
            // More than any attempt could: it was reserved too little.
            (Finished, false, Exact, 1, 1_000, 1_000),
            (Finished, false, Exact, 4, 4_800, 1_200),
        ]
        .into_iter()
        .enumerate()
        {
            for (kind_of_budget, expected) in [(Reserve::Usual, tokens), (Reserve::Hard, hard)] {
                let mut held = come(&shared, "llama", 0);
                held.reservation = reserve(&shared, &format!("{number} {kind_of_budget:?}"), kind_of_budget);
                held.charge = Charge::new(Some(Arc::clone(&price)), asked([0, 900], Media::default()));
                let mut told = settlement(held, "llama", ending, 0);
                (told.kind, told.is_unworked, told.attempts) = (kind, is_unworked, attempts);
                told.used.completion = tokens;
                let mut settlements = [told];
                shared.settle(&mut settlements, Corrections::default()).await;
                let [RequestSettlement { held, .. }] = settlements;
                let budget = held.reservation.budgets().next().expect("a budget").id();
                let counts = BudgetCounts::of(budget, |id| shared.limiters().quotas().used(id));
                let found = (counts.used, counts.settled);
                assert_eq!(found, (expected, expected), "{number} {kind_of_budget:?}");
            }
        }
    }

    /// Usage that an alias had priced was free afterwards, and the time of requests that a server had refused was paid for.
    #[tokio::test]
    async fn costs_that_are_computed_anew_by_the_same_prices_are_what_they_were() {
        let amount = |text: &str| text.parse::<Amount>().expect("an amount");
        let price = Price {
            prompt: amount("0.123456789"),
            cached_prompt: Some(amount("0.0371")),
            completion: amount("0.600000001"),
            request: amount("0.000000003"),
            second: amount("0.000000777"),
            image: amount("0.04"),
            minute: amount("0.006"),
            characters: amount("15"),
        };
        let entry = |text: &str, price: &Price| PriceEntry {
            text: text.into(),
            models: ModelGlobs::parse(&[text.into()]).expect("a name"),
            from: 0,
            price: price.clone(),
        };
        let list =
            |price: &Price| PriceList::new("EUR".into(), vec![entry("llama", price), entry("alias", price)]);
        let (shared, prices, mut state) = (Shared::empty(), list(&price), 1_u64);
        let mut below = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        let price = Arc::new(price);
        for number in 0..600_u32 {
            // `qwen` has no price of its own: it was asked for by its alias.
            let model = if below(3) == 0 { "qwen" } else { "llama" };
            let small = |number: u64| u32::try_from(number).expect("small");
            let media = match below(4) {
                0 => Media {
                    images: small(below(3)),
                    sound: small(below(90_001)),
                    characters: small(below(999)),
                },
                _ => Media::default(),
            };
            let charge = Charge::new(Some(Arc::clone(&price)), asked([100, 0], media));
            let of = UsageOf { key: "key", consumer: "alice", model };
            let estimate = UsageEstimate { prompt: 100, completion: 0, cost: charge.amount().0, media };
            let hour = shared.usage().allowed(of, SystemTime::UNIX_EPOCH, estimate);
            let key = Arc::new(Key::new("key", Arc::new(Consumer::new("alice")), KeyDigest::of("mg-key")));
            let held = Metered::unlimited(key, hour, charge, media);
            let ending = Ending::ALL[usize::try_from(below(4)).expect("small")];
            let mut told = settlement(held, model, ending, below(2_000));
            told.used.completion = below(3_000);
            told.duration = Some(Duration::from_millis(below(30_000)));
            let mut settlements = [told];
            // Some are still under way.
            if number % 10 > 0 {
                shared.settle(&mut settlements, Corrections::default()).await;
            }
            let [RequestSettlement { held: whose, model, kind, .. }] = settlements;
            if number % 10 > 7 {
                let (request, completion) = (RequestId(1), i64::try_from(below(50)).expect("small"));
                let correction = UsageCorrection {
                    request,
                    whose,
                    model,
                    kind,
                    settled: 9,
                    prompt: 3,
                    cached: 1,
                    completion,
                };
                shared.correct_by_counters(&mut [correction]).await;
            }
        }
        let mut sums: std::collections::BTreeMap<Box<str>, UsedCounts> = std::collections::BTreeMap::new();
        shared
            .usage()
            .take()
            .into_iter()
            .for_each(|used| *sums.entry(used.model.into()).or_default() += used.counts);
        assert_eq!(sums.len(), 2, "{sums:?}");
        let at = SystemTime::UNIX_EPOCH;
        for (model, counts) in &sums {
            assert!(counts.cost > 0 && counts.errors > 0 && counts.requests > counts.errors, "{counts:?}");
            assert_eq!(recost(&prices, model, counts, at), counts.cost, "{model}");
        }
        let dearer = list(&Price { request: amount("0.000000004"), ..Price::clone(&price) });
        let llama = sums["llama"];
        let (more, paid) = (recost(&dearer, "llama", &llama, at) - llama.cost, llama.requests - llama.errors);
        assert!(more.abs_diff(paid) <= llama.requests.unsigned_abs() / 2 + 1, "{more} for {paid} requests");
    }

    /// A server tells the tokens of a transcription, but not how long the sound was.
    #[tokio::test]
    async fn a_hard_budget_keeps_what_compressed_sound_may_cost() {
        let shared = Shared::empty();
        let media = Media { sound: 60_000, ..Media::default() };
        let price = Price { minute: Amount(10), completion: Amount(1_000_000), ..Price::default() };
        for (ending, expected) in
            [(Ending::Finished, 3 * 10 + 7), (Ending::Aborted, 3 * 10 + 7), (Ending::Refused, 7)]
        {
            let reservation = reserve(&shared, &format!("{ending:?}"), Reserve::Hard);
            let charge = Charge::new(Some(Arc::new(price.clone())), asked([0, 500], media));
            let mut held = come(&shared, "whisper", 0);
            (held.reservation, held.charge, held.media) = (reservation, charge, media);
            held.longer_sound = 120_000;
            let mut told = settlement(held, "whisper", ending, 0);
            (told.kind, told.used.completion) = (UsageKind::Exact, 7);
            let mut settlements = [told];
            shared.settle(&mut settlements, Corrections::default()).await;
            let [RequestSettlement { held, .. }] = settlements;
            let costs: Vec<_> = held.reservation.budgets().map(QuotaDemand::cost).collect();
            assert_eq!(costs, [expected], "{ending:?}");
        }
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
