//! Loads: who asks what, and when.

mod generated;
mod trace;

pub use generated::{agents, chats, one_system_prompt};
pub use trace::{TraceError, conversations};

/// A row of requests.
#[derive(Debug, Clone)]
pub struct Load {
    /// What it is called in the table.
    pub name: &'static str,
    /// The tokens of a block, for servers' caches and policies alike.
    pub block_tokens: u32,
    /// In the order of their arrival, as far as it is known beforehand.
    pub requests: Vec<SimulatedRequest>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct SimulatedRequest {
    /// When it arrives.
    pub start: Start,
    /// Hashes of the whole blocks of its prompt.
    pub blocks: Vec<u64>,
    /// The length of its prompt.
    pub prompt_tokens: u32,
    /// The length of its answer, at least 1.
    pub answer_tokens: u32,
    /// Blocks that the server has once it has answered, beyond those of the prompt. Empty where it is not known.
    pub answer_blocks: Vec<u64>,
    /// What a router would take for its conversation: a hash of the prompt up to and with the first message that is its own.
    pub conversation: u64,
}

/// When a request arrives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// So many seconds after the beginning.
    At(f64),
    /// So many seconds after the answer to another request.
    After {
        /// Its place in the load.
        request: usize,
        /// Seconds.
        pause: f64,
    },
}

impl Load {
    /// The same load, in which `factor` times as much time passes between those who begin.
    pub fn stretched(&self, factor: f64) -> Self {
        let mut load = self.clone();
        for asked in &mut load.requests {
            if let Start::At(second) = &mut asked.start {
                *second *= factor;
            }
        }
        load
    }

    /// The tokens of all prompts.
    pub fn prompt_tokens(&self) -> f64 {
        self.requests.iter().map(|asked| f64::from(asked.prompt_tokens)).sum()
    }

    /// When the last conversation begins, in seconds.
    pub fn last_start(&self) -> f64 {
        let starts =
            self.requests.iter().map(|asked| if let Start::At(second) = asked.start { second } else { 0.0 });
        starts.fold(0.0, f64::max)
    }
}
