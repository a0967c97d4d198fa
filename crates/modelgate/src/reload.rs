//! The configuration file is watched; a good new one takes effect, a bad one is refused.
//!
//! The file is read again and again rather than watched by the operating system: editors replace
//! files and bind mounts hide it, and one small read a second costs nothing.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use admin::Gate;
use catalogue::Configured;
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};
use web::Shared;

use crate::{
    admin_tokens,
    config::{Config, Env},
    serve,
};

const EVERY: Duration = Duration::from_millis(500);

/// Watches until it is dropped. Limits keep what they have counted.
pub(crate) async fn watch(
    path: PathBuf,
    mut running: Config,
    shared: Arc<Shared>,
    servers: watch::Sender<Configured>,
    gate: Arc<Gate>,
    configs: watch::Sender<Arc<Config>>,
) {
    let mut seen = fs::read(&path).ok();
    loop {
        sleep(EVERY).await;
        let now = fs::read(&path).ok();
        if now == seen {
            continue;
        }
        seen = now;
        match Config::load(Some(&path), &Env::of_this_process()) {
            Ok(config) => {
                for part in running.restart_needed(&config) {
                    warn!(part, "has changed, but takes effect only after a restart");
                }
                servers.send_replace(serve::configured(&config));
                shared.replace_settings(serve::settings(&config));
                configs.send_replace(Arc::new(config.clone()));
                admin_tokens::renew(&gate, &config, &running);
                info!(path = %path.display(), keys = config.accounts.declared.keys.len(), servers = config.servers.len(), "configuration reloaded");
                running = config;
            }
            Err(errors) => {
                error!(path = %path.display(), "the new configuration is refused, the old one stays: {errors}");
            }
        }
    }
}
