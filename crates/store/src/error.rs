//! The store's errors.

use std::{fmt, path::PathBuf};

use accounts::{Account, AccountKind};
use config_reader::ConfigErrors;

/// A failure of the store. Never contains a URL, because there may be a password in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or answers with an error.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The tables were made by a newer Modelgate, or changed by somebody else.
    #[error("the store's tables are not those of this Modelgate: {0}")]
    Migration(String),
    /// A backup's file cannot be written or read.
    #[error("{}: {why}", file.display())]
    Backup {
        /// The file.
        file: PathBuf,
        /// Why not.
        why: String,
    },
    /// The store that a backup is to be restored into holds something.
    #[error("the store is not empty: it holds {0}")]
    NotEmpty(String),
    /// An account cannot be read.
    #[error("{0}; if no newer Modelgate has written it, delete it and make it anew")]
    Unreadable(#[from] Unreadable),
    /// The change conflicts with what the store holds.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// A conflict between a change and what the store holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// There is already an account of that name.
    #[error("there is a {0} {1:?} already")]
    Exists(AccountKind, String),
    /// There is no account of that name.
    #[error("there is no {0} {1:?}")]
    Missing(AccountKind, String),
    /// Another key has the same digest.
    #[error("key {0:?} is the same API key")]
    SameKey(String),
    /// The account has been changed by somebody else since it was read.
    #[error("the {0} {1:?} was changed by somebody else just now; look at it and try again")]
    Changed(AccountKind, String),
    /// A rotation of the key is still in its grace period, which ends at this time.
    #[error(
        "the key {0:?} was rotated before, and the old API key works until {1}; another rotation would end it now. \
         Wait, or remove previous first, or rotate without grace (0s)"
    )]
    Rotated(String, String),
    /// Other accounts refer to it.
    #[error("the {0} {1:?} is in use by {2}")]
    InUse(AccountKind, String, String),
}

/// An account that cannot be read, because a newer Modelgate or a person wrote it. Other accounts are not affected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("the {kind} {name:?} cannot be read: {why}")]
pub struct Unreadable {
    /// Its kind.
    pub kind: AccountKind,
    /// Its name.
    pub name: String,
    /// The reason.
    pub why: NotReadable,
}

/// Why an account cannot be read. The message is one line, and never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotReadable {
    /// The stored document is invalid.
    Document(ConfigErrors),
    /// The document contains another name than the one under which it is stored.
    OtherName,
}

impl fmt::Display for NotReadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigErrors(errors) = match self {
            Self::Document(errors) => errors,
            Self::OtherName => return f.write_str("the document contains another name"),
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
    /// Reads an account's stored document.
    pub(crate) fn or_read<A: Account>(name: &str, document: &str) -> Result<A, Self> {
        let unreadable = |why| Self { kind: A::KIND, name: name.to_owned(), why };
        let read = accounts::parse_text::<A>(document, None);
        let account = read.map_err(|errors| unreadable(NotReadable::Document(errors)))?;
        // Paging relies on the stored names.
        match account.name() == name {
            true => Ok(account),
            false => Err(unreadable(NotReadable::OtherName)),
        }
    }
}

/// The text is not the URL of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the URL of a store; allowed are sqlite:///path/of/file and postgres://user:password@host[:port]/database"
)]
pub struct InvalidUrl;
