//! Watches the configuration file: a valid new version takes effect, an invalid one is refused.
//!
//! The file is polled and not watched through the operating system: editors replace files, bind mounts hide changes, and one
//! small read a second costs nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use admin::{Authenticator, ConfigurationFinding};
use catalogue::Configured;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};
use web::{Family, Shared};

use super::{admin_tokens, log::LogLevel};
use crate::{
    config::{Config, ConfigErrors, Env},
    wiring,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What an operator should know of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Review {
    /// The file has changed, and the new version is invalid.
    pub(crate) is_refused: bool,
    pub(crate) problems: Vec<ConfigurationFinding>,
}

impl Review {
    /// A review of a configuration in force, compared with the one with which the process started.
    pub(crate) fn of(config: &Config, started: &Config) -> Self {
        let restart = started.restart_needed(config).into_iter();
        let restart = restart.map(|part| ConfigurationFinding::NeedsRestart { part });
        let doubtful = config.warnings.iter().cloned().map(ConfigurationFinding::Doubtful);
        Self { is_refused: false, problems: restart.chain(doubtful).collect() }
    }

    /// A review of a file that was refused.
    fn refused(errors: &ConfigErrors) -> Self {
        const MAX_ERRORS_SHOWN: usize = 5;
        let first = errors.0.iter().take(MAX_ERRORS_SHOWN).cloned();
        let mut problems: Vec<ConfigurationFinding> = first.map(ConfigurationFinding::Refused).collect();
        if let Some(errors) = errors.0.len().checked_sub(MAX_ERRORS_SHOWN).filter(|others| *others > 0) {
            problems.push(ConfigurationFinding::RefusedForMore { errors });
        }
        Self { is_refused: true, problems }
    }
}

/// Reports on `/readyz` and `/metrics` whether the file as it is now is in force.
pub(crate) fn report(shared: &Shared, reviews: &watch::Receiver<Review>) {
    let told = reviews.clone();
    shared.add_status("configuration", move || {
        let review = told.borrow();
        let state = if review.is_refused { "refused" } else { "in force" };
        let problems: Vec<String> = review.problems.iter().map(ToString::to_string).collect();
        let of = |finding: &ConfigurationFinding| {
            web::finding_to_json(finding.code(), finding.severity(), "configuration", finding)
        };
        let findings: Vec<Value> = review.problems.iter().map(of).collect();
        json!({ "state": state, "problems": problems, "findings": findings })
    });
    let told = reviews.clone();
    shared.add_metrics(move || {
        let is_taken = f64::from(u8::from(!told.borrow().is_refused));
        let help = "Whether the configuration file as it stands is in force; if not, the one before is.";
        vec![Family::gauge("modelgate_config_last_reload_successful", help).with(&[], is_taken)]
    });
}

/// The parts that a reload updates.
pub(crate) struct Reload {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The content of the file when it was read at start; a change during the start is noticed, too.
    pub(crate) seen: Option<Vec<u8>>,
    /// The configuration with which the process started; parts of it stay in force until the process ends.
    pub(crate) started: Arc<Config>,
    pub(crate) running: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) servers: watch::Sender<Configured>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) configs: watch::Sender<Arc<Config>>,
    pub(crate) reviews: watch::Sender<Review>,
    pub(crate) log_level: LogLevel,
}

impl Reload {
    /// Watches the file; never returns. Limits keep their counts across a reload.
    pub(crate) async fn watch(mut self) {
        // The senders are kept in any case: dropping them would look like a change to the receivers.
        let Some(path) = self.file.take() else { return std::future::pending().await };
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = fs::read(&path).ok();
            if now == self.seen {
                continue;
            }
            self.seen = now;
            match Config::load(Some(&path), &Env::of_this_process()) {
                Ok(config) => self.put_in_force(&path, Arc::new(config)),
                Err(errors) => {
                    self.reviews.send_replace(Review::refused(&errors));
                    error!(path = %path.display(), "the new configuration is refused, the old one stays: {errors}");
                }
            }
        }
    }

    fn put_in_force(&mut self, path: &Path, config: Arc<Config>) {
        let review = Review::of(&config, &self.started);
        for problem in &review.problems {
            warn!("{problem}");
        }
        self.reviews.send_replace(review);
        self.servers.send_replace(wiring::configured(&config));
        self.shared.replace_settings(wiring::settings(&config));
        self.shared.telemetry().bound_tallies(config.metrics);
        if config.log.level != self.running.log.level {
            self.log_level.set(&config.log);
        }
        self.configs.send_replace(Arc::clone(&config));
        admin_tokens::renew(&self.authenticator, &config, &self.running);
        let (keys, servers) = (config.accounts.declared.keys.len(), config.servers.len());
        info!(path = %path.display(), keys, servers, "configuration reloaded");
        self.running = config;
    }
}
