//! How requests to each model and to each server have gone over the last minutes: tokens, errors, time to first token.
//!
//! The owner of the ledger adds each settled request; `/auth` does not come here. Memory is bounded: at most
//! [`MAX_SUBJECTS`] models and as many servers, each with ten slots of half a minute. A slot keeps only those buckets of its
//! histogram that have something in them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use metering::{Ending, UsageKind};

use crate::{
    SettledRequest,
    histogram::{index, percentile},
};

/// How many models, and how many servers, are told apart. If there are more, those without recent requests are forgotten.
pub const MAX_SUBJECTS: usize = 1024;
/// The length of a slot.
const SLOT: Duration = Duration::from_secs(30);
/// How many slots are kept: five minutes, the current slot included.
const SLOTS: u64 = 10;

/// Counts of settled requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Requests that were answered.
    pub finished: u64,
    /// Requests that were answered with an error that blames the client (4xx), or with a redirect.
    pub refused: u64,
    /// Requests that were answered with another error, such as 502, or with none at all.
    pub failed: u64,
    /// Requests whose client went away, or whose answer broke off.
    pub aborted: u64,
    /// Requests about which nobody has told how they ended.
    pub unknown: u64,
    /// Of the finished ones, those whose tokens are exact.
    pub exact: u64,
    /// Of the finished ones, those whose tokens are measured.
    pub measured: u64,
    /// Tokens of prompts, exact and measured ones.
    pub prompt_tokens: u64,
    /// Tokens of answers, exact and measured ones.
    pub completion_tokens: u64,
}

/// How requests to a model or a server have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Performance {
    /// How long the last minutes are: at most five minutes, less after a start.
    pub span: Duration,
    /// The requests that were settled in the last minutes.
    pub recent: RequestCounts,
    /// All requests since the start, or since the model or server was forgotten because there were too many.
    pub total: RequestCounts,
    /// The median time to first token in the last minutes.
    pub first_token_p50: Option<Duration>,
    /// The time to first token that 95 of 100 requests did not exceed.
    pub first_token_p95: Option<Duration>,
}

impl Performance {
    /// A number of tokens of the last minutes as tokens per second.
    pub fn per_second(&self, tokens: u64) -> f64 {
        if self.span.is_zero() { 0.0 } else { tokens as f64 / self.span.as_secs_f64() }
    }
}

impl RequestCounts {
    pub(crate) fn add_request(&mut self, settled: &SettledRequest) {
        match (settled.ending, settled.status) {
            (Ending::Finished, _) => self.finished += 1,
            (Ending::Refused, Some(..500)) => self.refused += 1,
            (Ending::Refused, _) => self.failed += 1,
            (Ending::Aborted, _) => self.aborted += 1,
            (Ending::Unknown, _) => self.unknown += 1,
        }
        let is_finished = settled.ending == Ending::Finished;
        match settled.kind {
            UsageKind::Exact => self.exact += u64::from(is_finished),
            UsageKind::Measured => self.measured += u64::from(is_finished),
            // A reservation is mostly far more than what was used.
            UsageKind::Estimated => return,
        }
        self.prompt_tokens = self.prompt_tokens.saturating_add(settled.used.prompt);
        self.completion_tokens = self.completion_tokens.saturating_add(settled.used.completion);
    }

    fn add(&mut self, more: &Self) {
        let Self { finished, refused, failed, aborted, unknown, exact, measured, .. } = more;
        self.finished += finished;
        self.refused += refused;
        self.failed += failed;
        self.aborted += aborted;
        self.unknown += unknown;
        self.exact += exact;
        self.measured += measured;
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(more.completion_tokens);
    }

    /// Requests that were answered with an error.
    pub fn errors(&self) -> u64 {
        self.refused + self.failed
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.finished + self.errors() + self.aborted + self.unknown
    }
}

/// The models and servers.
#[derive(Debug, Default)]
pub(crate) struct Performances {
    start: Option<Instant>,
    pub(crate) models: Subjects,
    pub(crate) servers: Subjects,
    /// Whether Traefik has told about any request since the start.
    pub(crate) does_traefik_tell: bool,
}

/// What has been counted for each model, or for each server.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    known: HashMap<Arc<str>, Subject>,
    /// The slot in which subjects without recent requests were last looked for.
    swept: Option<u64>,
}

#[derive(Debug, Default)]
struct Subject {
    total: RequestCounts,
    /// Oldest first; slots without requests are left out.
    slots: VecDeque<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    number: u64,
    counts: RequestCounts,
    /// Times to first token: how many are in each bucket of the histogram.
    first_tokens: BTreeMap<usize, u64>,
}

impl Performances {
    pub(crate) fn add(&mut self, settled: &SettledRequest, now: Instant) {
        let slot = self.slot(now);
        self.does_traefik_tell |= settled.status.is_some();
        if !settled.model.is_empty() {
            self.models.add(&settled.model, settled, slot);
        }
        if let Some(server) = &settled.server {
            self.servers.add(&server.id, settled, slot);
        }
    }

    /// The number of the current slot. The first request begins slot 0.
    fn slot(&mut self, now: Instant) -> u64 {
        let start = *self.start.get_or_insert(now);
        slots_in(now.saturating_duration_since(start))
    }

    /// How one of the models, or of the servers, does.
    pub(crate) fn of(&self, subjects: &Subjects, name: &str, now: Instant) -> Option<Performance> {
        let subject = subjects.known.get(name)?;
        Some(subject.performance(now.saturating_duration_since(self.start?)))
    }

    /// How all of the models, or of the servers, do; by name.
    pub(crate) fn all(&self, subjects: &Subjects, now: Instant) -> BTreeMap<Arc<str>, Performance> {
        let Some(start) = self.start else { return BTreeMap::new() };
        let since = now.saturating_duration_since(start);
        let all = subjects.known.iter();
        all.map(|(name, subject)| (Arc::clone(name), subject.performance(since))).collect()
    }
}

impl Subjects {
    fn add(&mut self, name: &Arc<str>, settled: &SettledRequest, slot: u64) {
        if !self.known.contains_key(name) && !self.has_room(slot) {
            return;
        }
        self.known.entry(Arc::clone(name)).or_default().add(settled, slot);
    }

    fn has_room(&mut self, slot: u64) -> bool {
        if self.known.len() >= MAX_SUBJECTS && self.swept != Some(slot) {
            self.swept = Some(slot);
            let is_recent =
                |subject: &Subject| subject.slots.back().is_some_and(|last| last.number + SLOTS > slot);
            self.known.retain(|_, subject| is_recent(subject));
        }
        self.known.len() < MAX_SUBJECTS
    }
}

impl Subject {
    fn add(&mut self, settled: &SettledRequest, slot: u64) {
        self.total.add_request(settled);
        if self.slots.back().is_none_or(|last| last.number != slot) {
            self.slots.push_back(Slot { number: slot, ..Slot::default() });
        }
        while self.slots.front().is_some_and(|first| first.number + SLOTS <= slot) {
            self.slots.pop_front();
        }
        let Some(last) = self.slots.back_mut() else { return };
        last.counts.add_request(settled);
        if let Some(time) = settled.time_to_first_token {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            *last.first_tokens.entry(index(nanos)).or_default() += 1;
        }
    }

    fn performance(&self, since: Duration) -> Performance {
        let now = slots_in(since);
        let mut recent = RequestCounts::default();
        let mut first_tokens = BTreeMap::<usize, u64>::new();
        for slot in self.slots.iter().filter(|slot| slot.number + SLOTS > now) {
            recent.add(&slot.counts);
            for (bucket, count) in &slot.first_tokens {
                *first_tokens.entry(*bucket).or_default() += count;
            }
        }
        let at = |percent| {
            let buckets = first_tokens.iter().map(|(bucket, count)| (*bucket, *count));
            percentile(buckets, first_tokens.values().sum(), percent)
        };
        let before = SLOT * u32::try_from((now + 1).saturating_sub(SLOTS)).unwrap_or(u32::MAX);
        Performance {
            // Right after the first request the span would be near zero, and any rate enormous.
            span: since.saturating_sub(before).max(SLOT),
            recent,
            total: self.total,
            first_token_p50: at(50.0),
            first_token_p95: at(95.0),
        }
    }
}

fn slots_in(since: Duration) -> u64 {
    since.as_secs() / SLOT.as_secs()
}

#[cfg(test)]
mod tests;
