//! What a request asks for, as far as it decides how its tokens are counted.

/// The endpoint of a request, and how many answers it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestShape {
    /// Where it was sent.
    pub endpoint: MeteredEndpoint,
    /// Whether the answer comes piece by piece.
    pub streams: bool,
    /// Whether the server can export spans. It need not have been told to: the ledger finds out.
    pub traces: bool,
    /// Whether Traefik may send a copy of it to a mirror. The copy has the same headers, so the spans of those who work on it look like the
    /// request's own, and none counts.
    pub is_mirrored: bool,
    /// Whether it may have changed how many bytes of its answer a token takes (`stream_interval`, `logprobs`, …), so that they tell
    /// nothing.
    pub is_shaped: bool,
    /// Whether the server searches with several beams: it then tells each step of each beam as a request of its own, with the whole
    /// prompt.
    pub has_beams: bool,
    /// `n`: how many answers to each prompt, at least 1.
    pub choices: u16,
    /// How many prompts the request has, at least 1.
    pub prompts: u16,
}

/// Endpoints whose answers have a form of their own, so that a byte of them stands for another number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named after their paths")]
pub enum MeteredEndpoint {
    ChatCompletions,
    Completions,
    Responses,
    Messages,
    OllamaChat,
    OllamaGenerate,
    Generate,
    LlamaCpp,
    Embeddings,
    /// All others; most of them do not answer with tokens.
    Other,
}

impl MeteredEndpoint {
    /// The endpoint at a path; whatever stands before its last segments does not matter.
    pub fn of(path: &str) -> Self {
        const ENDS: [(&str, MeteredEndpoint); 14] = [
            ("/chat/completions", MeteredEndpoint::ChatCompletions),
            ("/completions", MeteredEndpoint::Completions),
            ("/responses", MeteredEndpoint::Responses),
            ("/messages", MeteredEndpoint::Messages),
            ("/api/chat", MeteredEndpoint::OllamaChat),
            ("/api/generate", MeteredEndpoint::OllamaGenerate),
            ("/generate", MeteredEndpoint::Generate),
            ("/generate_stream", MeteredEndpoint::Generate),
            ("/completion", MeteredEndpoint::LlamaCpp),
            ("/infill", MeteredEndpoint::LlamaCpp),
            ("/embeddings", MeteredEndpoint::Embeddings),
            ("/embedding", MeteredEndpoint::Embeddings),
            ("/api/embed", MeteredEndpoint::Embeddings),
            ("/embed", MeteredEndpoint::Embeddings),
        ];
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        ENDS.iter().find(|(end, _)| path.ends_with(end)).map_or(Self::Other, |(_, endpoint)| *endpoint)
    }
}

impl MeteredEndpoint {
    /// What is done there, by the names of OpenTelemetry
    /// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/#gen-ai-operation-name>).
    pub fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Messages | Self::OllamaChat => "chat",
            Self::Completions | Self::OllamaGenerate | Self::Generate | Self::LlamaCpp => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        }
    }
}

impl RequestShape {
    /// The number of answers that a server generates: one for each choice and prompt.
    pub(crate) fn answers(&self, choices: u32) -> u64 {
        u64::from(choices.max(1)) * self.prompts()
    }

    /// Whether a request says how many answers it wants. A list of texts to embed or to rank may have a span for each.
    pub(crate) fn tells_its_answers(&self) -> bool {
        !matches!(self.endpoint, MeteredEndpoint::Embeddings | MeteredEndpoint::Other)
    }

    pub(crate) fn prompts(&self) -> u64 {
        u64::from(self.prompts.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_known_by_the_end_of_its_path() {
        for (path, endpoint) in [
            ("/v1/chat/completions", MeteredEndpoint::ChatCompletions),
            ("/openai/deployments/a/completions?api-version=1", MeteredEndpoint::Completions),
            ("/v1/completions/", MeteredEndpoint::Completions),
            ("/api/generate", MeteredEndpoint::OllamaGenerate),
            ("/generate", MeteredEndpoint::Generate),
            ("/infill", MeteredEndpoint::LlamaCpp),
            ("/v1/embeddings", MeteredEndpoint::Embeddings),
            ("/v1/rerank", MeteredEndpoint::Other),
            ("", MeteredEndpoint::Other),
        ] {
            assert_eq!(MeteredEndpoint::of(path), endpoint, "{path}");
        }
    }

    /// Dashboards group by these names.
    #[test]
    fn what_is_done_has_the_names_of_opentelemetry() {
        use MeteredEndpoint::*;
        for (name, endpoints) in [
            ("chat", &[ChatCompletions, Responses, Messages, OllamaChat][..]),
            ("text_completion", &[Completions, OllamaGenerate, Generate, LlamaCpp]),
            ("embeddings", &[Embeddings]),
            ("other", &[Other]),
        ] {
            for endpoint in endpoints {
                assert_eq!(endpoint.operation(), name, "{endpoint:?}");
            }
        }
    }
}
