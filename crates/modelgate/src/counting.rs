//! Limits that several Modelgates share: the connection, and what is said of it.

use std::{io, sync::Arc};

use shared_limits::{Health, SharedLimits};
use web::{Family, Shared, SharedCounting};

use crate::config::{SharedLimitsConfig, SharedLimitsOptions};

/// Looks for the server once; if it is not there, in the background.
///
/// # Errors
/// The configuration is of no use for it.
pub(crate) async fn connect(config: &SharedLimitsConfig) -> io::Result<SharedCounting> {
    let SharedLimitsConfig { url, on_failure, options } = config;
    let SharedLimitsOptions { timeout, namespace, authorities } = options.clone();
    let limits = SharedLimits::connect(url, shared_limits::Options { timeout, namespace, authorities }).await;
    Ok(SharedCounting::new(limits.map_err(|e| io::Error::other(format!("shared_limits: {e}")))?, *on_failure))
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
