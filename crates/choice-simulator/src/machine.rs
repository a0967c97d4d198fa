//! An inference server with continuous batching and chunked prefill, as vLLM works: one step after another, in each of which every
//! answer under way gets one token, and what is left of the step's tokens goes to prompts, first come, first served.
//!
//! Left out: pre-emption. A request is admitted only when there is memory for all of its answer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

use server_choice::Counters;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{cache::PrefixCache, load::SimulatedRequest};

/// Tokens of a step, and answers under way at a time (vLLM: `max_num_batched_tokens`, `max_num_seqs`).
const STEP_TOKENS: u32 = 2_048;
const SEATS: usize = 256;

/// In seconds: a step; each token of a prompt in it; each token of a prompt for each token before it; each answer under way; each
/// token that such an answer has before it. Chosen for a model of 70 billion parameters on eight GPUs: 10,000 tokens of a prompt a
/// second, 50 steps a second.
const STEP: f64 = 0.015;
const TOKEN: f64 = 1.0 / 11_000.0;
const CONTEXT: f64 = TOKEN / 100_000.0;
const ANSWER: f64 = 0.000_15;
const ANSWER_CONTEXT: f64 = 2e-8;

/// One server.
#[derive(Debug)]
pub struct Machine {
    /// Its memory.
    pub cache: PrefixCache,
    block_tokens: u32,
    queue: VecDeque<Waiting>,
    /// The seconds that reading all of the queue takes.
    queued_seconds: f64,
    reading: Option<Prefill>,
    /// By the number of the step in which they end.
    answers: BinaryHeap<Reverse<(u64, usize)>>,
    /// The seconds that reading took, for each request that is being answered.
    prefill_seconds: HashMap<usize, f64>,
    /// The tokens that all answers under way have before them.
    context: f64,
    steps: u64,
    now: Option<Steps>,
    counters: Totals,
    /// In seconds.
    full: f64,
}

#[derive(Debug)]
struct Waiting {
    request: usize,
    seconds: f64,
}

/// A prompt that is being read.
#[derive(Debug)]
struct Prefill {
    request: usize,
    since: f64,
    done: u32,
    left: u32,
}

/// Steps that are all alike: one, or as many as nothing happens in.
#[derive(Debug)]
struct Steps {
    begun: f64,
    each: f64,
    count: u64,
    /// The share of what it could do in such a step: of the tokens to read, of the seats, or of the memory, whichever is the
    /// greatest. It is 1 when requests wait.
    fullness: f64,
    /// Requests whose prompts are read at the end, with the time since when.
    read: Vec<(usize, f64)>,
}

#[derive(Debug, Default)]
struct Totals {
    prompt_tokens: f64,
    read_seconds: f64,
    asked_tokens: f64,
    cached_tokens: f64,
    answer_seconds: f64,
    answer_tokens: f64,
}

/// What has happened by the end of a step.
#[derive(Debug, Default)]
pub struct Happened {
    /// Requests whose first token is there.
    pub first: Vec<usize>,
    /// Requests that are answered.
    pub ended: Vec<usize>,
}

/// The seconds that reading a part of a prompt takes on an otherwise idle server.
fn reading_seconds(done: u32, tokens: u32) -> f64 {
    let (done, tokens) = (f64::from(done), f64::from(tokens));
    TOKEN * tokens + CONTEXT * tokens * (done + tokens / 2.0)
}

impl Machine {
    /// A server with memory for so many tokens.
    pub fn new(cache_tokens: usize, block_tokens: u32) -> Self {
        Self {
            cache: PrefixCache::new(cache_tokens / block_tokens as usize),
            block_tokens,
            queue: VecDeque::new(),
            queued_seconds: 0.0,
            reading: None,
            answers: BinaryHeap::new(),
            prefill_seconds: HashMap::new(),
            context: 0.0,
            steps: 0,
            now: None,
            counters: Totals::default(),
            full: 0.0,
        }
    }

    /// A request arrives. Where steps that are all alike are under way, only the one that has begun is finished.
    pub fn ask(&mut self, request: usize, asked: &SimulatedRequest, now: f64) {
        let seconds = self.seconds_for(asked);
        self.queued_seconds += seconds;
        self.cache.promise(&asked.blocks);
        self.queue.push_back(Waiting { request, seconds });
        if let Some(steps) = &mut self.now {
            let begun = ((now - steps.begun) / steps.each).floor() as u64 + 1;
            steps.count = steps.count.min(begun);
        }
    }

    /// How long it reads this prompt, of which it need not read what is in its memory, or will be by then.
    pub fn seconds_for(&self, asked: &SimulatedRequest) -> f64 {
        let cached = self.cache.promised(&asked.blocks) as u32 * self.block_tokens;
        self.with_steps(cached, asked.prompt_tokens.saturating_sub(cached).max(1))
    }

    /// How long it reads until it can begin with a new request.
    pub fn backlog(&self) -> f64 {
        let reading =
            self.reading.as_ref().map_or(0.0, |reading| self.with_steps(reading.done, reading.left));
        self.queued_seconds + reading
    }

    fn with_steps(&self, done: u32, tokens: u32) -> f64 {
        reading_seconds(done, tokens) + f64::from(tokens) / f64::from(STEP_TOKENS) * self.bare_step()
    }

    /// A step in which no prompt is read.
    pub fn bare_step(&self) -> f64 {
        STEP + ANSWER * self.answers.len() as f64 + ANSWER_CONTEXT * self.context
    }

    /// When the steps that are under way end.
    pub fn ends(&self) -> Option<f64> {
        self.now.as_ref().map(|steps| steps.begun + steps.each * steps.count as f64)
    }

    /// Requests that wait, and requests under way.
    pub fn load(&self) -> (u32, u32) {
        let read = self.now.as_ref().map_or(0, |steps| steps.read.len());
        let running = self.answers.len() + read + usize::from(self.reading.is_some());
        (self.queue.len() as u32, running as u32)
    }

    /// What its `/metrics` says. As in vLLM, a prompt counts when its first token is there, the time in which it was read when its
    /// answer has ended, and what was in the cache when it is admitted.
    pub fn counters(&self, cache_tokens: f64) -> Counters {
        let (waiting, running) = self.load();
        Counters {
            waiting: Some(waiting),
            running: Some(running),
            read_tokens: Some(self.counters.prompt_tokens - self.counters.cached_tokens),
            read_seconds: Some(self.counters.read_seconds),
            asked_tokens: Some(self.counters.asked_tokens),
            cached_tokens: Some(self.counters.cached_tokens),
            answer_seconds: Some(self.counters.answer_seconds),
            answer_tokens: Some(self.counters.answer_tokens),
            cache_tokens: Some(cache_tokens),
        }
    }

    /// Tokens that were asked for, and tokens that were in its memory.
    pub fn hits(&self) -> (f64, f64) {
        (self.counters.asked_tokens, self.counters.cached_tokens)
    }

    /// The seconds in which it did all that it can; others count in part.
    pub fn full(&self) -> f64 {
        self.full
    }

    /// Begins the next step, if there is anything to do.
    pub fn begin(&mut self, load: &[SimulatedRequest], now: f64) {
        let mut left = STEP_TOKENS.saturating_sub(self.answers.len() as u32);
        let mut seconds = 0.0;
        let mut tokens = 0;
        let mut read = Vec::new();
        while left > 0 && (self.reading.is_some() || self.admit(load, now, read.len())) {
            let Some(reading) = &mut self.reading else { break };
            let part = reading.left.min(left);
            seconds += reading_seconds(reading.done, part);
            reading.done += part;
            reading.left -= part;
            left -= part;
            tokens += part;
            if reading.left == 0 {
                read.push((reading.request, reading.since));
                self.reading = None;
            }
        }
        if tokens == 0 && self.answers.is_empty() {
            return;
        }
        let bare = self.bare_step();
        // Without a prompt, nothing changes until an answer ends.
        let next_end = self.answers.peek().map_or(1, |Reverse((step, _))| step - self.steps);
        let count = if tokens == 0 { next_end.max(1) } else { 1 };
        let most = STEP_TOKENS.saturating_sub(self.answers.len() as u32).max(1);
        let reading = f64::from(tokens) / f64::from(most);
        let seats = (self.answers.len() + read.len()) as f64 / SEATS as f64;
        let fullness =
            if self.queue.is_empty() { reading.max(seats).max(self.cache.used_share()) } else { 1.0 };
        self.now = Some(Steps { begun: now, each: seconds + bare, count, fullness, read });
    }

    /// Takes the next request from the queue, if there are a seat and memory for it. `seated` more have been read in this step.
    fn admit(&mut self, load: &[SimulatedRequest], now: f64, seated: usize) -> bool {
        if self.answers.len() + seated >= SEATS {
            return false;
        }
        let Some(first) = self.queue.front() else { return false };
        let (request, seconds) = (first.request, first.seconds);
        let asked = &load[request];
        let Some(cached) = self.cache.take(&asked.blocks, self.private(asked)) else { return false };
        self.queue.pop_front();
        self.queued_seconds = if self.queue.is_empty() { 0.0 } else { self.queued_seconds - seconds };
        let cached = (cached as u32 * self.block_tokens).min(asked.prompt_tokens - 1);
        self.counters.asked_tokens += f64::from(asked.prompt_tokens);
        self.counters.cached_tokens += f64::from(cached);
        self.reading =
            Some(Prefill { request, since: now, done: cached, left: asked.prompt_tokens - cached });
        true
    }

    /// The blocks that a request needs besides those that others can use.
    fn private(&self, asked: &SimulatedRequest) -> usize {
        let all = (asked.prompt_tokens + asked.answer_tokens).div_ceil(self.block_tokens) as usize;
        all.saturating_sub(asked.blocks.len())
    }

    /// The whole blocks that an answer leaves. Where it is not known who uses them again, nobody does, but they take room.
    fn left_by(&self, request: usize, asked: &SimulatedRequest) -> Vec<u64> {
        if !asked.answer_blocks.is_empty() {
            return asked.answer_blocks.clone();
        }
        let whole = ((asked.prompt_tokens + asked.answer_tokens) / self.block_tokens) as usize;
        let unknown = |place: usize| xxh3_64_with_seed(&(request as u64).to_le_bytes(), !(place as u64));
        (asked.blocks.len()..whole).map(unknown).collect()
    }

    /// Ends the step that is under way.
    pub fn end(&mut self, load: &[SimulatedRequest], now: f64) -> Happened {
        let mut happened = Happened::default();
        let Some(steps) = self.now.take() else { return happened };
        let answering = self.answers.len() as f64;
        self.steps += steps.count;
        self.full += steps.fullness * steps.each * steps.count as f64;
        self.context += answering * steps.count as f64;
        self.counters.answer_tokens += answering * steps.count as f64;
        self.counters.answer_seconds += answering * steps.each * steps.count as f64;
        for (request, since) in steps.read {
            let asked = &load[request];
            self.counters.prompt_tokens += f64::from(asked.prompt_tokens);
            self.prefill_seconds.insert(request, now - since);
            self.context += f64::from(asked.prompt_tokens);
            self.answers.push(Reverse((self.steps + u64::from(asked.answer_tokens) - 1, request)));
            happened.first.push(request);
        }
        while let Some(Reverse((_, request))) =
            self.answers.peek().filter(|first| first.0.0 <= self.steps).copied()
        {
            self.answers.pop();
            self.counters.read_seconds += self.prefill_seconds.remove(&request).unwrap_or(0.0);
            let asked = &load[request];
            self.context -= f64::from(asked.prompt_tokens + asked.answer_tokens - 1);
            self.cache.release(&asked.blocks, self.private(asked), &self.left_by(request, asked));
            happened.ended.push(request);
        }
        happened
    }
}
