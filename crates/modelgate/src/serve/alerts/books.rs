//! Servers whose counters differ too much from what was settled.

use std::time::SystemTime;

use alerts::{Condition, ConditionId};
use metering::{BookRow, Hour};
use web::Shared;

/// Below so many tokens a difference says nothing.
const LEAST_TOKENS: u64 = 10_000;

/// What to tell about the present hour and the one before.
pub(super) fn conditions(shared: &Shared, percent: u32, at: SystemTime) -> Vec<Condition> {
    let loaded = shared.catalogue().load();
    let Some(catalogue) = loaded.as_deref() else { return Vec::new() };
    let now = Hour::of(at);
    let servers = catalogue.servers().filter_map(|server| {
        let mut sum = BookRow::default();
        let rows = shared.books().of(server.spec.url.as_str());
        rows.into_iter().filter(|(hour, _)| hour.0 + 1 >= now.0).for_each(|(_, row)| sum.add(row));
        differs(&sum, percent).map(|what| Condition {
            id: ConditionId { code: "books_differ", about: format!("server {}", server.spec.name) },
            is_bad: true,
            what,
            advice: Some(
                "Does somebody use it without Modelgate, or is a part of what it does not told?".into(),
            ),
            page: Some("/servers".into()),
            owner: None,
            higher: Vec::new(),
        })
    });
    servers.collect()
}

/// What differs by more than some percent of the larger side, in words.
fn differs(row: &BookRow, percent: u32) -> Option<String> {
    let sides = [
        ("prompts", row.counted.prompt, row.settled.prompt),
        ("answers", row.counted.completion, row.settled.completion),
    ];
    let told: Vec<String> = sides
        .into_iter()
        .filter(|(_, counted, settled)| {
            let larger = (*counted).max(*settled);
            larger >= LEAST_TOKENS
                && u128::from(counted.abs_diff(*settled)) * 100 > u128::from(larger) * u128::from(percent)
        })
        .map(|(what, counted, settled)| {
            format!("it has counted {counted} tokens of {what}, and {settled} were settled")
        })
        .collect();
    (!told.is_empty()).then(|| format!("{} in this hour and the one before", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_from_a_percentage_and_some_tokens_on() {
        let row = |counted: u64, settled: u64| {
            let mut row = BookRow::default();
            (row.counted.completion, row.settled.completion) = (counted, settled);
            row
        };
        assert_eq!(differs(&row(9_999, 0), 5), None, "too few");
        assert_eq!(differs(&row(10_000, 9_500), 5), None);
        let told = differs(&row(10_000, 9_499), 5).expect("too much");
        assert_eq!(
            told,
            "it has counted 10000 tokens of answers, and 9499 were settled in this hour and the one before"
        );
        assert!(differs(&row(9_499, 10_000), 5).is_some(), "either way");
        assert_eq!(differs(&row(10_000, 9_499), 6), None);
    }
}
