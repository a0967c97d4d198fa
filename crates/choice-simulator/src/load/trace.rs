//! The conversation trace of Mooncake (FAST'25): an hour of a chat service, with prompts as hashes of blocks of 512 tokens.
//! <https://github.com/kvcache-ai/Mooncake>, Apache-2.0. It is not part of this repository.

use std::{fs, io, path::Path};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Load, SimulatedRequest, Start};
use crate::random::Random;

/// Why the trace cannot be used.
#[derive(Debug)]
pub enum TraceError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// A line is not what it should be.
    BadLine {
        /// From 1 on.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "the trace cannot be read: {error}"),
            Self::BadLine { line, error } => write!(f, "line {line} of the trace: {error}"),
        }
    }
}

impl std::error::Error for TraceError {}

#[derive(Deserialize)]
struct Line {
    /// In ms, in steps of 3 s.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// Reads the trace. Within the 3 s to which its times are rounded, requests arrive at random.
///
/// # Errors
///
/// The file cannot be read, or is not the trace.
pub fn conversations(file: &Path, seed: u64) -> Result<Load, TraceError> {
    let text = fs::read_to_string(file).map_err(TraceError::Unreadable)?;
    let mut random = Random::new(seed);
    let mut requests = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line: Line =
            serde_json::from_str(line).map_err(|error| TraceError::BadLine { line: number + 1, error })?;
        let at = (line.timestamp / 3_000.0).round() * 3.0 + 3.0 * random.share();
        requests.push(asked(&line, at));
    }
    requests.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    Ok(Load { name: "conversation trace", block_tokens: 512, requests })
}

fn asked(line: &Line, at: f64) -> SimulatedRequest {
    // The last one is not full, and no cache has it.
    let whole = (line.input_length / 512) as usize;
    // Numbers as they stand in the file are no hashes.
    let blocks: Vec<u64> =
        line.hash_ids.iter().take(whole).map(|id| xxh3_64_with_seed(&id.to_le_bytes(), 512)).collect();
    SimulatedRequest {
        start: Start::At(at),
        prompt_tokens: line.input_length.max(1),
        answer_tokens: line.output_length.max(1),
        answer_blocks: Vec::new(),
        // All conversations share the first block.
        conversation: line.hash_ids.get(1).or(line.hash_ids.first()).copied().unwrap_or_default(),
        blocks,
    }
}

fn seconds(asked: &SimulatedRequest) -> f64 {
    if let Start::At(second) = asked.start { second } else { f64::MAX }
}
