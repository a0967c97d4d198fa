//! How to print what was asked for.

use clap::Args;

/// How to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}
