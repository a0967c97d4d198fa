//! Limits that several replicas share: the connection to Redis, what is reported about it, and what is kept across restarts.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher as _, Hasher as _},
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

/// Tries to connect once; if the server does not answer, connecting goes on in the background.
///
/// # Errors
/// The configuration cannot be used for a connection.
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

/// The file in the state folder that keeps how many replicas share the limits. A replica that starts while Redis is down enforces
/// its share of them, as it did before.
const REPLICAS: &str = "shared-limits-replicas";

/// `None` if the number was never known, or if the file is damaged.
fn remembered(folder: &Path) -> Option<NonZeroU32> {
    fs::read_to_string(folder.join(REPLICAS)).ok()?.trim().parse().ok()
}

/// Writes the file atomically: a crash leaves neither a partial nor an empty file. Others may have the same folder, and write at the
/// same time.
fn remember(folder: &Path, replicas: NonZeroU32) -> io::Result<()> {
    let file = folder.join(REPLICAS);
    // In containers each has the process id 1.
    let partial = file.with_extension(format!("{:x}.partial", RandomState::new().build_hasher().finish()));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut written = fs::File::create(&partial)?;
        writeln!(written, "{replicas}")?;
        written.sync_all()?;
        fs::rename(&partial, &file)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Writes the number of replicas for the next start whenever it changes, as long as limits are shared.
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

/// Reports on `/readyz` and `/metrics` whether limits are shared.
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
