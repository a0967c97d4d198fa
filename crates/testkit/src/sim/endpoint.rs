//! The endpoints of the simulated server.

/// The endpoints that name a model in their body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    CountTokens,
    Rerank,
    Moderations,
    Images,
    Transcriptions,
}

impl Endpoint {
    pub(super) fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/chat/completions" => Self::Chat,
            "/completions" => Self::Completions,
            "/embeddings" => Self::Embeddings,
            "/responses" => Self::Responses,
            "/messages" => Self::Messages,
            "/messages/count_tokens" => Self::CountTokens,
            "/rerank" => Self::Rerank,
            "/moderations" => Self::Moderations,
            "/images/generations" => Self::Images,
            "/audio/transcriptions" => Self::Transcriptions,
            _ => return None,
        })
    }

    /// Whether the engine works on such requests: they have spans and count in its tokens.
    pub(super) fn generates(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Embeddings | Self::Responses | Self::Messages)
    }
}
