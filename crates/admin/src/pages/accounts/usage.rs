//! The usage of a key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store::{UsageFilter, UsageRow};

use crate::{Admin, format, list::encode};

/// How many rows of usage are shown.
const ROWS: u32 = 60;

/// Usage on a day.
pub(super) struct UsageLine {
    pub(super) day: String,
    pub(super) model: String,
    pub(super) link: String,
    pub(super) requests: String,
    pub(super) tokens: String,
    pub(super) refused: String,
}

/// The latest usage of a key, newest first; empty without a store.
pub(super) async fn of_key(admin: &Admin, key: &str) -> Vec<UsageRow> {
    let Ok(store) = admin.registry.store() else { return Vec::new() };
    let filter = UsageFilter { key: Some(key.to_owned()), limit: ROWS, ..UsageFilter::default() };
    // The page is useful without usage, too.
    store.usage(&filter).await.unwrap_or_default()
}

/// The models among them, those used last first.
pub(super) fn models(used: &[UsageRow]) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for row in used {
        if !models.contains(&row.model) {
            models.push(row.model.clone());
        }
    }
    models
}

pub(super) fn row(row: &UsageRow) -> UsageLine {
    let count = |number: i64| format::count(u64::try_from(number).unwrap_or(0));
    UsageLine {
        day: row.day.clone(),
        model: row.model.clone(),
        link: format!("/models/{}", encode(&row.model)),
        requests: count(row.requests),
        tokens: count(row.estimated_tokens),
        refused: count(row.refused),
    }
}

/// Milliseconds since 1970 as a time.
pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
