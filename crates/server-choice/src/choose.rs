//! The choice itself.

use std::{cmp::Ordering, time::Duration};

use crate::{
    estimate::Estimate,
    prompt::Prompt,
    server::{Server, weighed},
};

/// The speed that is assumed while no server of the pool has been measured, in seconds per token.
const UNMEASURED: f32 = 1.0 / 5_000.0;

/// What is the longest queue, in requests, that counts.
const LONGEST_QUEUE: f32 = 64.0;

/// After this time a measured speed counts half, and the best of the pool the other half. So a server that was slow once is tried
/// again.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// The server that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the list.
    pub place: usize,
    /// Why.
    pub estimate: Estimate,
}

/// Chooses the server from which the first token is expected soonest. Where all servers have a queue, the seconds of reading count
/// once more for each request in the shortest queue, because those who come after wait for them as well. Of equals, the one with
/// less under way; of these, the first from `turn` on (any number, best a random one). `None` only without servers.
///
/// Nothing is changed: tell the chosen one with [`Server::sent`].
pub fn choose<'s, I>(servers: I, prompt: &Prompt<'_>, now: Duration, turn: usize) -> Option<Choice>
where
    I: IntoIterator<Item = &'s Server> + Clone,
    I::IntoIter: ExactSizeIterator,
{
    let best_speed = best_speed(servers.clone(), now);
    let weight = 1.0 + shortest_queue(servers.clone(), best_speed, now);
    let servers = servers.into_iter();
    let count = servers.len();
    let first = turn.checked_rem(count)?;
    let order = |choice: &Choice| {
        let Estimate { wait, read, steps, .. } = choice.estimate;
        (
            wait + steps + read.mul_f32(weight),
            choice.estimate.under_way,
            (choice.place + count - first) % count,
        )
    };
    servers
        .enumerate()
        .map(|(place, server)| Choice { place, estimate: estimate(server, prompt, now, best_speed) })
        .min_by_key(order)
}

/// How many requests wait at the server of a pool that has the fewest. Whoever comes next goes there, so it is only this queue that
/// a pool cannot avoid.
fn shortest_queue<'s>(
    servers: impl IntoIterator<Item = &'s Server>,
    best_speed: Option<f32>,
    now: Duration,
) -> f32 {
    let queue = |server: &Server| {
        let speed = server.speed(now).map(|own| own.seconds_per_token).or(best_speed);
        server.queue_length(speed.unwrap_or(UNMEASURED), now)
    };
    servers.into_iter().map(queue).fold(LONGEST_QUEUE, f32::min)
}

/// The best measured speed of a pool, in seconds per token.
fn best_speed<'s>(servers: impl IntoIterator<Item = &'s Server>, now: Duration) -> Option<f32> {
    let speeds = servers.into_iter().filter_map(|server| server.speed(now));
    speeds.map(|speed| speed.seconds_per_token).min_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal))
}

/// What is expected of one server; `best_speed` is that of its pool, in seconds per token, if any server is measured.
pub fn estimate(server: &Server, prompt: &Prompt<'_>, now: Duration, best_speed: Option<f32>) -> Estimate {
    let cached_tokens = prompt.tokens_of(server.belief().cached(prompt.blocks));
    let seconds_per_token = server.speed(now).map_or(best_speed.unwrap_or(UNMEASURED), |own| {
        let best = best_speed.unwrap_or(own.seconds_per_token);
        let trust = (-own.age.as_secs_f32() / HALF_LIFE.as_secs_f32()).exp2();
        own.seconds_per_token * trust + best * (1.0 - trust)
    });
    let under_way = server.under_way();
    Estimate {
        wait: server.wait(now),
        read: seconds(seconds_per_token * weighed(cached_tokens, prompt.tokens - cached_tokens)),
        steps: seconds(server.seat() * under_way as f32),
        cached_tokens,
        under_way,
    }
}

/// At most an hour, whatever was measured.
fn seconds(seconds: f32) -> Duration {
    Duration::from_secs_f32(if seconds.is_finite() { seconds.clamp(0.0, 3600.0) } else { 3600.0 })
}
