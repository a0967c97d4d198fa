//! Why a real part is not there, or does not do what a test asks of it.

use std::fmt::Display;

use tokio::task::JoinError;

/// What went wrong with a real part.
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
        /// What it, or the system, said.
        why: String,
    },
    /// A command did not come to an end.
    #[error("{command} took too long")]
    TooLong {
        /// The command.
        command: String,
    },
    /// It is there, and not as it should be.
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
