//! What a request is to vLLM: its id, its place in a trace, and the tokens that it takes.

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::endpoint::Endpoint;

/// The tokens of every prompt.
pub(super) const PROMPT_TOKENS: usize = 7;
/// The most prompts, and the most choices, that are simulated.
const MAX_PROMPTS: usize = 64;

/// A request that is being worked on.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// What its answer and its spans are called, without a prompt's number.
    pub(super) id: String,
    /// What follows the id for the first prompt, `-0`; `None` where the id is the same for all.
    pub(super) numbered: Option<char>,
    pub(super) prompts: usize,
    /// Answers to each prompt.
    pub(super) choices: usize,
    pub(super) completes: bool,
    pub(super) trace: Trace,
    pub(super) start: SystemTime,
    pub(super) first_token: Option<Duration>,
}

/// `traceparent`, as vLLM takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// There is none: a trace of its own.
    New,
    Continued {
        trace: u128,
        parent: u64,
    },
    /// No span is exported.
    Unsampled,
}

impl Work {
    pub(super) fn new(endpoint: Endpoint, headers: &HeaderMap, request: &Value) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let given =
            header("x-request-id").map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
        let (prefix, numbered, list) = match endpoint {
            Endpoint::Completions => ("cmpl-", Some('-'), &request["prompt"]),
            Endpoint::Embeddings => ("embd-", Some('-'), &request["input"]),
            Endpoint::Responses => ("resp_", Some('_'), &Value::Null),
            _ => ("chatcmpl-", None, &Value::Null),
        };
        // vLLM makes an id of its own for a response.
        let given =
            if endpoint == Endpoint::Responses { format!("{:016x}", rand::random::<u64>()) } else { given };
        let texts = list.as_array().filter(|list| list.iter().all(Value::is_string));
        let choices = request["n"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        Self {
            id: format!("{prefix}{given}"),
            numbered,
            prompts: texts.map_or(1, Vec::len).clamp(1, MAX_PROMPTS),
            choices: choices.clamp(1, MAX_PROMPTS),
            completes: endpoint != Endpoint::Embeddings,
            trace: header("traceparent").map_or(Trace::New, Trace::read),
            start: SystemTime::now(),
            first_token: None,
        }
    }

    /// How many answers there are.
    pub(super) fn answers(&self) -> usize {
        self.prompts * self.choices
    }

    /// `usage` of an answer in which each choice has this many tokens.
    pub(super) fn usage(&self, completion: usize) -> Value {
        let (prompt, completion) = (self.prompts * PROMPT_TOKENS, self.answers() * completion);
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }
}

impl Trace {
    fn read(traceparent: &str) -> Self {
        let fields: Vec<&str> = traceparent.split('-').collect();
        let [_, trace, parent, flags] = fields[..] else { return Self::New };
        let numbers =
            (u128::from_str_radix(trace, 16), u64::from_str_radix(parent, 16), u8::from_str_radix(flags, 16));
        match numbers {
            (Ok(trace), Ok(parent), Ok(flags)) if flags & 1 == 1 => Self::Continued { trace, parent },
            (Ok(_), Ok(_), Ok(_)) => Self::Unsampled,
            _ => Self::New,
        }
    }
}
