//! Why a real part is missing, or fails.

use std::fmt::Display;

use tokio::task::JoinError;

/// The failure of a real part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is not on this machine; the text says what was looked for.
    #[error("{0}")]
    Missing(String),
    /// A command failed, or something could not be read or written.
    #[error("{what}: {why}")]
    Failed {
        /// The command or the file.
        what: String,
        /// The message of the command or the system.
        why: String,
    },
    /// A command timed out.
    #[error("{command} took too long")]
    TooLong {
        /// The command.
        command: String,
    },
    /// The part is there, but not in the expected state.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    pub(crate) fn of(what: impl Display, why: impl Display) -> Self {
        Self::Failed { what: what.to_string(), why: why.to_string() }
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self::Missing(what.into())
    }

    pub(crate) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected(what.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Unexpected(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Unexpected(error.to_string())
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::Unexpected(error.to_string())
    }
}
