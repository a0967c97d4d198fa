//! What a server has counted for requests that were only measured teaches how to measure.
//!
//! Not every balance does. Other users of a server make its counters say more than our requests have used, and where a counter
//! leaves out cached tokens it says less of their prompts. So a balance must be like the others: of answers, like the lowest
//! quarter; of prompts that may be cached, like the middle. Only the balances of an exclusive server all count.

use std::{collections::HashMap, sync::Arc};

use super::{Counters, Terms, line::BookLine, share};
use crate::{Calibration, Ending, RequestShape, UsageKind, calibration::real};

/// The number of balances by which unusual ones are told.
const MOST_FACTORS: usize = 16;
/// How much more than the others a balance may say.
const LIKE_OTHERS: f64 = 1.25;

/// Of the last balances: how much more was counted than was measured. That changes as the calibration learns, so that of requests
/// of several kinds, whose mixture changes, no balance stays unusual for long.
#[derive(Debug, Default)]
pub(super) struct LastFactors {
    prompt: Factors,
    completion: Factors,
}

#[derive(Debug, Default)]
struct Factors(Vec<f64>);

/// Requests that are alike.
#[derive(Debug, Default)]
struct Alike {
    requests: u32,
    /// What is seen of them: bytes of answers, or estimated tokens of prompts.
    size: u64,
    /// What the calibration has made of that so far.
    tokens: u64,
}

type Groups = HashMap<(Arc<str>, RequestShape), Alike>;

impl LastFactors {
    /// Learns from a balance in which all requests were measured and answered, or refused.
    pub(super) fn teach<W>(
        &mut self,
        lines: &[BookLine<W>],
        counted: Counters,
        terms: Terms,
        calibration: &mut Calibration,
    ) {
        let is_plain = |line: &BookLine<W>| {
            line.ending == Ending::Refused
                || line.kind == UsageKind::Measured && line.ending == Ending::Finished
        };
        if !lines.iter().all(is_plain) {
            return;
        }
        let answers = group(lines, |line| {
            let bytes = line.answer_bytes.filter(|_| line.reserved.completion > 0)?;
            Some((bytes, line.used.completion))
        });
        let expected = answers.values().map(|alike| alike.tokens).sum();
        let is_usual = self.completion.is_usual(counted.completion, expected, 1);
        if is_usual || terms.exclusive {
            for ((model, shape), requests, bytes, tokens) in shares(&answers, counted.completion) {
                calibration.learn_completion(model, *shape, requests, bytes, tokens);
            }
        }
        let prompts = group(lines, |line| Some((line.reserved.prompt.into(), line.as_counted(terms).prompt)));
        let expected = prompts.values().map(|alike| alike.tokens).sum();
        let quarter = if terms.leaves_out_cached { 2 } else { 1 };
        let is_usual = self.prompt.is_usual(counted.prompt, expected, quarter);
        if is_usual || terms.exclusive && !terms.leaves_out_cached {
            for ((model, shape), requests, estimate, tokens) in shares(&prompts, counted.prompt) {
                let times = if terms.repeats_prompts { shape.choices.max(1).into() } else { 1 };
                calibration.learn_prompt(model, *shape, requests, estimate, tokens / times);
            }
        }
    }
}

impl Factors {
    /// Whether what was counted is to what was expected as it was in the last balances, by a quarter of them.
    fn is_usual(&mut self, counted: u64, expected: u64, quarter: usize) -> bool {
        if counted == 0 || expected == 0 {
            return false;
        }
        let factor = real(counted) / real(expected);
        if self.0.len() >= MOST_FACTORS {
            self.0.remove(0);
        }
        self.0.push(factor);
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        // Of two, the lower: it is others' use that makes the first ones differ.
        let usual = sorted[(sorted.len() - 1) * quarter / 4];
        (usual / LIKE_OTHERS..=usual * LIKE_OTHERS).contains(&factor)
    }
}

/// Sums up `(size, tokens)` of requests that are alike.
fn group<W>(lines: &[BookLine<W>], of: impl Fn(&BookLine<W>) -> Option<(u64, u64)>) -> Groups {
    let mut groups = Groups::new();
    for line in lines.iter().filter(|line| line.is_correctable()) {
        if let Some((size, tokens)) = of(line) {
            let alike = groups.entry((Arc::clone(&line.model), line.shape)).or_default();
            alike.requests += 1;
            alike.size += size;
            alike.tokens += tokens;
        }
    }
    groups
}

/// Each group's part of what was counted, in proportion to what was made of it so far: requests, size, tokens.
fn shares(groups: &Groups, counted: u64) -> impl Iterator<Item = (&(Arc<str>, RequestShape), u32, u64, u64)> {
    let all: u64 = groups.values().map(|alike| alike.tokens).sum();
    groups
        .iter()
        .filter(move |_| all > 0)
        .map(move |(of, alike)| (of, alike.requests, alike.size, share::part(counted, alike.tokens, all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A balance teaches if it is like the lowest quarter of the last ones, or, with `quarter` 2, like the middle.
    #[test]
    fn a_balance_is_usual_if_its_proportion_is() {
        let mut factors = Factors::default();
        for (counted, expected, is_usual) in [
            (0, 100, false),
            (100, 0, false),
            (100, 100, true),
            (5_000, 5_000, true),
            (300, 100, false),
            (120, 100, true),
            (10, 100, false),
        ] {
            assert_eq!(factors.is_usual(counted, expected, 1), is_usual, "{counted} {expected}");
        }
        let mut factors = Factors::default();
        for (counted, is_usual) in
            [(100, true), (100, true), (100, true), (200, false), (200, false), (200, false)]
        {
            assert_eq!(factors.is_usual(counted, 100, 2), is_usual);
        }
        assert!(factors.is_usual(200, 100, 2), "the middle of seven");
    }
}
