//! vLLM's span of a request (<https://docs.vllm.ai/en/latest/examples/online_serving/opentelemetry.html>).

use std::time::Duration;

use metering::{Receipt, RequestId, SpanId, SpanReceipt, Trust};

use crate::{
    found::{Draft, Value},
    text,
};

/// The span's name. vLLM's other spans are about loading models.
const NAME: &str = "llm_request";
/// Longer ids are not ours.
const LONGEST_ID: usize = 128;

/// A span while it is read.
#[derive(Debug, Default)]
pub(crate) struct SpanDraft {
    pub(crate) is_request: bool,
    pub(crate) span: u64,
    pub(crate) parent: Option<u64>,
    /// In nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    request: Option<(RequestId, String)>,
    prompt: Option<u64>,
    cached: Option<u64>,
    completion: Option<u64>,
    choices: Option<u32>,
    time_to_first_token: Option<Duration>,
    e2e: Option<Duration>,
}

impl SpanDraft {
    pub(crate) fn name(&mut self, name: &[u8]) {
        self.is_request = name == NAME.as_bytes();
    }
}

impl Draft for SpanDraft {
    fn attribute(&mut self, key: &str, value: Value<'_>) {
        match key {
            "gen_ai.request.id" => {
                let parts = value.text(LONGEST_ID).and_then(text::request_and_part);
                self.request = parts.map(|(request, part)| (request, part.to_owned()));
            }
            "gen_ai.request.n" => self.choices = value.count().and_then(|n| u32::try_from(n).ok()),
            "gen_ai.usage.prompt_tokens" => self.prompt = value.count(),
            "gen_ai.usage.cached_tokens" => self.cached = value.count(),
            "gen_ai.usage.completion_tokens" => self.completion = value.count(),
            "gen_ai.latency.time_to_first_token" => self.time_to_first_token = value.seconds(),
            "gen_ai.latency.e2e" => self.e2e = value.seconds(),
            _ => {}
        }
    }

    fn finish(self) -> Option<Receipt> {
        // A span that has neither could never be matched; one without a span id could not be told from its repetition.
        let is_ours = self.is_request && self.span != 0 && (self.parent.is_some() || self.request.is_some());
        let prompt_tokens = self.prompt.filter(|_| is_ours)?;
        let (request, part) = self.request.map_or((None, String::new()), |(id, part)| (Some(id), part));
        // A time beyond the year 2262 is none, as in JSON.
        let are_times = self.start > 0 && i64::try_from(self.start.max(self.end)).is_ok();
        let lasted = self.end.checked_sub(self.start).filter(|_| are_times).map(Duration::from_nanos);
        Some(Receipt::Span(SpanReceipt {
            trust: Trust::None,
            span: self.span,
            parent: self.parent.map(SpanId),
            request,
            part,
            prompt_tokens,
            cached_tokens: self.cached,
            // Embeddings have none.
            completion_tokens: self.completion.unwrap_or(0),
            choices: self.choices,
            time_to_first_token: self.time_to_first_token,
            duration: self.e2e.or(lasted),
        }))
    }
}
