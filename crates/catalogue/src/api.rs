//! The ways in which clients address a model.

/// An API that is offered, with paths of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// OpenAI's and Anthropic's: `/v1/…`, the model in the body
    /// (<https://platform.openai.com/docs/api-reference>).
    OpenAi,
    /// `/models/<name>/…`: the model in the path, which is taken off; what follows is the server's own.
    Models,
    /// Azure's: `/openai/deployments/<name>/…`, which becomes `/v1/…`
    /// (<https://learn.microsoft.com/azure/ai-services/openai/reference>).
    Azure,
    /// Ollama's own: `/api/…` (<https://github.com/ollama/ollama/blob/main/docs/api.md>).
    Ollama,
    /// llama.cpp's own: `/completion`, `/infill`, …
    /// (<https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>).
    LlamaCpp,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::OpenAi, Self::Models, Self::Azure, Self::Ollama, Self::LlamaCpp];
    /// Those that are offered unless the operator says otherwise: their paths are nobody else's.
    pub const DEFAULT: [Self; 3] = [Self::OpenAi, Self::Models, Self::Azure];
    /// llama.cpp's own endpoints that take a body; management is not among them.
    pub const LLAMA_CPP_PATHS: [&str; 11] = [
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
    ];

    /// What the operator calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Models => "models",
            Self::Azure => "azure",
            Self::Ollama => "ollama",
            Self::LlamaCpp => "llamacpp",
        }
    }
}
