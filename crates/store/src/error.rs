//! What goes wrong.

use std::fmt;

use accounts::{Account, Kind};
use config_reader::ConfigErrors;

use crate::{Conflict, database::ACQUIRE};

/// The store cannot do something. Never repeats a URL: there may be a password in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or not as it should.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// A newer Modelgate has made it, or somebody has changed its tables.
    #[error("the store's tables are not those of this Modelgate: {0}")]
    Migration(String),
    /// An account cannot be read.
    #[error("{0}; if no newer Modelgate has written it, delete it and make it anew")]
    Unreadable(#[from] Unreadable),
    /// What is to be written does not fit to what is there.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// An account that a newer Modelgate has written, or somebody by hand, so that it cannot be read. The others can.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("the {kind} {name:?} cannot be read: {why}")]
pub struct Unreadable {
    /// What it is.
    pub kind: Kind,
    /// What it is called.
    pub name: String,
    /// Why.
    pub why: NotReadable,
}

/// Why an account cannot be read. Its words stand on one line, and never hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotReadable {
    /// This is wrong with what is written of it.
    Document(ConfigErrors),
    /// Another name is written in it than the one by which it is kept.
    OtherName,
}

impl fmt::Display for NotReadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigErrors(errors) = match self {
            Self::Document(errors) => errors,
            Self::OtherName => return f.write_str("the name in it is another one"),
        };
        for (i, error) in errors.iter().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            let place = if error.place == "the file" { "the document" } else { error.place.as_str() };
            write!(f, "{between}{place}: {}", error.message)?;
        }
        Ok(())
    }
}

impl Unreadable {
    /// Reads an account as it is written in the store.
    pub(crate) fn or_read<A: Account>(name: &str, document: &str) -> Result<A, Self> {
        let unreadable = |why| Self { kind: A::KIND, name: name.to_owned(), why };
        let read = accounts::parse_text::<A>(document, None);
        let account = read.map_err(|errors| unreadable(NotReadable::Document(errors)))?;
        // Whoever pages through a list goes by the names.
        match account.name() == name {
            true => Ok(account),
            false => Err(unreadable(NotReadable::OtherName)),
        }
    }
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
            sqlx::Error::PoolTimedOut => {
                format!("no connection came about within {ACQUIRE:?}; see whether it runs and can be reached")
            }
            // Without the place in its own source, which PostgreSQL adds.
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        })
    }
}
