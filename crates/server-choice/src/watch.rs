//! Corrects what is believed of a server by what the server itself counts.

use std::time::Duration;

use crate::server::Server;

/// What a server says about itself. All sums are since its start. `None`: it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counters {
    /// Requests that wait: `vllm:num_requests_waiting`, `sglang:num_queue_reqs`, `llamacpp:requests_deferred`.
    pub waiting: Option<u32>,
    /// Requests that are being answered: `vllm:num_requests_running`, `sglang:num_running_reqs`, `llamacpp:requests_processing`.
    pub running: Option<u32>,
    /// Tokens of prompts that were read, without those from its cache: `vllm:prompt_tokens_total` less
    /// `vllm:prefix_cache_hits_total`, `llamacpp:prompt_tokens_total`.
    pub read_tokens: Option<f64>,
    /// The seconds that this took: `vllm:request_prefill_time_seconds_sum`, `llamacpp:prompt_seconds_total`.
    pub read_seconds: Option<f64>,
    /// Tokens that were looked for in its cache: `vllm:prefix_cache_queries_total`.
    pub asked_tokens: Option<f64>,
    /// Tokens that were found there: `vllm:prefix_cache_hits_total`.
    pub cached_tokens: Option<f64>,
    /// Seconds between tokens of answers, and their number: `vllm:inter_token_latency_seconds`.
    pub answer_seconds: Option<f64>,
    /// See `answer_seconds`.
    pub answer_tokens: Option<f64>,
    /// The size of its cache, in tokens: `vllm:cache_config_info`, `num_gpu_blocks` times `block_size`.
    pub cache_tokens: Option<f64>,
}

/// How many tokens must have been read before the speed is known: fewer say little.
const ENOUGH_TOKENS: f64 = 1_000.0;
/// The speed is that of about so many seconds in which the server had something to do; what was before counts less and less. Some
/// hundred prompts are in it, so that one long one does not make a server look slow.
const MEMORY: f64 = 300.0;
/// How busy a server is, is the mean of about so many seconds.
const MEMORY_OF_BUSY: f32 = 60.0;
/// How many tokens must have been asked for since the last comparison of the belief with the server's own figures.
const ENOUGH_ASKED: f64 = 200_000.0;
/// How much a new measurement counts against those before it.
const NEWEST: f32 = 0.3;

/// Hears the counters of one server, one after another. It is not shared; what it learns is in the [`Server`].
#[derive(Debug)]
pub struct Watch {
    last: Counters,
    heard_at: Option<Duration>,
    reading: ReadSpeed,
    /// The size of its cache as far as it is ours, in blocks.
    capacity: Option<u32>,
    block_tokens: f32,
    /// The size of its cache in blocks, once it has said so.
    told_blocks: Option<u32>,
    compared: Compared,
}

/// What was read, and how long it took; older work counts less.
#[derive(Debug, Default)]
struct ReadSpeed {
    tokens: f64,
    seconds: f64,
    /// The time in which the server had something to do.
    elapsed: f64,
}

impl ReadSpeed {
    fn forget(&mut self, share_kept: f64) {
        self.tokens *= share_kept;
        self.seconds *= share_kept;
        self.elapsed *= share_kept;
    }
}

/// The sums at the last comparison: asked and found, as counted by the server and as believed by us.
#[derive(Debug, Default)]
struct Compared {
    counted: Option<(f64, f64)>,
    believed: (u64, u64),
}

impl Watch {
    /// For a server whose prompts have so many tokens in a block.
    pub fn new(block_tokens: f32) -> Self {
        Self {
            last: Counters::default(),
            heard_at: None,
            reading: ReadSpeed::default(),
            capacity: None,
            block_tokens,
            told_blocks: None,
            compared: Compared::default(),
        }
    }

    /// The server's counters have been read at `now`; they were asked for at `asked`, and are from some moment between.
    pub fn heard(&mut self, server: &Server, counters: &Counters, asked: Duration, now: Duration) {
        if has_restarted(&self.last, counters) {
            server.forget();
            server.change_wait(now, |_| 0);
            self.last = Counters::default();
            self.reading = ReadSpeed::default();
            self.compared = Compared { counted: None, believed: server.believed() };
        }
        if let Some(running) = counters.running {
            server.told_busy(running, counters.waiting.unwrap_or(0), (asked, now));
        }
        if let Some((asked, found)) = counters.asked_tokens.zip(counters.cached_tokens) {
            server.told_cache(asked, found);
        }
        self.measure_speed(server, counters, now);
        if let Some(waiting) = counters.waiting {
            Self::correct_wait(server, waiting, now);
        }
        self.measure_seat(server, counters);
        self.learn_capacity(server, counters);
        self.last = *counters;
    }

    /// The server has said nothing for a while; to be called every ten seconds or so. If nobody tells when its requests end, half of what
    /// is believed to be under way is taken to have ended. Else half of what only the server itself has told of is.
    pub fn unheard(&mut self, server: &Server, are_ends_told: bool) {
        server.unheard(are_ends_told);
        // As much as those ten seconds are of a minute.
        server.set_busy(server.busy() * 0.85);
    }

    /// Servers count a prompt's tokens and the time in which it was read at different moments, vLLM the time only when the answer has
    /// ended. So sums over minutes are compared, not what two looks have between them.
    fn measure_speed(&mut self, server: &Server, counters: &Counters, now: Duration) {
        let past = now.saturating_sub(self.heard_at.replace(now).unwrap_or(now)).as_secs_f64();
        if counters.read_tokens.is_none() || counters.read_seconds.is_none() {
            return Self::measure_busy(server, 0.0, past as f32);
        }
        let tokens = difference(counters.read_tokens, self.last.read_tokens);
        let seconds = difference(counters.read_seconds, self.last.read_seconds);
        let has_work = tokens > 0.0 || counters.running.is_none_or(|running| running > 0);
        let elapsed = if has_work { past } else { 0.0 };
        let reading = &mut self.reading;
        reading.forget((-elapsed / MEMORY).exp());
        reading.tokens += tokens;
        reading.seconds += seconds;
        reading.elapsed += elapsed;
        if (tokens > 0.0 || seconds > 0.0) && reading.tokens >= ENOUGH_TOKENS {
            // Short prompts are read several at a time, and each counts the time of all.
            let seconds =
                if reading.elapsed > 0.0 { reading.seconds.min(reading.elapsed) } else { reading.seconds };
            let speed = (seconds / reading.tokens) as f32 / server.mean_weight();
            if speed > 0.0 {
                server.set_speed(speed, now);
            }
        }
        Self::measure_busy(server, tokens as f32, past as f32);
    }

    /// The seconds that these tokens took, of those that have passed.
    fn measure_busy(server: &Server, tokens: f32, past: f32) {
        if past <= 0.0 {
            return;
        }
        let Some(speed) = server.speed(Duration::ZERO) else { return };
        let share = tokens * server.mean_weight() * speed.seconds_per_token / past;
        if share.is_finite() {
            let kept = (-past / MEMORY_OF_BUSY).exp();
            server.set_busy((server.busy() * kept + share * (1.0 - kept)).clamp(0.0, 1.0));
        }
    }

    /// How long a step takes, in seconds: the time from one token of an answer to the next.
    fn step(&self, counters: &Counters) -> f64 {
        let tokens = difference(counters.answer_tokens, self.last.answer_tokens);
        if tokens > 0.0 {
            difference(counters.answer_seconds, self.last.answer_seconds) / tokens
        } else {
            0.0
        }
    }

    /// One more request under way makes the steps of a server longer by about its share of a step.
    fn measure_seat(&self, server: &Server, counters: &Counters) {
        let step = self.step(counters) as f32;
        if let (Some(running @ 1..), true) = (counters.running, step > 0.0) {
            server.set_seat(server.seat() + (step / running as f32 - server.seat()) * NEWEST);
        }
    }

    /// What waits is read one after another, in the order in which it came. So of what was sent, the latest `waiting` are still to
    /// be read as a whole, the one before them in part, and nothing else.
    fn correct_wait(server: &Server, waiting: u32, now: Duration) {
        let mut costs = server.recent_costs(now);
        let (mut queued, mut known) = (0, 0_u64);
        for cost in costs.by_ref().take(waiting as usize) {
            queued += cost;
            known += 1;
        }
        // Others send there, too. Their requests take as long as ours.
        let others = u64::from(waiting) - known;
        let latest = || server.recent_costs(now).next().unwrap_or(0);
        queued += others * queued.checked_div(known).unwrap_or_else(latest);
        let being_read = costs.next().unwrap_or(0);
        server.change_wait(now, |wait| wait.clamp(queued, queued + being_read));
    }

    /// The cache is as large as the server says. It holds less of what we send if others use it, too, and a server need not say
    /// anything: so where it finds less than we believe, we believe that it is smaller, and the other way round.
    fn learn_capacity(&mut self, server: &Server, counters: &Counters) {
        let most = server.belief().most();
        if let Some(tokens) = counters.cache_tokens {
            let blocks = (tokens as f32 / self.block_tokens) as u32;
            if self.told_blocks != Some(blocks) {
                self.told_blocks = Some(blocks);
                self.capacity = Some(blocks);
            }
        }
        let told = self.told_blocks.unwrap_or(most).min(most);
        let capacity = self.capacity.unwrap_or(told).min(told);
        let capacity = match self.compare(server, counters) {
            Some(CacheSize::Less) => (capacity - capacity / 10).max(told / 8),
            Some(CacheSize::More) => (capacity + capacity / 10 + 1).min(told),
            None => capacity,
        };
        self.capacity = Some(capacity);
        server.belief().set_capacity(capacity);
    }

    /// Compares what the server has found in its cache with what was believed to be there, every now and then.
    fn compare(&mut self, server: &Server, counters: &Counters) -> Option<CacheSize> {
        let counted = counters.asked_tokens.zip(counters.cached_tokens)?;
        let believed = server.believed();
        let before = self.compared.counted.unwrap_or(counted);
        let asked = counted.0 - before.0;
        let asked_by_us = (believed.0 - self.compared.believed.0) as f64;
        if self.compared.counted.is_some() && (asked < ENOUGH_ASKED || asked_by_us < ENOUGH_ASKED) {
            return None;
        }
        let found = (counted.1 - before.1) / asked.max(1.0);
        let expected = (believed.1 - self.compared.believed.1) as f64 / asked_by_us.max(1.0);
        let is_first = self.compared.counted.is_none();
        self.compared = Compared { counted: Some(counted), believed };
        // What chance explains is left alone: that requests were believed to be there that only wait, for example.
        if is_first {
            None
        } else if expected > 1.5 * found + 0.1 {
            Some(CacheSize::Less)
        } else {
            (found > expected + 0.05).then_some(CacheSize::More)
        }
    }
}

/// What a server finds in its cache, against what we believe.
enum CacheSize {
    Less,
    More,
}

/// A sum that has become smaller begins anew. Where tokens that were read are a difference of two sums, they may become fewer: what a
/// cache has is counted when a request is admitted, and its prompt only when it has been read.
fn has_restarted(before: &Counters, after: &Counters) -> bool {
    let sums = |counters: &Counters| {
        let read_tokens = counters.read_tokens.filter(|_| counters.cached_tokens.is_none());
        [
            read_tokens,
            counters.read_seconds,
            counters.asked_tokens,
            counters.cached_tokens,
            counters.answer_tokens,
        ]
    };
    sums(before)
        .iter()
        .zip(sums(after))
        .any(|(before, after)| before.zip(after).is_some_and(|(before, after)| after < before))
}

/// What was added to a sum; 0 if it was not known before.
fn difference(after: Option<f64>, before: Option<f64>) -> f64 {
    after.zip(before).map_or(0.0, |(after, before)| after - before)
}
