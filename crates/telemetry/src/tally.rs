//! What is counted for each consumer, model and server since the start, for metrics.
//!
//! The number of consumers, models and servers with counts of their own is bounded; the rest is counted together as
//! [`OTHERS`]. Who is counted first keeps its counts. When there is no room, those that were idle for an hour are forgotten,
//! and their counts begin anew when they come back, as after a restart. `/auth` does not come here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metering::UsageKind;

use crate::{RequestCounts, SettledRequest};

/// The name under which those without counts of their own are counted together.
pub const OTHERS: &str = "(others)";
/// The name under which requests are counted whose model is not known.
pub const UNKNOWN: &str = "(unknown)";
/// How many reasons for refusals each of them tells apart; further ones are counted as [`OTHER_REASON`].
pub const MAX_REASONS: usize = 16;
/// The reason of refusals without a count of their own.
pub const OTHER_REASON: &str = "other";
/// Who is idle for so long is forgotten when there is no room.
const IDLE: Duration = Duration::from_secs(3600);
/// How often those are looked for at most.
const SWEEP: Duration = Duration::from_secs(60);
/// The most that the configuration may ask for: 1,000 of each take about a megabyte.
pub const MOST_TALLIES: u32 = 10_000;

/// The bounds of a histogram's buckets, in milliseconds, rising.
const FIRST_TOKEN: [u64; BOUNDS] = [25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];
const DURATION: [u64; BOUNDS] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];
const BOUNDS: usize = 11;

/// How many consumers, models and servers have counts of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TallyBounds {
    /// Consumers.
    pub consumers: usize,
    /// Models.
    pub models: usize,
    /// Servers.
    pub servers: usize,
}

impl Default for TallyBounds {
    fn default() -> Self {
        Self { consumers: 200, models: 100, servers: 100 }
    }
}

/// A few buckets of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeTally {
    limits: &'static [u64; BOUNDS],
    /// How many times are in each bucket; the last has those above all limits.
    buckets: [u64; BOUNDS + 1],
    sum: Duration,
}

impl TimeTally {
    fn new(limits: &'static [u64; BOUNDS]) -> Self {
        Self { limits, buckets: [0; BOUNDS + 1], sum: Duration::ZERO }
    }

    fn add(&mut self, time: Duration) {
        let millis = time.as_nanos().div_ceil(1_000_000);
        let place = self.limits.iter().position(|limit| millis <= u128::from(*limit)).unwrap_or(BOUNDS);
        self.buckets[place] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    /// The upper limit of each bucket and how many times are in it; the last bucket has no limit.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let limits = self.limits.iter().map(|limit| Some(Duration::from_millis(*limit)));
        limits.chain([None]).zip(self.buckets)
    }

    /// The number of times.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all times.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

/// Tokens that are known equally well, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenTally {
    /// Tokens of prompts, cached ones included.
    pub prompt: u64,
    /// Those of them of which a server has told that they were cached.
    pub cached: u64,
    /// Tokens of answers.
    pub completion: u64,
    /// What the requests cost, in units of 10⁻⁹ of the currency.
    pub cost: u64,
}

/// Corrections of tokens that were counted before. Counters only grow, so each direction has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CorrectionTally {
    /// Tokens that were used besides.
    pub more: u64,
    /// Tokens that were counted, and not used.
    pub less: u64,
}

/// What is counted for one consumer, model or server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were refused, by reason; at most [`MAX_REASONS`], and one for all others.
    pub refused: Vec<(&'static str, u64)>,
    /// The requests that have ended. The tokens in it are not counted here.
    pub ended: RequestCounts,
    /// Tokens by how well they are known, as in [`UsageKind::ALL`].
    pub tokens: [TokenTally; UsageKind::ALL.len()],
    /// What servers' counters have corrected since, in tokens of prompts and of answers.
    pub corrected: [CorrectionTally; 2],
    /// Times to first token.
    pub first_token: TimeTally,
    /// How long requests took.
    pub duration: TimeTally,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            allowed: 0,
            refused: Vec::new(),
            ended: RequestCounts::default(),
            tokens: Default::default(),
            corrected: Default::default(),
            first_token: TimeTally::new(&FIRST_TOKEN),
            duration: TimeTally::new(&DURATION),
        }
    }
}

/// Requests that were allowed since the last time, of one consumer to one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// How many.
    pub requests: u64,
    /// Their tokens, if nobody will tell what they really use.
    pub estimated: TokenTally,
}

impl Tally {
    fn allow(&mut self, allowed: &Allowed) {
        self.allowed += allowed.requests;
        self.use_tokens(UsageKind::Estimated, &allowed.estimated);
    }

    fn refuse(&mut self, code: &'static str, count: u64) {
        let is_known = self.refused.iter().any(|(known, _)| *known == code);
        let code = if is_known || self.refused.len() < MAX_REASONS { code } else { OTHER_REASON };
        match self.refused.iter_mut().find(|(known, _)| *known == code) {
            Some((_, sum)) => *sum += count,
            None => self.refused.push((code, count)),
        }
    }

    fn settle(&mut self, settled: &SettledRequest) {
        self.ended.add_request(settled);
        let used = TokenTally {
            prompt: settled.used.prompt,
            cached: settled.used.cached.unwrap_or(0),
            completion: settled.used.completion,
            cost: settled.cost,
        };
        self.use_tokens(settled.kind, &used);
        settled.time_to_first_token.into_iter().for_each(|time| self.first_token.add(time));
        settled.duration.into_iter().for_each(|time| self.duration.add(time));
    }

    fn correct(&mut self, tokens: [i64; 2]) {
        for (tally, tokens) in self.corrected.iter_mut().zip(tokens) {
            let sum = if tokens < 0 { &mut tally.less } else { &mut tally.more };
            *sum = sum.saturating_add(tokens.unsigned_abs());
        }
    }

    fn use_tokens(&mut self, kind: UsageKind, used: &TokenTally) {
        let of_kind = self.tokens.iter_mut().zip(UsageKind::ALL).filter(|(_, other)| *other == kind);
        for (sum, _) in of_kind {
            sum.prompt = sum.prompt.saturating_add(used.prompt);
            sum.cached = sum.cached.saturating_add(used.cached);
            sum.completion = sum.completion.saturating_add(used.completion);
            sum.cost = sum.cost.saturating_add(used.cost);
        }
    }

    /// The tokens by how well they are known.
    pub fn tokens(&self) -> impl Iterator<Item = (UsageKind, &TokenTally)> {
        UsageKind::ALL.into_iter().zip(&self.tokens)
    }
}

/// All consumers, models and servers.
#[derive(Debug, Clone)]
pub struct Tallies {
    /// By name.
    pub consumers: TalliesOf,
    /// By the model's own name.
    pub models: TalliesOf,
    /// By the server's id.
    pub servers: TalliesOf,
}

/// The consumers, the models or the servers.
#[derive(Debug, Clone, Default)]
pub struct TalliesOf {
    most: usize,
    known: HashMap<Arc<str>, (Tally, Option<Instant>)>,
    others: Tally,
    are_there_others: bool,
    swept: Option<Instant>,
}

impl Default for Tallies {
    fn default() -> Self {
        let mut tallies = Self {
            consumers: TalliesOf::default(),
            models: TalliesOf::default(),
            servers: TalliesOf::default(),
        };
        tallies.bound(TallyBounds::default());
        tallies
    }
}

impl Tallies {
    pub(crate) fn bound(&mut self, bounds: TallyBounds) {
        self.consumers.bound(bounds.consumers);
        self.models.bound(bounds.models);
        self.servers.bound(bounds.servers);
    }

    pub(crate) fn allow(&mut self, consumer: &str, model: &str, allowed: &Allowed, now: Instant) {
        self.consumers.of(consumer, now).allow(allowed);
        self.models.of(model, now).allow(allowed);
    }

    pub(crate) fn refuse(
        &mut self,
        consumer: &str,
        model: Option<&str>,
        code: &'static str,
        count: u64,
        now: Instant,
    ) {
        self.consumers.of(consumer, now).refuse(code, count);
        model.into_iter().for_each(|model| self.models.of(model, now).refuse(code, count));
    }

    pub(crate) fn correct(&mut self, consumer: &str, model: &str, tokens: [i64; 2], now: Instant) {
        self.consumers.of(consumer, now).correct(tokens);
        self.models.of(model, now).correct(tokens);
    }

    pub(crate) fn settle(&mut self, settled: &SettledRequest, now: Instant) {
        self.consumers.of(&settled.consumer, now).settle(settled);
        self.models.of(&settled.model, now).settle(settled);
        if let Some(server) = &settled.server {
            self.servers.of(&server.id, now).settle(settled);
        }
    }
}

impl TalliesOf {
    fn bound(&mut self, most: usize) {
        self.most = most;
        if self.known.len() > most {
            self.known.clear();
        }
    }

    fn of(&mut self, name: &str, now: Instant) -> &mut Tally {
        let name = if name.is_empty() { UNKNOWN } else { name };
        if !self.known.contains_key(name) && !self.has_room(now) {
            self.are_there_others = true;
            return &mut self.others;
        }
        let (tally, last) = self.known.entry(name.into()).or_default();
        *last = Some(now);
        tally
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP);
        if self.known.len() >= self.most && is_due {
            self.swept = Some(now);
            let is_busy =
                |last: &Option<Instant>| last.is_some_and(|last| now.saturating_duration_since(last) < IDLE);
            self.known.retain(|_, (_, last)| is_busy(last));
        }
        self.known.len() < self.most
    }

    /// How many may have counts of their own.
    pub fn most(&self) -> usize {
        self.most
    }

    /// All with their names, in no order; the last is [`OTHERS`], if there are any.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Tally)> {
        let known = self.known.iter().map(|(name, (tally, _))| (&**name, tally));
        known.chain(self.are_there_others.then_some((OTHERS, &self.others)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = "llama";

    fn allowed(requests: u64) -> Allowed {
        Allowed { requests, estimated: TokenTally { prompt: 2 * requests, ..TokenTally::default() } }
    }

    fn requests(tallies: &TalliesOf) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = tallies.all().map(|(name, tally)| (name, tally.allowed)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn those_without_room_are_counted_together_and_nothing_is_lost() {
        let (mut tallies, start) = (Tallies::default(), Instant::now());
        tallies.bound(TallyBounds { consumers: 2, models: 1, servers: 0 });
        for (round, consumer) in ["a", "b", "c", "a", "c", "d"].iter().enumerate() {
            let now = start + Duration::from_secs(round as u64);
            tallies.allow(consumer, LLAMA, &allowed(1), now);
        }
        assert_eq!(requests(&tallies.consumers), [(OTHERS, 3), ("a", 2), ("b", 1)]);
        assert_eq!(requests(&tallies.models), [(LLAMA, 6)]);
        // An hour later those that were idle make room, and what was counted with the others stays there.
        tallies.allow("c", LLAMA, &allowed(1), start + IDLE + Duration::from_secs(2));
        assert_eq!(requests(&tallies.consumers), [(OTHERS, 3), ("a", 2), ("c", 1)]);
        tallies.bound(TallyBounds { consumers: 1, ..TallyBounds::default() });
        assert_eq!(requests(&tallies.consumers), [(OTHERS, 3)], "they begin anew");
    }

    #[test]
    fn reasons_are_bounded_and_times_are_in_the_first_bucket_that_holds_them() {
        let (mut tallies, now) = (Tallies::default(), Instant::now());
        for code in 0..MAX_REASONS + 5 {
            let code: &'static str = format!("reason_{code}").leak();
            tallies.refuse("a", None, code, 2, now);
            tallies.refuse("a", Some(LLAMA), "reason_0", 1, now);
        }
        let (_, tally) = tallies.consumers.all().next().expect("a consumer");
        assert_eq!(tally.refused.len(), MAX_REASONS + 1);
        assert_eq!(tally.refused[0], ("reason_0", 2 + MAX_REASONS as u64 + 5));
        assert_eq!(tally.refused.last(), Some(&(OTHER_REASON, 10)));
        assert_eq!(tallies.models.all().count(), 1);

        let mut times = TimeTally::new(&FIRST_TOKEN);
        for micros in [0, 25_000, 25_001, 61_000_000] {
            times.add(Duration::from_micros(micros));
        }
        let filled: Vec<_> = times.buckets().filter(|(_, count)| *count > 0).collect();
        let limit = |millis| Some(Duration::from_millis(millis));
        assert_eq!(filled, [(limit(25), 2), (limit(50), 1), (None, 1)]);
        assert_eq!((times.count(), times.sum()), (4, Duration::from_micros(61_050_001)));
    }
}
