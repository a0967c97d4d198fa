//! What servers count themselves.

/// Tokens, as a server has counted them since its start, or as they were settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of prompts, cached tokens included (but see [`Terms::leaves_out_cached`]).
    pub prompt: u64,
    /// Of those, tokens that were found in a cache; 0 where nobody has told.
    pub cached: u64,
    /// Of answers.
    pub completion: u64,
}

/// What a server's counters mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Nobody else uses the server (`inference.metering.exclusive`), so receipts are corrected by its counters.
    pub exclusive: bool,
    /// Its counter of prompts leaves out what it found in its cache (llama.cpp before `prompt_tokens_cached_total`).
    pub leaves_out_cached: bool,
    /// A prompt counts once for each of its answers (vLLM's `n`).
    pub repeats_prompts: bool,
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
        self.cached = self.cached.saturating_add(more.cached);
        self.completion = self.completion.saturating_add(more.completion);
    }

    pub(super) fn less(self, less: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_sub(less.prompt),
            cached: self.cached.saturating_sub(less.cached),
            completion: self.completion.saturating_sub(less.completion),
        }
    }
}

impl Counted {
    /// A counter that has become smaller began anew with the server.
    pub(super) fn since_last(&mut self, now: Counters) -> Since {
        let Some(before) = self.0.replace(now) else { return Since::Unknown };
        let is_later =
            now.prompt >= before.prompt && now.cached >= before.cached && now.completion >= before.completion;
        if is_later { Since::Last(now.less(before)) } else { Since::Restart(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that was restarted may soon have counted more of one kind than before, but not of each.
    #[test]
    fn a_server_began_anew_if_one_of_its_counters_is_smaller() {
        for (now, is_restart) in [
            ([10, 5, 20], false),
            ([11, 6, 21], false),
            ([9, 6, 21], true),
            ([11, 4, 21], true),
            ([11, 6, 19], true),
            ([0, 0, 0], true),
        ] {
            let counters = |[prompt, cached, completion]: [u64; 3]| Counters { prompt, cached, completion };
            let mut counted = Counted::default();
            assert_eq!(counted.since_last(counters([10, 5, 20])), Since::Unknown);
            let since = counted.since_last(counters(now));
            assert_eq!(matches!(since, Since::Restart(_)), is_restart, "{now:?}");
        }
    }
}
