//! Importing another gateway's keys: from which gateway, and which of its restrictions to drop.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The gateway from which keys come.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Gateway {
    /// Kong, by its declarative configuration.
    #[value(
        help = "Kong's declarative configuration (YAML): kong.yml, what `deck gateway dump` prints, or `kong config db_export`"
    )]
    Kong,
    /// LiteLLM, by the answers of its lists.
    #[value(
        help = "LiteLLM's answers (JSON) to GET /key/list?return_full_object=true&size=100, each page, or /key/info; and to \
                /team/list, /user/list and /organization/list, without which keys of teams, users and organizations are \
                taken over disabled"
    )]
    Litellm,
}

/// What to import.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A restriction that Modelgate does not know disables the keys that it restricts, and is named.\n\
                  With --store, keys that are there already stay as they are; a key that was deleted in the store comes back \
                  if a file that still has it is imported again."
)]
pub(crate) struct Import {
    /// The gateway whose files they are
    #[arg(long, value_enum)]
    pub(crate) from: Gateway,
    /// Put the keys into the store instead of printing them
    #[arg(long)]
    pub(crate) store: bool,
    /// Restrictions to drop, as they are named on stderr (max_budget, acl): keys that nothing else restricts work
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) without: Vec<String>,
    /// The files; what cannot be imported from them is reported
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

impl Gateway {
    /// The gateway's name in the audit log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kong => "kong",
            Self::Litellm => "litellm",
        }
    }
}
