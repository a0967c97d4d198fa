//! What a choice costs, in nanoseconds of this machine.

use std::{hint::black_box, time::Duration, time::Instant};

use server_choice::{BLOCK_BYTES, Prompt, PromptHasher, Server, choose};

use crate::random::Random;

/// What one request costs.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The number of servers.
    pub servers: usize,
    /// The length of the prompt.
    pub bytes: usize,
    /// Hashing the prompt, in ns.
    pub hash: f64,
    /// Choosing among the servers, in ns.
    pub choose: f64,
    /// Telling the chosen server, in ns.
    pub sent: f64,
    /// What all servers' books take, in bytes.
    pub memory: usize,
}

/// The mean over `rounds` prompts. Half of each was sent somewhere before, the rest is new.
pub fn cost(servers: usize, bytes: usize, rounds: usize) -> Cost {
    let pool: Vec<Server> = (0..servers).map(|_| Server::new(server_choice::DEFAULT_BLOCKS)).collect();
    let mut random = Random::new(1);
    let mut text = vec![b'a'; bytes];
    let (mut hash, mut choosing, mut sending) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        // One of 64 conversations, which is different from the middle on.
        text[..8].copy_from_slice(&(random.below(64) as u64).to_le_bytes());
        text[bytes / 2..bytes / 2 + 8].copy_from_slice(&random.bits().to_le_bytes());
        let begun = Instant::now();
        let mut hasher = PromptHasher::new(1, "model", None);
        hasher.add(black_box(&text));
        let (blocks, length) = hasher.finish();
        hash += begun.elapsed();
        let prompt = Prompt {
            blocks: &blocks,
            tokens: (length / 4) as u32,
            block_tokens: BLOCK_BYTES as f32 / 4.0,
            answer_tokens: 300,
            adapter: None,
        };
        let now = Duration::from_millis(round as u64);
        let begun = Instant::now();
        let choice = black_box(choose(&pool, &prompt, now, round));
        choosing += begun.elapsed();
        let begun = Instant::now();
        if let Some(choice) = choice {
            pool[choice.place].sent(&prompt, &choice.estimate, now);
        }
        sending += begun.elapsed();
    }
    let mean = |time: Duration| time.as_nanos() as f64 / rounds as f64;
    Cost {
        servers,
        bytes,
        hash: mean(hash),
        choose: mean(choosing),
        sent: mean(sending),
        memory: pool.iter().map(Server::bytes).sum(),
    }
}
