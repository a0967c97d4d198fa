//! All that needs an operator, the worst first.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use catalogue::{Catalogue, Readiness, ServerRecord, ServerState, Subject};

use crate::{
    Admin,
    advice::{advice, may_pass_by_itself},
    connection, format,
    list::encode,
};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Requests fail, or a server is lost.
    Bad,
    /// Something is not as it was meant.
    Warn,
    /// Something may be meant; it is told on the pages that list all, and does not count as wrong.
    Hint,
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
            Severity::Hint => "hint",
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

/// What may be as it is meant, and is worth a look once.
pub(crate) fn hints(catalogue: &Catalogue) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let of = |hint: &catalogue::Problem| {
        let link = links.of_subject(&hint.subject);
        Issue::new(Severity::Hint, hint.subject.to_string(), link, hint.message.clone())
    };
    catalogue.hints().iter().map(of).collect()
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

/// Where more is said about a container or server.
struct Links<'a> {
    by_name: HashMap<&'a str, &'a ServerRecord>,
}

impl<'a> Links<'a> {
    fn new(catalogue: &'a Catalogue) -> Self {
        let mut by_name: HashMap<&str, &ServerRecord> = HashMap::new();
        for server in catalogue.servers() {
            by_name.entry(&server.spec.name).or_insert(server);
        }
        Self { by_name }
    }

    fn of(&self, name: &str) -> String {
        match self.by_name.get(name) {
            Some(server) => format!("/servers/{}", encode(server.spec.id.as_str())),
            None => format!("/servers?q={}", encode(name)),
        }
    }

    fn of_subject(&self, subject: &Subject) -> String {
        match subject {
            Subject::Source(_) => "/servers".into(),
            Subject::Container(name) | Subject::Server(name) => self.of(name),
        }
    }
}

/// Problems of servers and containers, and servers that have been withdrawn or take too long.
fn of_servers(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let is_patient = |server: &ServerRecord| {
        let waited = admin.since.of(server).and_then(|since| now.duration_since(since).ok());
        waited.is_none_or(|waited| waited.as_secs() <= PATIENCE_SECONDS)
    };
    let mut issues: Vec<Issue> = Vec::new();
    let mut told: HashSet<(&str, &str)> = HashSet::new();
    for problem in catalogue.problems() {
        let severity = match &problem.subject {
            _ if problem.severity == catalogue::Severity::Danger => Severity::Bad,
            Subject::Source(_) => Severity::Bad,
            Subject::Container(name) | Subject::Server(name) => {
                told.insert((name, &problem.message));
                let server = links.by_name.get(name.as_str());
                // A server that loads its model may not even listen; its own page and the list say so.
                if server.is_some_and(|s| matches!(s.state, ServerState::Starting(_)) && is_patient(s))
                    && may_pass_by_itself(&problem.message)
                {
                    continue;
                }
                let is_ready = server.is_some_and(|s| s.state == ServerState::Ready);
                if is_ready { Severity::Warn } else { Severity::Bad }
            }
        };
        let link = links.of_subject(&problem.subject);
        issues.push(Issue::new(severity, problem.subject.to_string(), link, problem.message.clone()));
    }
    for server in catalogue.servers() {
        let Some(why) = server.state.why() else { continue };
        let severity = match &server.state {
            ServerState::Draining(_) if admin.holds.borrow().of(&server.spec).is_some() => Severity::Warn,
            ServerState::Draining(_) => Severity::Bad,
            ServerState::Starting(_) if !is_patient(server) => Severity::Warn,
            _ => continue,
        };
        if !told.contains(&(server.spec.name.as_str(), why)) {
            let about = format!("server {}", server.spec.name);
            issues.push(Issue::new(severity, about, links.of(&server.spec.name), why));
        }
    }
    issues
}

fn of_traefik(admin: &Admin, catalogue: &Catalogue) -> Vec<Issue> {
    let shared = &admin.shared;
    let shortcomings = traefik_config::shortcomings(catalogue, &shared.settings().traefik);
    let polls = shared.polls().warnings().into_iter().map(|what| (Severity::Bad, what));
    let notes = shared.polls().notes().into_iter().map(|what| (Severity::Warn, what));
    let all = polls.chain(notes).chain(shortcomings.into_iter().map(|what| (Severity::Warn, what)));
    all.map(|(severity, what)| Issue::new(severity, "Traefik", "/traefik", what)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use catalogue::Problem;

    use super::*;
    use crate::testing::{Dashboard, server};

    const REFUSED: &str =
        "cannot connect to http://10.0.0.1:8000: Connection refused (is inference.port right?)";

    /// What is wrong with a server so many seconds after it came into a state, and why it is in it is a problem of its.
    fn after(seconds: u64, state: &ServerState) -> Vec<Issue> {
        let gpu = server("gpu", state.clone(), &["llama"]);
        let problem = Problem::server("gpu", state.why().expect("not ready"));
        let catalogue =
            Catalogue::assemble([gpu, server("other", ServerState::Ready, &["llama"])], vec![problem]);
        let dashboard = Dashboard::of(Catalogue::default());
        let start = SystemTime::UNIX_EPOCH;
        dashboard.admin.since.see(&catalogue, start);
        all(&dashboard.admin, &catalogue, start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_server_that_loads_its_model_is_no_issue_until_patience_is_over() {
        for why in [
            REFUSED,
            "http://10.0.0.1:8000 does not answer within 3 s",
            "GET http://10.0.0.1:8000/v1/models answers 503",
            "GET http://10.0.0.1:8000/health answers 503, so it is not ready",
            "GET http://10.0.0.1:8000/api/ps answers 200 without \"llama\" in it, so it is not ready",
        ] {
            let starting = ServerState::Starting(why.into());
            assert_eq!(after(0, &starting), [], "{why}");
            assert_eq!(after(600, &starting), [], "{why}");
            let [issue] = &after(601, &starting)[..] else { panic!("one issue: {why}") };
            assert_eq!((issue.severity, issue.what.as_str()), (Severity::Bad, why));
        }
    }

    #[test]
    fn a_server_that_is_new_and_not_yet_seen_is_given_time_too() {
        let gpu = server("gpu", ServerState::Starting(REFUSED.into()), &[]);
        let catalogue = Catalogue::assemble([gpu], vec![Problem::server("gpu", REFUSED)]);
        let dashboard = Dashboard::of(Catalogue::default());
        assert_eq!(all(&dashboard.admin, &catalogue, SystemTime::now()), []);
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_at_once() {
        for why in [
            "GET http://10.0.0.1:8000/v1/models answers 404: set inference.models",
            "GET http://10.0.0.1:8000/v1/models answers 401: it wants a credential",
            "GET http://10.0.0.1:8000/ready answers 404, so it is not ready",
            "label inference.ready.path=\" does not answer within \" is not allowed",
        ] {
            let issues = after(0, &ServerState::Starting(why.into()));
            assert!(issues.iter().any(|issue| issue.severity == Severity::Bad), "{why}: {issues:?}");
        }
        let gone = after(0, &ServerState::Draining(REFUSED.into()));
        assert_eq!(gone[0].severity, Severity::Bad, "it was ready");
    }

    #[test]
    fn a_door_is_the_worst_and_a_hint_is_nothing_wrong() {
        let gpu = || server("gpu", ServerState::Ready, &["llama"]);
        let door = Problem::container("gpu", "a door").danger();
        let fault = Problem::container("gpu", "a fault");
        let hint = Problem::container("gpu", "a hint").hint();
        let catalogue = Catalogue::assemble([gpu()], vec![hint, fault, door]);
        let dashboard = Dashboard::of(Catalogue::default());
        let told = all(&dashboard.admin, &catalogue, SystemTime::now());
        let told: Vec<_> = told.iter().map(|issue| (issue.severity, issue.what.as_str())).collect();
        assert_eq!(told, [(Severity::Bad, "a door"), (Severity::Warn, "a fault")]);
        let hints = hints(&catalogue);
        assert_eq!(
            (hints.len(), hints[0].class(), hints[0].link.starts_with("/servers/")),
            (1, "hint", true)
        );
    }
}
