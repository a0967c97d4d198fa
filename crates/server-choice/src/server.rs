//! What is known of one server. All of it is atomics, so that any thread may read and write without waiting.

use std::{
    iter,
    sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{belief::Belief, estimate::Estimate, prompt::Prompt};

/// How many blocks a server's belief has if nothing else is known: some 2 million tokens.
pub const DEFAULT_BLOCKS: u32 = 16_384;

/// The place in a prompt at which a token costs twice as much as the first, because attention looks at all tokens before it. For
/// models whose layers are 4,096 to 16,384 wide, attention takes as many operations as all else after six times that width.
const DOUBLED_AT: f32 = 100_000.0;

/// What is remembered of the latest requests.
const RECENT: usize = 256;

/// The default cost of each request under way to the next one, in seconds: a server's steps become longer with each.
const SEAT: f32 = 0.001;

/// What is known of a server: its cache, what it has to do, and its speed.
#[derive(Debug)]
pub struct Server {
    belief: Belief,
    /// When everything that was sent is read, in µs.
    busy_until: AtomicU64,
    /// How long each of the latest requests takes to read, in µs, by its number modulo [`RECENT`].
    costs: Box<[AtomicU32]>,
    sent: AtomicU64,
    finished: AtomicU64,
    /// What to add to `sent - finished` to have the number under way.
    known_besides: AtomicI64,
    /// Seconds per token that is read (as `f32`), and when this was measured, in s.
    speed: AtomicU64,
    /// Tokens that were to be read, and the same by what they cost.
    read_tokens: AtomicU64,
    weighed_tokens: AtomicU64,
    /// What each request under way costs the next one, in seconds (as `f32`).
    seat: AtomicU32,
    /// Tokens of prompts that were sent here, and how many of them were believed to be in its cache.
    asked_tokens: AtomicU64,
    believed_tokens: AtomicU64,
}

/// A speed, and how old its measurement is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    pub(crate) seconds_per_token: f32,
    pub(crate) age: Duration,
}

impl Server {
    /// A server of which nothing is known, and whose cache has at most `blocks` blocks of a prompt.
    pub fn new(blocks: u32) -> Self {
        Self {
            belief: Belief::new(blocks),
            busy_until: AtomicU64::new(0),
            costs: iter::repeat_with(AtomicU32::default).take(RECENT).collect(),
            sent: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            known_besides: AtomicI64::new(0),
            speed: AtomicU64::new(0),
            read_tokens: AtomicU64::new(0),
            weighed_tokens: AtomicU64::new(0),
            seat: AtomicU32::new(SEAT.to_bits()),
            asked_tokens: AtomicU64::new(0),
            believed_tokens: AtomicU64::new(0),
        }
    }

    /// What its cache is believed to have.
    pub fn belief(&self) -> &Belief {
        &self.belief
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.belief.bytes() + self.costs.len() * size_of::<AtomicU32>()
    }

    /// The time until everything that was sent is read.
    pub fn wait(&self, now: Duration) -> Duration {
        Duration::from_micros(self.busy_until.load(Relaxed).saturating_sub(micros(now)))
    }

    /// The number of requests that wait or are being answered there.
    pub fn under_way(&self) -> u32 {
        let own = self.sent.load(Relaxed) as i64 - self.finished.load(Relaxed) as i64;
        (own + self.known_besides.load(Relaxed)).clamp(0, i64::from(u32::MAX)) as u32
    }

    /// A request was sent there, and this was expected of it.
    pub fn sent(&self, prompt: &Prompt<'_>, expected: &Estimate, now: Duration) {
        let cost = micros(expected.read);
        let number = self.sent.fetch_add(1, Relaxed);
        self.costs[number as usize % RECENT].store(cost.min(u64::from(u32::MAX)) as u32, Relaxed);
        self.change_wait(now, |wait| wait + cost);
        let read = prompt.tokens - expected.cached_tokens.min(prompt.tokens);
        self.read_tokens.fetch_add(u64::from(read), Relaxed);
        self.weighed_tokens.fetch_add(weighed(expected.cached_tokens, read) as u64, Relaxed);
        self.asked_tokens.fetch_add(u64::from(prompt.tokens), Relaxed);
        self.believed_tokens.fetch_add(u64::from(expected.cached_tokens), Relaxed);
        self.belief.used(prompt.blocks, (prompt.answer_tokens as f32 / prompt.block_tokens).round() as u32);
    }

    /// A request that was sent there has ended. To be told where the server does not say itself how many are under way; where it
    /// does, it does no harm.
    pub fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    pub(crate) fn change_wait(&self, now: Duration, change: impl Fn(u64) -> u64) {
        let now = micros(now);
        let _ = self
            .busy_until
            .fetch_update(Relaxed, Relaxed, |until| Some(now + change(until.saturating_sub(now))));
    }

    /// How long each of the latest requests takes to read, in µs, newest first.
    pub(crate) fn recent_costs(&self) -> impl Iterator<Item = u64> {
        let sent = self.sent.load(Relaxed);
        (sent.saturating_sub(RECENT as u64)..sent)
            .rev()
            .map(|number| u64::from(self.costs[number as usize % RECENT].load(Relaxed)))
    }

    pub(crate) fn set_under_way(&self, requests: u32) {
        let own = self.sent.load(Relaxed) as i64 - self.finished.load(Relaxed) as i64;
        self.known_besides.store(i64::from(requests) - own, Relaxed);
    }

    pub(crate) fn speed(&self, now: Duration) -> Option<Speed> {
        let speed = self.speed.load(Relaxed);
        let measured = Duration::from_secs(speed & 0xffff_ffff);
        let seconds_per_token = f32::from_bits((speed >> 32) as u32);
        (speed != 0).then(|| Speed { seconds_per_token, age: now.saturating_sub(measured) })
    }

    pub(crate) fn set_speed(&self, seconds_per_token: f32, now: Duration) {
        self.speed.store(u64::from(seconds_per_token.to_bits()) << 32 | now.as_secs(), Relaxed);
    }

    /// How much more the tokens that were sent here have cost than the first ones of a prompt do.
    pub(crate) fn mean_weight(&self) -> f32 {
        let read = self.read_tokens.load(Relaxed);
        if read == 0 { 1.0 } else { self.weighed_tokens.load(Relaxed) as f32 / read as f32 }
    }

    /// How many requests wait there, if they are like those that were sent so far, and this is the price of a token.
    pub(crate) fn queue_length(&self, seconds_per_token: f32, now: Duration) -> f32 {
        let mean_weighed = self.weighed_tokens.load(Relaxed) as f32 / self.sent.load(Relaxed).max(1) as f32;
        self.wait(now).as_secs_f32() / (mean_weighed * seconds_per_token).max(0.001)
    }

    pub(crate) fn seat(&self) -> f32 {
        f32::from_bits(self.seat.load(Relaxed))
    }

    pub(crate) fn set_seat(&self, seconds: f32) {
        self.seat.store(seconds.to_bits(), Relaxed);
    }

    /// Tokens of prompts that were sent here, and how many of them were believed to be in its cache.
    pub fn believed(&self) -> (u64, u64) {
        (self.asked_tokens.load(Relaxed), self.believed_tokens.load(Relaxed))
    }
}

/// So many tokens, of which there are `done` before the first, by what they cost: 1 is the first of a prompt.
pub(crate) fn weighed(done: u32, tokens: u32) -> f32 {
    let (done, tokens) = (done as f32, tokens as f32);
    tokens * (1.0 + (done + tokens / 2.0) / DOUBLED_AT)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
