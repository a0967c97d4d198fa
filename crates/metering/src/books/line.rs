//! A settled request in the books.

use std::sync::Arc;

use super::{Counters, Terms, UsageCorrection, share};
use crate::{Ending, RequestId, RequestSettlement, RequestShape, ReservedTokens, UsageKind, UsedTokens};

/// A settled request.
#[derive(Debug)]
pub(super) struct BookLine<W> {
    request: RequestId,
    whose: W,
    pub(super) model: Arc<str>,
    pub(super) shape: RequestShape,
    pub(super) reserved: ReservedTokens,
    pub(super) kind: UsageKind,
    pub(super) ending: Ending,
    /// As it was settled.
    settled: UsedTokens,
    /// The same, or what it was corrected to.
    pub(super) used: UsedTokens,
    pub(super) answer_bytes: Option<u64>,
}

impl<W> BookLine<W> {
    pub(super) fn of(settlement: RequestSettlement<W>) -> Self {
        let RequestSettlement {
            request, model, shape, reserved, held, kind, used, ending, answer_bytes, ..
        } = settlement;
        Self { request, whose: held, model, shape, reserved, kind, ending, settled: used, used, answer_bytes }
    }

    /// Only what nobody knows exactly is corrected. A refusal has used nothing.
    pub(super) fn is_correctable(&self) -> bool {
        self.kind != UsageKind::Exact && self.ending != Ending::Refused
    }

    /// Its tokens as the server counts them.
    pub(super) fn as_counted(&self, terms: Terms) -> Counters {
        let UsedTokens { prompt, cached, completion } = self.used;
        let cached = cached.unwrap_or(0);
        let times = self.times(terms);
        let computed = if terms.leaves_out_cached { prompt.saturating_sub(cached) } else { prompt };
        Counters { prompt: computed.saturating_mul(times), cached: cached.saturating_mul(times), completion }
    }

    /// How often its prompt counts.
    fn times(&self, terms: Terms) -> u64 {
        if terms.repeats_prompts { self.shape.choices.max(1).into() } else { 1 }
    }

    /// What was measured may already be more than what was reserved, if the request left its length open. A prompt that was
    /// measured above its estimate takes nothing from the answer: how long that may be is known from the request.
    fn most_completion(&self) -> u64 {
        u64::from(self.reserved.completion).max(self.used.completion)
    }

    fn most_prompt(&self, completion: u64) -> u64 {
        self.reserved.total().saturating_sub(completion).max(self.used.prompt)
    }
}

/// Corrects the receipts that are not exact, so that together with the others they are what the server has counted; but none
/// beyond what was reserved for it.
pub(super) fn correct<W>(lines: &mut [BookLine<W>], counted: Counters, terms: Terms) {
    let exact = lines.iter().filter(|line| !line.is_correctable());
    let left = exact.fold(counted, |left, line| left.less(line.as_counted(terms)));
    let mut open: Vec<_> = lines.iter_mut().filter(|line| line.is_correctable()).collect();
    let completions: Vec<_> =
        open.iter().map(|line| (line.used.completion, line.most_completion())).collect();
    let completions = share::shared(left.completion, &completions);
    let prompts = open.iter().zip(&completions).map(|(line, completion)| {
        let times = line.times(terms);
        (line.used.prompt * times, line.most_prompt(*completion).saturating_mul(times))
    });
    let prompts = share::shared(left.prompt, &prompts.collect::<Vec<_>>());
    let cached: Vec<_> = prompts.iter().map(|prompt| (*prompt, *prompt)).collect();
    let cached = share::shared(left.cached, &cached);
    let told = completions.into_iter().zip(prompts).zip(cached);
    for (line, ((completion, prompt), cached)) in open.iter_mut().zip(told) {
        line.used.completion = completion;
        line.set_prompt(prompt, cached, terms);
    }
}

impl<W> BookLine<W> {
    /// A counter that leaves cached tokens out and says less than the prompt has: the rest was cached.
    fn set_prompt(&mut self, counted: u64, cached: u64, terms: Terms) {
        let times = self.times(terms);
        let UsedTokens { prompt, cached: before, .. } = &mut self.used;
        if terms.leaves_out_cached && counted < *prompt {
            *before = Some(*prompt - counted);
        } else {
            *prompt = counted.div_ceil(times);
            let cached = before.unwrap_or(0).max(cached.div_ceil(times)).min(*prompt);
            *before = Some(cached).filter(|cached| *cached > 0);
        }
    }

    /// What [`correct`] has changed; `None`: nothing.
    pub(super) fn correction(self) -> Option<UsageCorrection<W>> {
        let (before, after) = (self.settled, self.used);
        let correction = UsageCorrection {
            request: self.request,
            whose: self.whose,
            model: self.model,
            kind: self.kind,
            settled: before.total(),
            prompt: difference(after.prompt, before.prompt),
            cached: difference(after.cached.unwrap_or(0), before.cached.unwrap_or(0)),
            completion: difference(after.completion, before.completion),
        };
        ((correction.prompt, correction.cached, correction.completion) != (0, 0, 0)).then_some(correction)
    }
}

fn difference(now: u64, before: u64) -> i64 {
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(now) - signed(before)
}
