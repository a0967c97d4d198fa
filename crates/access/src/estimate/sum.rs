//! What an estimate is made of, for those whom a limit of tokens refuses.

/// The tokens of a request: of its prompt and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Those of the prompt: text, images, files.
    pub prompt: u64,
    /// Those of all answers together; 0 if there is none in tokens.
    pub answer: u64,
    /// The field that says how long an answer may be, if the request leaves that open. The answer then counts what the
    /// model's `answer_tokens` says.
    pub open: Option<&'static str>,
}

impl Sum {
    /// Both together, at least one.
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.prompt.saturating_add(self.answer).max(1)).unwrap_or(u32::MAX)
    }
}

/// The answers that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// `n`: how many to each prompt, at least 1.
    pub choices: u16,
    /// How many prompts it has, at least 1.
    pub prompts: u16,
    /// Its field `stream`; `None` if it has none.
    pub streams: Option<bool>,
    /// It has a field that may change how many bytes of an answer a token takes, or one that is not known.
    pub is_shaped: bool,
    /// The server searches with beams: it works on each token of each as on a request of its own.
    pub has_beams: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self { choices: 1, prompts: 1, streams: None, is_shaped: false, has_beams: false }
    }
}
