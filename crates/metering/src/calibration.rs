//! How many tokens stand behind what can be seen of a request: learned from requests whose tokens are known.
//!
//! For each model, endpoint and kind of answer (streamed or whole):
//! - prompts: tokens for each token that `/auth` estimated from the prompt's text. It is the text that becomes tokens; of the
//!   body's bytes, most may belong to an image;
//! - answers: tokens for each byte. A stream has some 200 bytes around each token, a whole answer has one envelope;
//! - pace: tokens a second, for whole answers that nobody waited for, of which there is no byte to count.
//!
//! Each is a straight line (`fit.rs`), since a chat template adds tokens to every prompt, and an envelope adds bytes to every
//! answer. A request of its own changes little; what was learned fades as newer requests come.

mod fit;

use std::{collections::HashMap, sync::Arc, time::Duration};

use fit::{Fit, Line};

use crate::{Call, Endpoint};

/// The number of combinations of model, endpoint and kind of answer of which something is known. Those longest unused go first.
const MOST: usize = 1_024;

/// What was learned so far.
#[derive(Debug, Default)]
pub struct Calibration {
    known: HashMap<Shape, Known>,
    /// Counts uses, to know which were not used for longest.
    uses: u64,
}

/// Requests that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shape {
    model: Arc<str>,
    endpoint: Endpoint,
    streams: bool,
}

#[derive(Debug, Default)]
struct Known {
    prompts: Fit,
    answers: Fit,
    pace: Pace,
    last_use: u64,
}

/// Tokens and the seconds that they took, both fading.
#[derive(Debug, Default)]
struct Pace {
    tokens: f64,
    seconds: f64,
}

/// An estimate of a prompt, before anything is known: what `/auth` reserves is meant to be right.
const PROMPT: Line = Line { start: 0.0, slope: 1.0 };

/// The answers' lines before anything is known, from what the servers' own programs send for ordinary words and names.
fn answer_line(endpoint: Endpoint, streams: bool) -> Line {
    let bytes_per_token = match (endpoint, streams) {
        (Endpoint::ChatCompletions, true) => 225.0,
        (Endpoint::Completions, true) => 200.0,
        (Endpoint::Responses, true) => 250.0,
        (Endpoint::Messages, true) => 120.0,
        (Endpoint::OllamaChat | Endpoint::OllamaGenerate, true) => 130.0,
        (Endpoint::Generate | Endpoint::LlamaCpp, true) => 250.0,
        (Endpoint::Other, true) => 200.0,
        (_, false) => 4.5,
    };
    let envelope = if streams { 2.0 * bytes_per_token } else { 450.0 };
    Line { start: -envelope / bytes_per_token, slope: 1.0 / bytes_per_token }
}

impl Calibration {
    /// The tokens of a prompt that was estimated.
    pub fn prompt(&self, model: &Arc<str>, call: Call, estimate: u32) -> u64 {
        let estimate = f64::from(estimate);
        whole(
            self.of(model, call).map_or(PROMPT.at(1.0, estimate), |known| known.prompts.at(PROMPT, estimate)),
        )
    }

    /// The tokens of all answers together, which were this long.
    pub fn completion(&self, model: &Arc<str>, call: Call, bytes: u64) -> u64 {
        let (line, bytes) = (answer_line(call.endpoint, call.streams), real(bytes));
        whole(self.of(model, call).map_or(line.at(1.0, bytes), |known| known.answers.at(line, bytes)))
    }

    /// The tokens that were generated in a time; `None` if nothing is known about that.
    pub fn generated_in(&self, model: &Arc<str>, call: Call, time: Duration) -> Option<u64> {
        let pace = &self.of(model, call)?.pace;
        (pace.seconds > 0.0).then(|| whole(pace.tokens / pace.seconds * time.as_secs_f64()))
    }

    /// Learns from a prompt whose tokens are known.
    pub(crate) fn learn_prompt(&mut self, model: &Arc<str>, call: Call, estimate: u32, tokens: u64) {
        self.known(model, call).prompts.learn(PROMPT, 1.0, estimate.into(), real(tokens));
    }

    /// Learns from answers whose tokens are known: `requests` of them, of so many bytes together.
    pub(crate) fn learn_completion(
        &mut self,
        model: &Arc<str>,
        call: Call,
        requests: u32,
        bytes: u64,
        tokens: u64,
    ) {
        let line = answer_line(call.endpoint, call.streams);
        self.known(model, call).answers.learn(line, requests.into(), real(bytes), real(tokens));
    }

    /// Learns how fast answers are generated.
    pub(crate) fn learn_pace(&mut self, model: &Arc<str>, call: Call, tokens: u64, time: Duration) {
        let pace = &mut self.known(model, call).pace;
        if !time.is_zero() {
            pace.tokens = pace.tokens * fit::FADE + real(tokens);
            pace.seconds = pace.seconds * fit::FADE + time.as_secs_f64();
        }
    }

    /// The number of combinations of which something is known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn of(&self, model: &Arc<str>, call: Call) -> Option<&Known> {
        self.known.get(&Shape::of(model, call))
    }

    fn known(&mut self, model: &Arc<str>, call: Call) -> &mut Known {
        let shape = Shape::of(model, call);
        if self.known.len() >= MOST && !self.known.contains_key(&shape) {
            self.forget_one();
        }
        self.uses += 1;
        let known = self.known.entry(shape).or_default();
        known.last_use = self.uses;
        known
    }

    fn forget_one(&mut self) {
        let oldest =
            self.known.iter().min_by_key(|(_, known)| known.last_use).map(|(shape, _)| shape.clone());
        if let Some(shape) = oldest {
            self.known.remove(&shape);
        }
    }
}

impl Shape {
    fn of(model: &Arc<str>, call: Call) -> Self {
        Self { model: Arc::clone(model), endpoint: call.endpoint, streams: call.streams }
    }
}

/// Exact up to 2⁵³, far beyond any request.
#[expect(clippy::as_conversions, reason = "there is no other conversion")]
pub(crate) fn real(number: u64) -> f64 {
    number as f64
}

/// The nearest whole number that is not negative.
#[expect(clippy::as_conversions, reason = "`as` stops at both ends")]
pub(crate) fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::CALL;

    fn model(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn nothing_known_means_the_defaults() {
        let calibration = Calibration::default();
        let whole = Call { streams: false, ..CALL };
        assert_eq!(calibration.prompt(&model("a"), CALL, 300), 300);
        assert_eq!(calibration.completion(&model("a"), CALL, 22_950), 100);
        assert_eq!(calibration.completion(&model("a"), whole, 900), 100);
        assert_eq!(calibration.completion(&model("a"), CALL, 0), 0);
        assert_eq!(calibration.generated_in(&model("a"), CALL, Duration::from_secs(1)), None);
    }

    /// A template of 17 tokens; chunks of 180 bytes, and 600 bytes around them.
    #[test]
    fn lines_are_learned_and_apply_to_other_lengths() {
        let mut calibration = Calibration::default();
        let llama = model("llama");
        for number in 0..100_u64 {
            let (text, answer) = (10 + number * 7 % 90, 5 + number * 11 % 60);
            let estimate = u32::try_from(text).expect("small");
            calibration.learn_prompt(&llama, CALL, estimate, 17 + text * 5 / 4);
            calibration.learn_completion(&llama, CALL, 1, 600 + answer * 180, answer);
        }
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) * 50 <= wanted + 50;
        for (estimate, wanted) in [(4, 22), (1_000, 1_267)] {
            let found = calibration.prompt(&llama, CALL, estimate);
            assert!(near(found, wanted), "{found} for {wanted}");
        }
        for wanted in [1, 20, 3_000] {
            let found = calibration.completion(&llama, CALL, 600 + wanted * 180);
            assert!(near(found, wanted), "{found} for {wanted}");
        }
        let other = Call { streams: false, ..CALL };
        assert_eq!(calibration.prompt(&llama, other, 40), 40, "another kind of answer knows nothing of it");
        assert_eq!(calibration.prompt(&model("b"), CALL, 40), 40, "nor does another model");
    }

    #[test]
    fn a_pace_is_learned() {
        let mut calibration = Calibration::default();
        for _ in 0..10 {
            calibration.learn_pace(&model("a"), CALL, 100, Duration::from_secs(2));
        }
        calibration.learn_pace(&model("a"), CALL, 100, Duration::ZERO);
        assert_eq!(calibration.generated_in(&model("a"), CALL, Duration::from_secs(3)), Some(150));
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let mut calibration = Calibration::default();
        for number in 0..MOST + 50 {
            calibration.learn_prompt(&model("busy"), CALL, 100, 200);
            calibration.learn_prompt(&model(&number.to_string()), CALL, 100, 200);
        }
        assert_eq!(calibration.len(), MOST);
        assert!(calibration.prompt(&model("busy"), CALL, 100) > 150);
    }
}
