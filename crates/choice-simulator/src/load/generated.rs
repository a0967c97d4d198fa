//! Loads made at random, all from one seed.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Load, SimulatedRequest, Start};
use crate::random::Random;

/// The tokens of a block.
const BLOCK: u32 = 128;

/// How one kind of conversation goes. Lengths are in tokens, pauses in seconds.
struct Habit {
    name: &'static str,
    /// Different system prompts; the first ones are used most.
    systems: usize,
    system_tokens: f64,
    turns: f64,
    question_tokens: f64,
    answer_tokens: f64,
    pause: f64,
}

/// People who chat: short questions, long answers, a quarter of a minute between them, 20 assistants with system prompts of their own.
pub fn chats(requests: usize, seed: u64) -> Load {
    generate(
        requests,
        seed,
        &Habit {
            name: "chats",
            systems: 20,
            system_tokens: 800.0,
            turns: 5.0,
            question_tokens: 150.0,
            answer_tokens: 250.0,
            pause: 15.0,
        },
    )
}

/// Agents: many tools described at the beginning, then a result of a tool every few seconds, and short answers.
pub fn agents(requests: usize, seed: u64) -> Load {
    generate(
        requests,
        seed,
        &Habit {
            name: "tool agents",
            systems: 8,
            system_tokens: 8_000.0,
            turns: 15.0,
            question_tokens: 1_200.0,
            answer_tokens: 120.0,
            pause: 3.0,
        },
    )
}

/// One long system prompt for all, and single questions.
pub fn one_system_prompt(requests: usize, seed: u64) -> Load {
    generate(
        requests,
        seed,
        &Habit {
            name: "one system prompt",
            systems: 1,
            system_tokens: 6_000.0,
            turns: 1.0,
            question_tokens: 600.0,
            answer_tokens: 200.0,
            pause: 0.0,
        },
    )
}

fn generate(requests: usize, seed: u64, habit: &Habit) -> Load {
    let mut random = Random::new(seed);
    let systems: Vec<u32> =
        (0..habit.systems).map(|_| (habit.system_tokens * (0.5 + random.share())) as u32).collect();
    let mut load = Load { name: habit.name, block_tokens: BLOCK, requests: Vec::with_capacity(requests) };
    let (mut at, mut conversation) = (0.0, 0);
    while load.requests.len() < requests {
        conversation += 1;
        at += random.around(1.0);
        // The first system prompt is used most: the square of an even share.
        let system = (random.share().powi(2) * systems.len() as f64) as usize;
        let turns = if habit.turns > 1.0 { 1 + random.around(habit.turns - 1.0).round() as usize } else { 1 };
        let turns = turns.min(requests - load.requests.len());
        converse(
            &mut load,
            habit,
            &mut random,
            &Conversation { at, number: conversation, system, system_tokens: systems[system], turns },
        );
    }
    load
}

struct Conversation {
    at: f64,
    number: u64,
    system: usize,
    system_tokens: u32,
    turns: usize,
}

fn converse(load: &mut Load, habit: &Habit, random: &mut Random, conversation: &Conversation) {
    // The system prompt ends within a block, which then is the conversation's own.
    let shared = conversation.system_tokens / BLOCK;
    let block = |place: u32| {
        let owner = if place < shared { conversation.system as u64 } else { conversation.number << 16 };
        xxh3_64_with_seed(&u64::from(place).to_le_bytes(), owner)
    };
    let mut tokens = conversation.system_tokens;
    let mut start = Start::At(conversation.at);
    for _ in 0..conversation.turns {
        tokens += length(random, habit.question_tokens);
        let answer_tokens = length(random, habit.answer_tokens);
        let (whole, answered) = (tokens / BLOCK, (tokens + answer_tokens) / BLOCK);
        start = {
            load.requests.push(SimulatedRequest {
                start,
                blocks: (0..whole).map(block).collect(),
                prompt_tokens: tokens,
                answer_tokens,
                answer_blocks: (whole..answered).map(block).collect(),
                conversation: conversation.number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            });
            Start::After { request: load.requests.len() - 1, pause: random.around(habit.pause) }
        };
        tokens += answer_tokens;
    }
}

/// At least 8 tokens, and at most 8 times the mean.
fn length(random: &mut Random, mean: f64) -> u32 {
    random.around(mean).clamp(8.0, 8.0 * mean) as u32
}
