//! What is left of a key's limits, and what it has used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use access::Left;
use store::{UsageFilter, UsageRow};

use crate::{Admin, format, list::encode};

/// So many models have their limits shown.
const MODELS: usize = 5;
/// So many lines of usage are shown.
const ROWS: u32 = 60;

/// One limit.
pub(super) struct Limit {
    pub(super) scope: String,
    pub(super) limit: String,
    pub(super) used: u64,
    /// In words: how many of how many.
    pub(super) used_of: String,
    /// How many pass if nothing is used.
    pub(super) at_once: u64,
    pub(super) remaining: String,
    pub(super) resets: String,
}

/// What was used on a day.
pub(super) struct Row {
    pub(super) day: String,
    pub(super) model: String,
    pub(super) link: String,
    pub(super) requests: String,
    pub(super) tokens: String,
    pub(super) refused: String,
}

/// What is left of the limits of a key, its consumer's and those of the models that it has used last.
pub(super) async fn limits(admin: &Admin, key: &str, models: &[String]) -> Vec<Limit> {
    let policy = admin.shared.policy().clone();
    let loaded = admin.shared.catalogue().load().clone();
    let (Some(key), Some(catalogue)) = (policy.keys().find(|known| known.name == key), loaded) else {
        return Vec::new();
    };
    let now = SystemTime::now();
    let mut limits = Vec::new();
    let all = access::limits_of(&policy, key, &catalogue, None, now);
    limits.extend(admin.shared.left(&all).await.iter().map(|left| limit(left, None)));
    for model in models.iter().take(MODELS) {
        let Some(pool) = catalogue.pool(model) else { continue };
        let all = access::limits_of(&policy, key, &catalogue, Some(pool), now);
        let left = admin.shared.left(&all).await;
        let of_model =
            left.iter().filter(|left| !matches!(left.scope, access::Scope::Key | access::Scope::Consumer));
        limits.extend(of_model.map(|left| limit(left, Some(model))));
    }
    limits
}

fn limit(left: &Left, model: Option<&str>) -> Limit {
    let (amount, at_once) = (left.limit.amount(), left.limit.at_once());
    // What is taken is taken from the burst, which may be smaller or larger than the amount.
    let used = at_once.saturating_sub(left.remaining);
    let mut text = left.limit.to_string().replacen(&amount.to_string(), &format::count(amount), 1);
    if at_once != amount {
        text.push_str(&format!(", {} at once", format::count(at_once)));
    }
    Limit {
        scope: match model {
            Some(model) => format!("{} ({model})", left.scope),
            None => left.scope.to_string(),
        },
        limit: text,
        used,
        used_of: format!("{} of {}", format::count(used), format::count(at_once)),
        at_once,
        remaining: format::count(left.remaining),
        resets: if left.reset_after.is_zero() {
            "now".into()
        } else {
            format!("in {}", format::span(left.reset_after))
        },
    }
}

/// What a key has used lately, newest first; nothing without a store.
pub(super) async fn of_key(admin: &Admin, key: &str) -> Vec<UsageRow> {
    let Ok(store) = admin.registry.store() else { return Vec::new() };
    let filter = UsageFilter { key: Some(key.to_owned()), limit: ROWS, ..UsageFilter::default() };
    // Without it the rest of the page is still right.
    store.usage(&filter).await.unwrap_or_default()
}

pub(super) fn row(row: &UsageRow) -> Row {
    let count = |number: i64| format::count(u64::try_from(number).unwrap_or(0));
    Row {
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

#[cfg(test)]
mod tests {
    use access::{Rate, Scope};

    use super::*;

    #[test]
    fn what_is_used_is_used_of_the_burst() {
        for (burst, remaining, used_of) in [
            (Some(10), 10, "0 of 10"),
            (Some(10), 4, "6 of 10"),
            (None, 60, "0 of 60"),
            (Some(100), 60, "40 of 100"),
        ] {
            let rate = Rate::per_minute(60, burst).expect("a rate");
            let left = Left { scope: Scope::Key, limit: rate.into(), remaining, reset_after: Duration::ZERO };
            let shown = limit(&left, None);
            assert_eq!(shown.used_of, used_of);
            assert_eq!(shown.limit.contains("at once"), burst.is_some(), "{}", shown.limit);
        }
    }
}
