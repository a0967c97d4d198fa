//! The latest requests.

use axum::{Json, extract::State};
use metering::Ending;
use serde_json::{Value, json};
use telemetry::{ChosenServer, Filter, RECENT, Record, SettledRequest};

use super::{Problem, extract::Query, view::millis};
use crate::Admin;

/// The length of the list if the request does not give one.
const DEFAULT_LISTED: u32 = 100;
const MAX_LISTED: u32 = RECENT as u32;

/// `GET /requests`
pub(crate) async fn requests(State(admin): State<Admin>, mut query: Query) -> Result<Json<Value>, Problem> {
    let decision = query
        .text("decision", "allowed or refused", |text| matches!(text, "allowed" | "refused"))
        .map(|decision| decision == "allowed");
    let ending =
        query.text("ending", "answered, refused, aborted or unknown", |text| Ending::named(text).is_some());
    let filter = Filter {
        allowed: decision,
        ending: ending.and_then(|name| Ending::named(&name)),
        reason: query.words("reason"),
        consumer: query.words("consumer"),
        key: query.words("key"),
        model: query.words("model"),
        request_id: query.words("id"),
    };
    let limit = query.number("limit", 1..=MAX_LISTED).unwrap_or(DEFAULT_LISTED);
    query.finish()?;
    let count = usize::try_from(limit).unwrap_or(RECENT);
    let records = admin.shared.telemetry().recent(&filter, count);
    let items: Vec<Value> = records.iter().map(|record| request(record)).collect();
    Ok(Json(json!({ "items": items })))
}

fn request(record: &Record) -> Value {
    json!({
        "at": millis(record.at),
        "request_id": record.request_id(),
        "client_request_id": record.client_request_id(),
        "decision": if record.refused.is_some() { "refused" } else { "allowed" },
        "reason": record.refused,
        "message": record.words(),
        "consumer": record.consumer(),
        "key": record.key(),
        "model": record.model(),
        "method": record.method(),
        "path": record.path(),
        "estimated_tokens": record.tokens,
        "decision_seconds": record.latency.map(|latency| latency.as_secs_f64()),
        "waited_seconds": record.waited.map(|waited| waited.as_secs_f64()),
        "chosen": record.chosen.as_deref().map(chosen),
        "outcome": record.settled.as_deref().map(outcome),
    })
}

fn chosen(chosen: &ChosenServer) -> Value {
    json!({
        "server": &*chosen.name,
        "among": chosen.among,
        "prompt_tokens": chosen.prompt_tokens,
        "expected_cached_tokens": chosen.cached_tokens,
        "has_adapter": chosen.has_adapter,
        "under_way": chosen.under_way,
        "expected_first_token_seconds": chosen.first_token.as_secs_f64(),
    })
}

fn outcome(settled: &SettledRequest) -> Value {
    json!({
        "ending": settled.ending.name(),
        "status": settled.status,
        "server": settled.server.as_ref().map(|server| &*server.name),
        "first_token_seconds": settled.time_to_first_token.map(|time| time.as_secs_f64()),
        "seconds": settled.duration.map(|time| time.as_secs_f64()),
        "tokens_are": settled.kind.name(),
        "prompt_tokens": settled.used.prompt,
        "cached_tokens": settled.used.cached,
        "completion_tokens": settled.used.completion,
    })
}
