//! Everything that needs an operator's attention, the worst first.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use catalogue::{Catalogue, Readiness, ServerRecord, ServerState, Subject};

use crate::{Admin, connection, finding::Finding, format, list::encode};

/// The severity of an issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Requests fail, or a server is lost.
    Bad,
    /// Something is not as intended.
    Warn,
    /// Something may be intended. Hints are shown on the pages that list everything, and do not count as wrong.
    Hint,
}

/// One thing that needs an operator's attention.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    /// What it is about, such as `container vllm-1`.
    pub(crate) about: String,
    /// The page with more details.
    pub(crate) link: String,
    pub(crate) told: Told,
}

/// A finding in words, as a page shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    /// What is wrong.
    pub(crate) what: String,
    /// The allowed values, if that is a long list.
    pub(crate) choices: Option<String>,
    /// The advice, unless the words already say it.
    pub(crate) todo: Option<Cow<'static, str>>,
    /// The code, for programs.
    pub(crate) code: &'static str,
}

/// How long a server may take to start before that is reported.
const PATIENCE_SECONDS: u64 = 600;
/// How many lost models are listed one by one; further ones are counted.
const MOST_MODELS: usize = 5;

impl Issue {
    /// The CSS class of its severity.
    pub(crate) fn class(&self) -> &'static str {
        match self.severity {
            Severity::Bad => "bad",
            Severity::Warn => "warn",
            Severity::Hint => "hint",
        }
    }

    fn new(about: impl Into<String>, link: impl Into<String>, finding: &Finding) -> Self {
        let told = Told::of(finding);
        Self { severity: finding.severity(), about: about.into(), link: link.into(), told }
    }

    fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }
}

impl Told {
    /// Puts a finding into words.
    pub(crate) fn of(finding: &Finding) -> Self {
        // The alternate form leaves out the list of all allowed names.
        let what = format!("{finding:#}");
        Self { what, choices: finding.choices(), todo: finding.advice(), code: finding.code() }
    }

    /// Puts a finding of the catalogue into words.
    pub(crate) fn of_catalogue(finding: &catalogue::Finding) -> Self {
        Self::of(&finding.clone().into())
    }
}

/// Findings that may be intended, and are worth a look once.
pub(crate) fn hints(catalogue: &Catalogue) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let of = |hint: &catalogue::Problem| {
        let link = links.of_subject(&hint.subject);
        Issue::new(hint.subject.to_string(), link, &hint.finding.clone().into())
    };
    catalogue.hints().iter().map(of).collect()
}

/// Everything that needs an operator's attention.
pub(crate) fn all(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let mut issues = of_models(catalogue);
    issues.extend(of_servers(admin, catalogue, now));
    issues.extend(of_traefik(admin, catalogue));
    let faults = connection::all(admin, Some(catalogue)).into_iter();
    issues.extend(faults.filter_map(|c| Some(Issue::new(c.name, "/about", &c.fault?))));
    let of_file = |finding| Issue::new("configuration", "/about", &Finding::Configuration(finding));
    issues.extend((admin.program.problems)().into_iter().map(of_file));
    issues.sort();
    issues.dedup();
    issues
}

/// Models for which no server can answer.
fn of_models(catalogue: &Catalogue) -> Vec<Issue> {
    let is_lost = |pool: &&std::sync::Arc<catalogue::Pool>| match pool.readiness() {
        Readiness::Ready | Readiness::Starting => false,
        Readiness::Draining | Readiness::Stopped => true,
    };
    let lost: Vec<_> = catalogue.pools().filter(is_lost).collect();
    let one = |pool: &&std::sync::Arc<catalogue::Pool>| {
        let link = format!("/models/{}", encode(pool.model.as_str()));
        Issue::new(format!("model {}", pool.model), link, &Finding::ModelLost)
    };
    let mut issues: Vec<Issue> = lost.iter().take(MOST_MODELS).map(one).collect();
    if let Some(more) = lost.len().checked_sub(MOST_MODELS + 1) {
        let about = format::counted(more + 1, "more model");
        issues.push(Issue::new(about, "/models?state=gone", &Finding::MoreModelsLost));
    }
    issues
}

/// Links to the pages of containers and servers.
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

/// Problems of servers and containers, servers that have been cordoned, and servers that take too long to start.
fn of_servers(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let is_patient = |server: &ServerRecord| {
        let waited = admin.since.loading(server, now).and_then(|since| now.duration_since(since).ok());
        waited.is_none_or(|waited| waited.as_secs() <= PATIENCE_SECONDS)
    };
    let mut issues: Vec<Issue> = Vec::new();
    let mut told: HashSet<(&str, &catalogue::Finding)> = HashSet::new();
    for problem in catalogue.problems() {
        let severity = match &problem.subject {
            _ if problem.severity() == catalogue::Severity::Danger => Severity::Bad,
            Subject::Source(_) => Severity::Bad,
            Subject::Container(name) | Subject::Server(name) => {
                told.insert((name, &problem.finding));
                let server = links.by_name.get(name.as_str());
                // A server that is still loading its model may not even listen; its own page and the list say so.
                if server.is_some_and(|s| matches!(s.state, ServerState::Starting(_)) && is_patient(s))
                    && problem.finding.may_pass_by_itself()
                {
                    continue;
                }
                let is_ready = server.is_some_and(|s| s.state == ServerState::Ready);
                if is_ready { Severity::Warn } else { Severity::Bad }
            }
        };
        let link = links.of_subject(&problem.subject);
        let issue = Issue::new(problem.subject.to_string(), link, &problem.finding.clone().into());
        issues.push(issue.with_severity(severity));
    }
    for server in catalogue.servers() {
        let Some(why) = server.state.why() else { continue };
        let severity = match &server.state {
            ServerState::Draining(_) if admin.cordons.borrow().of(&server.spec).is_some() => Severity::Warn,
            ServerState::Draining(_) => Severity::Bad,
            ServerState::Starting(_) if !is_patient(server) => Severity::Warn,
            _ => continue,
        };
        if !told.contains(&(server.spec.name.as_str(), why)) {
            let about = format!("server {}", server.spec.name);
            let issue = Issue::new(about, links.of(&server.spec.name), &why.clone().into());
            issues.push(issue.with_severity(severity));
        }
    }
    issues
}

fn of_traefik(admin: &Admin, catalogue: &Catalogue) -> Vec<Issue> {
    let shared = &admin.shared;
    let shortcomings = traefik_config::shortcomings(catalogue, &shared.settings().traefik);
    let polls = shared.polls().warnings().into_iter().chain(shared.polls().notes());
    let all = polls.map(Finding::Polls).chain(shortcomings.into_iter().map(Finding::Traefik));
    all.map(|finding| Issue::new("Traefik", "/traefik", &finding)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use catalogue::{
        Asked, DoorFinding, LabelFinding, LifecycleFinding, Origin, ProbeFault, ProbeFinding, Problem,
        ServerUrl,
    };

    use super::*;
    use crate::testing::{Dashboard, server};

    /// The finding about what a container's server has answered.
    fn answered(fault: ProbeFault) -> catalogue::Finding {
        let url = ServerUrl::http("10.0.0.1", 8000);
        let asked = Asked { url, origin: Origin::Docker, has_credential: false, is_healthy: false };
        ProbeFinding { asked, fault }.into()
    }

    fn refused() -> catalogue::Finding {
        answered(ProbeFault::CannotConnect { cause: "Connection refused".into() })
    }

    fn status(path: &str, status: u16) -> catalogue::Finding {
        answered(ProbeFault::NotReady { path: path.into(), status })
    }

    /// The issues of a server that has been in a state for `seconds`. The reason for the state is also one of its problems.
    fn after(seconds: u64, state: &ServerState) -> Vec<Issue> {
        let gpu = server("gpu", state.clone(), &["llama"]);
        let problem = Problem::server("gpu", state.why().expect("not ready").clone());
        let catalogue =
            Catalogue::assemble([gpu, server("other", ServerState::Ready, &["llama"])], vec![problem]);
        let dashboard = Dashboard::of(Catalogue::default());
        let start = SystemTime::UNIX_EPOCH;
        dashboard.admin.since.see(&catalogue, start);
        all(&dashboard.admin, &catalogue, start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_server_that_loads_its_model_is_no_issue_until_patience_is_over() {
        let path = || std::sync::Arc::from("/v1/models");
        for why in [
            refused(),
            answered(ProbeFault::TimedOut { after: Duration::from_secs(3) }),
            answered(ProbeFault::Status { path: path(), status: 503 }),
            answered(ProbeFault::AnswerBrokeOff { path: path() }),
            status("/health", 503),
            answered(ProbeFault::LacksText { path: path(), status: 200, wanted: "llama".into() }),
        ] {
            let starting = ServerState::Starting(why.clone());
            assert_eq!(after(0, &starting), [], "{why}");
            assert_eq!(after(600, &starting), [], "{why}");
            let [issue] = &after(601, &starting)[..] else { panic!("one issue: {why}") };
            assert_eq!((issue.severity, issue.told.code), (Severity::Bad, why.code()));
            assert_eq!(issue.told.what, why.to_string());
        }
    }

    /// Regression: a server listened on 127.0.0.1 or at another port, and that was reported only after ten minutes.
    #[test]
    fn a_server_whose_healthcheck_passes_is_not_loading() {
        let healthy = |fault| {
            let url = ServerUrl::http("10.0.0.1", 8000);
            let asked = Asked { url, origin: Origin::Docker, has_credential: false, is_healthy: true };
            catalogue::Finding::from(ProbeFinding { asked, fault })
        };
        for fault in [
            ProbeFault::CannotConnect { cause: "Connection refused".into() },
            ProbeFault::TimedOut { after: Duration::from_secs(3) },
            ProbeFault::BrokeOff { cause: "reset".into() },
            ProbeFault::AnswerBrokeOff { path: "/v1/models".into() },
        ] {
            let why = healthy(fault);
            let issues = after(0, &ServerState::Starting(why.clone()));
            let [issue] = &issues[..] else { panic!("one issue: {why}: {issues:?}") };
            assert_eq!((issue.severity, issue.told.code), (Severity::Bad, why.code()));
            let todo = issue.told.todo.as_deref().unwrap_or_default();
            assert!(!todo.contains("loading") && !todo.contains("starting"), "{todo}");
        }
        let loads = healthy(ProbeFault::Status { path: "/v1/models".into(), status: 503 });
        assert_eq!(after(0, &ServerState::Starting(loads)), [], "it says itself that it is not ready");
    }

    /// Regression: the ten minutes started again whenever Modelgate was restarted.
    #[test]
    fn patience_with_a_container_counts_from_its_start() {
        let mut gpu = server("gpu", ServerState::Starting(refused()), &[]);
        gpu.spec.source = catalogue::Source::Docker { container_id: "c1".into(), image: "vllm".into() };
        gpu.spec.incarnation = "1970-01-01T01:00:00Z".into();
        let catalogue = Catalogue::assemble([gpu], vec![Problem::container("gpu", refused())]);
        let dashboard = Dashboard::of(Catalogue::default());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        dashboard.admin.since.see(&catalogue, at(4190));
        assert_eq!(all(&dashboard.admin, &catalogue, at(4200)), []);
        assert_eq!(all(&dashboard.admin, &catalogue, at(4201)).len(), 1);
    }

    #[test]
    fn a_model_without_a_server_is_lost_whether_they_are_withdrawn_or_have_stopped() {
        for state in [
            ServerState::Draining(LifecycleFinding::Frozen.into()),
            ServerState::Stopped(LifecycleFinding::Stopped.into()),
        ] {
            let catalogue = Catalogue::assemble([server("gpu", state, &["llama"])], Vec::new());
            assert_eq!(of_models(&catalogue).len(), 1);
        }
    }

    #[test]
    fn a_server_that_is_new_and_not_yet_seen_is_given_time_too() {
        let gpu = server("gpu", ServerState::Starting(refused()), &[]);
        let catalogue = Catalogue::assemble([gpu], vec![Problem::server("gpu", refused())]);
        let dashboard = Dashboard::of(Catalogue::default());
        assert_eq!(all(&dashboard.admin, &catalogue, SystemTime::now()), []);
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_at_once() {
        let path = || std::sync::Arc::from("/v1/models");
        let label = LabelFinding::NotAllowed {
            label: "inference.ready.path".into(),
            found: " does not answer within ".into(),
            allowed: "a path",
        };
        for why in [
            answered(ProbeFault::NoModelList { path: path(), status: 404 }),
            answered(ProbeFault::Unauthorized { path: path(), status: 401 }),
            status("/ready", 404),
            label.into(),
        ] {
            let issues = after(0, &ServerState::Starting(why.clone()));
            assert!(issues.iter().any(|issue| issue.severity == Severity::Bad), "{why}: {issues:?}");
        }
        let gone = after(0, &ServerState::Draining(refused()));
        assert_eq!(gone[0].severity, Severity::Bad, "it was ready");
    }

    #[test]
    fn a_door_is_the_worst_and_a_hint_is_nothing_wrong() {
        let gpu = || server("gpu", ServerState::Ready, &["llama"]);
        let leads_to = catalogue::Behind::Server;
        let door = DoorFinding::Exposed { by_label: true, host: "gpu".into(), leads_to };
        let hint = catalogue::open_port("gpu", 32768, 8000);
        let found = vec![
            hint,
            Problem::container("gpu", LabelFinding::Unknown { label: "inference.prot".into() }),
            Problem::container("gpu", door),
        ];
        let catalogue = Catalogue::assemble([gpu()], found);
        let dashboard = Dashboard::of(Catalogue::default());
        let told = all(&dashboard.admin, &catalogue, SystemTime::now());
        let told: Vec<_> = told.iter().map(|issue| (issue.severity, issue.told.code)).collect();
        assert_eq!(told, [(Severity::Bad, "exposed_by_traefik"), (Severity::Warn, "label_unknown")]);
        let hints = hints(&catalogue);
        assert_eq!(
            (hints.len(), hints[0].class(), hints[0].link.starts_with("/servers/")),
            (1, "hint", true)
        );
    }

    #[test]
    fn a_server_that_an_operator_has_withdrawn_is_no_alarm() {
        let gpu =
            server("gpu", ServerState::Draining(LifecycleFinding::Paused { by: "alice".into() }.into()), &[]);
        let cordon = catalogue::Cordon { kind: catalogue::CordonKind::Pause, by: "alice".into() };
        let dashboard = Dashboard::of(Catalogue::default());
        dashboard.admin.cordons.send_modify(|cordons| cordons.cordon(gpu.spec.id.clone(), cordon.clone()));
        let catalogue = Catalogue::assemble([gpu], Vec::new());
        let told = all(&dashboard.admin, &catalogue, SystemTime::now());
        let [issue] = &told[..] else { panic!("one issue: {told:?}") };
        assert_eq!((issue.severity, &issue.told), (Severity::Warn, &Told::of_catalogue(&cordon.finding())));
    }
}
