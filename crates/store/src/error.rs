//! What goes wrong.

use crate::Conflict;

/// The store cannot do something. Never repeats a URL: there may be a password in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or not as it should.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// A newer Modelgate has made it, or somebody has changed its tables.
    #[error("the store's tables are not those of this Modelgate: {0}")]
    Migration(String),
    /// What is to be written does not fit to what is there.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// Not the URL of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the URL of a store; allowed are sqlite:///path/of/file and postgres://user:password@host[:port]/database"
)]
pub struct InvalidUrl;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(match error {
            // Their texts may have a part of the URL in them.
            sqlx::Error::Configuration(_) => "its URL or options are not understood".to_owned(),
            sqlx::Error::PoolTimedOut => "no connection came about in time".to_owned(),
            other => other.to_string(),
        })
    }
}
