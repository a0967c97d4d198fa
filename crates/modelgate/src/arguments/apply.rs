//! Accounts as a file.

use std::path::PathBuf;

use clap::Args;

/// What is to become of the store's accounts.
#[derive(Debug, Clone, Args)]
pub(crate) struct Apply {
    /// A YAML file with plans, consumers and keys, as in the configuration file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Also remove what the store has and the file has not
    #[arg(long)]
    pub(crate) prune: bool,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
