//! The tokens with which operators sign in: those of the configuration, or a generated one.

use std::io;

use admin::{AdminTokens, Authenticator};
use tracing::error;

use crate::config::Config;

/// The tokens of the configuration; if there are none, the generated one. There is no default password.
///
/// # Errors
/// A token must be generated and cannot be, or the stored digest cannot be read.
pub(crate) fn open(config: &Config) -> io::Result<AdminTokens> {
    if !config.admin.tokens.is_empty() {
        return Ok(config.admin.tokens.clone());
    }
    let (tokens, new) = AdminTokens::generated(config.state_dir.as_deref())?;
    if let Some(new) = new {
        show(new.reveal(), config);
    }
    Ok(tokens)
}

/// Applies the tokens of a reloaded configuration. A generated token stays valid while none is configured.
pub(crate) fn renew(authenticator: &Authenticator, config: &Config, running: &Config) {
    if config.admin.tokens.is_empty() && running.admin.tokens.is_empty() {
        return;
    }
    match open(config) {
        Ok(tokens) => authenticator.replace_tokens(tokens),
        Err(error) => error!(%error, "no admin token can be generated, the old ones stay"),
    }
}

/// Prints a generated token once, and not to the log: logs may be kept and read by others.
#[expect(clippy::print_stdout, reason = "the log must not hold it")]
fn show(token: &str, config: &Config) {
    let kept = match &config.state_dir {
        Some(_) => "It is shown this once",
        None => "Without state_dir there will be another one at the next start",
    };
    let address = match &config.admin.host {
        // Through Traefik, which may be the only way there.
        Some(host) => host.to_string(),
        None => config.listen.admin.to_string(),
    };
    println!(
        "No admin token is configured, so one was made. {kept}:\n\n  {token}\n\nSign in with it at http://{address}/\n"
    );
}
