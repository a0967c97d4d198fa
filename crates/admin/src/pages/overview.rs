//! The overview: whether everything works, and if not, what to do.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use askama::Template;
use catalogue::{Catalogue, Readiness, Severity};

use super::{PageRequest, live_page};
use crate::{
    Admin,
    chart::Chart,
    connection::{self, Connection},
    format::{self, Time},
    issue::{self, Issue},
    page::Frame,
    pages::traefik::{Instance, instances},
};

/// How many issues are shown, and how many alerts; a link leads to other issues.
const ISSUES: usize = 6;
/// Over how many seconds rates are averaged.
const LATELY: usize = 10;

#[derive(Template)]
#[template(path = "overview.html", blocks = ["live"])]
pub(crate) struct Overview {
    frame: Frame,
    verdict: Verdict,
    issues: Vec<Issue>,
    more_issues: usize,
    /// The alerts that are firing besides.
    alerts: Vec<Issue>,
    more_alerts: usize,
    tiles: Vec<Tile>,
    charts: Arc<[Chart; 2]>,
    instances: Vec<Instance>,
    connections: Vec<Connection>,
    changes: Vec<Change>,
}
live_page!(Overview);

/// The overall state.
struct Verdict {
    class: &'static str,
    says: String,
    details: String,
}

/// A figure.
struct Tile {
    name: &'static str,
    value: String,
    unit: &'static str,
    note: String,
    link: &'static str,
}

/// A change, and its time.
struct Change {
    at: Time,
    what: String,
}

pub(crate) fn page(asked: PageRequest<'_>) -> Overview {
    let admin = asked.admin;
    let frame = Frame::new("Overview", "/", asked.operator);
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref();
    let now = SystemTime::now();
    let mut issues = catalogue.map(|c| issue::all(admin, c, now)).unwrap_or_default();
    let mut alerts = issue::alerts(admin);
    let verdict = verdict(catalogue, [&issues[..], &alerts[..]].concat().as_slice());
    issues.extend(catalogue.map(|c| issue::loading(admin, c, now)).unwrap_or_default());
    let more_issues = issues.len().saturating_sub(ISSUES);
    issues.truncate(ISSUES);
    let more_alerts = alerts.len().saturating_sub(ISSUES);
    alerts.truncate(ISSUES);
    Overview {
        frame,
        verdict,
        issues,
        more_issues,
        alerts,
        more_alerts,
        tiles: tiles(admin, catalogue),
        charts: admin.charts.of(Instant::now(), || admin.shared.telemetry().last_hour()),
        instances: instances(admin),
        connections: connection::all(admin, catalogue),
        changes: changes(admin),
    }
}

fn verdict(catalogue: Option<&Catalogue>, issues: &[Issue]) -> Verdict {
    let Some(catalogue) = catalogue else {
        return Verdict {
            class: "warn",
            says: "Starting".into(),
            details:
                "The first look for servers is not finished. Until then Traefik keeps the routes that it has."
                    .into(),
        };
    };
    let (bad, all) = (issues.iter().filter(|i| i.severity == Severity::Bad).count(), issues.len());
    let (pools, servers) = (catalogue.pools().count(), catalogue.servers().count());
    let ready = catalogue.pools().filter(|pool| pool.readiness() == Readiness::Ready).count();
    let up = catalogue.servers().filter(|server| server.state_name() == "ready").count();
    let known = format!(
        "{} of {} and {} of {} are ready.",
        format::count(ready as u64),
        format::counted(pools, "model"),
        format::count(up as u64),
        format::counted(servers, "server")
    );
    let (class, says) = match (bad, all) {
        (0, 0) if servers == 0 => ("warn", "No inference server is known".to_owned()),
        (0, 0) if up == 0 => ("warn", "No inference server is ready".to_owned()),
        (0, 0) => ("good", "All is well".to_owned()),
        (0, n) => ("warn", format!("Working, with {} to look at", format::counted(n, "thing"))),
        (n, _) => (
            "bad",
            format!(
                "{} you",
                if n == 1 {
                    "1 thing needs".into()
                } else {
                    format!("{} things need", format::count(n as u64))
                }
            ),
        ),
    };
    let details = match servers {
        0 => "Start a container with the label inference.enable=true, or name servers in the configuration."
            .into(),
        _ => known,
    };
    Verdict { class, says, details }
}

fn tiles(admin: &Admin, catalogue: Option<&Catalogue>) -> Vec<Tile> {
    let telemetry = admin.shared.telemetry();
    let lately = telemetry.per_second(LATELY);
    let seconds = lately.iter().map(|p| p.span).sum::<Duration>().as_secs_f64().max(1.0);
    let per_second = |count: u64| format::rate(count as f64 / seconds);
    let allowed = lately.iter().map(|p| p.allowed).sum();
    let refused: u64 = lately.iter().map(telemetry::Point::refused_in_all).sum();
    let reason = lately.iter().flat_map(|p| &p.refused).max_by_key(|(_, count)| *count);
    let tile = |name, value: String, unit, note: String, link| Tile { name, value, unit, note, link };
    let totals = telemetry.totals();
    vec![
        tile(
            "Allowed",
            per_second(allowed),
            "/s",
            format!("{} since the start", format::count(totals.allowed)),
            "/requests?decision=allowed",
        ),
        tile(
            "Refused",
            per_second(refused),
            "/s",
            reason.map_or_else(
                || format!("{} since the start", format::count(totals.refused.values().sum::<u64>())),
                // The code with spaces, so that it wraps in the tile.
                |(code, _)| format!("most: {}", code.replace('_', " ")),
            ),
            "/requests?decision=refused",
        ),
        tile(
            "/auth p50",
            format::latency(telemetry.latency(50.0)),
            "",
            "of the last minute".into(),
            "/requests",
        ),
        tile(
            "/auth p99",
            format::latency(telemetry.latency(99.0)),
            "",
            "of the last minute".into(),
            "/requests",
        ),
        models(catalogue),
        servers(catalogue),
    ]
}

fn models(catalogue: Option<&Catalogue>) -> Tile {
    let (mut ready, mut starting, mut gone) = (0_usize, 0_usize, 0_usize);
    for pool in catalogue.into_iter().flat_map(Catalogue::pools) {
        match pool.readiness() {
            Readiness::Ready => ready += 1,
            Readiness::Starting => starting += 1,
            Readiness::Draining | Readiness::Stopped => gone += 1,
        }
    }
    let note = rest(&[(starting, "starting"), (gone, "gone")]);
    Tile { name: "Models ready", value: format::count(ready as u64), unit: "", note, link: "/models" }
}

fn servers(catalogue: Option<&Catalogue>) -> Tile {
    let count = |state: &str| {
        let servers = catalogue.into_iter().flat_map(Catalogue::servers);
        servers.filter(|server| server.state_name() == state).count()
    };
    let note = rest(&[
        (count("empty"), "without models"),
        (count("starting"), "starting"),
        (count("unusable"), "unusable"),
        (count("draining"), "withdrawn"),
        (count("stopped"), "stopped"),
    ]);
    let ready = format::count(count("ready") as u64);
    Tile { name: "Servers ready", value: ready, unit: "", note, link: "/servers" }
}

/// The states of those that are not ready, with their counts.
fn rest(counts: &[(usize, &str)]) -> String {
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{} {state}", format::count(*count as u64)))
        .collect();
    if counts.is_empty() { "all of them".into() } else { counts.join(", ") }
}

/// The latest changes of the document for Traefik.
fn changes(admin: &Admin) -> Vec<Change> {
    const MAX_CHANGES_SHOWN: usize = 8;
    let revisions = admin.shared.history().revisions();
    let all = revisions.iter().flat_map(|revision| {
        revision.why.iter().map(|what| Change { at: format::time(revision.at), what: what.clone() })
    });
    all.take(MAX_CHANGES_SHOWN).collect()
}
