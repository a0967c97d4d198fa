//! Why a request is refused. A reason is a value; HTTP statuses are chosen elsewhere.

use catalogue::Readiness;
use limits::{Limit, LimitReached, Scope, Unit};

use crate::{Conflict, TokenFault, Unreadable, estimate::Unbounded};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No header holds a key.
    #[error("an API key is required: send it as \"Authorization: Bearer <key>\"")]
    MissingKey,
    /// The key is unknown.
    #[error("the API key is not valid")]
    UnknownKey,
    /// The key was revoked. Clients hear the same as about an unknown one, also how often they may try.
    #[error("the API key is not valid")]
    RevokedKey,
    /// The key is not known, but the store of keys has not answered yet.
    #[error("API keys cannot be looked up at the moment; try again later")]
    KeysUnavailable,
    /// It has the form of Modelgate's keys, but a wrong checksum: it was mistyped or cut off.
    #[error("the API key is not valid: its checksum does not fit, so it was mistyped or cut off")]
    MistypedKey,
    /// A token of an identity provider was refused.
    #[error("the token is not valid: {0}")]
    BadToken(Box<TokenFault>),
    /// The token names a configured issuer whose keys have never been fetched, so it cannot be verified.
    #[error(
        "the token cannot be checked at the moment, for its issuer's keys are not known yet; try again later"
    )]
    TokenKeysUnavailable,
    /// The key or its owner is disabled.
    #[error("the API key is not valid any more: it has been disabled")]
    DisabledKey,
    /// The key has expired.
    #[error("the API key is not valid any more: it has expired")]
    ExpiredKey,
    /// The key may not be used from where the request comes.
    #[error("the API key may not be used from this address")]
    WrongNetwork,
    /// Several different keys, or one header given twice.
    #[error("the request holds more than one API key: {0}; send one alone")]
    ConflictingKeys(Conflict),
    /// The model cannot be read without guessing.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// There is no such model, or this key may not use it; a client cannot tell which.
    #[error("the model {model:?} does not exist, or this API key may not use it")]
    ModelNotFound {
        /// The model that was asked for.
        model: String,
    },
    /// No server is known for the model, and one is loading whose models nobody knows yet. The key may use a model of that
    /// name: of others it hears the same whether they exist or not.
    #[error(
        "the model {model:?} is not there yet, and a server that is starting may have it; try again later"
    )]
    ModelNotKnownYet {
        /// The model that was asked for.
        model: String,
    },
    /// A header, the query or the host chooses servers that do not have the model.
    #[error("the servers that this request chooses, by {chosen_by}, do not serve the model {model:?}")]
    NotServedThere {
        /// The model that was asked for.
        model: String,
        /// The condition by which the request chose them, as the operator wrote it.
        chosen_by: String,
    },
    /// The servers demand a credential, but the caller has not proven to be Traefik.
    #[error("the model's servers cannot be used at the moment; the operator's log says why")]
    UntrustedPeer,
    /// The path manages a server, but the key has no such right.
    #[error("this path is not available")]
    ClosedPath,
    /// The path leads to data that servers store for everybody, but the key may not use that.
    #[error("this path leads to what is stored for all users of the server, which this API key may not use")]
    StoredData,
    /// A WebSocket where there is none, for what is asked by POST elsewhere.
    #[error("no WebSocket is served at this path: send the request over HTTP, by POST")]
    NoWebSocket,
    /// No server can take requests for the model now.
    #[error("{}; try again later", idle.words(model))]
    NotReady {
        /// The model that was asked for.
        model: String,
        /// The state of its servers.
        idle: Idle,
    },
    /// All servers of the model had as much as they can take until the longest wait was over, or too many requests waited.
    #[error("all servers of the model {model:?} are busy; try again later")]
    ServersBusy {
        /// The model that was asked for.
        model: String,
    },
    /// Modelgate stops while the request waits for a server.
    #[error("the gateway is being stopped while this request waits for a server; send it again")]
    Stopping,
    /// A limit is used up.
    #[error(transparent)]
    LimitReached(#[from] LimitReached),
    /// There is a hard budget, and nobody knows the most that the request can cost.
    #[error("its budget is hard, so the most that a request can cost must be known, but {0}")]
    Unbounded(#[from] Unbounded),
    /// There is a hard budget, and other Modelgates could spend it at the same time.
    #[error("its hard budget cannot be kept here; the operator's log says why")]
    HardBudgetUnkept,
    /// The server of shared limits does not answer, and the operator has chosen to refuse requests then, or the budget is hard; or neither it
    /// nor the store has told what is spent of a hard budget.
    #[error("the limits of this request cannot be checked at the moment; try again later")]
    LimitsUnavailable,
}

/// Why no server takes requests for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// At least one is starting.
    Starting,
    /// They are running but withdrawn: told to stop, paused, unhealthy, or not answering.
    Draining,
    /// They have all stopped.
    Stopped,
}

impl Idle {
    /// Why a pool takes no requests; `None` if it does.
    pub fn of(readiness: Readiness) -> Option<Self> {
        match readiness {
            Readiness::Ready => None,
            Readiness::Starting => Some(Self::Starting),
            Readiness::Draining => Some(Self::Draining),
            Readiness::Stopped => Some(Self::Stopped),
        }
    }

    fn words(self, model: &str) -> String {
        match self {
            Self::Starting => format!("the model {model:?} is starting"),
            Self::Draining => format!("no server of the model {model:?} can take requests at the moment"),
            Self::Stopped => format!("no server of the model {model:?} is running at the moment"),
        }
    }
}

impl Reason {
    /// Whether the credential could be a guess: it is no key or token that works, and that is all a client hears.
    pub fn is_guess(&self) -> bool {
        match self {
            Self::UnknownKey | Self::MistypedKey | Self::RevokedKey => true,
            Self::BadToken(fault) => fault.is_guess(),
            _ => false,
        }
    }

    /// One word for it, for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_api_key",
            Self::UnknownKey => "invalid_api_key",
            Self::RevokedKey => "revoked_api_key",
            Self::KeysUnavailable => "api_keys_unavailable",
            Self::MistypedKey => "mistyped_api_key",
            Self::BadToken(_) => "invalid_token",
            Self::TokenKeysUnavailable => "token_keys_unavailable",
            Self::DisabledKey => "disabled_api_key",
            Self::ExpiredKey => "expired_api_key",
            Self::WrongNetwork => "api_key_not_for_this_address",
            Self::ConflictingKeys(_) => "conflicting_api_keys",
            Self::Unreadable(unreadable) => unreadable.code(),
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelNotKnownYet { .. } => "model_not_known_yet",
            Self::NotServedThere { .. } => "model_not_served_there",
            Self::UntrustedPeer => "untrusted_peer",
            Self::ClosedPath => "closed_path",
            Self::NoWebSocket => "websocket_not_served",
            Self::StoredData => "stored_data",
            Self::NotReady { idle: Idle::Starting, .. } => "model_starting",
            Self::NotReady { idle: Idle::Draining, .. } => "model_draining",
            Self::NotReady { idle: Idle::Stopped, .. } => "model_stopped",
            Self::ServersBusy { .. } => "servers_busy",
            Self::Stopping => "stopping",
            Self::LimitReached(LimitReached { scope: Scope::Address, .. }) => "too_many_failures",
            Self::LimitReached(LimitReached { limit: Limit::Rate(_), .. }) => "rate_limit_exceeded",
            Self::LimitReached(LimitReached { limit: Limit::Quota(quota), .. })
                if quota.unit() == Unit::Money =>
            {
                "budget_exceeded"
            }
            Self::LimitReached(LimitReached { limit: Limit::Quota(_), .. }) => "quota_exceeded",
            Self::Unbounded(_) => "cost_unbounded",
            Self::HardBudgetUnkept => "hard_budget_unkept",
            Self::LimitsUnavailable => "limits_unavailable",
        }
    }
}

impl From<TokenFault> for Reason {
    fn from(fault: TokenFault) -> Self {
        Self::BadToken(Box::new(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that guesses is slowed; a client whose key is known, or that shows none, is not.
    #[test]
    fn only_what_could_be_a_guess_counts_as_one() {
        for (reason, is_guess) in [
            (Reason::UnknownKey, true),
            (Reason::MistypedKey, true),
            (TokenFault::Unreadable.into(), true),
            (TokenFault::NoExpiry.into(), false),
            (Reason::MissingKey, false),
            (Reason::KeysUnavailable, false),
            (Reason::ExpiredKey, false),
            (Reason::RevokedKey, true),
            (Reason::ModelNotFound { model: "x".into() }, false),
        ] {
            assert_eq!(reason.is_guess(), is_guess, "{reason}");
        }
    }

    #[test]
    fn a_model_that_is_not_ready_is_told_why() {
        for (readiness, words) in [
            (Readiness::Ready, None),
            (Readiness::Starting, Some("the model \"a\" is starting; try again later")),
            (
                Readiness::Draining,
                Some("no server of the model \"a\" can take requests at the moment; try again later"),
            ),
            (
                Readiness::Stopped,
                Some("no server of the model \"a\" is running at the moment; try again later"),
            ),
        ] {
            let told =
                Idle::of(readiness).map(|idle| Reason::NotReady { model: "a".into(), idle }.to_string());
            assert_eq!(told.as_deref(), words);
        }
    }
}
