//! The tokens with which operators sign in: those of the configuration, or a generated one.

use std::{io, sync::Arc, time::Duration};

use admin::{AdminTokens, Authenticator};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use crate::{config::Config, output};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

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

/// Takes a token that `modelgate admin token --new` has made; never returns.
pub(crate) async fn keep_fresh(authenticator: &Authenticator, configs: watch::Receiver<Arc<Config>>) {
    let mut seen = None;
    loop {
        let config = Arc::clone(&configs.borrow());
        if let (true, Some(folder)) = (config.admin.tokens.is_empty(), &config.state_dir) {
            let now = AdminTokens::kept(folder);
            if let (Some(now), Some(before)) = (&now, &seen)
                && now != before
            {
                authenticator.replace_tokens(AdminTokens::of_generated(*now));
                info!("the admin token was made anew");
            }
            seen = now.or(seen);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Prints a generated token once, and not to the log: logs may be kept and read by others.
fn show(token: &str, config: &Config) {
    let (kept, if_lost) = match &config.state_dir {
        Some(_) => ("It is shown this once", "`modelgate admin token --new` makes another one"),
        None => ("Without state_dir it is valid until Modelgate stops", "a restart makes another one"),
    };
    let address = match &config.admin.host {
        // Through Traefik, which may be the only way there.
        Some(host) => host.to_string(),
        // In a container that is an address of its own, and a port of the host leads there.
        None if config.listen.admin.ip().is_unspecified() => {
            format!("localhost:{}", config.listen.admin.port())
        }
        None => config.listen.admin.to_string(),
    };
    let shown = output::line(format_args!(
        "No admin token is configured, so one was made. {kept}:\n\n  {token}\n\nSign in with it at http://{address}/\n\
         If it is lost, {if_lost}.\n"
    ));
    if let Err(error) = shown {
        warn!(%error, "the admin token could not be shown: {if_lost}");
    }
}
