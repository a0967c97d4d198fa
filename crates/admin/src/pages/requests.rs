//! The latest decisions, updated live.

use askama::Template;
use serde::Deserialize;
use telemetry::{Filter, Record};

use super::{PageRequest, live_page};
use crate::{
    format::{self, Time},
    page::Frame,
};

/// How many decisions are shown.
const ROWS: usize = 50;

#[derive(Template)]
#[template(path = "requests.html", blocks = ["live"])]
pub(crate) struct Requests {
    frame: Frame,
    query: Query,
    reasons: Vec<String>,
    rows: Vec<RequestRow>,
    not_shown: String,
}
live_page!(Requests);

/// Which decisions to show; an empty filter is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    decision: String,
    reason: String,
    consumer: String,
    key: String,
    model: String,
    id: String,
}

struct RequestRow {
    at: Time,
    class: &'static str,
    decision: &'static str,
    /// Why the request was refused: the code, and the words that the client was told.
    reason: Option<(&'static str, String)>,
    consumer: String,
    key: String,
    model: String,
    request: String,
    tokens: String,
    latency: String,
    id: String,
    /// The client's own id; empty if it has sent none.
    client_id: String,
}

impl Query {
    /// Whether no filter is set.
    fn is_empty(&self) -> bool {
        let Self { decision, reason, consumer, key, model, id } = self;
        [decision, reason, consumer, key, model, id].into_iter().all(|text| text.trim().is_empty())
    }

    fn filter(&self) -> Filter {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Filter {
            allowed: match self.decision.as_str() {
                "allowed" => Some(true),
                "refused" => Some(false),
                _ => None,
            },
            reason: given(&self.reason),
            consumer: given(&self.consumer),
            key: given(&self.key),
            model: given(&self.model),
            request_id: given(&self.id),
        }
    }
}

/// `GET /requests`
pub(crate) fn page(asked: PageRequest<'_>) -> Requests {
    let query: Query = asked.query();
    let telemetry = asked.admin.shared.telemetry();
    let rows = telemetry.recent(&query.filter(), ROWS).iter().map(|record| row(record)).collect();
    let totals = telemetry.totals();
    let seen = totals.refused.into_iter().filter(|(_, count)| *count > 0);
    let mut reasons: Vec<String> = seen.map(|(code, _)| code.to_owned()).collect();
    // The selected reason is among the choices even if it has not occurred since the start.
    if !query.reason.is_empty() && !reasons.contains(&query.reason) {
        reasons.push(query.reason.clone());
    }
    Requests {
        frame: Frame::new("Requests", "/requests", asked.operator),
        query,
        reasons,
        rows,
        not_shown: if totals.not_shown > 0 { format::count(totals.not_shown) } else { String::new() },
    }
}

fn row(record: &Record) -> RequestRow {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let (class, decision) = if record.refused.is_some() { ("bad", "refused") } else { ("good", "allowed") };
    RequestRow {
        at: format::moment(record.at),
        class,
        decision,
        reason: record.refused.map(|code| (code, text(record.words()))),
        consumer: text(record.consumer()),
        key: text(record.key()),
        model: text(record.model()),
        request: format!("{} {}", record.method(), record.path()),
        tokens: record.tokens.map_or_else(String::new, |tokens| format::counted(tokens as usize, "token")),
        latency: format::latency(record.latency),
        id: record.request_id().to_owned(),
        client_id: text(record.client_request_id()),
    }
}
