//! `modelgate render`: prints what Traefik would be told.

use std::process::ExitCode;

use crate::{config::Config, exit, survey};

/// Surveys once and prints what Traefik would be told.
#[expect(clippy::print_stdout, reason = "a command's answer goes to its user")]
pub(crate) fn render(config: &Config) -> ExitCode {
    exit::of(
        survey::survey(config)
            .map(|catalogue| println!("{}", survey::document(&catalogue, config).to_json_pretty())),
    )
}
