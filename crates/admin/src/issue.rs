//! All that needs an operator, the worst first.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use catalogue::{Catalogue, Readiness, ServerRecord, ServerState, Subject};

use crate::{Admin, advice::advice, connection, format, list::encode};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Requests fail, or a server is lost.
    Bad,
    /// Something is not as it was meant.
    Warn,
}

/// One thing that needs an operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    /// What it is about, such as `container vllm-1`.
    pub(crate) about: String,
    /// Where more is said about it.
    pub(crate) link: String,
    /// What is wrong.
    pub(crate) what: String,
    /// What would be right, if that is a long list.
    pub(crate) choices: Option<String>,
    /// What to do.
    pub(crate) todo: Option<&'static str>,
}

/// Starting takes time: so long is no reason to worry.
const PATIENCE_SECONDS: u64 = 600;
/// More of a kind are counted, not told one by one.
const MOST_MODELS: usize = 5;

impl Issue {
    /// The class of its severity.
    pub(crate) fn class(&self) -> &'static str {
        match self.severity {
            Severity::Bad => "bad",
            Severity::Warn => "warn",
        }
    }

    fn new(
        severity: Severity,
        about: impl Into<String>,
        link: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        let (about, what) = (about.into(), what.into());
        let todo = advice(&format!("{about} {what}"));
        let (what, choices) = folded(&what);
        Self { severity, about, link: link.into(), what, choices, todo }
    }
}

/// A problem's words without the list of all names that there are, and that list: it is as long as a page.
pub(crate) fn folded(words: &str) -> (String, Option<String>) {
    match words.split_once("; known are ") {
        Some((what, choices)) => (what.to_owned(), Some(choices.to_owned())),
        None => (words.to_owned(), None),
    }
}

/// All that needs an operator.
pub(crate) fn all(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let mut issues = of_models(catalogue);
    issues.extend(of_servers(admin, catalogue, now));
    issues.extend(of_traefik(admin, catalogue));
    let faults = connection::all(admin, Some(catalogue)).into_iter();
    issues.extend(faults.filter_map(|c| Some(Issue::new(Severity::Bad, c.name, "/about", c.fault?))));
    let of_file = |problem| Issue::new(Severity::Warn, "configuration", "/about", problem);
    issues.extend((admin.program.problems)().into_iter().map(of_file));
    issues.sort();
    issues.dedup();
    issues
}

/// Models that no server can answer for.
fn of_models(catalogue: &Catalogue) -> Vec<Issue> {
    let lost: Vec<_> = catalogue.pools().filter(|pool| pool.readiness() == Readiness::Draining).collect();
    let one = |pool: &&std::sync::Arc<catalogue::Pool>| {
        let what = "no server is ready or starting; clients get 503";
        let link = format!("/models/{}", encode(pool.model.as_str()));
        Issue::new(Severity::Bad, format!("model {}", pool.model), link, what)
    };
    let mut issues: Vec<Issue> = lost.iter().take(MOST_MODELS).map(one).collect();
    if let Some(more) = lost.len().checked_sub(MOST_MODELS + 1) {
        let what = "the same holds for them: no server is ready or starting";
        issues.push(Issue::new(
            Severity::Bad,
            format::counted(more + 1, "more model"),
            "/models?state=gone",
            what,
        ));
    }
    issues
}

/// Problems of servers and containers, and servers that have been withdrawn or take too long.
fn of_servers(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let mut by_name: HashMap<&str, &ServerRecord> = HashMap::new();
    for server in catalogue.servers() {
        by_name.entry(&server.spec.name).or_insert(server);
    }
    let link = |name: &str| match by_name.get(name) {
        Some(server) => format!("/servers/{}", encode(server.spec.id.as_str())),
        None => format!("/servers?q={}", encode(name)),
    };
    let mut issues: Vec<Issue> = Vec::new();
    let mut told: HashSet<(&str, &str)> = HashSet::new();
    for problem in catalogue.problems() {
        let (severity, link) = match &problem.subject {
            Subject::Source(_) => (Severity::Bad, "/servers".into()),
            Subject::Container(name) | Subject::Server(name) => {
                told.insert((name, &problem.message));
                let is_ready = by_name.get(name.as_str()).is_some_and(|s| s.state == ServerState::Ready);
                (if is_ready { Severity::Warn } else { Severity::Bad }, link(name))
            }
        };
        issues.push(Issue::new(severity, problem.subject.to_string(), link, problem.message.clone()));
    }
    for server in catalogue.servers() {
        let Some(why) = server.state.why() else { continue };
        let waited = admin.since.of(server).and_then(|since| now.duration_since(since).ok());
        let severity = match &server.state {
            ServerState::Draining(_) if admin.holds.borrow().of(&server.spec).is_some() => Severity::Warn,
            ServerState::Draining(_) => Severity::Bad,
            ServerState::Starting(_) if waited.is_some_and(|w| w.as_secs() > PATIENCE_SECONDS) => {
                Severity::Warn
            }
            _ => continue,
        };
        if !told.contains(&(server.spec.name.as_str(), why)) {
            let about = format!("server {}", server.spec.name);
            issues.push(Issue::new(severity, about, link(&server.spec.name), why));
        }
    }
    issues
}

fn of_traefik(admin: &Admin, catalogue: &Catalogue) -> Vec<Issue> {
    let shared = &admin.shared;
    let shortcomings = traefik_config::shortcomings(catalogue, &shared.settings().traefik);
    let polls = shared.polls().warnings().into_iter().map(|what| (Severity::Bad, what));
    let all = polls.chain(shortcomings.into_iter().map(|what| (Severity::Warn, what)));
    all.map(|(severity, what)| Issue::new(severity, "Traefik", "/traefik", what)).collect()
}
