//! How the requests to a model or a server have gone over the last minutes, in the form that people read.

use std::time::Instant;

use catalogue::{Pool, ServerRecord};
use telemetry::{Performance, RequestCounts};

use crate::{Admin, format};

/// The figures of the last minutes. Empty texts: there is nothing to tell.
#[derive(Default)]
pub(crate) struct RecentFigures {
    /// Generated tokens a second.
    pub(crate) tokens: String,
    /// Tokens of prompts a second.
    pub(crate) prompts: String,
    /// The median time to first token.
    pub(crate) first_token: String,
    /// The 95th percentile of it.
    pub(crate) slowest: String,
    pub(crate) errors: u64,
    pub(crate) aborted: u64,
    facts: Vec<(&'static str, String)>,
}

/// Whether servers and Traefik tell what became of requests.
pub(crate) fn is_metered(admin: &Admin) -> bool {
    admin.shared.settings().telemetry.is_some()
}

impl RecentFigures {
    /// Those of a model; all of its names count together.
    pub(crate) fn of_model(admin: &Admin, pool: &Pool) -> Self {
        Self::new(admin.shared.telemetry().of_model(pool.canonical.as_str(), Instant::now()))
    }

    pub(crate) fn of_server(admin: &Admin, server: &ServerRecord) -> Self {
        Self::new(admin.shared.telemetry().of_server(server.spec.id.as_str(), Instant::now()))
    }

    fn new(performance: Option<Performance>) -> Self {
        let Some(performance) = performance.filter(|performance| performance.recent.all() > 0) else {
            return Self::default();
        };
        let recent = &performance.recent;
        let rate = |tokens| format::rate(performance.per_second(tokens));
        let (tokens, prompts) = (rate(recent.completion_tokens), rate(recent.prompt_tokens));
        let time = |time: Option<_>| time.map_or_else(String::new, |time| format::latency(Some(time)));
        let (first_token, slowest) = (time(performance.first_token_p50), time(performance.first_token_p95));
        let minutes = format::span(performance.span);
        let mut facts = vec![
            (
                "Requests",
                format!("{} in the last {minutes}: {}", format::count(recent.all()), endings(recent)),
            ),
            ("Tokens", format!("{tokens} a second generated, {prompts} a second of prompts")),
        ];
        if !first_token.is_empty() {
            facts.push((
                "First token",
                format!("after {first_token} for half of the requests, {slowest} for 95 of 100"),
            ));
        }
        let (errors, aborted) = (recent.errors(), recent.aborted);
        Self { tokens, prompts, first_token, slowest, errors, aborted, facts }
    }

    /// The same in words.
    pub(crate) fn into_facts(self) -> Vec<(&'static str, String)> {
        self.facts
    }
}

fn endings(counts: &RequestCounts) -> String {
    let RequestCounts { finished, refused, failed, aborted, unknown, .. } = *counts;
    let said = [
        (finished, "answered"),
        (refused, "refused by the server (4xx, redirects)"),
        (failed, "failed"),
        (aborted, "aborted"),
        (unknown, "not known"),
    ];
    let said = said.into_iter().filter(|(count, _)| *count > 0);
    said.map(|(count, what)| format!("{} {what}", format::count(count))).collect::<Vec<_>>().join(", ")
}
