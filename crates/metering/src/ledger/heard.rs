//! What was told about one open request, what is still to be expected, and what that comes to.

use std::time::Duration;

use crate::{
    Calibration, Ending, RecordReceipt, RequestReservation, RequestSettlement, RequestShape, ReservedTokens,
    SpanReceipt, UsageKind, UsedTokens,
};

/// The number of spans that one request may have. Nothing serves as many prompts at once.
const MOST_SPANS: usize = 8_192;
/// The tokens that one span may tell. No model has a context as long.
const MOST_TOKENS: u64 = 1 << 32;

#[derive(Debug)]
pub(super) struct Heard {
    /// The ids of the spans that are counted below.
    spans: Vec<u64>,
    prompt: u64,
    completion: u64,
    /// Of all spans, and of the one that has the fewest; `None` as soon as one does not tell.
    cached: Option<(u64, u64)>,
    /// How many choices each prompt has, by the request and by the spans.
    choices: u32,
    time_to_first_token: Option<Duration>,
    duration: Option<Duration>,
    record: Option<RecordReceipt>,
    /// When to stop waiting for the rest.
    pub(super) due: Option<Duration>,
}

/// What to do with a request about which something was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// All was told.
    Close,
    /// Most was told; the rest may come.
    WaitForRest,
    /// The server still works on it, as far as is known.
    WaitForWord,
}

impl Heard {
    pub(super) fn new(shape: RequestShape) -> Self {
        Self {
            spans: Vec::new(),
            prompt: 0,
            completion: 0,
            cached: Some((0, u64::MAX)),
            choices: shape.choices.max(1).into(),
            time_to_first_token: None,
            duration: None,
            record: None,
            due: None,
        }
    }

    /// Returns whether it is news.
    pub(super) fn add_span(&mut self, span: &SpanReceipt) -> bool {
        if self.spans.contains(&span.span) || self.spans.len() >= MOST_SPANS {
            return false;
        }
        let bounded = |tokens: u64| tokens.min(MOST_TOKENS);
        self.spans.push(span.span);
        self.prompt += bounded(span.prompt_tokens);
        self.completion += bounded(span.completion_tokens);
        self.cached = self
            .cached
            .zip(span.cached_tokens.map(bounded))
            .map(|((sum, least), cached)| (sum + cached, least.min(cached)));
        self.choices = self.choices.max(span.choices.unwrap_or(1));
        self.time_to_first_token = earlier(self.time_to_first_token, span.time_to_first_token);
        self.duration = self.duration.max(span.duration);
        true
    }

    /// Returns whether it is news.
    pub(super) fn add_record(&mut self, record: RecordReceipt) -> bool {
        let is_news = self.record.is_none();
        self.record.get_or_insert(record);
        is_news
    }

    pub(super) fn has_record(&self) -> bool {
        self.record.is_some()
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether nothing works on it any more: Traefik has told its end, or its server has told all that it has done for it.
    pub(super) fn has_ended(&self, shape: RequestShape) -> bool {
        self.record.is_some() || shape.tells_its_answers() && self.told() >= shape.answers(self.choices)
    }

    /// Which server has worked on it, by the URL that Traefik has told, and for how long at least.
    pub(super) fn worked(&self) -> Option<(&str, Duration)> {
        let record = self.record.as_ref().filter(|record| record.retries == 0)?;
        Some((record.server.as_deref()?, record.server_duration))
    }

    pub(super) fn next(&self, shape: RequestShape, expects_record: bool, expects_span: bool) -> NextStep {
        let told = self.told();
        let all = shape.answers(self.choices);
        let Some(record) = &self.record else {
            return match (told >= all, expects_record) {
                (false, _) => NextStep::WaitForWord,
                (true, false) if shape.tells_its_answers() => NextStep::Close,
                (true, _) => NextStep::WaitForRest,
            };
        };
        // Each time that Traefik has sent it, a server may have worked on it.
        let most = all.saturating_mul(u64::from(record.retries) + 1);
        let may_come = match () {
            () if record.compute_tokens.is_some() => false,
            () if told >= most => !shape.tells_its_answers(),
            () if is_unworked(record) => told > 0 || record.retries > 0,
            () => told > 0 || expects_span,
        };
        if may_come { NextStep::WaitForRest } else { NextStep::Close }
    }

    /// Whether the request was answered, and no server has told anything.
    pub(super) fn lacks_spans(&self) -> bool {
        let is_answered =
            |record: &RecordReceipt| ending_of(record) == Ending::Finished && record.compute_tokens.is_none();
        self.spans.is_empty() && self.record.as_ref().is_some_and(is_answered)
    }

    /// Lets the calibration learn from a request that was answered.
    pub(super) fn teach<T>(&self, settlement: &RequestSettlement<T>, calibration: &mut Calibration) {
        let RequestSettlement { model, shape, used, .. } = settlement;
        let Some(record) = self.record.as_ref().filter(|record| ending_of(record) == Ending::Finished) else {
            return;
        };
        if !shape.streams && settlement.reserved.completion > 0 && settlement.kind != UsageKind::Estimated {
            calibration.learn_pace(model, *shape, used.completion, record.server_duration);
        }
        // A request that was sent again has one answer, and the tokens of several.
        if settlement.kind == UsageKind::Exact && record.retries == 0 && record.compute_tokens.is_none() {
            calibration.learn_prompt(model, *shape, 1, settlement.reserved.prompt.into(), used.prompt);
            calibration.learn_completion(model, *shape, 1, record.answer_bytes, used.completion);
        }
    }

    fn told(&self) -> u64 {
        u64::try_from(self.spans.len()).unwrap_or(u64::MAX)
    }

    fn attempts(&self, shape: RequestShape) -> u32 {
        let attempts = self.told().div_ceil(shape.answers(self.choices).max(1)).max(1);
        u32::try_from(attempts).unwrap_or(u32::MAX)
    }

    /// The prompts' tokens. With several choices each span repeats its prompt's. Until all spans were told, the average prompt
    /// stands for the others.
    fn prompt(&self, shape: RequestShape) -> u64 {
        if self.told() >= shape.answers(self.choices) {
            return self.prompt.div_ceil(self.choices.into());
        }
        let all = u128::from(self.prompt) * u128::from(shape.prompts());
        u64::try_from(all.div_ceil(u128::from(self.told().max(1)))).unwrap_or(u64::MAX)
    }

    /// A choice finds the prompt cached by the choice before it, which is not what anybody saved: the lowest counts.
    fn cached(&self, shape: RequestShape) -> Option<u64> {
        let (sum, least) = self.cached.filter(|_| self.told() > 0)?;
        let cached = match (self.choices, shape.prompts()) {
            (1, _) => sum,
            (_, 1) => least,
            (choices, _) => sum / u64::from(choices),
        };
        Some(cached.min(self.prompt(shape)))
    }

    fn used(&self, shape: RequestShape) -> UsedTokens {
        UsedTokens { prompt: self.prompt(shape), cached: self.cached(shape), completion: self.completion }
    }
}

/// Closes a request with the best that was told.
pub(super) fn settle<T>(
    reservation: RequestReservation<T>,
    heard: Option<&Heard>,
    calibration: &Calibration,
) -> RequestSettlement<T> {
    let (kind, used) = match heard {
        Some(heard) => heard.tokens(&reservation, calibration),
        None => (UsageKind::Estimated, estimated(reservation.reserved)),
    };
    let record = heard.and_then(|heard| heard.record.as_ref());
    let ending = match (record, heard) {
        (Some(record), _) => ending_of(record),
        (None, Some(_)) if kind == UsageKind::Exact => Ending::Finished,
        (None, _) => Ending::Unknown,
    };
    let RequestReservation { request, model, shape, reserved, held, .. } = reservation;
    RequestSettlement {
        request,
        model,
        shape,
        reserved,
        held,
        kind,
        used,
        ending,
        status: record.map(|record| record.status),
        time_to_first_token: heard.and_then(|heard| heard.time_to_first_token),
        duration: record.map(|record| record.duration).or(heard.and_then(|heard| heard.duration)),
        server: record.and_then(|record| record.server.as_deref()).map(Into::into),
        answer_bytes: record.map(|record| record.answer_bytes),
        is_unworked: record.is_some_and(is_unworked),
        attempts: heard.map_or(1, |heard| heard.attempts(shape)),
        has_ended: heard.is_some_and(|heard| heard.has_ended(shape)),
        worked: heard.and_then(Heard::worked).map(|(_, worked)| worked),
    }
}

impl Heard {
    /// What was told so far comes to.
    pub(super) fn tokens<T>(
        &self,
        reservation: &RequestReservation<T>,
        calibration: &Calibration,
    ) -> (UsageKind, UsedTokens) {
        let RequestReservation { shape, reserved, .. } = *reservation;
        if shape.has_beams && self.told() > 0 {
            // What its steps add up to is far more than it has used.
            return (UsageKind::Estimated, estimated(reserved));
        }
        if self.told() >= shape.answers(self.choices) {
            // How many texts it has to embed or to rank, only its end tells.
            let is_all = self.record.is_some() || shape.tells_its_answers();
            return (if is_all { UsageKind::Exact } else { UsageKind::Measured }, self.used(shape));
        }
        let Some(record) = &self.record else { return (UsageKind::Estimated, self.partly(shape, reserved)) };
        match record.compute_tokens {
            Some(tokens) if self.told() == 0 => (
                UsageKind::Exact,
                UsedTokens { prompt: tokens.min(MOST_TOKENS), cached: None, completion: 0 },
            ),
            // What a server has told it has done, even if the client got an error in the end.
            _ if is_refusal(record) => (UsageKind::Measured, self.used(shape)),
            _ if shape.is_shaped => {
                // No less than by its bytes, which say nothing good about it.
                let used = self.measured(record, reservation, calibration);
                let completion = used.completion.max(reserved.completion.into());
                (UsageKind::Estimated, UsedTokens { completion, ..used })
            }
            _ => (UsageKind::Measured, self.measured(record, reservation, calibration)),
        }
    }

    /// Some of several spans, and no end: for the others the reservation stands.
    fn partly(&self, shape: RequestShape, reserved: ReservedTokens) -> UsedTokens {
        let (told, all) = (self.told(), shape.answers(self.choices));
        let rest = u64::from(reserved.completion) * (all - told.min(all)) / all;
        UsedTokens { completion: self.completion + rest, ..self.used(shape) }
    }

    fn measured<T>(
        &self,
        record: &RecordReceipt,
        reservation: &RequestReservation<T>,
        calibration: &Calibration,
    ) -> UsedTokens {
        let RequestReservation { model, shape, reserved, .. } = reservation;
        let by_bytes = || match ending_of(record) {
            // A whole answer that nobody waited for has no bytes that tell anything.
            Ending::Aborted if !shape.streams || record.status == GAVE_UP => {
                calibration.generated_in(model, *shape, record.duration).unwrap_or(reserved.completion.into())
            }
            _ if record.answer_bytes == 0 => 0,
            _ => calibration.completion(model, *shape, record.answer_bytes),
        };
        let most = match reserved {
            ReservedTokens { completion: 0, .. } => 0,
            ReservedTokens { is_open: true, .. } => MOST_TOKENS,
            ReservedTokens { completion, .. } => (*completion).into(),
        };
        let measured = if most == 0 { 0 } else { by_bytes().min(most) };
        let completion = measured.max(self.completion);
        match self.told() {
            0 => {
                let prompt = calibration.prompt(model, *shape, reserved.prompt);
                UsedTokens { prompt, cached: None, completion }
            }
            _ => UsedTokens { completion, ..self.used(*shape) },
        }
    }
}

fn estimated(reserved: ReservedTokens) -> UsedTokens {
    UsedTokens { prompt: reserved.prompt.into(), cached: None, completion: reserved.completion.into() }
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

fn is_refusal(record: &RecordReceipt) -> bool {
    ending_of(record) == Ending::Refused
}

/// A server that refuses the connection does so at once. With Traefik's twelve attempts and its pauses between them that takes almost half a
/// second, and the record does not tell how many there were. A server that fails within that time has not done much: it is loading, too busy,
/// or has no such function.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// Whether no server has worked on it. Traefik's own 502 is told as if a server had answered it, whether that was not reached or has broken
/// off after some work: only the time tells. Without a server Traefik tells neither an address nor a server's status.
fn is_unworked(record: &RecordReceipt) -> bool {
    if !is_refusal(record) {
        return false;
    }
    // Those to which it was sent before may have worked on it, and broken off: Traefik's record has no attempts where another router than the
    // first one has made them. vLLM also answers 400 after all the work, where what the model has written is not the JSON that was demanded
    // (<https://github.com/vllm-project/vllm/pull/36883>).
    let is_at_once = record.duration < REFUSED_WITHIN;
    match record.server_status {
        0 => record.server.is_none(),
        400..=499 => record.status < 500 && is_at_once,
        _ if is_redirect(record) => is_at_once,
        501 | 502 | 503 | 529 => is_at_once,
        _ => false,
    }
}

/// Whether its client was sent elsewhere, by the server or by Traefik (RFC 9110, 15.4): nothing was made for it there, and what it asks
/// for next is another request. 303 is left out, because its answer is at another place: the work may be done.
fn is_redirect(record: &RecordReceipt) -> bool {
    let is_by_traefik = record.server_status == 0 && record.server.is_none();
    matches!(record.status, 301 | 302 | 307 | 308) && (record.server_status == record.status || is_by_traefik)
}

/// Nobody waited for the answer any longer (RFC 9110, 15.6.5): the server may have worked on it until then.
const GAVE_UP: u16 = 504;

/// Traefik writes 499 for a client that went away before any answer; in a stream, the answer's own status, and none of a
/// server.
fn ending_of(record: &RecordReceipt) -> Ending {
    match (record.status, record.server_status) {
        (499 | GAVE_UP, _) => Ending::Aborted,
        (400.., _) | (_, 400..) => Ending::Refused,
        (200..300, 0) => Ending::Aborted,
        _ if is_redirect(record) => Ending::Refused,
        _ => Ending::Finished,
    }
}
