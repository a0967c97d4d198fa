//! Limits that several Modelgates share: the connection, and what is said and kept of it.

use std::{
    fs,
    io::{self, Write as _},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
};

use shared_limits::{Health, SharedLimits};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::warn;
use web::{Family, Shared, SharedCounting};

use crate::config::{SharedLimitsConfig, SharedLimitsOptions};

/// Looks for the server once; if it is not there, in the background.
///
/// # Errors
/// The configuration is of no use for it.
pub(crate) async fn connect(
    config: &SharedLimitsConfig,
    state_dir: Option<&Path>,
) -> io::Result<SharedCounting> {
    let SharedLimitsConfig { url, on_failure, options } = config;
    let SharedLimitsOptions { timeout, namespace, authorities } = options.clone();
    let replicas = state_dir.and_then(remembered).unwrap_or(NonZeroU32::MIN);
    let options = shared_limits::Options { timeout, namespace, authorities, replicas };
    let limits = SharedLimits::connect(url, options).await;
    let limits = limits.map_err(|e| io::Error::other(format!("shared_limits: {e}")))?;
    if let Some(folder) = state_dir {
        tokio::spawn(keep(folder.to_owned(), limits.replica_changes()));
    }
    Ok(SharedCounting::new(limits, *on_failure))
}

/// In the folder of what is kept over restarts: how many Modelgates share the limits. One that starts while Redis is down
/// enforces that part of them, as it did before.
const REPLICAS: &str = "shared-limits-replicas";

/// None if it was never known, or the file is damaged.
fn remembered(folder: &Path) -> Option<NonZeroU32> {
    fs::read_to_string(folder.join(REPLICAS)).ok()?.trim().parse().ok()
}

/// Never a file that is half written, and none that a crash has left empty.
fn remember(folder: &Path, replicas: NonZeroU32) -> io::Result<()> {
    let (file, new) = (folder.join(REPLICAS), folder.join(format!("{REPLICAS}.new")));
    fs::create_dir_all(folder)?;
    let mut written = fs::File::create(&new)?;
    writeln!(written, "{replicas}")?;
    written.sync_all()?;
    fs::rename(new, file)
}

/// Keeps how many share the limits for the next start, as long as somebody counts them.
async fn keep(folder: PathBuf, mut changes: watch::Receiver<NonZeroU32>) {
    let mut kept = remembered(&folder);
    loop {
        let replicas = *changes.borrow_and_update();
        if kept != Some(replicas) {
            let into = folder.clone();
            let written = spawn_blocking(move || remember(&into, replicas)).await;
            match written.map_err(io::Error::other).flatten() {
                Ok(()) => kept = Some(replicas),
                Err(error) => {
                    warn!(%error, "how many Modelgates share the limits cannot be kept in state_dir");
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Says on `/readyz` and `/metrics` whether limits are shared.
pub(crate) fn report(shared: &Arc<Shared>) {
    if shared.shared_counting().is_none() {
        return;
    }
    let weak = Arc::downgrade(shared);
    shared.add_status("shared_limits", move || {
        let Some(shared) = weak.upgrade() else { return serde_json::Value::Null };
        let Some(counting) = shared.shared_counting() else { return serde_json::Value::Null };
        let health = counting.limits().health();
        let why = match &*health.borrow() {
            Health::Up => None,
            Health::Down(why) => Some(why.to_string()),
        };
        serde_json::json!({
            "state": if why.is_none() { "up" } else { "down" },
            "why": why,
            "fail": counting.on_failure().as_str(),
            "replicas": counting.limits().replicas(),
        })
    });
    let weak = Arc::downgrade(shared);
    shared.add_metrics(move || {
        let Some(shared) = weak.upgrade() else { return Vec::new() };
        let Some(counting) = shared.shared_counting() else { return Vec::new() };
        let (limits, mode) = (counting.limits(), counting.on_failure().as_str());
        let up = f64::from(u8::from(limits.health().borrow().is_up()));
        let alone = Family::counter(
            "modelgate_shared_limits_decisions_alone",
            "Decisions without the server of shared limits, by what is done then.",
        );
        vec![
            Family::gauge("modelgate_shared_limits_up", "Whether the server of shared limits answers.")
                .with(&[], up),
            Family::gauge("modelgate_shared_limits_replicas", "How many Modelgates share the limits.")
                .with(&[], f64::from(limits.replicas())),
            alone.with(&[("fail", mode)], counting.alone() as f64),
        ]
    });
}
