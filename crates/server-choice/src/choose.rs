//! The choice itself.

use std::time::Duration;

use crate::{
    belief::Belief,
    estimate::Estimate,
    prompt::Prompt,
    server::{Server, Speed, seconds, weighed},
};

/// The speed that is assumed while no server of the pool has been measured, in seconds per token.
const UNMEASURED: f32 = 1.0 / 5_000.0;

/// Longer queues count as this many requests.
const LONGEST_QUEUE: f32 = 64.0;

/// A pool that reads for more of the time counts as one that reads for this share of it.
const BUSIEST: f32 = 0.75;

/// Servers of a pool are mostly alike, and measured speeds differ by chance. So a server counts as the pool's mean as long as it is
/// at most so many times slower or faster.
const ALIKE: f32 = 4.0;

/// After this time a measured speed counts half, and the best of the pool the other half. So a server that was slow once is tried
/// again.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// How long a server takes to load an adapter that it does not have. No server tells how long that is: from main memory it is less,
/// from a disk more. It is short, so that a clearly shorter queue is preferred.
const ADAPTER_LOADS: Duration = Duration::from_millis(200);

/// The server that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the list.
    pub place: usize,
    /// Why.
    pub estimate: Estimate,
}

/// Chooses the server from which the first token is expected soonest, where the seconds of reading count more than once: those who
/// come after wait for them as well. A server that is avoided ([`Server::failed`]) is chosen only if all are. Of equals, the one with less
/// under way; of these, the first from `turn` on (any number, best a random one). `None` only without servers.
///
/// Nothing is changed: tell the chosen one with [`Server::sent`].
pub fn choose<'s, I>(servers: I, prompt: &Prompt<'_>, now: Duration, turn: usize) -> Option<Choice>
where
    I: IntoIterator<Item = &'s Server> + Clone,
    I::IntoIter: ExactSizeIterator + Clone,
{
    let pool = Speeds::of(servers.clone().into_iter(), now);
    let weight = weight_of_reading(servers.clone(), &pool, now);
    let servers = servers.into_iter();
    let count = servers.len();
    let first = turn.checked_rem(count)?;
    let cached = Belief::cached_at_each(servers.clone().map(Server::belief), prompt.blocks);
    let order = |(is_avoided, choice): &(bool, Choice)| {
        let Estimate { wait, load, read, steps, .. } = choice.estimate;
        (
            *is_avoided,
            wait + load + steps + read.mul_f32(weight),
            choice.estimate.under_way,
            (choice.place + count - first) % count,
        )
    };
    servers
        .zip(cached)
        .zip(&pool.own)
        .enumerate()
        .map(|(place, ((server, cached), own))| {
            let estimate = expected(server, prompt, now, (cached, pool.of_server(*own)));
            (server.is_avoided(now), Choice { place, estimate })
        })
        .min_by_key(order)
        .map(|(_, choice)| choice)
}

/// How often a second of reading counts: once for the request itself, and once for each one that it delays. These are the requests
/// in the shortest queue, since whoever comes next goes there, so it is only this queue that a pool cannot avoid; and those
/// that come while it is read. Both make the time longer for which there is a queue, by the factor `1 / (1 - busy)` of a queue with
/// one server and random arrivals: <https://en.wikipedia.org/wiki/M/G/1_queue#Busy_period>.
///
/// So in a pool that has little to do a request goes to whoever answers it first, and in a busy one it waits longer for the server
/// that need not read all of it anew, up to four times the seconds that this saves while some server has no queue.
fn weight_of_reading<'s, I>(servers: I, pool: &Speeds, now: Duration) -> f32
where
    I: IntoIterator<Item = &'s Server> + Clone,
    I::IntoIter: ExactSizeIterator,
{
    let queues = servers.clone().into_iter().map(|server| server.queue_length(pool.mean, now));
    let queue = queues.fold(LONGEST_QUEUE, f32::min);
    let servers = servers.into_iter();
    let count = servers.len().max(1) as f32;
    let busy = (servers.map(Server::busy).sum::<f32>() / count).min(BUSIEST);
    1.0 + (queue + busy) / (1.0 - busy)
}

/// What is known of a pool's speeds, in seconds per token.
struct Speeds {
    /// The mean of all.
    mean: f32,
    /// Each server's own, as far as it is to be trusted.
    own: Vec<Option<f32>>,
}

impl Speeds {
    fn of<'s>(servers: impl Iterator<Item = &'s Server> + Clone, now: Duration) -> Self {
        let speeds = servers.map(|server| server.speed(now));
        let measured = speeds.clone().flatten().map(|speed| speed.seconds_per_token);
        let Some(best) = measured.min_by(f32::total_cmp) else {
            return Self { mean: UNMEASURED, own: vec![None; speeds.count()] };
        };
        let own: Vec<Option<f32>> = speeds.map(|own| Some(trusted(own?, best))).collect();
        let (sum, count) =
            own.iter().flatten().fold((0.0, 0.0_f32), |(sum, count), own| (sum + own, count + 1.0));
        Self { mean: sum / count, own }
    }

    /// What is taken for the speed of a server with this one of its own.
    fn of_server(&self, own: Option<f32>) -> f32 {
        own.map_or(self.mean, |own| self.mean.clamp(own / ALIKE, own * ALIKE))
    }
}

/// A measurement counts less the older it is; `best` is the best of the pool.
fn trusted(own: Speed, best: f32) -> f32 {
    let trust = (-own.age.as_secs_f32() / HALF_LIFE.as_secs_f32()).exp2();
    own.seconds_per_token * trust + best * (1.0 - trust)
}

/// What is expected of one server; `best_speed` is that of its pool, in seconds per token, if any server is measured.
pub fn estimate(server: &Server, prompt: &Prompt<'_>, now: Duration, best_speed: Option<f32>) -> Estimate {
    let own = server.speed(now);
    let best = best_speed.or(own.map(|own| own.seconds_per_token));
    let speed = match (own, best) {
        (Some(own), Some(best)) => trusted(own, best),
        (_, best) => best.unwrap_or(UNMEASURED),
    };
    expected(server, prompt, now, (server.belief().cached(prompt.blocks), speed))
}

/// What is expected of a server that has so many of the prompt's blocks, at this speed.
fn expected(
    server: &Server,
    prompt: &Prompt<'_>,
    now: Duration,
    (cached, seconds_per_token): (usize, f32),
) -> Estimate {
    let cached_tokens = prompt.tokens_of(cached);
    let under_way = server.under_way();
    let has_adapter = prompt.adapter.and_then(|adapter| server.has_adapter(adapter));
    Estimate {
        wait: server.wait(now),
        load: if has_adapter == Some(false) { ADAPTER_LOADS } else { Duration::ZERO },
        read: seconds(seconds_per_token * weighed(cached_tokens, prompt.tokens - cached_tokens)),
        steps: seconds(server.seat() * under_way as f32),
        cached_tokens,
        under_way,
        has_adapter,
    }
}
