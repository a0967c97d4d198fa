//! Usage and the audit log.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header::ACCEPT, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use config_reader::ConfigErrors;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use store::{AuditEntry, AuditFilter, Erased, Person, Store, StoreError, UsageBy, UsageFilter};

use super::{
    Problem,
    csv::usage_csv,
    extract::{Document, Query},
    view::{millis, usage_to_json},
};
use crate::{Admin, Operator};

const LINES: &str = "application/x-ndjson";
const CSV: &str = "text/csv";
/// The length of a list if the request does not give one.
const DEFAULT_LISTED: u32 = 100;
/// The longest list, and the number of rows that are read from the store at a time.
const MAX_LISTED: u32 = 1_000;

/// `GET /usage`
pub(crate) async fn usage(
    State(admin): State<Admin>,
    headers: HeaderMap,
    mut query: Query,
) -> Result<Response, Problem> {
    let format = query.text("format", "json or csv", |text| matches!(text, "json" | "csv"));
    let is_csv = match format.as_deref() {
        Some(format) => format == "csv",
        None => accepts(&headers, CSV),
    };
    let mut day = |key| query.text(key, "a day such as 2026-11-21", is_day);
    let (from, to) = (day("from"), day("to"));
    let by = query.text("by", UsageBy::ALLOWED, |text| text.parse::<UsageBy>().is_ok());
    let by = by.and_then(|text| text.parse().ok()).unwrap_or_default();
    let wanted = query.number("limit", 1..=MAX_LISTED);
    let limit = wanted.unwrap_or(MAX_LISTED);
    let (key, consumer, model) = (query.words("key"), query.words("consumer"), query.words("model"));
    query.finish()?;
    // One row more than fits shows whether there are more.
    let filter =
        UsageFilter { key, consumer, model, from, to, by, limit: limit + 1, ..UsageFilter::default() };
    let store = admin.registry.store()?;
    let settings = admin.shared.settings();
    let currency = settings.prices.currency();
    if is_csv {
        // All of it, if no limit is given.
        let filter = UsageFilter { limit: wanted.unwrap_or(u32::MAX), ..filter };
        return Ok(usage_csv(store, filter, currency.map(str::to_owned)).await?);
    }
    let mut rows = store.usage(&filter).await?;
    let fit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > fit;
    rows.truncate(fit);
    let items: Vec<Value> = rows.iter().map(|row| usage_to_json(row, currency)).collect();
    Ok(Json(json!({ "items": items, "has_more": has_more })).into_response())
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

/// `POST /usage/erase`
pub(crate) async fn erase(
    State(admin): State<Admin>,
    operator: Operator,
    query: Query,
    Document(json): Document,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let person = person(&json).map_err(Problem::invalid)?;
    let erased = admin.registry.erase(&person, &operator.actor()).await?;
    Ok(Json(erased_to_json(&erased)))
}

fn person(json: &Value) -> Result<Person, ConfigErrors> {
    const ALLOWED: &str = "allowed here: key or consumer, one of both";
    let mut given = json.as_object().into_iter().flatten();
    let (one, others) = (given.next(), given.next());
    let name = one.and_then(|(key, value)| Some((key.as_str(), value.as_str()?.to_owned())));
    match (name, others) {
        (Some(("key", name)), None) => Ok(Person::Key(name)),
        (Some(("consumer", name)), None) => Ok(Person::Consumer(name)),
        _ => Err(ConfigErrors::one("the document", ALLOWED)),
    }
}

/// The representation of what was erased.
pub fn erased_to_json(erased: &Erased) -> Value {
    json!({ "rows_of_usage": erased.usage, "entries": erased.audit })
}

/// Whether a text is a calendar day written as in `2026-11-21`. jiff accepts other forms as well.
pub fn is_day(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok_and(|day| day.to_string() == text)
}

/// `GET /audit`
pub(crate) async fn audit(
    State(admin): State<Admin>,
    headers: HeaderMap,
    mut query: Query,
) -> Result<Response, Problem> {
    let format = query.text("format", "json or jsonl", |text| matches!(text, "json" | "jsonl"));
    let limit = query.number("limit", 1..=MAX_LISTED);
    let filter = AuditFilter {
        actor: query.words("actor"),
        subject: query.words("subject"),
        action: query.words("action"),
        before: query.words("before"),
        limit: limit.unwrap_or(DEFAULT_LISTED),
    };
    query.finish()?;
    let store = admin.registry.store()?;
    let are_lines = match format.as_deref() {
        Some(format) => format == "jsonl",
        None => accepts(&headers, LINES),
    };
    if are_lines {
        return lines(store, filter, limit).await;
    }
    let entries = store.audit(&filter).await?;
    let is_full = entries.len() == usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let next = entries.last().filter(|_| is_full).map(|last| last.id.as_str());
    let items: Vec<Value> = entries.iter().map(entry_to_json).collect();
    Ok(Json(json!({ "items": items, "next": next })).into_response())
}

/// The representation of an entry of the audit log.
pub fn entry_to_json(entry: &AuditEntry) -> Value {
    json!({
        "id": entry.id,
        "at": millis(entry.at()),
        "actor": entry.actor,
        "address": entry.address,
        "host": entry.host,
        "action": entry.action,
        "subject": entry.subject,
        "details": entry.details,
    })
}

/// All matching entries, or `limit` of them, one on each line; they are read from the store while they are sent.
async fn lines(store: Arc<Store>, filter: AuditFilter, limit: Option<u32>) -> Result<Response, Problem> {
    let page = AuditFilter { limit: limit.unwrap_or(MAX_LISTED), ..filter };
    // The first page is read before anything is sent, so that an error still gets a status.
    let (first, next) = page_of(&store, page).await?;
    let next = next.filter(|_| limit.is_none());
    let rest = stream::try_unfold(next, move |next| {
        let store = Arc::clone(&store);
        async move {
            let Some(page) = next else { return Ok::<_, StoreError>(None) };
            page_of(&store, page).await.map(Some)
        }
    });
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest).inspect_err(|error| {
        tracing::warn!(%error, "the audit log was sent in part");
    }));
    Ok(([(CONTENT_TYPE, LINES)], body).into_response())
}

/// A page as lines, and the filter for the next page if there may be one.
async fn page_of(store: &Store, page: AuditFilter) -> Result<(Bytes, Option<AuditFilter>), StoreError> {
    let entries = store.audit(&page).await?;
    let is_full = entries.len() == usize::try_from(page.limit).unwrap_or(usize::MAX);
    let last = entries.last().filter(|_| is_full).map(|last| last.id.clone());
    let text: String = entries.iter().map(|entry| format!("{}\n", entry_to_json(entry))).collect();
    Ok((text.into(), last.map(|last| AuditFilter { before: Some(last), ..page })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_one_of_the_calendar_and_written_in_one_way() {
        for (text, expected) in [
            ("2026-11-21", true),
            ("2028-02-29", true),
            ("2027-02-29", false),
            ("2026-13-01", false),
            ("20261121", false),
            ("2026-11-21T00:00:00", false),
            ("2026-11-21Z", false),
            (" 2026-11-21", false),
            ("2026-W47-6", false),
            ("yesterday", false),
            ("", false),
        ] {
            assert_eq!(is_day(text), expected, "{text:?}");
        }
    }
}
