//! What is expected of a server.

use std::time::Duration;

/// What is expected of a server for one prompt. The first token comes after `wait + load + read + steps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Until it begins to read.
    pub wait: Duration,
    /// Loading the adapter, if it is not there.
    pub load: Duration,
    /// Reading what it does not have in its cache.
    pub read: Duration,
    /// What the answers under way add to that.
    pub steps: Duration,
    /// The tokens of the prompt that it is believed to have in its cache.
    pub cached_tokens: u32,
    /// The requests that wait or are being answered there.
    pub under_way: u32,
    /// Whether the adapter is believed to be loaded; `None` if the request is for no adapter, or if the server says nothing of adapters.
    pub has_adapter: Option<bool>,
}

impl Estimate {
    /// The expected time to the first token.
    pub fn total(&self) -> Duration {
        self.wait + self.load + self.read + self.steps
    }
}
