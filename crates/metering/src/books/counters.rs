//! What servers count themselves.

/// Tokens since the start of the server: vLLM's `vllm:prompt_tokens_total` and `vllm:generation_tokens_total`, llama.cpp's
/// `llamacpp:prompt_tokens_total` and `llamacpp:tokens_predicted_total`, and their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of prompts.
    pub prompt: u64,
    /// Of answers.
    pub completion: u64,
}

/// What a server's counters mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Nobody else uses the server (`inference.metering.exclusive`), so receipts are corrected by its counters.
    pub exclusive: bool,
    /// Its counter of prompts leaves out what it found in its cache (llama.cpp).
    pub leaves_out_cached: bool,
}

/// The last reading.
#[derive(Debug, Default)]
pub(super) struct Counted(Option<Counters>);

/// What a reading says about the time since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// It is the first. What was counted before is not known.
    Unknown,
    /// The server has started again: this was counted since then, and what was counted before that is lost.
    Restart(Counters),
    Last(Counters),
}

impl Counters {
    pub(super) fn add(&mut self, more: Self) {
        self.prompt = self.prompt.saturating_add(more.prompt);
        self.completion = self.completion.saturating_add(more.completion);
    }
}

impl Counted {
    /// A counter that has become smaller began anew with the server.
    pub(super) fn since_last(&mut self, now: Counters) -> Since {
        let Some(before) = self.0.replace(now) else { return Since::Unknown };
        let more = |now: u64, before: u64| now.checked_sub(before);
        match more(now.prompt, before.prompt).zip(more(now.completion, before.completion)) {
            Some((prompt, completion)) => Since::Last(Counters { prompt, completion }),
            None => Since::Restart(now),
        }
    }
}
