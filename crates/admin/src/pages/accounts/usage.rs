//! The usage of a key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store::{UsageBy, UsageDimension, UsageFilter, UsageRow};

use crate::Admin;

/// How many rows of usage are shown.
const ROWS: u32 = 60;

/// The latest usage of a key, newest first; empty without a store.
pub(super) async fn of_key(admin: &Admin, key: &str) -> Vec<UsageRow> {
    let Ok(store) = admin.registry.store() else { return Vec::new() };
    let by = UsageBy::of([UsageDimension::Day, UsageDimension::Model]);
    let filter = UsageFilter { key: Some(key.to_owned()), by, limit: ROWS, ..UsageFilter::default() };
    // The page is useful without usage, too.
    store.usage(&filter).await.unwrap_or_default()
}

/// The models among them, those used last first.
pub(super) fn models(used: &[UsageRow]) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for row in used {
        if let Some(model) = row.model.as_ref().filter(|model| !models.contains(model)) {
            models.push(model.clone());
        }
    }
    models
}

/// Milliseconds since 1970 as a time.
pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
