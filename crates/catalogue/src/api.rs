//! The ways in which clients address a model.

/// An API that is offered, with paths of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// OpenAI's and Anthropic's: `/v1/…`, the model in the body
    /// (<https://platform.openai.com/docs/api-reference>).
    OpenAi,
    /// `/models/<name>/…`: the model in the path, which is taken off; what follows is the server's own.
    Models,
    /// Azure's: `/openai/deployments/<name>/…`, and with the model in the body `/openai/v1/…` and `/openai/responses`, which become
    /// `/v1/…` (<https://learn.microsoft.com/azure/ai-services/openai/reference>,
    /// <https://learn.microsoft.com/azure/ai-foundry/openai/latest>).
    Azure,
    /// Ollama's own: `/api/…` (<https://github.com/ollama/ollama/blob/main/docs/api.md>).
    Ollama,
    /// llama.cpp's own: `/completion`, `/infill`, …
    /// (<https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>).
    LlamaCpp,
    /// Cohere's second version: `/v2/rerank`, … (<https://docs.cohere.com/reference/rerank>). Its first, and Jina's, are below `/v1/`.
    Cohere,
    /// vLLM's outside `/v1`: `/score`, `/pooling`, … (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>).
    Vllm,
    /// Text Embeddings Inference's own: `/embed`, `/rerank`, … (<https://huggingface.github.io/text-embeddings-inference>). Its
    /// requests name no model, so a header, the query or a host of the operator's has to.
    Tei,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::OpenAi,
        Self::Models,
        Self::Azure,
        Self::Ollama,
        Self::LlamaCpp,
        Self::Cohere,
        Self::Vllm,
        Self::Tei,
    ];
    /// Those that are offered by default: no other application is likely to have their paths.
    pub const DEFAULT: [Self; 3] = [Self::OpenAi, Self::Models, Self::Azure];
    /// What the operator calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Models => "models",
            Self::Azure => "azure",
            Self::Ollama => "ollama",
            Self::LlamaCpp => "llamacpp",
            Self::Cohere => "cohere",
            Self::Vllm => "vllm",
            Self::Tei => "tei",
        }
    }

    /// The endpoints of an API that has no path prefix of its own: those that answer prompts or tell something harmless, none that
    /// manage the server.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::OpenAi | Self::Models | Self::Azure | Self::Ollama => &[],
            Self::LlamaCpp => &[
                "/completion",
                "/completions",
                "/infill",
                "/tokenize",
                "/detokenize",
                "/apply-template",
                "/embedding",
                "/embeddings",
                "/rerank",
                "/reranking",
                "/chat/completions",
            ],
            Self::Cohere => &["/v2/rerank", "/v2/embed", "/v2/chat"],
            Self::Vllm => &["/score", "/pooling", "/classify", "/rerank", "/tokenize", "/detokenize"],
            Self::Tei => &[
                "/embed",
                "/embed_all",
                "/embed_sparse",
                "/predict",
                "/rerank",
                "/similarity",
                "/tokenize",
                "/decode",
                "/info",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Api;

    /// Each path that is offered here is routed to servers for everybody: an API must not bring those of management.
    #[test]
    fn each_api_has_a_name_and_only_paths_that_answer_prompts() {
        let names: BTreeSet<&str> = Api::ALL.into_iter().map(Api::name).collect();
        assert!(names.len() == Api::ALL.len() && names.contains("vllm") && !names.contains(""), "{names:?}");
        let counts = Api::ALL.map(|api| api.paths().len());
        assert_eq!(counts, [0, 0, 0, 0, 11, 3, 6, 9]);
        for path in Api::ALL.into_iter().flat_map(Api::paths) {
            let manages =
                ["load", "sleep", "slots", "adapter", "metrics"].iter().any(|word| path.contains(word));
            assert!(path.starts_with('/') && path.len() > 1 && !manages, "{path}");
        }
    }
}
