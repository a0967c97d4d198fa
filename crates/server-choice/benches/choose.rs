//! Measures how long the choice of a server takes, by the number of servers, the length of the prompt and what is in their caches.
//!
//! `cargo bench -p server-choice`. Compare the ratios only: absolute figures depend on the machine.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use server_choice::{Counters, DEFAULT_BLOCKS, Prompt, Server, Watch, choose};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const ROUNDS: usize = 11;
/// Choices per round.
const CHOICES: usize = 4_096;
/// Different prompts, so that not always the same parts of the tables are looked at.
const PROMPTS: u64 = 1_024;

/// What the servers have of a prompt.
#[derive(Debug, Clone, Copy)]
enum Cached {
    /// Nothing.
    Nothing,
    /// All have its first half: one system prompt for all.
    Half,
    /// One server has nearly all of it: a conversation.
    AtOne,
}

fn main() {
    say(&format!(
        "{:>8} {:>8} {:>10} {:>12} {:>10}",
        "servers", "blocks", "cached", "ns/choice", "ns/server"
    ));
    for servers in [4, 16, 64] {
        for blocks in [4, 400] {
            for cached in [Cached::Nothing, Cached::Half, Cached::AtOne] {
                let ns = measure(servers, blocks, cached);
                let each = ns / servers as f64;
                let cached = format!("{cached:?}");
                say(&format!("{servers:>8} {blocks:>8} {cached:>10} {ns:>12.0} {each:>10.1}"));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]
fn say(line: &str) {
    println!("{line}");
}

/// The median of several rounds, in nanoseconds per choice.
fn measure(servers: usize, blocks: u64, cached: Cached) -> f64 {
    let now = Duration::from_secs(100);
    let pool: Vec<Server> = (0..servers).map(|_| server(now)).collect();
    let prompts: Vec<Vec<u64>> = (0..PROMPTS).map(|number| hashes(number, blocks, cached)).collect();
    for (number, prompt) in prompts.iter().enumerate() {
        match cached {
            Cached::Nothing => {}
            Cached::Half => {
                let half = &prompt[..prompt.len() / 2];
                pool.iter().for_each(|server| _ = server.belief().used(half, 0));
            }
            Cached::AtOne => _ = pool[number % servers].belief().used(&prompt[..prompt.len() - 1], 0),
        }
    }
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for turn in 0..CHOICES {
                let blocks = &prompts[turn * 7 % prompts.len()];
                let tokens = u32::try_from(blocks.len() * 128).unwrap_or(u32::MAX);
                let prompt =
                    Prompt { blocks, tokens, block_tokens: 128.0, answer_tokens: 256, adapter: None };
                assert!(black_box(choose(&pool, black_box(&prompt), now, turn)).is_some());
            }
            start.elapsed().as_nanos() as f64 / CHOICES as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// A server whose speed is measured.
fn server(now: Duration) -> Server {
    let server = Server::new(DEFAULT_BLOCKS);
    let mut watch = Watch::new(128.0);
    for tokens in [0.0, 10_000.0] {
        let counters = Counters {
            running: Some(4),
            waiting: Some(0),
            read_tokens: Some(tokens),
            read_seconds: Some(tokens * 1e-4),
            ..Counters::default()
        };
        watch.heard(&server, &counters, now, now);
    }
    server
}

/// The blocks of a prompt; where all have the first half of it, it is the same for all.
fn hashes(number: u64, blocks: u64, cached: Cached) -> Vec<u64> {
    let shared = if matches!(cached, Cached::Half) { blocks / 2 } else { 0 };
    let hash = |block: u64| {
        let owner = if block < shared { u64::MAX } else { number };
        xxh3_64_with_seed(&block.to_le_bytes(), owner)
    };
    (0..blocks).map(hash).collect()
}
