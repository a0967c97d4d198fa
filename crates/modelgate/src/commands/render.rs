//! `modelgate render`: prints what Traefik would be told.

use std::process::ExitCode;

use crate::{config::Config, exit, output::say, survey};

/// Surveys once and prints what Traefik would be told.
pub(crate) fn render(config: &Config) -> ExitCode {
    exit::of(
        survey::survey(config)
            .map(|catalogue| say!("{}", survey::document(&catalogue, config).to_json_pretty())),
    )
}
