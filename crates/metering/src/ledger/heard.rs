//! What was told about one open request, what is still to be expected, and what that comes to.

use std::time::Duration;

use crate::{
    Calibration, Call, Kind, Outcome, RecordReceipt, Reservation, Reserved, Settlement, SpanReceipt, Used,
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
pub(super) enum Next {
    /// All was told.
    Close,
    /// Most was told; the rest may come.
    WaitForRest,
    /// The server still works on it, as far as is known.
    WaitForWord,
}

impl Heard {
    pub(super) fn new(call: Call) -> Self {
        Self {
            spans: Vec::new(),
            prompt: 0,
            completion: 0,
            cached: Some((0, u64::MAX)),
            choices: call.choices.max(1).into(),
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

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn next(&self, call: Call, expects_record: bool, expects_span: bool) -> Next {
        let told = self.told();
        let all = call.answers(self.choices);
        let Some(record) = &self.record else {
            return match (told >= all, expects_record) {
                (false, _) => Next::WaitForWord,
                (true, true) => Next::WaitForRest,
                (true, false) => Next::Close,
            };
        };
        // Each time that Traefik has sent it, a server may have worked on it.
        let most = all.saturating_mul(u64::from(record.retries) + 1);
        let may_come = match () {
            () if record.compute_tokens.is_some() || told >= most => false,
            () if is_refusal(record) => told > 0 || record.retries > 0,
            () => told > 0 || expects_span,
        };
        if may_come { Next::WaitForRest } else { Next::Close }
    }

    /// Whether the request was answered, and no server has told anything.
    pub(super) fn lacks_spans(&self) -> bool {
        let is_answered = |record: &RecordReceipt| {
            outcome_of(record) == Outcome::Finished && record.compute_tokens.is_none()
        };
        self.spans.is_empty() && self.record.as_ref().is_some_and(is_answered)
    }

    /// Lets the calibration learn from a request that was answered.
    pub(super) fn teach<T>(&self, settlement: &Settlement<T>, calibration: &mut Calibration) {
        let Settlement { model, call, used, .. } = settlement;
        let Some(record) = self.record.as_ref().filter(|record| outcome_of(record) == Outcome::Finished)
        else {
            return;
        };
        if !call.streams && settlement.reserved.completion > 0 && settlement.kind != Kind::Estimated {
            calibration.learn_pace(model, *call, used.completion, record.server_duration);
        }
        // A request that was sent again has one answer, and the tokens of several.
        if settlement.kind == Kind::Exact && record.retries == 0 && record.compute_tokens.is_none() {
            calibration.learn_prompt(model, *call, settlement.reserved.prompt, used.prompt);
            calibration.learn_completion(model, *call, 1, record.answer_bytes, used.completion);
        }
    }

    fn told(&self) -> u64 {
        u64::try_from(self.spans.len()).unwrap_or(u64::MAX)
    }

    /// The prompts' tokens. With several choices each span repeats its prompt's. Until all spans were told, the average prompt
    /// stands for the others.
    fn prompt(&self, call: Call) -> u64 {
        if self.told() >= call.answers(self.choices) {
            return self.prompt.div_ceil(self.choices.into());
        }
        let all = u128::from(self.prompt) * u128::from(call.prompts());
        u64::try_from(all.div_ceil(u128::from(self.told().max(1)))).unwrap_or(u64::MAX)
    }

    /// A choice finds the prompt cached by the choice before it, which is not what anybody saved: the lowest counts.
    fn cached(&self, call: Call) -> Option<u64> {
        let (sum, least) = self.cached.filter(|_| self.told() > 0)?;
        let cached = match (self.choices, call.prompts()) {
            (1, _) => sum,
            (_, 1) => least,
            (choices, _) => sum / u64::from(choices),
        };
        Some(cached.min(self.prompt(call)))
    }

    fn used(&self, call: Call) -> Used {
        Used { prompt: self.prompt(call), cached: self.cached(call), completion: self.completion }
    }
}

/// Closes a request with the best that was told.
pub(super) fn settle<T>(
    reservation: Reservation<T>,
    heard: Option<&Heard>,
    calibration: &Calibration,
) -> Settlement<T> {
    let (kind, used) = match heard {
        Some(heard) => heard.tokens(&reservation, calibration),
        None => (Kind::Estimated, estimated(reservation.reserved)),
    };
    let record = heard.and_then(|heard| heard.record.as_ref());
    let outcome = match (record, heard) {
        (Some(record), _) => outcome_of(record),
        (None, Some(_)) if kind == Kind::Exact => Outcome::Finished,
        (None, _) => Outcome::Unknown,
    };
    let Reservation { request, model, call, reserved, held, .. } = reservation;
    Settlement {
        request,
        model,
        call,
        reserved,
        held,
        kind,
        used,
        outcome,
        status: record.map(|record| record.status),
        time_to_first_token: heard.and_then(|heard| heard.time_to_first_token),
        duration: record.map(|record| record.duration).or(heard.and_then(|heard| heard.duration)),
        server: record.and_then(|record| record.server.as_deref()).map(Into::into),
        answer_bytes: record.map(|record| record.answer_bytes),
    }
}

impl Heard {
    fn tokens<T>(&self, reservation: &Reservation<T>, calibration: &Calibration) -> (Kind, Used) {
        let Reservation { call, reserved, .. } = *reservation;
        if self.told() >= call.answers(self.choices) {
            return (Kind::Exact, self.used(call));
        }
        let Some(record) = &self.record else { return (Kind::Estimated, self.partly(call, reserved)) };
        match record.compute_tokens {
            Some(tokens) if self.told() == 0 => {
                (Kind::Exact, Used { prompt: tokens.min(MOST_TOKENS), cached: None, completion: 0 })
            }
            // What a server has told it has done, even if the client got an error in the end.
            _ if is_refusal(record) => (Kind::Measured, self.used(call)),
            _ => (Kind::Measured, self.measured(record, reservation, calibration)),
        }
    }

    /// Some of several spans, and no end: for the others the reservation stands.
    fn partly(&self, call: Call, reserved: Reserved) -> Used {
        let (told, all) = (self.told(), call.answers(self.choices));
        let rest = u64::from(reserved.completion) * (all - told.min(all)) / all;
        Used { completion: self.completion + rest, ..self.used(call) }
    }

    fn measured<T>(
        &self,
        record: &RecordReceipt,
        reservation: &Reservation<T>,
        calibration: &Calibration,
    ) -> Used {
        let Reservation { model, call, reserved, .. } = reservation;
        let by_bytes = || match outcome_of(record) {
            // A whole answer that nobody waited for has no bytes that tell anything.
            Outcome::Aborted if !call.streams => {
                calibration.generated_in(model, *call, record.duration).unwrap_or(reserved.completion.into())
            }
            _ if record.answer_bytes == 0 => 0,
            _ => calibration.completion(model, *call, record.answer_bytes),
        };
        let most = match reserved {
            Reserved { completion: 0, .. } => 0,
            Reserved { is_open: true, .. } => MOST_TOKENS,
            Reserved { completion, .. } => (*completion).into(),
        };
        let measured = if most == 0 { 0 } else { by_bytes().min(most) };
        let completion = measured.max(self.completion);
        match self.told() {
            0 => {
                let prompt = calibration.prompt(model, *call, reserved.prompt);
                Used { prompt, cached: None, completion }
            }
            _ => Used { completion, ..self.used(*call) },
        }
    }
}

fn estimated(reserved: Reserved) -> Used {
    Used { prompt: reserved.prompt.into(), cached: None, completion: reserved.completion.into() }
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

fn is_refusal(record: &RecordReceipt) -> bool {
    outcome_of(record) == Outcome::Refused
}

/// Traefik writes 499 for a client that went away before any answer; in a stream, the answer's own status, and none of a
/// server.
fn outcome_of(record: &RecordReceipt) -> Outcome {
    match (record.status, record.server_status) {
        (499, _) => Outcome::Aborted,
        (400.., _) | (_, 400..) => Outcome::Refused,
        (200..300, 0) => Outcome::Aborted,
        _ => Outcome::Finished,
    }
}
