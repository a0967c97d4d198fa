//! What servers have counted beside what was settled: for pages and the API.

use std::collections::{BTreeMap, BTreeSet};

use catalogue::ServerRecord;
use metering::{BookDifference, BookRow, Hour};

use crate::{
    Admin,
    format::{self, Time},
};

/// The hours that a page shows.
const SHOWN: usize = 12;

/// A row of the table.
pub(crate) struct BookLine {
    pub(crate) hour: Time,
    pub(crate) requests: String,
    /// Of prompts, and of answers.
    pub(crate) tokens: [BookTokens; 2],
    pub(crate) restarts: u32,
}

/// Both sides of one kind of tokens.
pub(crate) struct BookTokens {
    pub(crate) of: &'static str,
    pub(crate) counted: String,
    pub(crate) settled: String,
    pub(crate) difference: String,
}

/// The hours of some servers together, oldest first.
pub(crate) fn of_servers<'s>(
    admin: &Admin,
    servers: impl Iterator<Item = &'s ServerRecord>,
) -> BTreeMap<Hour, BookRow> {
    let urls: BTreeSet<&str> = servers.map(|server| server.spec.url.as_str()).collect();
    let mut hours = BTreeMap::<Hour, BookRow>::new();
    for (hour, row) in urls.into_iter().flat_map(|url| admin.shared.books().of(url)) {
        hours.entry(hour).or_default().add(row);
    }
    hours
}

/// The last hours of some servers together, newest first.
pub(crate) fn lines<'s>(admin: &Admin, servers: impl Iterator<Item = &'s ServerRecord>) -> Vec<BookLine> {
    let line = |(hour, row): (Hour, BookRow)| {
        let tokens = |of, counted: u64, settled: u64, difference| BookTokens {
            of,
            counted: format::count(counted),
            settled: format::count(settled),
            difference: in_words(difference),
        };
        BookLine {
            hour: format::time(hour.start()),
            requests: format::count(row.requests),
            tokens: [
                tokens("Prompt", row.counted.prompt, row.settled.prompt, row.prompt_difference()),
                tokens("Answer", row.counted.completion, row.settled.completion, row.completion_difference()),
            ],
            restarts: row.restarts,
        }
    };
    of_servers(admin, servers).into_iter().rev().take(SHOWN).map(line).collect()
}

fn in_words(difference: BookDifference) -> String {
    match difference {
        BookDifference::None => "none".into(),
        BookDifference::NotOurs(tokens) => format!("{} not ours", format::count(tokens)),
        BookDifference::Missing(tokens) => format!("{} missing", format::count(tokens)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use catalogue::{Catalogue, ServerState, ServerUrl};
    use metering::Counters;

    use crate::testing::{Dashboard, server};

    use super::*;

    #[tokio::test]
    async fn what_servers_have_counted_is_on_their_pages_on_the_models_and_in_the_api() {
        let [a, mut b] = ["a", "b"].map(|name| server(name, ServerState::Ready, &["llama"]));
        b.spec.url = ServerUrl::http("10.0.0.2", 8000);
        let first = a.spec.url.as_str().to_owned();
        let dashboard = Dashboard::of(Catalogue::assemble([a, b], Vec::new()));
        let page = dashboard.page("/servers/file:a").await;
        assert!(!page.contains("What the server has counted"), "nobody reads counters");
        let hour = Hour::of(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        dashboard.admin.shared.books().are_kept(move |url| {
            let counters = |prompt, completion| Counters { prompt, cached: 0, completion };
            let counted = if url == first { counters(1_200, 500) } else { counters(10_000, 90) };
            let row = BookRow { counted, settled: counters(1_200, 400), requests: 3, restarts: 1 };
            vec![(hour, row)]
        });
        let page = dashboard.page("/servers/file:a").await;
        assert!(
            page.contains("What the server has counted") && page.contains("2026-01-01 00:00:00 UTC"),
            "{page}"
        );
        assert!(page.contains("100 not ours") && page.contains("started again"), "{page}");
        let page = dashboard.page("/models/llama").await;
        assert!(page.contains("8,800 not ours") && page.contains("210 missing"), "both servers: {page}");
        let found = dashboard.page("/api/v1/metering").await;
        let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
        assert_eq!(found["servers"][1]["name"], "b");
        assert_eq!(
            found["servers"][0]["hours"][0],
            serde_json::json!({
                "hour": "2026-01-01T00:00:00Z",
                "requests": 3,
                "restarts": 1,
                "prompt_tokens": { "counted": 1_200, "settled": 1_200, "difference": "none" },
                "completion_tokens": { "counted": 500, "settled": 400, "difference": "not_ours" },
            })
        );
        assert_eq!(found["models"][0]["name"], "llama");
        assert_eq!(found["models"][0]["hours"][0]["prompt_tokens"]["counted"], 11_200);
    }
}
