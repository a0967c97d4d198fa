//! Operations on keys only: rotation, and what is left of their limits.

use std::time::Duration;

use accounts::{AccountKind, KeySpec};
use axum::{Json, extract::State};
use config_reader::ConfigErrors;
use serde_json::Value;

use super::{
    Problem,
    accounts::presented,
    extract::{Document, Name, Query},
    problem::error,
};
use crate::{Admin, Operator};

/// The longest time that an old key may go on working.
const LONGEST_GRACE: Duration = Duration::from_secs(366 * 24 * 3600);
const GRACE: &str = "how long the old key goes on working, with its unit: 24h, or 0s; at most 366days";

/// `POST /keys/{name}/rotate`
pub(crate) async fn rotate(
    State(admin): State<Admin>,
    operator: Operator,
    Name(name): Name,
    query: Query,
    Document(json): Document,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let grace = grace(&json).map_err(Problem::invalid)?;
    let (rotated, new) = admin.registry.rotate(&name, grace, &operator.actor()).await?;
    presented(&admin.registry, rotated, Some(new)).await.map(Json)
}

fn grace(json: &Value) -> Result<Duration, ConfigErrors> {
    let mut errors = Vec::new();
    let others = json.as_object().into_iter().flatten().filter(|(key, _)| *key != "grace");
    errors.extend(others.map(|_| error("the document", "unknown key; allowed here: grace")));
    let given = json.get("grace").and_then(Value::as_str);
    let read = given.and_then(|text| read_grace(text).ok());
    if read.is_none() {
        let found = given.map_or_else(|| "is missing".to_owned(), |_| "found something else".to_owned());
        errors.push(error("grace", format!("{found}; allowed: {GRACE}")));
    }
    match read {
        Some(grace) if errors.is_empty() => Ok(grace),
        _ => Err(ConfigErrors(errors)),
    }
}

/// Reads how long an old key goes on working: `24h`.
///
/// # Errors
/// The text is not a duration, or the duration is too long.
pub fn read_grace(text: &str) -> Result<Duration, InvalidGrace> {
    let read = humantime::parse_duration(text).ok().filter(|grace| *grace <= LONGEST_GRACE);
    read.ok_or(InvalidGrace)
}

/// The error for an invalid or too long grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {GRACE}")]
pub struct InvalidGrace;

/// `GET /keys/{name}/limits`
pub(crate) async fn limits(
    State(admin): State<Admin>,
    Name(name): Name,
    mut query: Query,
) -> Result<Json<Value>, Problem> {
    let model = query.words("model");
    query.finish()?;
    let policy = admin.shared.policy();
    let key = policy.keys().find(|key| key.name == name).cloned();
    drop(policy);
    let key = match (admin.registry.get::<KeySpec>(&name).await, key) {
        // A deleted key stays in force for a moment, and all keys do while the store is down.
        (Ok(None), _) => return Err(Problem::missing(AccountKind::Key, &name)),
        (_, Some(key)) => key,
        (Ok(Some(_)), None) => {
            let detail = format!("the key {name:?} is not in force; if it is not new, the log says why");
            return Err(Problem::conflict(detail));
        }
        (Err(error), None) => return Err(error.into()),
    };
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(|| Problem::unavailable(super::state::SURVEYING))?;
    let left = web::limits_left(&admin.shared, catalogue, &key, model.as_deref()).await;
    left.map(Json).ok_or_else(|| Problem::not_found(format!("the key {name:?} can use no such model")))
}
