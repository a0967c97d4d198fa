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

use fit::{Fit, StraightLine};

use crate::{MeteredEndpoint, RequestShape};

/// The number of combinations of model, endpoint and kind of answer of which something is known. Those longest unused go first.
const MAX_CALIBRATED: usize = 1_024;

/// What was learned so far.
#[derive(Debug, Default)]
pub struct Calibration {
    known: HashMap<CalibrationKey, Known>,
    /// Counts uses, to know which were not used for longest.
    uses: u64,
}

/// Requests that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CalibrationKey {
    model: Arc<str>,
    endpoint: MeteredEndpoint,
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
const PROMPT: StraightLine = StraightLine { start: 0.0, slope: 1.0 };

/// The answers' lines before anything is known, from what the servers' own programs send for ordinary words and names.
/// Where each chunk repeats the model's name, its length counts.
fn answer_line(model: &str, endpoint: MeteredEndpoint, streams: bool) -> StraightLine {
    let name = real(u64::try_from(model.len()).unwrap_or(0));
    let bytes_per_token = match (endpoint, streams) {
        (MeteredEndpoint::ChatCompletions, true) => 220.0 + name,
        (MeteredEndpoint::Completions, true) => 195.0 + name,
        (MeteredEndpoint::Responses, true) => 250.0,
        (MeteredEndpoint::Messages, true) => 120.0,
        (MeteredEndpoint::OllamaChat | MeteredEndpoint::OllamaGenerate, true) => 125.0 + name,
        (MeteredEndpoint::Generate | MeteredEndpoint::LlamaCpp, true) => 250.0,
        (MeteredEndpoint::Embeddings | MeteredEndpoint::Other, true) => 200.0,
        (_, false) => 4.5,
    };
    let envelope = if streams { 2.0 * bytes_per_token } else { 450.0 };
    StraightLine { start: -envelope / bytes_per_token, slope: 1.0 / bytes_per_token }
}

impl Calibration {
    /// The tokens of a prompt that was estimated.
    pub fn prompt(&self, model: &Arc<str>, shape: RequestShape, estimate: u32) -> u64 {
        let estimate = f64::from(estimate);
        whole(
            self.of(model, shape)
                .map_or(PROMPT.at(1.0, estimate), |known| known.prompts.at(PROMPT, estimate)),
        )
    }

    /// The tokens of all answers together, which were this long.
    pub fn completion(&self, model: &Arc<str>, shape: RequestShape, bytes: u64) -> u64 {
        let (line, bytes) = (answer_line(model, shape.endpoint, shape.streams), real(bytes));
        whole(self.of(model, shape).map_or(line.at(1.0, bytes), |known| known.answers.at(line, bytes)))
    }

    /// The tokens that were generated in a time; `None` if nothing is known about that.
    pub fn generated_in(&self, model: &Arc<str>, shape: RequestShape, time: Duration) -> Option<u64> {
        let pace = &self.of(model, shape)?.pace;
        (pace.seconds > 0.0).then(|| whole(pace.tokens / pace.seconds * time.as_secs_f64()))
    }

    /// Learns from prompts whose tokens are known: of so many requests, estimated so high together.
    pub(crate) fn learn_prompt(
        &mut self,
        model: &Arc<str>,
        shape: RequestShape,
        requests: u32,
        estimate: u64,
        tokens: u64,
    ) {
        self.known(model, shape).prompts.learn(PROMPT, requests.into(), real(estimate), real(tokens));
    }

    /// Learns from answers whose tokens are known: `requests` of them, of so many bytes together.
    pub(crate) fn learn_completion(
        &mut self,
        model: &Arc<str>,
        shape: RequestShape,
        requests: u32,
        bytes: u64,
        tokens: u64,
    ) {
        let line = answer_line(model, shape.endpoint, shape.streams);
        self.known(model, shape).answers.learn(line, requests.into(), real(bytes), real(tokens));
    }

    /// Learns how fast answers are generated.
    pub(crate) fn learn_pace(&mut self, model: &Arc<str>, shape: RequestShape, tokens: u64, time: Duration) {
        let pace = &mut self.known(model, shape).pace;
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

    fn of(&self, model: &Arc<str>, shape: RequestShape) -> Option<&Known> {
        self.known.get(&CalibrationKey::of(model, shape))
    }

    fn known(&mut self, model: &Arc<str>, shape: RequestShape) -> &mut Known {
        let shape = CalibrationKey::of(model, shape);
        if self.known.len() >= MAX_CALIBRATED && !self.known.contains_key(&shape) {
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

impl CalibrationKey {
    fn of(model: &Arc<str>, shape: RequestShape) -> Self {
        Self { model: Arc::clone(model), endpoint: shape.endpoint, streams: shape.streams }
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
    use crate::testing::SHAPE;

    fn model(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn nothing_known_means_the_defaults() {
        let calibration = Calibration::default();
        let whole = RequestShape { streams: false, ..SHAPE };
        assert_eq!(calibration.prompt(&model("a"), SHAPE, 300), 300);
        assert_eq!(calibration.completion(&model("llama"), SHAPE, 22_950), 100);
        assert_eq!(
            calibration.completion(&model("meta-llama/llama-3b"), SHAPE, 24_378),
            100,
            "a longer name"
        );
        assert_eq!(calibration.completion(&model("a"), whole, 900), 100);
        let endpoint = MeteredEndpoint::Completions;
        assert_eq!(calibration.completion(&model("llama"), RequestShape { endpoint, ..SHAPE }, 20_400), 100);
        let endpoint = MeteredEndpoint::OllamaChat;
        assert_eq!(calibration.completion(&model("llama"), RequestShape { endpoint, ..SHAPE }, 13_260), 100);
        assert_eq!(calibration.completion(&model("a"), SHAPE, 0), 0);
        assert_eq!(calibration.generated_in(&model("a"), SHAPE, Duration::from_secs(1)), None);
    }

    /// A template of 17 tokens; chunks of 180 bytes, and 600 bytes around them.
    #[test]
    fn lines_are_learned_and_apply_to_other_lengths() {
        let mut calibration = Calibration::default();
        let llama = model("llama");
        for number in 0..100_u64 {
            let (text, answer) = (10 + number * 7 % 90, 5 + number * 11 % 60);
            calibration.learn_prompt(&llama, SHAPE, 1, text, 17 + text * 5 / 4);
            calibration.learn_completion(&llama, SHAPE, 1, 600 + answer * 180, answer);
        }
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) * 50 <= wanted + 50;
        for (estimate, wanted) in [(4, 22), (1_000, 1_267)] {
            let found = calibration.prompt(&llama, SHAPE, estimate);
            assert!(near(found, wanted), "{found} for {wanted}");
        }
        for wanted in [1, 20, 3_000] {
            let found = calibration.completion(&llama, SHAPE, 600 + wanted * 180);
            assert!(near(found, wanted), "{found} for {wanted}");
        }
        let other = RequestShape { streams: false, ..SHAPE };
        assert_eq!(calibration.prompt(&llama, other, 40), 40, "another kind of answer knows nothing of it");
        assert_eq!(calibration.prompt(&model("b"), SHAPE, 40), 40, "nor does another model");
    }

    #[test]
    fn a_pace_is_learned() {
        let mut calibration = Calibration::default();
        for _ in 0..10 {
            calibration.learn_pace(&model("a"), SHAPE, 100, Duration::from_secs(2));
        }
        calibration.learn_pace(&model("a"), SHAPE, 100, Duration::ZERO);
        assert_eq!(calibration.generated_in(&model("a"), SHAPE, Duration::from_secs(3)), Some(150));
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let mut calibration = Calibration::default();
        for number in 0..MAX_CALIBRATED + 50 {
            calibration.learn_prompt(&model("busy"), SHAPE, 1, 100, 200);
            calibration.learn_prompt(&model(&number.to_string()), SHAPE, 1, 100, 200);
        }
        assert_eq!(calibration.len(), MAX_CALIBRATED);
        assert!(calibration.prompt(&model("busy"), SHAPE, 100) > 150);
    }

    /// With a pace of 0 tokens an answer that nobody waited for would be free.
    #[test]
    fn prompts_alone_tell_no_pace() {
        let mut calibration = Calibration::default();
        calibration.learn_prompt(&model("a"), SHAPE, 1, 100, 200);
        assert_eq!(calibration.generated_in(&model("a"), SHAPE, Duration::from_secs(3)), None);
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_and_only_for_something_new() {
        let mut calibration = Calibration::default();
        let learn = |calibration: &mut Calibration, number: usize| {
            calibration.learn_prompt(&model(&number.to_string()), SHAPE, 1, 100, 200);
        };
        (0..MAX_CALIBRATED).for_each(|number| learn(&mut calibration, number));
        (0..10).for_each(|_| learn(&mut calibration, 0));
        assert_eq!(calibration.len(), MAX_CALIBRATED, "nothing is new");
        learn(&mut calibration, MAX_CALIBRATED);
        let is_known = |number: usize| calibration.prompt(&model(&number.to_string()), SHAPE, 100) > 150;
        assert_eq!([0, 1, 2, MAX_CALIBRATED].map(is_known), [true, false, true, true]);
    }
}
