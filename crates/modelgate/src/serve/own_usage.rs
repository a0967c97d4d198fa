//! Looks up in the store what a caller's own key has used (`GET /v1/usage`).

use std::sync::Arc;

use store::{Registry, RegistryError, UsageBy, UsageDimension, UsageFilter};
use web::{NoOwnUsage, OwnUsage, OwnUsageQuestion, Shared};

/// The most sums in an answer.
const MOST: u32 = 1_000;
const BY: &str = "hour, day or month, and model, separated by commas: day,model";
const DAY: &str = "a day such as 2026-11-21";

/// From now on callers are answered out of the store.
pub(super) fn answer_from(shared: &Shared, registry: &Arc<Registry>) {
    let registry = Arc::clone(registry);
    shared.answer_own_usage(move |question| look_up(Arc::clone(&registry), question));
}

async fn look_up(registry: Arc<Registry>, question: OwnUsageQuestion) -> Result<OwnUsage, NoOwnUsage> {
    let currency = question.currency.clone();
    let filter = filter(question).map_err(NoOwnUsage::Parameter)?;
    let store = registry.store().map_err(|error| match error {
        RegistryError::NoStore => NoOwnUsage::NotKept,
        _ => NoOwnUsage::Unavailable,
    })?;
    let mut rows = store.usage(&filter).await.map_err(|_| NoOwnUsage::Unavailable)?;
    let has_more = rows.len() > MOST as usize;
    rows.truncate(MOST as usize);
    let sums = rows.iter().map(|row| admin::usage_to_json(row, currency.as_deref())).collect();
    Ok(OwnUsage { by: filter.by.to_string(), sums, has_more })
}

/// What is asked for; or what is wrong with the question.
fn filter(question: OwnUsageQuestion) -> Result<UsageFilter, String> {
    let OwnUsageQuestion { key, consumer, parameters, .. } = question;
    let by = UsageBy::of([UsageDimension::Day, UsageDimension::Model]);
    let mut filter = UsageFilter {
        key: Some(key),
        consumer: Some(consumer),
        by,
        limit: MOST + 1,
        ..UsageFilter::default()
    };
    for (name, value) in parameters {
        let not_allowed = |allowed| format!("{name}: found {value:?}; allowed: {allowed}.");
        match name.as_str() {
            "by" => {
                let by = value.parse::<UsageBy>().ok().filter(is_of_one_key);
                filter.by = by.ok_or_else(|| not_allowed(BY))?;
            }
            "from" | "to" if !admin::is_day(&value) => return Err(not_allowed(DAY)),
            "from" => filter.from = Some(value),
            "to" => filter.to = Some(value),
            "model" if value.contains(char::is_control) => return Err(not_allowed("the name of a model")),
            "model" => filter.model = Some(value),
            _ => return Err(format!("{name:?} is not known here; allowed: by, from, to and model.")),
        }
    }
    Ok(filter)
}

/// Rows of other keys are never asked for, so columns with their names would say nothing.
fn is_of_one_key(by: &UsageBy) -> bool {
    let names_others = |by: &UsageDimension| matches!(by, UsageDimension::Key | UsageDimension::Consumer);
    !by.dimensions().iter().any(names_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(parameters: &[(&str, &str)]) -> Result<UsageFilter, String> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (key, consumer) = ("alice".into(), "team".into());
        filter(OwnUsageQuestion { key, consumer, parameters, ..OwnUsageQuestion::default() })
    }

    #[test]
    fn a_caller_asks_about_its_own_key_whatever_it_sends() {
        let filter = asked(&[("by", "hour"), ("from", "2026-11-01"), ("model", "llama")]).expect("allowed");
        assert_eq!((filter.key.as_deref(), filter.consumer.as_deref()), (Some("alice"), Some("team")));
        assert_eq!((filter.by.to_string(), filter.to), ("hour".into(), None));
        for (name, value, says) in [
            ("key", "bob", "\"key\" is not known here"),
            ("consumer", "bob", "\"consumer\" is not known here"),
            ("by", "key", "by: found \"key\"; allowed: hour"),
            ("by", "week", "allowed: hour"),
            ("from", "yesterday", "from: found \"yesterday\"; allowed: a day"),
            ("model", "a\0b", "model: "),
        ] {
            let refused = asked(&[(name, value)]).expect_err("refused");
            assert!(refused.contains(says), "{name}={value}: {refused}");
        }
    }
}
