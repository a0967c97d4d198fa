//! Usage as a table for spreadsheets (RFC 4180), of any length.
//!
//! It is read from the store a day or a month at a time while it is sent, so that neither all of it nor a connection is kept.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use store::{Store, StoreError, UsageBy, UsageDimension, UsageFilter, UsageRow, UsageTable};

use super::view::usage_to_json;

/// The columns of a table of usage that are numbers, in their order.
pub const USAGE_NUMBERS: [&str; 16] = [
    "requests",
    "refused",
    "errors",
    "aborted",
    "seconds",
    "tokens",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "exact_tokens",
    "measured_tokens",
    "estimated_tokens",
    "images",
    "sound_seconds",
    "characters",
    "last_used",
];

/// Usage as CSV, with a line of headings. With a limit only so many rows, which are read at once.
///
/// # Errors
/// The store does not answer. Once a part has been sent, an error ends the answer instead.
pub(crate) async fn usage_csv(
    store: Arc<Store>,
    filter: UsageFilter,
    currency: Option<String>,
) -> Result<Response, StoreError> {
    let by = filter.by.dimensions().iter().map(|by| by.name());
    let money: &[&str] = if currency.is_some() { &["cost", "currency"] } else { &[] };
    let columns: Vec<&'static str> = by.chain(USAGE_NUMBERS).chain(money.iter().copied()).collect();
    let heading = columns.join(",") + "\r\n";
    let mut parts = parts_of(&store, &filter).await?.into_iter();
    // The first part is read before anything is sent, so that an error still gets a status.
    let first = match parts.next() {
        Some(part) => store.usage(&part).await?,
        None => Vec::new(),
    };
    let written = move |rows: Vec<UsageRow>| -> Bytes {
        rows.iter()
            .map(|row| line(&usage_to_json(row, currency.as_deref()), &columns))
            .collect::<String>()
            .into()
    };
    let first = stream::iter([Ok(Bytes::from(heading)), Ok(written(first))]);
    let rest = stream::iter(parts).then(move |part| {
        let store = Arc::clone(&store);
        async move { store.usage(&part).await }
    });
    let body = Body::from_stream(first.chain(rest.map_ok(written)).inspect_err(|error| {
        tracing::warn!(%error, "usage was sent in part");
    }));
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8"),
        (CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\""),
    ];
    Ok((headers, body).into_response())
}

/// Filters that have all rows one after another, the newest first.
async fn parts_of(store: &Store, filter: &UsageFilter) -> Result<Vec<UsageFilter>, StoreError> {
    let whole = filter.clone();
    let time = filter
        .by
        .dimensions()
        .iter()
        .find(|by| matches!(by, UsageDimension::Hour | UsageDimension::Day | UsageDimension::Month));
    let (times, table) = match time {
        _ if whole.limit < u32::MAX => return Ok(vec![whole]),
        None => return Ok(vec![whole]),
        Some(UsageDimension::Hour) => (UsageDimension::Day, Some(UsageTable::Hours)),
        Some(time) => (*time, None),
    };
    let times = UsageFilter { by: UsageBy::of([times]), table, ..whole.clone() };
    let part = |row: UsageRow| {
        let (first, last) = match (row.day, row.month) {
            (Some(day), _) => (day.clone(), day),
            (None, month) => {
                let month = month.unwrap_or_default();
                (format!("{month}-01"), format!("{month}-31"))
            }
        };
        let from = whole.from.clone().map_or(first.clone(), |from| from.max(first));
        let to = whole.to.clone().map_or(last.clone(), |to| to.min(last));
        UsageFilter { from: Some(from), to: Some(to), ..whole.clone() }
    };
    Ok(store.usage(&times).await?.into_iter().map(part).collect())
}

fn line(row: &Value, columns: &[&str]) -> String {
    let cells: Vec<String> = columns
        .iter()
        .map(|column| match &row[*column] {
            Value::Null => String::new(),
            Value::String(text) => cell(text),
            number => number.to_string(),
        })
        .collect();
    cells.join(",") + "\r\n"
}

/// A text as a cell. Spreadsheets would compute what begins like a formula, so it gets an apostrophe
/// (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = format!("{}{text}", if is_formula { "'" } else { "" });
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_text_to_every_spreadsheet() {
        for (text, expected) in [
            ("llama", "llama"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("@SUM(A1,A2)", "\"'@SUM(A1,A2)\""),
            ("-5", "'-5"),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }
}
