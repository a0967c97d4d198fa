//! Everything that needs an operator's attention, the worst first.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use catalogue::{Catalogue, ProblemSubject, Readiness, ServerRecord, ServerState, Severity};
use web::UncountedPath;

use crate::{
    Admin, connection,
    finding::{ConfigurationFinding, Doubt, Finding},
    format,
    list::encode,
};

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
        self.severity.name()
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

/// Servers from which nothing has come yet, and that may be loading their model. They are told at once, since the reason may as well
/// be a wrong port, but count as wrong only once they have had time to load.
pub(crate) fn loading(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let silent = catalogue.servers().filter_map(|server| match &server.state {
        ServerState::Starting(why) if why.is_silence() && why.may_pass_by_itself() => Some((server, why)),
        _ => None,
    });
    let patiently = silent.filter(|(server, _)| is_patient(admin, server, now));
    let told = patiently.map(|(server, why)| {
        let (name, finding) = (&server.spec.name, why.clone().into());
        let mut issue = Issue::new(format!("server {name}"), links.of(name), &finding);
        if let Some(since) = admin.since.loading(server, now) {
            issue.told.what.push_str(&format!("; no answer since {}", format::time(since).people));
        }
        issue.with_severity(Severity::Hint)
    });
    told.collect()
}

/// Whether a server has not yet had as much time as one may take to load its model.
fn is_patient(admin: &Admin, server: &ServerRecord, now: SystemTime) -> bool {
    let waited = admin.since.loading(server, now).and_then(|since| now.duration_since(since).ok());
    waited.is_none_or(|waited| waited.as_secs() <= PATIENCE_SECONDS)
}

/// Everything that needs an operator's attention.
pub(crate) fn all(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let mut issues = of_models(catalogue);
    issues.extend(of_servers(admin, catalogue, now));
    issues.extend(of_traefik(admin, catalogue));
    let faults = connection::all(admin, Some(catalogue)).into_iter();
    issues.extend(faults.filter_map(|c| Some(Issue::new(c.name, "/about", &c.fault?))));
    let left = admin.registry.left_files();
    issues.extend(left.iter().map(|left| Issue::new("Store", "/about", &Finding::CountsLeft(left.clone()))));
    let of_file = |finding| Issue::new("configuration", "/about", &Finding::Configuration(finding));
    issues.extend((admin.program.problems)().into_iter().chain(idle_budgets(admin)).map(of_file));
    issues.extend(admin.shared.paths_not_counted(now).into_iter().map(|UncountedPath { model, path }| {
        let link = format!("/models/{}", encode(&model));
        Issue::new(format!("model {model}"), link, &Finding::PriceNotCounted { path })
    }));
    issues.sort();
    issues.dedup();
    issues
}

/// What needs an operator's attention, for other parts than the pages: alerts and metrics. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// The finding's code, such as `model_lost`.
    pub code: &'static str,
    /// Whether requests fail or a server is lost; otherwise something is only not as intended.
    pub is_bad: bool,
    /// What it is about, such as `model llama`.
    pub about: String,
    /// What is wrong, in words that may change while it lasts.
    pub what: String,
    /// What to do about it, unless the words say it.
    pub advice: Option<Cow<'static, str>>,
    /// The path of the dashboard's page about it.
    pub page: String,
}

/// The alerts that are firing, the worst first, besides those that [`all`] has.
pub(crate) fn alerts(admin: &Admin) -> Vec<Issue> {
    let of = |Attention { code, is_bad, about, what, advice, page }| Issue {
        severity: if is_bad { Severity::Bad } else { Severity::Warn },
        about,
        link: page,
        told: Told { what, choices: None, todo: advice, code },
    };
    let mut alerts: Vec<Issue> = admin.alerts.load().iter().cloned().map(of).collect();
    alerts.sort();
    alerts
}

impl Admin {
    /// Shows these alerts on the overview, in place of those before: all that are firing and that [`attention`](Self::attention) does
    /// not have.
    pub fn show_alerts(&self, alerts: Vec<Attention>) {
        self.alerts.store(Arc::new(alerts));
    }

    /// What needs an operator's attention now, the worst first. Before the first survey it is not known.
    pub fn attention(&self, now: SystemTime) -> Vec<Attention> {
        let loaded = self.shared.catalogue().load();
        let issues = loaded.as_deref().map(|catalogue| all(self, catalogue, now)).unwrap_or_default();
        let of = |Issue { severity, about, link, told }: Issue| Attention {
            code: told.code,
            is_bad: severity == Severity::Bad,
            about,
            what: told.what,
            advice: told.todo,
            page: link,
        };
        issues.into_iter().map(of).collect()
    }

    /// Adds the number of issues by code to the metrics.
    pub fn count_issues(&self) {
        let admin = self.clone();
        // The state holds this, and this holds the state: both live as long as the process.
        self.shared.add_metrics(move || vec![counted(&admin.attention(SystemTime::now()))]);
    }
}

fn counted(issues: &[Attention]) -> web::Family {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for issue in issues {
        let severity = if issue.is_bad { Severity::Bad } else { Severity::Warn };
        *counts.entry((issue.code, severity.name())).or_default() += 1;
    }
    let help = "What needs an operator's attention, by the finding's code; alerts about keys, budgets and books are not counted";
    counts.into_iter().fold(
        web::Family::gauge("modelgate_issues", help),
        |family, ((code, severity), count)| {
            family.with(&[("code", code), ("severity", severity)], f64::from(count))
        },
    )
}

/// Models for which no server can answer.
fn of_models(catalogue: &Catalogue) -> Vec<Issue> {
    let is_lost = |pool: &&Arc<catalogue::Pool>| match pool.readiness() {
        Readiness::Ready | Readiness::Starting => false,
        Readiness::Draining | Readiness::Stopped => true,
    };
    let lost: Vec<_> = catalogue.pools().filter(is_lost).collect();
    let one = |pool: &&Arc<catalogue::Pool>| {
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

    fn of_subject(&self, subject: &ProblemSubject) -> String {
        match subject {
            ProblemSubject::Source(_) => "/servers".into(),
            ProblemSubject::Container(name) | ProblemSubject::Server(name) => self.of(name),
        }
    }
}

/// Problems of servers and containers, servers that have been cordoned, and servers that take too long to start.
fn of_servers(admin: &Admin, catalogue: &Catalogue, now: SystemTime) -> Vec<Issue> {
    let links = Links::new(catalogue);
    let is_patient = |server: &ServerRecord| is_patient(admin, server, now);
    let mut issues: Vec<Issue> = Vec::new();
    let mut told: HashSet<(&str, &catalogue::Finding)> = HashSet::new();
    for (problem, severity) in catalogue.weighed().filter(|(problem, _)| !problem.is_hint()) {
        if let ProblemSubject::Container(name) | ProblemSubject::Server(name) = &problem.subject {
            told.insert((name, &problem.finding));
            let server = links.by_name.get(name.as_str());
            // A server that is still loading its model may not even listen: see `loading`.
            if server.is_some_and(|s| matches!(s.state, ServerState::Starting(_)) && is_patient(s))
                && problem.finding.may_pass_by_itself()
            {
                continue;
            }
        }
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

/// Whether there are budgets in force, of the file or the store, and nothing has a price.
fn idle_budgets(admin: &Admin) -> Option<ConfigurationFinding> {
    if admin.shared.settings().prices.currency().is_some() {
        return None;
    }
    admin.shared.policy().has_budgets().then_some(ConfigurationFinding::Doubtful(Doubt::BudgetsWithoutPrices))
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

    use catalogue::{ContainerRecord, ContainerStatus, Cordon, CordonKind, PublishedPort};

    use super::*;
    use crate::testing::{
        Dashboard,
        found::{
            ChangingServer, Discovery, Does, container, down, exposed, healthy, interpreted, problems,
            record, unhealthy,
        },
        server,
    };

    const READY: (&str, &str) = ("inference.ready.path", "/ready");
    const LACKS: (&str, &str) = ("inference.ready.contains", "what no answer has");

    /// What a container's server does, its labels, and the code of what is found.
    type Case = (&'static str, Does, &'static [(&'static str, &'static str)], &'static str);

    /// Servers that may be loading their model.
    const LOADING: [Case; 4] = [
        ("refuses", Does::Refuse, &[], "cannot_connect"),
        ("hangs", Does::Hang, &[], "timed_out"),
        ("closes", Does::Close, &[], "connection_broke_off"),
        ("breaks-off", Does::BreakOff, &[], "answer_broke_off"),
    ];
    /// Servers that say themselves that they are not ready.
    const SAY_SO: [Case; 3] = [
        ("models-503", Does::Answer(503, 200), &[], "models_status"),
        ("ready-503", Does::Answer(200, 503), &[READY], "not_ready_status"),
        ("lacks-text", Does::Answer(200, 200), &[READY, LACKS], "not_ready_text"),
    ];
    /// Faults that do not pass by themselves.
    const LASTING: [Case; 3] = [
        ("models-404", Does::Answer(404, 200), &[], "no_model_list"),
        ("models-401", Does::Answer(401, 200), &[], "credential_wanted"),
        ("ready-404", Does::Answer(200, 404), &[READY], "not_ready_status"),
    ];

    const WELL: Case = ("gpu", Does::Answer(200, 200), &[], "");

    /// Containers, each with a server that does what the case says.
    async fn start(
        cases: impl IntoIterator<Item = &'static Case>,
    ) -> (Vec<ChangingServer>, Vec<ContainerRecord>) {
        let (mut servers, mut containers) = (Vec::new(), Vec::new());
        for (name, does, labels, _) in cases {
            let server = ChangingServer::start(*does).await;
            containers.push(container(name, server.port, labels));
            servers.push(server);
        }
        (servers, containers)
    }

    /// The issues about a container or server, this many seconds after all servers entered their states.
    fn issues_of(name: &str, seconds: u64, catalogue: &Catalogue) -> Vec<Issue> {
        let dashboard = Dashboard::of(Catalogue::default());
        let start = SystemTime::UNIX_EPOCH;
        dashboard.admin.since.see(catalogue, start);
        let mut issues = all(&dashboard.admin, catalogue, start + Duration::from_secs(seconds));
        issues.retain(|issue| issue.about.split_once(' ').is_some_and(|(_, about)| about == name));
        issues
    }

    /// The only issue about it.
    fn issue_of(name: &str, seconds: u64, catalogue: &Catalogue) -> Issue {
        let issues = issues_of(name, seconds, catalogue);
        <[Issue; 1]>::try_from(issues)
            .map_or_else(|other| panic!("one issue of {name}: {other:?}"), |[one]| one)
    }

    #[tokio::test]
    async fn a_server_that_loads_its_model_is_no_issue_until_patience_is_over() {
        let cases = || LOADING.iter().chain(&SAY_SO);
        let (_servers, containers) = start(cases()).await;
        let found = Discovery::start(&containers).all_asked().await;
        for (name, _, _, code) in cases() {
            assert_eq!(issues_of(name, 0, &found), [], "{name}");
            assert_eq!(issues_of(name, 600, &found), [], "{name}");
            assert_eq!(hint_while_loading(name, 601, &found), None, "{name}");
            let issue = issue_of(name, 601, &found);
            assert_eq!((issue.severity, issue.told.code), (Severity::Bad, *code), "{name}");
        }
    }

    /// What is told of a server that may be loading, this many seconds after all servers entered their states.
    fn hint_while_loading(name: &str, seconds: u64, catalogue: &Catalogue) -> Option<String> {
        let dashboard = Dashboard::of(Catalogue::default());
        let start = SystemTime::UNIX_EPOCH;
        dashboard.admin.since.see(catalogue, start);
        let hints = loading(&dashboard.admin, catalogue, start + Duration::from_secs(seconds));
        let hint = hints.into_iter().find(|issue| issue.about == format!("server {name}"))?;
        assert_eq!(hint.class(), "hint");
        Some(hint.told.what)
    }

    /// Regression: who had given a wrong port looked at an overview that said nothing for ten minutes.
    #[tokio::test]
    async fn a_server_that_does_not_answer_is_told_at_once_with_what_happens_and_since_when() {
        let (_servers, containers) = start(LOADING.iter().chain(&SAY_SO)).await;
        let found = Discovery::start(&containers).all_asked().await;
        let told = |name| hint_while_loading(name, 5, &found).unwrap_or_default();
        for (name, what) in [
            ("refuses", "Connection refused"),
            ("hangs", "does not answer within 3 s"),
            ("closes", "broke off"),
        ] {
            let (told, since) =
                (told(name), "; it may still be loading; no answer since 1970-01-01 00:00:00 UTC");
            assert!(told.contains(what) && told.ends_with(since), "{name}: {told}");
        }
        assert_eq!(told("models-503"), "", "its own words are on its page");
    }

    /// Regression: a server that listened on 127.0.0.1 or at another port was not reported for ten minutes.
    #[tokio::test]
    async fn a_server_whose_healthcheck_passes_is_not_loading() {
        let (_servers, containers) = start(LOADING.iter().chain(&SAY_SO)).await;
        let containers: Vec<ContainerRecord> = containers.into_iter().map(healthy).collect();
        let found = Discovery::start(&containers).all_asked().await;
        for (name, _, _, code) in &LOADING {
            let issue = issue_of(name, 0, &found);
            assert_eq!((issue.severity, issue.told.code), (Severity::Bad, *code), "{name}");
            let todo = issue.told.todo.as_deref().unwrap_or_default();
            assert!(!todo.contains("loading") && !todo.contains("starting"), "{name}: {todo}");
        }
        for (name, ..) in &SAY_SO {
            assert_eq!(issues_of(name, 0, &found), [], "{name} says itself that it is not ready");
        }
    }

    #[tokio::test]
    async fn what_waiting_does_not_mend_is_told_at_once() {
        let (_servers, containers) = start(&LASTING).await;
        let found = Discovery::start(&containers).all_asked().await;
        for (name, _, _, code) in &LASTING {
            let issue = issue_of(name, 0, &found);
            assert_eq!((issue.severity, issue.told.code), (Severity::Bad, *code), "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_that_was_ready_and_its_model_are_lost_at_once() {
        let (servers, containers) = start(&[WELL]).await;
        let discovery = Discovery::start(&containers);
        assert_eq!(issues_of("gpu", 0, &*discovery.all_asked().await), []);
        servers[0].now(Does::Refuse);
        let is_lost =
            |server: &Arc<ServerRecord>| server.spec.name == "gpu" && server.state.name() == "draining";
        let found = discovery.until(|catalogue| catalogue.servers().any(is_lost)).await;
        let issue = issue_of("gpu", 0, &found);
        assert_eq!((issue.severity, issue.told.code), (Severity::Bad, "cannot_connect"));
        // Regression: it "may still be loading".
        assert!(issue.told.what.ends_with("; it has answered before"), "{}", issue.told.what);
        assert_eq!(issue_of("llama", 0, &found).told.code, "model_lost");
    }

    /// Words of a label that read like a server's answer were once taken for one.
    #[test]
    fn a_label_that_is_not_allowed_is_told_at_once() {
        let bad = container("gpu", 8000, &[("inference.ready.path", " does not answer within ")]);
        let found = Catalogue::assemble([], problems(&bad));
        let issue = issue_of("gpu", 0, &found);
        assert_eq!((issue.severity, issue.told.code), (Severity::Bad, "label_not_allowed"));
    }

    /// Regression: the ten minutes began anew with each start of Modelgate.
    #[tokio::test]
    async fn patience_with_a_container_counts_from_its_start() {
        let (_servers, mut containers) = start(&LOADING[..1]).await;
        containers[0].started_at = "1970-01-01T01:00:00Z".into();
        let found = Discovery::start(&containers).all_asked().await;
        let dashboard = Dashboard::of(Catalogue::default());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        // It is too new to be in `since`.
        assert_eq!(all(&dashboard.admin, &found, at(60)), []);
        dashboard.admin.since.see(&found, at(4190));
        assert_eq!(all(&dashboard.admin, &found, at(4200)), []);
        assert_eq!(all(&dashboard.admin, &found, at(4201)).len(), 1);
    }

    #[test]
    fn a_model_without_a_server_is_lost_whether_they_are_withdrawn_or_have_stopped() {
        let with = |status| ContainerRecord { status, ..container("gpu", 8000, &[]) };
        let paused = record(&with(ContainerStatus::Paused)).state;
        let stopped = down(&with(ContainerStatus::Exited));
        for (state, name) in [(paused, "draining"), (unhealthy(), "draining"), (stopped, "stopped")] {
            assert_eq!(state.name(), name);
            let catalogue = Catalogue::assemble([server("gpu", state, &["llama"])], Vec::new());
            assert_eq!(of_models(&catalogue).len(), 1);
        }
    }

    #[test]
    fn a_door_is_the_worst_and_a_hint_is_nothing_wrong() {
        let published = PublishedPort { container_port: 8000, host_port: 32768, address: "0.0.0.0".into() };
        let gpu = ContainerRecord {
            published_ports: vec![published],
            ..container("gpu", 8000, &[("inference.prot", "8000")])
        };
        let (spec, state, mut problems) = interpreted(&gpu);
        problems.extend(exposed(&gpu));
        let record = ServerRecord { spec, ..server("gpu", state, &["llama"]) };
        let catalogue = Catalogue::assemble([record], problems);
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

    #[tokio::test]
    async fn a_server_that_an_operator_has_withdrawn_is_no_alarm() {
        let (_servers, containers) = start(&[WELL]).await;
        let discovery = Discovery::start(&containers);
        let found = discovery.all_asked().await;
        let gpu = found.servers().next().expect("a server");
        let cordon = Cordon { kind: CordonKind::Pause, by: "alice".into() };
        let dashboard = Dashboard::of(Catalogue::default());
        for cordons in [&discovery.cordons, &dashboard.admin.cordons] {
            cordons.send_modify(|cordons| cordons.cordon(gpu.spec.id.clone(), cordon.clone()));
        }
        let is_cordoned =
            |catalogue: &Catalogue| catalogue.servers().all(|server| server.state.name() == "draining");
        let found = discovery.until(is_cordoned).await;
        let told = all(&dashboard.admin, &found, SystemTime::now());
        let [issue] = &told.iter().filter(|issue| issue.about == "server gpu").collect::<Vec<_>>()[..] else {
            panic!("one issue: {told:?}")
        };
        assert_eq!((issue.severity, &issue.told), (Severity::Warn, &Told::of_catalogue(&cordon.finding())));
    }
}
