//! What servers have counted beside what was settled.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use metering::{BookDifference, BookRow, Hour};
use serde_json::{Value, json};

use super::{Problem, extract::Query, state::SURVEYING, view::seconds};
use crate::{Admin, books::of_servers};

/// `GET /metering`
pub(crate) async fn metering(State(admin): State<Admin>, query: Query) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or_else(|| Problem::unavailable(SURVEYING))?;
    let servers = catalogue.servers().filter_map(|server| {
        let hours = hours(of_servers(&admin, std::iter::once(&**server)))?;
        let spec = &server.spec;
        let exclusive = spec.settings.metering_exclusive;
        Some(json!({ "id": spec.id.as_str(), "name": spec.name, "exclusive": exclusive, "hours": hours }))
    });
    let pools = catalogue.pools().filter(|pool| pool.canonical == pool.model && pool.selector.is_none());
    let models = pools.filter_map(|pool| {
        let servers = pool.ready.iter().chain(&pool.waiting).map(|server| &**server);
        let hours = hours(of_servers(&admin, servers))?;
        Some(json!({ "name": pool.model.as_str(), "hours": hours }))
    });
    let (servers, models): (Vec<Value>, Vec<Value>) = (servers.collect(), models.collect());
    Ok(Json(json!({ "servers": servers, "models": models })))
}

/// `None` if there are none.
fn hours(rows: BTreeMap<Hour, BookRow>) -> Option<Vec<Value>> {
    let one = |(hour, row): (Hour, BookRow)| {
        let tokens = |counted: u64, settled: u64, difference| json!({ "counted": counted, "settled": settled, "difference": name(difference) });
        json!({
            "hour": seconds(hour.start()),
            "requests": row.requests,
            "restarts": row.restarts,
            "prompt_tokens": tokens(row.counted.prompt, row.settled.prompt, row.prompt_difference()),
            "completion_tokens":
                tokens(row.counted.completion, row.settled.completion, row.completion_difference()),
        })
    };
    (!rows.is_empty()).then(|| rows.into_iter().map(one).collect())
}

fn name(difference: BookDifference) -> &'static str {
    match difference {
        BookDifference::None => "none",
        BookDifference::NotOurs(_) => "not_ours",
        BookDifference::Missing(_) => "missing",
    }
}
