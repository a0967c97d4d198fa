//! Why a request is refused. A reason is a value; HTTP comes later.

use std::{fmt, time::Duration};

use crate::{Rate, Unreadable};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No header holds a key.
    #[error("an API key is required: send it as \"Authorization: Bearer <key>\"")]
    MissingKey,
    /// The key is not one of ours.
    #[error("the API key is not valid")]
    UnknownKey,
    /// Several different keys, or one header given twice.
    #[error("the request holds more than one API key")]
    ConflictingKeys,
    /// The model cannot be read without guessing.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// There is no such model, or this key may not use it; a client cannot tell which.
    #[error("the model {model:?} does not exist, or this API key may not use it")]
    ModelNotFound {
        /// The model that was asked for.
        model: String,
    },
    /// A header, the query or the host chooses servers that do not have the model.
    #[error("the servers that this request chooses, by {chosen_by}, do not serve the model {model:?}")]
    NotServedThere {
        /// The model that was asked for.
        model: String,
        /// What the request has that chooses them, as the operator wrote it.
        chosen_by: String,
    },
    /// The servers demand a credential, and whoever asks has not proven to be Traefik.
    #[error("the model's servers cannot be used at the moment; the operator's log says why")]
    UntrustedPeer,
    /// The path manages a server, and the key has no such right.
    #[error("this path is not available")]
    ClosedPath,
    /// No server can take requests for the model now.
    #[error("the model {model:?} is {}; try again later", if *draining { "being taken out of service" } else { "starting" })]
    NotReady {
        /// The model that was asked for.
        model: String,
        /// Whether its servers are leaving, rather than coming.
        draining: bool,
    },
    /// A limit is used up.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
}

/// A limit that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {} requests a minute {scope} is used up", rate.requests_per_minute())]
pub struct RateLimited {
    /// Whose limit it is.
    pub scope: Scope,
    /// The limit.
    pub rate: Rate,
    /// How long to wait until one request passes again.
    pub retry_after: Duration,
    /// How long until a full burst passes again.
    pub reset_after: Duration,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The key's, over all models.
    Key,
    /// The key's, for this one model.
    KeyAndModel,
    /// The model's, over all keys.
    Model,
}

impl Reason {
    /// One word for it, for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_api_key",
            Self::UnknownKey => "invalid_api_key",
            Self::ConflictingKeys => "conflicting_api_keys",
            Self::Unreadable(unreadable) => unreadable.code(),
            Self::ModelNotFound { .. } => "model_not_found",
            Self::NotServedThere { .. } => "model_not_served_there",
            Self::UntrustedPeer => "untrusted_peer",
            Self::ClosedPath => "closed_path",
            Self::NotReady { draining: false, .. } => "model_starting",
            Self::NotReady { draining: true, .. } => "model_draining",
            Self::RateLimited(_) => "rate_limit_exceeded",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "for this API key",
            Self::KeyAndModel => "for this API key and model",
            Self::Model => "for this model",
        })
    }
}
