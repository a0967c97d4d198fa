//! The configuration file is watched; a good new one takes effect, a bad one is refused.
//!
//! The file is read again and again rather than watched by the operating system: editors replace
//! files and bind mounts hide it, and one small read a second costs nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

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

/// What a change of the file concerns.
pub(crate) struct Reload {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// What stood in it when it was read: a change during the start is one, too.
    pub(crate) seen: Option<Vec<u8>>,
    pub(crate) running: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) servers: watch::Sender<Configured>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) configs: watch::Sender<Arc<Config>>,
}

impl Reload {
    /// Watches the file; never returns. Limits keep what they have counted.
    pub(crate) async fn watch(mut self) {
        // The senders stay in any case: without them others would hear of changes that are none.
        let Some(path) = self.file.take() else { return std::future::pending().await };
        loop {
            sleep(EVERY).await;
            let now = fs::read(&path).ok();
            if now == self.seen {
                continue;
            }
            self.seen = now;
            match Config::load(Some(&path), &Env::of_this_process()) {
                Ok(config) => self.put_in_force(&path, config),
                Err(errors) => {
                    error!(path = %path.display(), "the new configuration is refused, the old one stays: {errors}");
                }
            }
        }
    }

    fn put_in_force(&mut self, path: &Path, config: Config) {
        for part in self.running.restart_needed(&config) {
            warn!(part, "has changed, but takes effect only after a restart");
        }
        self.servers.send_replace(serve::configured(&config));
        self.shared.replace_settings(serve::settings(&config));
        self.configs.send_replace(Arc::new(config.clone()));
        admin_tokens::renew(&self.gate, &config, &self.running);
        let (keys, servers) = (config.accounts.declared.keys.len(), config.servers.len());
        info!(path = %path.display(), keys, servers, "configuration reloaded");
        self.running = config;
    }
}
