//! What is known of one server. All of it is atomics, so that any thread may read and write without waiting.

use std::{
    iter,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    adapters::{AdapterId, Adapters, ToldAdapters},
    belief::{Belief, Needed},
    estimate::Estimate,
    prompt::Prompt,
    under_way::{RequestCount, SentRequest, micros},
};

/// How many blocks a server's belief has if nothing else is known: some 2 million tokens.
pub const DEFAULT_BLOCKS: u32 = 16_384;

/// The place in a prompt at which a token costs twice as much as the first, because attention looks at all tokens before it. For
/// models whose layers are 4,096 to 16,384 wide, attention takes as many operations as all else after six times that width.
const DOUBLED_AT: f32 = 100_000.0;

/// What is remembered of the latest requests.
const RECENT: usize = 256;

/// Of how many of the latest requests the server is believed to hold what they need until they end.
const HELD: usize = 1_024;

/// For how long what a server has said of its requests counts.
const FRESH: Duration = Duration::from_secs(60);

/// How many requests more than it has told of are sent to a server between two looks at it, while others wait and nobody knows how
/// many it takes; or half as many again as it has told of.
const TRIED: u32 = 8;

/// For how long a server that has failed is avoided: the first time, and at most. Each time in a row it is twice as long.
const AVOIDED: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(32)];

/// After that it gets one request in this time: what becomes of one is told within a second or two.
const TRIED_EVERY: Duration = Duration::from_secs(2);

/// After so many of which nothing was told it is no longer taken to fail.
const TRIES: u32 = 3;

/// The default cost of each request under way to the next one, in seconds: a server's steps become longer with each.
const SEAT: f32 = 0.001;

/// What is known of a server: its cache, what it has to do, and its speed.
#[derive(Debug)]
pub struct Server {
    belief: Belief,
    /// When everything that was sent is read, in µs.
    busy_until: AtomicU64,
    /// All requests that were ever sent there, by anybody.
    arrived: AtomicU64,
    /// How long each of the latest of them takes to read, by its number modulo [`RECENT`]: in µs; and if that was a guess, because
    /// nobody knew the server's speed, in tokens (1 is the first of a prompt), else 0.
    costs: Box<[(AtomicU32, AtomicU32)]>,
    count: RequestCount,
    /// Requests of other choosers that are under way there.
    others: AtomicU32,
    /// The latest requests of whose end nothing is known, by their numbers modulo [`HELD`]: above [`Needed::BITS`] the number's lower bits,
    /// and below what it needs. 0: none.
    held: Box<[AtomicU64]>,
    adapters: Adapters,
    /// Seconds per token that is read (as `f32`), and when this was measured, in s.
    speed: AtomicU64,
    /// The share of the time in which it reads prompts (as `f32`).
    busy: AtomicU32,
    /// Tokens that were to be read, and the same by what they cost.
    read_tokens: AtomicU64,
    weighed_tokens: AtomicU64,
    /// What each request under way costs the next one, in seconds (as `f32`).
    seat: AtomicU32,
    /// What was sent here, by this chooser of servers and by others.
    own: AskedSums,
    by_others: AskedSums,
    /// How many of the requests that were sent here another server has answered.
    elsewhere: AtomicU64,
    /// How often in a row it was avoided because it had failed, and until when it is, in µs.
    failures: AtomicU32,
    /// How many requests it was tried with since.
    tries: AtomicU32,
    avoided_until: AtomicU64,
    /// When it was told last that it had failed, in µs.
    failed_at: AtomicU64,
    /// What it has said of its cache since its start: tokens that were looked for there, and tokens that were found (as `f64`).
    told_asked: AtomicU64,
    told_cached: AtomicU64,
    /// The most requests that are to be under way there, as the operator says; 0: nothing was said.
    most: AtomicU32,
    /// How many requests it was answering when others waited there; 0: none ever did.
    full_at: AtomicU32,
    /// How many were under way when it last said so.
    told: AtomicU32,
}

/// What a server was asked for.
#[derive(Debug, Default)]
struct AskedSums {
    requests: AtomicU64,
    /// Tokens of their prompts, and how many of them were believed to be in its cache.
    tokens: AtomicU64,
    believed_tokens: AtomicU64,
}

impl AskedSums {
    fn add(&self, prompt: &Prompt<'_>, expected: &Estimate) {
        self.requests.fetch_add(1, Relaxed);
        self.tokens.fetch_add(u64::from(prompt.tokens), Relaxed);
        self.believed_tokens.fetch_add(u64::from(expected.cached_tokens), Relaxed);
    }
}

/// What one chooser has sent to a server since it is known, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SentSums {
    /// Requests for which it was chosen.
    pub requests: u64,
    /// Those of them that another server has answered, as far as that was told.
    pub elsewhere: u64,
    /// Tokens of their prompts, as estimated.
    pub prompt_tokens: u64,
    /// Those that were expected to be in its cache.
    pub expected_cached_tokens: u64,
    /// What the server says itself, of all requests since its own start: tokens that were looked for in its cache, and those that
    /// were found. Zeros if it says nothing.
    pub told: (f64, f64),
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
            arrived: AtomicU64::new(0),
            costs: iter::repeat_with(Default::default).take(RECENT).collect(),
            count: RequestCount::new(),
            others: AtomicU32::new(0),
            held: iter::repeat_with(AtomicU64::default).take(HELD).collect(),
            adapters: Adapters::new(),
            speed: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            read_tokens: AtomicU64::new(0),
            weighed_tokens: AtomicU64::new(0),
            seat: AtomicU32::new(SEAT.to_bits()),
            own: AskedSums::default(),
            by_others: AskedSums::default(),
            elsewhere: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            tries: AtomicU32::new(0),
            avoided_until: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
            told_asked: AtomicU64::new(0),
            told_cached: AtomicU64::new(0),
            most: AtomicU32::new(0),
            full_at: AtomicU32::new(0),
            told: AtomicU32::new(0),
        }
    }

    /// What its cache is believed to have.
    pub fn belief(&self) -> &Belief {
        &self.belief
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let costs = self.costs.len() * 2 * size_of::<AtomicU32>();
        let held = self.held.len() * size_of::<AtomicU64>();
        size_of::<Self>() + self.belief.bytes() + costs + held + self.count.bytes() + self.adapters.bytes()
    }

    /// The time until everything that was sent is read.
    pub fn wait(&self, now: Duration) -> Duration {
        Duration::from_micros(self.busy_until.load(Relaxed).saturating_sub(micros(now)))
    }

    /// The number of requests that wait or are being answered there.
    pub fn under_way(&self) -> u32 {
        self.count.likely().saturating_add(self.others.load(Relaxed))
    }

    fn most_under_way(&self) -> u32 {
        self.count.most().saturating_add(self.others.load(Relaxed))
    }

    /// Sets how many requests may be under way there before it counts as full; `None`: what it says of itself decides.
    pub fn set_most(&self, requests: Option<u32>) {
        self.most.store(requests.unwrap_or(0), Relaxed);
    }

    /// How many more requests it can take before it is full; `None` if nobody knows, so it counts as not full.
    ///
    /// It is full when the stated maximum is under way ([`Self::set_most`]). Without one, it is full when about as many are under
    /// way as it was answering when others had to wait there, and an eighth more, at least one: so it always has the next one at
    /// hand, and shows whether it can do more by now. How many are under way must be known: the server has said it within the last
    /// minute, or the ends of requests are told.
    pub fn room(&self, now: Duration, are_ends_told: bool) -> Option<u32> {
        let is_fresh = self.is_fresh(now);
        if !is_fresh && !are_ends_told {
            return None;
        }
        let most = match (self.most.load(Relaxed), self.full_at.load(Relaxed)) {
            (0, 0) => return None,
            (0, _) if !is_fresh => return None,
            (0, full_at) => full_at.saturating_add((full_at / 8).max(1)),
            (most, _) => most,
        };
        Some(most.saturating_sub(self.most_under_way()))
    }

    /// How many requests that wait elsewhere may be sent there now. Unlike [`Self::room`] it is bounded also for a server that has
    /// not been full yet but tells how many are under way: a new one would get at once all that have waited for the others.
    pub fn room_for_waiting(&self, now: Duration, are_ends_told: bool) -> Option<u32> {
        self.room(now, are_ends_told).or_else(|| {
            let told = self.told.load(Relaxed);
            let most = told.saturating_add(TRIED.max(told / 2));
            self.is_fresh(now).then(|| most.saturating_sub(self.most_under_way()))
        })
    }

    fn is_fresh(&self, now: Duration) -> bool {
        let told_at = self.count.told_at();
        told_at > 0 && micros(now).saturating_sub(told_at) <= micros(FRESH)
    }

    /// A request was sent there, and this was expected of it. What is returned is to be kept until its end is told.
    pub fn sent(&self, prompt: &Prompt<'_>, expected: &Estimate, now: Duration) -> SentRequest {
        if self.failures.load(Relaxed) > 0 {
            self.is_tried(now);
        }
        self.own.add(prompt, expected);
        let request = self.count.send(now);
        let needed = self.is_to_read(prompt, expected, now);
        self.hold(request.number(), needed);
        request
    }

    /// Another chooser of servers has sent a request there, of which it has expected this. What is returned is to be told when the request
    /// has ended ([`Belief::ended`]). It counts in all that is known of the server, but not in [`Self::sums`], nor in what is under way:
    /// see [`Self::set_others`].
    pub fn sent_by_another(&self, prompt: &Prompt<'_>, expected: &Estimate, now: Duration) -> Needed {
        self.by_others.add(prompt, expected);
        self.is_to_read(prompt, expected, now)
    }

    fn is_to_read(&self, prompt: &Prompt<'_>, expected: &Estimate, now: Duration) -> Needed {
        let (takes, cost) = (micros(expected.read), cost(prompt, expected));
        let guessed = if self.speed.load(Relaxed) == 0 { cost as u32 } else { 0 };
        let (time, tokens) = &self.costs[self.arrived.fetch_add(1, Relaxed) as usize % RECENT];
        time.store(u32::try_from(takes).unwrap_or(u32::MAX), Relaxed);
        tokens.store(guessed, Relaxed);
        self.change_wait(now, |wait| wait + takes);
        let read = prompt.tokens - expected.cached_tokens.min(prompt.tokens);
        self.read_tokens.fetch_add(u64::from(read), Relaxed);
        self.weighed_tokens.fetch_add(cost as u64, Relaxed);
        prompt.adapter.iter().for_each(|adapter| self.adapters.used(*adapter, now));
        let answer = (prompt.answer_tokens as f32 / prompt.block_tokens).round() as u32;
        self.belief.used(prompt.blocks, answer.min(self.belief.capacity()))
    }

    /// Sets how many requests of other choosers are under way there, besides those that the server has told of.
    pub fn set_others(&self, requests: u32) {
        self.others.store(requests, Relaxed);
    }

    /// The number of requests under way there that this chooser has sent, as far as the server does not tell of all.
    pub fn own_under_way(&self, now: Duration) -> u32 {
        if self.is_fresh(now) { 0 } else { self.count.likely() }
    }

    /// What a request needs is held there until its end is known. One that was sent [`HELD`] before it is taken to have ended.
    fn hold(&self, number: u64, needed: Needed) {
        let held = number << Needed::BITS | needed.pack();
        self.let_go(self.held[number as usize % HELD].swap(held, Relaxed));
    }

    fn let_go(&self, held: u64) {
        if held != 0 {
            self.belief.ended(Needed::unpack(held & ((1 << Needed::BITS) - 1)));
        }
    }

    /// The end of a request is known, unless it was known before.
    fn has_ended(&self, request: SentRequest) {
        let held = &self.held[request.number() as usize % HELD];
        let known = held.load(Relaxed);
        let is_it = known != 0 && known >> Needed::BITS == request.number() << Needed::BITS >> Needed::BITS;
        if is_it && held.compare_exchange(known, 0, Relaxed, Relaxed).is_ok() {
            self.let_go(known);
        }
    }

    /// Only so many are under way there. The others have ended; most likely those that were sent first.
    fn hold_only(&self, under_way: u32) {
        let sent = self.count.sent();
        let latest =
            (sent.saturating_sub(HELD as u64)..sent).rev().map(|number| &self.held[number as usize % HELD]);
        let open = latest.filter(|held| held.load(Relaxed) != 0);
        // The oldest goes first, as that is the order in which the belief takes them to have ended.
        let ended: Vec<&AtomicU64> = open.skip(under_way as usize).collect();
        ended.into_iter().rev().for_each(|held| self.let_go(held.swap(0, Relaxed)));
    }

    /// The end of a request that was sent there was told. `lasted` is for how long at least it was worked on at this server, until its
    /// client had read the answer; zero if nobody knows, or if another server has answered it. To be told where the server itself
    /// says how many are under way, too: what that has left out already is not taken out again.
    pub fn finished(&self, request: SentRequest, lasted: Duration) {
        self.has_ended(request);
        self.count.finished(request, lasted);
    }

    /// Nobody has told the end of a request that was sent there, nor will.
    pub fn given_up(&self, request: SentRequest) {
        self.has_ended(request);
        self.count.given_up(request);
    }

    pub(crate) fn change_wait(&self, now: Duration, change: impl Fn(u64) -> u64) {
        let now = micros(now);
        let _ = self
            .busy_until
            .fetch_update(Relaxed, Relaxed, |until| Some(now + change(until.saturating_sub(now))));
    }

    /// No more is read there than what is under way. To be called every second or so for a server that says nothing of itself, if ends of
    /// requests are told: without its speed, what waits there is a guess, which nothing else corrects.
    pub fn correct_wait(&self, now: Duration) {
        let under_way = self.under_way() as usize;
        if under_way < RECENT && !self.is_fresh(now) {
            let most = self.recent_costs(now).take(under_way).sum();
            self.change_wait(now, |wait| wait.min(most));
        }
    }

    /// How long each of the latest requests takes to read, by what is known now, in µs, newest first.
    pub(crate) fn recent_costs(&self, now: Duration) -> impl Iterator<Item = u64> {
        let speed = self.speed(now).map_or(0.0, |own| own.seconds_per_token);
        let arrived = self.arrived.load(Relaxed);
        (arrived.saturating_sub(RECENT as u64)..arrived).rev().map(move |number| {
            let (time, tokens) = &self.costs[number as usize % RECENT];
            match (tokens.load(Relaxed), speed) {
                (0, _) | (_, 0.0) => u64::from(time.load(Relaxed)),
                (tokens, speed) => micros(seconds(tokens as f32 * speed)),
            }
        })
    }

    /// Nothing was heard of it for a while; `are_ends_told` says whether ends of requests are told.
    pub(crate) fn unheard(&self, are_ends_told: bool) {
        if are_ends_told { self.count.silent() } else { self.count.halve() }
    }

    /// The server has said how many it is answering, and how many wait, when it was asked at `asked`.
    pub(crate) fn told_busy(&self, running: u32, waiting: u32, (asked, now): (Duration, Duration)) {
        let told = running.saturating_add(waiting);
        if !self.count.told(told, asked, now) {
            return;
        }
        self.told.store(told, Relaxed);
        self.hold_only(self.count.most());
        let full_at = self.full_at.load(Relaxed);
        if waiting > 0 || full_at > 0 && running > full_at {
            self.full_at.store(running.max(1), Relaxed);
        }
    }

    /// It was started again.
    pub(crate) fn forget(&self) {
        self.belief.forget();
        self.full_at.store(0, Relaxed);
        self.adapters.forget();
        self.works_again();
    }

    /// Whether an adapter is believed to be loaded there; `None` if the server says nothing of adapters.
    pub fn has_adapter(&self, adapter: AdapterId) -> Option<bool> {
        self.adapters.is_loaded(adapter)
    }

    /// The server has said which adapters its requests are using.
    pub fn told_adapters(&self, told: &ToldAdapters, now: Duration) {
        self.adapters.told(told, now);
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

    /// The share of the last minute or so in which it was reading prompts, 0 to 1; 0 if it does not say how fast it reads.
    pub(crate) fn busy(&self) -> f32 {
        f32::from_bits(self.busy.load(Relaxed))
    }

    pub(crate) fn set_busy(&self, share: f32) {
        self.busy.store(share.to_bits(), Relaxed);
    }

    /// How much more the tokens that were sent here have cost than the first ones of a prompt do.
    pub(crate) fn mean_weight(&self) -> f32 {
        let read = self.read_tokens.load(Relaxed);
        if read == 0 { 1.0 } else { self.weighed_tokens.load(Relaxed) as f32 / read as f32 }
    }

    /// How many requests wait there, if they are like those that were sent so far, and this is the price of a token.
    pub(crate) fn queue_length(&self, seconds_per_token: f32, now: Duration) -> f32 {
        let arrived = self.arrived.load(Relaxed).max(1);
        let mean_weighed = self.weighed_tokens.load(Relaxed) as f32 / arrived as f32;
        self.wait(now).as_secs_f32() / (mean_weighed * seconds_per_token).max(0.001)
    }

    pub(crate) fn seat(&self) -> f32 {
        f32::from_bits(self.seat.load(Relaxed))
    }

    pub(crate) fn set_seat(&self, seconds: f32) {
        self.seat.store(seconds.to_bits(), Relaxed);
    }

    /// What was sent there so far, and what became of it.
    pub fn sums(&self) -> SentSums {
        let told = |bits: &AtomicU64| f64::from_bits(bits.load(Relaxed));
        SentSums {
            requests: self.own.requests.load(Relaxed),
            elsewhere: self.elsewhere.load(Relaxed),
            prompt_tokens: self.own.tokens.load(Relaxed),
            expected_cached_tokens: self.own.believed_tokens.load(Relaxed),
            told: (told(&self.told_asked), told(&self.told_cached)),
        }
    }

    /// Another server has answered a request that was sent there.
    pub fn answered_elsewhere(&self) {
        self.elsewhere.fetch_add(1, Relaxed);
    }

    /// It could not answer a request that was sent at `sent`. A server that fails does so at once, and so looks idle: it is avoided for a
    /// while, and then gets one request after another, until it has answered one. Returns whether this was news: not if the request was
    /// sent before it was told that it fails.
    pub fn failed(&self, sent: Duration, now: Duration) -> bool {
        if micros(sent) < self.failed_at.load(Relaxed) {
            return false;
        }
        self.failed_at.store(micros(now).max(1), Relaxed);
        self.tries.store(0, Relaxed);
        let before = self.failures.fetch_add(1, Relaxed);
        let [first, most] = AVOIDED;
        let pause = first.saturating_mul(1 << before.min(16)).min(most);
        self.avoided_until.store(micros(now + pause), Relaxed);
        true
    }

    /// It gets a request although it has failed.
    fn is_tried(&self, now: Duration) {
        if self.tries.fetch_add(1, Relaxed) < TRIES {
            self.avoided_until.fetch_max(micros(now + TRIED_EVERY), Relaxed);
        } else {
            self.works_again();
        }
    }

    /// It has answered a request that was sent at `sent`. One that was sent before it failed says nothing.
    pub fn answered(&self, sent: Duration) {
        if self.failures.load(Relaxed) > 0 && micros(sent) >= self.failed_at.load(Relaxed) {
            self.works_again();
        }
    }

    fn works_again(&self) {
        self.failures.store(0, Relaxed);
        self.tries.store(0, Relaxed);
        self.avoided_until.store(0, Relaxed);
    }

    /// Whether another server is to be chosen, if there is one, because this one has failed ([`Self::failed`]).
    pub fn is_avoided(&self, now: Duration) -> bool {
        self.avoided_until.load(Relaxed) > micros(now)
    }

    /// The server has said how many tokens were looked for in its cache, and how many were found, since its start.
    pub(crate) fn told_cache(&self, asked: f64, found: f64) {
        self.told_asked.store(asked.to_bits(), Relaxed);
        self.told_cached.store(found.to_bits(), Relaxed);
    }

    /// Tokens of prompts that were sent here by anybody, and how many of them were believed to be in its cache.
    pub fn believed(&self) -> (u64, u64) {
        let sum = |of: fn(&AskedSums) -> &AtomicU64| {
            of(&self.own).load(Relaxed) + of(&self.by_others).load(Relaxed)
        };
        (sum(|asked| &asked.tokens), sum(|asked| &asked.believed_tokens))
    }
}

/// What is to be read of a prompt, by what it costs.
fn cost(prompt: &Prompt<'_>, expected: &Estimate) -> f32 {
    weighed(expected.cached_tokens, prompt.tokens - expected.cached_tokens.min(prompt.tokens))
}

/// At most an hour, whatever was measured.
pub(crate) fn seconds(seconds: f32) -> Duration {
    Duration::from_secs_f32(if seconds.is_finite() { seconds.clamp(0.0, 3600.0) } else { 3600.0 })
}

/// So many tokens, of which there are `done` before the first, by what they cost: 1 is the first of a prompt.
pub(crate) fn weighed(done: u32, tokens: u32) -> f32 {
    let (done, tokens) = (done as f32, tokens as f32);
    tokens * (1.0 + (done + tokens / 2.0) / DOUBLED_AT)
}
