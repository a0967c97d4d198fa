//! The latest decisions, and what became of the admitted requests; updated live.

use askama::Template;
use metering::Ending;
use serde::Deserialize;
use telemetry::{ChosenServer, Filter, Record, SettledRequest};

use super::{PageRequest, figures, live_page};
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
    /// Whether servers and Traefik tell what became of requests.
    is_metered: bool,
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
    /// The estimated tokens, until it is known what was used.
    tokens: String,
    latency: String,
    /// How long it waited for a server; empty if it did not.
    waited: String,
    /// The server that Modelgate has chosen, and the share of the prompt that is expected in its cache.
    chosen: String,
    /// Why.
    why: String,
    /// What became of it, if it was admitted.
    outcome: Option<ShownOutcome>,
    id: String,
    /// The client's own id; empty if it has sent none.
    client_id: String,
}

/// What became of an admitted request.
#[derive(Default)]
struct ShownOutcome {
    class: &'static str,
    word: &'static str,
    status: String,
    server: String,
    /// Prompt and completion.
    tokens: String,
    cached: String,
    /// How well the tokens are known.
    kind: &'static str,
    duration: String,
    first_token: String,
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
            ending: ENDINGS.iter().find(|(value, _)| *value == self.decision).map(|(_, ending)| *ending),
            reason: given(&self.reason),
            consumer: given(&self.consumer),
            key: given(&self.key),
            model: given(&self.model),
            request_id: given(&self.id),
        }
    }
}

/// How an admitted request may have ended, as the filter names it.
const ENDINGS: [(&str, Ending); 4] = [
    ("answered", Ending::Finished),
    ("error", Ending::Refused),
    ("aborted", Ending::Aborted),
    ("not known", Ending::Unknown),
];

/// `GET /requests`
pub(crate) fn page(asked: PageRequest<'_>) -> Requests {
    let query: Query = asked.query();
    let telemetry = asked.admin.shared.telemetry();
    let is_metered = figures::is_metered(asked.admin);
    let records = telemetry.recent(&query.filter(), ROWS);
    let rows = records.iter().map(|record| row(record, is_metered)).collect();
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
        is_metered,
        not_shown: if totals.not_shown > 0 { format::count(totals.not_shown) } else { String::new() },
    }
}

fn row(record: &Record, is_metered: bool) -> RequestRow {
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
        tokens: record
            .tokens
            .filter(|_| record.settled.is_none())
            .map_or_else(String::new, |tokens| format::counted(tokens as usize, "token")),
        latency: format::latency(record.latency),
        waited: record.waited.map_or_else(String::new, |waited| format::latency(Some(waited))),
        chosen: record.chosen.as_deref().map_or_else(String::new, chosen),
        why: record.chosen.as_ref().map_or_else(String::new, ToString::to_string),
        outcome: (is_metered && record.refused.is_none()).then(|| shown(record.settled.as_deref())),
        id: record.request_id().to_owned(),
        client_id: text(record.client_request_id()),
    }
}

/// Such as `gpu-1 chosen, 87 % cached`.
fn chosen(chosen: &ChosenServer) -> String {
    match chosen.cached_percent() {
        Some(percent) => format!("{} chosen, {percent} % cached expected", chosen.name),
        None => format!("{} chosen", chosen.name),
    }
}

fn shown(settled: Option<&SettledRequest>) -> ShownOutcome {
    let Some(settled) = settled else {
        return ShownOutcome { class: "off", word: "no word yet", ..ShownOutcome::default() };
    };
    let (class, word) = match settled.ending {
        Ending::Finished => ("good", "answered"),
        Ending::Refused => ("bad", "error"),
        Ending::Aborted => ("warn", "aborted"),
        Ending::Unknown => ("off", "not known"),
    };
    let time = |time: Option<_>| time.map_or_else(String::new, |time| format::latency(Some(time)));
    let used = &settled.used;
    ShownOutcome {
        class,
        word,
        status: settled.status.map_or_else(String::new, |status| status.to_string()),
        server: settled.server.as_ref().map_or_else(String::new, |server| server.name.to_string()),
        tokens: format!("{} + {}", format::count(used.prompt), format::count(used.completion)),
        cached: used.cached.filter(|cached| *cached > 0).map_or_else(String::new, format::count),
        kind: settled.kind.name(),
        duration: time(settled.duration),
        first_token: time(settled.time_to_first_token),
    }
}
