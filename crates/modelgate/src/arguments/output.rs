//! The output format.

use clap::Args;

/// The output format.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}
