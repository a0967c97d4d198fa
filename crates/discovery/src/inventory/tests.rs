use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use catalogue::{
    ContainerHealth, ContainerRecord, ContainerStatus, Cordon, CordonKind, Listing, ModelCard, ModelName,
    NoConnection, Outcome, ProbeFault, ProbeFinding, ProbedServer, Readiness, ServerUrl, TaskRecord,
    TaskStatus,
};

use super::{
    entry::{BACKOFF, LIVENESS, RECHECK, REFRESH},
    *,
};

/// A server's answer to the probe for its models.
type Answer = Result<Listing, ProbeFault>;

/// An inventory with a clock that a test advances.
struct Scene {
    inventory: Inventory,
    now: Instant,
    /// For how long each container has run.
    run_for: Duration,
}

impl Scene {
    fn new() -> Self {
        Self { inventory: Inventory::default(), now: Instant::now(), run_for: Duration::ZERO }
    }

    fn survey(&mut self, containers: Vec<ContainerRecord>) {
        self.survey_of("docker", containers);
    }

    fn survey_of(&mut self, host: &str, containers: Vec<ContainerRecord>) {
        let survey = Survey { containers, ..Survey::default() };
        self.inventory.surveyed(&host.into(), survey, Vec::new(), self.now);
    }

    fn withdraw(&mut self, reason: LifecycleFinding, until_restart: bool) {
        self.inventory.withdraw(Withdrawal { id: "c1".into(), reason, until_restart });
    }

    /// Answers all probes that are due; returns the number of servers.
    fn answer(&mut self, answer: &Answer) -> usize {
        self.answer_both(answer, None)
    }

    fn answer_both(&mut self, answer: &Answer, ready: Option<&Result<(), ProbeFault>>) -> usize {
        let due = self.inventory.take_due(self.now);
        for spec in &due {
            let found = |fault| ProbeFinding { asked: ProbedServer::of(spec), fault };
            let models = answer.clone().map_err(found);
            let ready = ready.map(|ready| ready.clone().map_err(found));
            let answers = Answers { models, ready, run_for: self.run_for };
            self.inventory.answered(spec, answers, self.now);
        }
        due.len()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.inventory.expire(self.now);
    }

    /// The state of the pool `llama`; `None` if the model is not known.
    fn llama(&mut self) -> Option<Readiness> {
        self.inventory.catalogue().pool("llama").map(|p| p.readiness())
    }
}

fn container(started_at: &str, health: Option<ContainerHealth>) -> ContainerRecord {
    ContainerRecord {
        id: "c1".into(),
        name: "vllm".into(),
        image: "vllm".into(),
        labels: BTreeMap::from([("inference.enable".into(), "true".into())]),
        status: ContainerStatus::Running,
        health,
        started_at: started_at.into(),
        networks: BTreeMap::from([("ai".into(), "10.0.0.2".into())]),
        network_mode: "ai".into(),
        exposed_ports: BTreeSet::new(),
        published_ports: Vec::new(),
    }
}

fn healthy(started_at: &str) -> ContainerRecord {
    container(started_at, Some(ContainerHealth::Healthy))
}

fn file_spec() -> ServerSpec {
    ServerSpec::configured("gpu", ServerUrl::http("gpu", 8000))
}

fn llama() -> Answer {
    let cards = vec![ModelCard::named(ModelName::new("llama").expect("a name"))];
    Ok(Listing { cards, ..Listing::default() })
}

fn refused() -> Answer {
    Err(ProbeFault::CannotConnect { why: NoConnection::Refused, cause: "refused".into() })
}

#[test]
fn a_container_becomes_healthy_is_asked_and_is_live() {
    let mut scene = Scene::new();
    scene.survey(vec![container("t0", Some(ContainerHealth::Starting))]);
    assert_eq!(scene.answer(&llama()), 0, "nobody asks a server that its HEALTHCHECK calls starting");
    assert!(scene.inventory.all_asked());
    scene.survey(vec![healthy("t0")]);
    assert!(!scene.inventory.all_asked());
    assert_eq!(scene.answer(&llama()), 1);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.answer(&llama()), 0);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.answer(&llama()), 1, "a fresh look every 30 s");
}

/// llama.cpp and vLLM send the current time as `created`, which must not count as a change every few seconds.
#[test]
fn a_model_was_created_when_it_was_first_seen() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    for created in [1_700_000_000, 1_700_000_030] {
        let name = ModelName::new("llama").expect("a name");
        let cards = vec![ModelCard { created: Some(created), ..ModelCard::named(name) }];
        assert_eq!(scene.answer(&Ok(Listing { cards, ..Listing::default() })), 1);
        let catalogue = scene.inventory.catalogue();
        let server = catalogue.servers().next().expect("the server");
        assert_eq!(server.models[0].created, Some(1_700_000_000));
        scene.pass(REFRESH);
    }
}

#[test]
fn a_stop_signal_withdraws_although_the_list_still_says_running() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.withdraw(LifecycleFinding::ToldToStop, true);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.survey(vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "the same run stays withdrawn");
    scene.withdraw(LifecycleFinding::Frozen, false);
    scene.survey(vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "a lesser mark does not replace it");
    scene.survey(vec![healthy("t1")]);
    assert_eq!(scene.llama(), Some(Readiness::Starting), "another run is asked anew");
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

/// It used to be called draining, as if somebody had told it to stop.
#[test]
fn a_container_that_has_ended_is_stopped_at_the_event() {
    let state =
        |scene: &mut Scene| scene.inventory.catalogue().servers().next().expect("a server").state.clone();
    for reason in [LifecycleFinding::Stopped, LifecycleFinding::Removed] {
        let mut scene = Scene::new();
        scene.survey(vec![healthy("t0")]);
        scene.answer(&llama());
        scene.withdraw(LifecycleFinding::ToldToStop, true);
        assert_eq!(state(&mut scene), ServerState::Draining(LifecycleFinding::ToldToStop.into()));
        scene.withdraw(reason.clone(), true);
        let stopped = ServerState::Stopped(reason.into());
        assert_eq!((state(&mut scene), scene.llama()), (stopped.clone(), Some(Readiness::Stopped)));
        scene.withdraw(LifecycleFinding::Disconnected, false);
        scene.survey(vec![healthy("t0")]);
        assert_eq!(state(&mut scene), stopped, "although the list still says running");
        scene.pass(LINGER * 2);
        assert_eq!(scene.llama(), Some(Readiness::Stopped), "it lingers from when the list shows it no more");
        scene.survey(vec![]);
        scene.pass(LINGER);
        assert_eq!(scene.llama(), None);
    }
}

#[test]
fn a_container_that_ends_while_it_starts_or_is_unhealthy_has_stopped() {
    use ContainerHealth::{Starting, Unhealthy};
    let state =
        |scene: &mut Scene| scene.inventory.catalogue().servers().next().expect("a server").state.name();
    for (health, before) in [(Starting, "starting"), (Unhealthy, "draining")] {
        let mut scene = Scene::new();
        scene.survey(vec![container("t0", Some(health))]);
        assert_eq!(state(&mut scene), before);
        scene.withdraw(LifecycleFinding::Stopped, true);
        assert_eq!(state(&mut scene), "stopped");
        scene.survey(vec![ContainerRecord { status: ContainerStatus::Restarting, ..container("t0", None) }]);
        assert_eq!(state(&mut scene), "starting", "Docker starts it again");
        scene.inventory.started("c1", scene.now);
        scene.survey(vec![healthy("t1")]);
        scene.answer(&llama());
        assert_eq!(scene.llama(), Some(Readiness::Ready));
    }
}

#[test]
fn a_pause_lasts_until_the_list_says_otherwise() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.withdraw(LifecycleFinding::Frozen, false);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.survey(vec![ContainerRecord { status: ContainerStatus::Paused, ..healthy("t0") }]);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.survey(vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

#[test]
fn a_withdrawal_that_came_during_a_look_outlives_it() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    let survey = Survey { containers: vec![healthy("t0")], ..Survey::default() };
    let meanwhile = Withdrawal { id: "c1".into(), reason: LifecycleFinding::Frozen, until_restart: false };
    scene.inventory.surveyed(&"docker".into(), survey, vec![meanwhile], scene.now);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
}

#[test]
fn the_models_of_a_container_that_went_linger_for_a_minute() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.survey(vec![ContainerRecord { status: ContainerStatus::Exited, ..healthy("t0") }]);
    assert_eq!(scene.llama(), Some(Readiness::Stopped));
    scene.pass(Duration::from_secs(30));
    scene.survey(vec![]);
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.llama(), Some(Readiness::Stopped));
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.llama(), None, "removal does not begin the minute anew");
}

#[test]
fn a_server_without_healthcheck_is_withdrawn_after_two_failures_and_comes_back() {
    let mut scene = Scene::new();
    scene.survey(vec![container("t0", None)]);
    scene.answer(&refused());
    assert_eq!(scene.llama(), None);
    scene.pass(Duration::from_millis(250));
    assert_eq!(scene.answer(&llama()), 1, "asked again soon while it starts");
    scene.pass(LIVENESS);
    scene.answer(&refused());
    assert_eq!(scene.llama(), Some(Readiness::Ready), "one failure is not enough");
    scene.pass(RECHECK);
    scene.answer(&refused());
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.pass(BACKOFF.1);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

#[test]
fn a_failing_list_of_a_healthy_container_is_a_problem_and_no_withdrawal() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    let fails = Err(ProbeFault::Status { path: "/v1/models".into(), status: 500 });
    for _ in 0..5 {
        scene.pass(REFRESH);
        assert_eq!(scene.answer(&fails), 1);
    }
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    assert_eq!(
        scene.inventory.catalogue().problems()[0].to_string(),
        "container vllm: healthy, but /v1/models answers 500"
    );
}

#[test]
fn a_docker_host_that_does_not_answer_takes_nothing_away() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.inventory.unreachable(&"docker".into(), "unix:///run/docker.sock", "connection refused");
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    assert!(
        scene.inventory.catalogue().problems()[0].to_string().contains("does not answer: connection refused")
    );
    scene.survey(vec![healthy("t0")]);
    assert!(scene.inventory.catalogue().problems().is_empty());
}

#[test]
fn a_bad_label_skips_that_container_alone() {
    let mut scene = Scene::new();
    let mut bad = ContainerRecord { id: "c2".into(), name: "bad".into(), ..healthy("t0") };
    bad.labels.insert("inference.port".into(), "abc".into());
    scene.survey(vec![healthy("t0"), bad]);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    let problems = scene.inventory.catalogue().problems().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        problems,
        ["container bad: label inference.port=\"abc\" is not allowed: write a number from 1 to 65535"]
    );
}

#[test]
fn an_answer_of_the_run_before_is_not_believed() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    let due = scene.inventory.take_due(scene.now);
    scene.survey(vec![healthy("t1")]);
    scene.inventory.answered(
        &due[0],
        Answers { models: Ok(llama().expect("models")), ready: None, run_for: Duration::ZERO },
        scene.now,
    );
    assert_eq!(scene.llama(), None);
    assert_eq!(scene.answer(&llama()), 1, "the new run is asked at once");
}

#[test]
fn servers_of_the_file_come_and_go_with_it() {
    let spec = file_spec();
    let mut scene = Scene::new();
    scene.inventory.configured(&of(std::slice::from_ref(&spec)), scene.now);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.survey(vec![]);
    assert_eq!(scene.llama(), Some(Readiness::Ready), "a look at Docker says nothing about the file");
    scene.inventory.configured(&of(&[]), scene.now);
    assert_eq!(scene.llama(), None);
}

#[test]
fn hosts_take_nothing_away_from_each_other() {
    let mut scene = Scene::new();
    let on = |id: &str, name: &str| ContainerRecord { id: id.into(), name: name.into(), ..healthy("t0") };
    scene.survey_of("gpu1", vec![on("c1", "gpu1/vllm")]);
    scene.survey_of("gpu2", vec![on("c2", "gpu2/vllm")]);
    scene.answer(&llama());
    let servers = |scene: &mut Scene| {
        let catalogue = scene.inventory.catalogue();
        catalogue.servers().map(|s| format!("{} {}", s.spec.name, s.state.name())).collect::<Vec<_>>()
    };
    scene.inventory.unreachable(&"gpu1".into(), "tcp://gpu1:2376", "connection refused");
    scene.survey_of("gpu2", vec![on("c2", "gpu2/vllm")]);
    assert_eq!(servers(&mut scene), ["gpu1/vllm ready", "gpu2/vllm ready"]);
    let problems = |scene: &mut Scene| {
        scene.inventory.catalogue().problems().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        problems(&mut scene),
        ["source docker gpu1: tcp://gpu1:2376 does not answer: connection refused"],
        "a look at the other host does not heal it"
    );
    scene.survey_of("gpu1", vec![]);
    assert_eq!(servers(&mut scene), ["gpu1/vllm stopped", "gpu2/vllm ready"]);
    assert!(problems(&mut scene).is_empty());
}

#[test]
fn two_ways_to_the_same_engine_are_told_and_change_nothing() {
    let mut scene = Scene::new();
    scene.survey_of("a", vec![healthy("t0")]);
    scene.survey_of("b", vec![healthy("t0")]);
    scene.answer(&llama());
    let problems = scene.inventory.catalogue().problems().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(
        problems.len() == 1 && problems[0].starts_with("source docker b: it shows containers"),
        "{problems:?}"
    );
    scene.survey_of("b", vec![]);
    assert_eq!(scene.llama(), Some(Readiness::Ready), "it is a's");
    scene.survey_of("a", vec![]);
    scene.survey_of("b", vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Ready), "a has lost it, b has it");
}

#[test]
fn a_task_comes_and_goes() {
    let mut scene = Scene::new();
    let task = |status: TaskStatus| TaskRecord {
        id: "t1".into(),
        name: "vllm.1".into(),
        image: "vllm".into(),
        labels: BTreeMap::from([("inference.enable".into(), "true".into())]),
        status,
        said: "as told".into(),
        failed: false,
        container_id: None,
        has_healthcheck: false,
        networks: BTreeMap::from([("ai".into(), "10.0.1.2".into())]),
        on_host_network: false,
        node_address: None,
        exposed_ports: BTreeSet::new(),
        published_ports: Vec::new(),
    };
    let survey = |scene: &mut Scene, tasks: Vec<TaskRecord>| {
        let survey = Survey { tasks, ..Survey::default() };
        scene.inventory.surveyed(&"docker".into(), survey, Vec::new(), scene.now);
    };
    survey(&mut scene, vec![task(TaskStatus::Starting)]);
    assert_eq!(scene.answer(&llama()), 0);
    survey(&mut scene, vec![task(TaskStatus::Running)]);
    assert_eq!(scene.answer(&llama()), 1);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.inventory.withdraw(Withdrawal {
        id: "t1".into(),
        reason: LifecycleFinding::ToldToStop,
        until_restart: true,
    });
    survey(&mut scene, vec![task(TaskStatus::Running)]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "a task never runs twice");
    survey(&mut scene, vec![]);
    scene.pass(LINGER);
    assert_eq!(scene.llama(), None);
}

/// A container with a passing HEALTHCHECK and a `ready.path`.
fn with_ready_path() -> ContainerRecord {
    let mut container = healthy("t0");
    container.labels.insert("inference.ready.path".into(), "/api/ps".into());
    container
}

#[test]
fn a_server_is_ready_only_once_its_ready_path_says_so() {
    let mut scene = Scene::new();
    scene.survey(vec![with_ready_path()]);
    let state = |scene: &mut Scene| scene.inventory.catalogue().servers().next().expect("it").state.clone();
    assert_eq!(state(&mut scene), ServerState::Starting(LifecycleFinding::ModelsNotAsked.into()));
    let (path, wanted) = (Arc::from("/api/ps"), Arc::from("llama"));
    scene.answer_both(&llama(), Some(&Err(ProbeFault::LacksText { path, status: 200, wanted })));
    let problem = scene.inventory.catalogue().problems()[0].clone();
    assert_eq!(
        problem.to_string(),
        "container vllm: healthy, but /api/ps answers 200 without \"llama\" in it, so it is not ready"
    );
    assert_eq!(state(&mut scene), ServerState::Starting(problem.finding));
    let unavailable = Err(ProbeFault::NotReady { path: "/api/ps".into(), status: 503 });
    scene.pass(BACKOFF.0);
    assert_eq!(scene.answer_both(&llama(), Some(&Ok(()))), 1, "asked again soon while it starts");
    assert_eq!(state(&mut scene), ServerState::Ready);
    assert!(scene.inventory.catalogue().problems().is_empty());

    scene.pass(LIVENESS);
    scene.answer_both(&llama(), Some(&unavailable));
    assert_eq!(state(&mut scene), ServerState::Ready, "one failure is not enough");
    scene.pass(RECHECK);
    scene.answer_both(&llama(), Some(&unavailable));
    let why = state(&mut scene).why().expect("a reason").to_string();
    assert_eq!(why, "healthy, but /api/ps answers 503, so it is not ready");
    for _ in 0..5 {
        scene.pass(LIVENESS);
        assert_eq!(scene.answer_both(&llama(), Some(&unavailable)), 1, "every 5 s, however long it lasts");
    }
    scene.pass(LIVENESS);
    scene.answer_both(&llama(), Some(&Ok(())));
    assert_eq!(state(&mut scene), ServerState::Ready);
}

#[test]
fn both_must_be_true() {
    let mut scene = Scene::new();
    let unhealthy = || ContainerRecord { health: Some(ContainerHealth::Unhealthy), ..with_ready_path() };
    scene.survey(vec![with_ready_path()]);
    scene.answer_both(&llama(), Some(&Ok(())));
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.survey(vec![unhealthy()]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "its HEALTHCHECK fails");
    scene.survey(vec![with_ready_path()]);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

#[test]
fn another_ready_path_is_asked_anew() {
    let mut scene = Scene::new();
    let mut spec = file_spec();
    spec.settings.ready_path = Some("/a".into());
    scene.inventory.configured(&of(std::slice::from_ref(&spec)), scene.now);
    scene.answer_both(&llama(), Some(&Ok(())));
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    spec.settings.ready_path = Some("/b".into());
    scene.inventory.configured(&of(std::slice::from_ref(&spec)), scene.now);
    assert_eq!(scene.llama(), Some(Readiness::Starting));
    assert_eq!(scene.answer_both(&llama(), Some(&Ok(()))), 1);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

/// Regression: a server of the configuration that does not exist made every mistyped name one to wait for, for ever.
#[test]
fn a_server_that_never_answers_is_not_waited_for_for_ever() {
    let loading = Duration::from_secs(60);
    let configured = || Configured { loading_time: loading, ..of(&[file_spec()]) };
    let mut scene = Scene::new();
    scene.inventory.configured(&configured(), scene.now);
    let waited_for = |scene: &mut Scene| scene.inventory.catalogue().may_have_any_model();
    scene.answer(&refused());
    scene.pass(loading - Duration::from_secs(1));
    assert_eq!(scene.answer(&refused()), 1);
    assert!(waited_for(&mut scene), "it may be loading");
    scene.inventory.catalogue();
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.answer(&refused()), 1);
    assert!(scene.inventory.has_news() && !waited_for(&mut scene));
    let catalogue = scene.inventory.catalogue();
    let told = catalogue.problems()[0].to_string();
    assert!(told.contains("longer than requests.loading_time"), "{told}");
    // It answers that it is loading: from then on the time counts anew.
    let loads = Err(ProbeFault::Status { path: "/v1/models".into(), status: 503 });
    for _ in 0..3 {
        scene.pass(loading);
        scene.answer(&loads);
        assert!(waited_for(&mut scene), "it is there, and loads for as long as it wants");
    }
    scene.pass(Duration::from_secs(10));
    scene.answer(&refused());
    assert!(waited_for(&mut scene));
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.answer(&llama()), 1);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    // Of a container it is known that it runs, and vLLM does not listen before it has loaded.
    let mut scene = Scene::new();
    scene.survey(vec![container("t0", None)]);
    for _ in 0..20 {
        scene.answer(&refused());
        scene.pass(Duration::from_secs(600));
    }
    assert!(waited_for(&mut scene));
}

/// Regression: a server that had refused connections for days, or that had answered before, "may still be loading".
#[test]
fn what_a_refused_connection_means_depends_on_what_was_before() {
    let told = |scene: &mut Scene| {
        scene.answer(&refused());
        let catalogue = scene.inventory.catalogue();
        let told: Vec<String> = catalogue.problems().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].rsplit_once("; ").map(|(_, end)| end.to_owned()).unwrap_or_default()
    };
    let (loading, old, before) = (
        "it may still be loading",
        "its container has run for longer than requests.loading_time",
        "it has answered before",
    );
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let start = |run_for| {
        let mut scene = Scene { run_for, ..Scene::new() };
        scene.inventory.configured(&of(&[]), scene.now);
        scene
    };
    // A container that has just been started, and goes on refusing.
    let mut scene = start(Duration::ZERO);
    scene.survey(vec![container("t0", None)]);
    assert_eq!(told(&mut scene), loading);
    scene.pass(minutes(9));
    assert_eq!(told(&mut scene), loading);
    scene.pass(minutes(1));
    assert_eq!(told(&mut scene), old);
    // Its next run has its own time.
    scene.survey(vec![container("t1", None)]);
    assert_eq!(told(&mut scene), loading);
    // It answers, and fails; that lasts.
    scene.pass(minutes(1));
    scene.answer(&llama());
    scene.pass(minutes(1));
    assert_eq!(told(&mut scene), before);
    scene.pass(minutes(60));
    assert_eq!(told(&mut scene), before);
    // Modelgate has just been started, and the container days ago.
    let mut scene = start(minutes(5000));
    scene.survey(vec![container("t0", None)]);
    assert_eq!(told(&mut scene), old);
    assert!(scene.inventory.catalogue().may_have_any_model(), "it runs, at least");
    // A server of the configuration has no time of its start.
    let mut scene = Scene::new();
    scene.inventory.configured(&of(&[file_spec()]), scene.now);
    assert_eq!(told(&mut scene), loading);
    scene.pass(minutes(1));
    scene.answer(&llama());
    scene.pass(minutes(1));
    assert_eq!(told(&mut scene), before);
}

#[test]
fn both_probes_of_a_server_that_refuses_connections_are_one_problem() {
    let mut scene = Scene::new();
    let mut spec = file_spec();
    spec.settings.ready_path = Some("/health".into());
    scene.inventory.configured(&of(&[spec]), scene.now);
    for seconds in [0, 1200] {
        scene.pass(Duration::from_secs(seconds));
        let refused = refused();
        scene.answer_both(&refused, Some(&refused.clone().map(|_| ())));
        let catalogue = scene.inventory.catalogue();
        assert_eq!(catalogue.problems().len(), 1, "{:?}", catalogue.problems());
    }
}

#[test]
fn names_of_before_the_start_are_waited_for_and_for_how_long() {
    let loading = Duration::from_secs(60);
    let names: Arc<BTreeSet<String>> = Arc::new(["llama".to_owned()].into());
    let mut scene = Scene::new();
    let configured = Configured { loading_time: loading, ..of(&[]) };
    scene.inventory.configured(&configured, scene.now);
    scene.inventory.remember(Arc::clone(&names));
    let returns = |scene: &mut Scene, name: &str| scene.inventory.catalogue().may_return(name);
    assert!(returns(&mut scene, "llama") && !returns(&mut scene, "lama"));
    assert_eq!(scene.inventory.next_due(), Some(scene.now + loading));
    scene.pass(loading);
    assert!(scene.inventory.has_news() && !returns(&mut scene, "llama"));
    assert_eq!(scene.inventory.next_due(), None);
    // A server whose models nobody knows may have it, however long that takes.
    let configured = Configured { loading_time: loading, ..of(&[file_spec()]) };
    scene.inventory.configured(&configured, scene.now);
    for _ in 0..5 {
        scene.answer(&refused());
        scene.pass(loading);
    }
    assert!(returns(&mut scene, "llama") && !scene.inventory.catalogue().may_have_any_model());
    assert_eq!(
        scene.answer(&Ok(Listing {
            cards: vec![ModelCard::named(ModelName::new("other").expect("a name"))],
            ..Listing::default()
        })),
        1
    );
    assert!(!returns(&mut scene, "llama"), "it has another model");
}

fn of(servers: &[ServerSpec]) -> Configured {
    Configured { servers: servers.to_vec(), ..Configured::default() }
}

/// Cordons the container.
fn cordon(scene: &mut Scene, kind: CordonKind) {
    let mut cordons = Cordons::default();
    cordons.cordon(ServerId::docker("c1"), Cordon { kind, by: "alice".into() });
    scene.inventory.cordon(cordons);
}

#[test]
fn an_operator_drains_a_server_until_its_next_run() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("1")]);
    scene.answer(&llama());
    cordon(&mut scene, CordonKind::Drain { incarnation: "1".into() });
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    let catalogue = scene.inventory.catalogue();
    let why = catalogue.servers().next().and_then(|s| s.state.why()).expect("a reason").to_string();
    assert!(why.contains("drained by alice"), "{why}");
    scene.pass(LIVENESS + REFRESH);
    assert_eq!(scene.answer(&llama()), 1, "it is asked all the same");
    assert_eq!(scene.llama(), Some(Readiness::Draining), "whatever it answers");
    scene.survey(vec![healthy("2")]);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready), "it has been started anew");
}

#[test]
fn a_paused_server_stays_paused_until_it_is_resumed() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("1")]);
    scene.answer(&llama());
    cordon(&mut scene, CordonKind::Pause);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.survey(vec![healthy("2")]);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Draining), "also in its next run");
    scene.inventory.cordon(Cordons::default());
    assert_eq!(scene.llama(), Some(Readiness::Ready), "resumed, without being asked anew");
}

#[test]
fn a_container_of_which_nothing_was_learnt_stays_as_it_is_known() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("1")]);
    scene.answer(&llama());
    let unread = Survey { unread: vec!["c1".into(), "c2".into()], ..Survey::default() };
    scene.inventory.surveyed(&"docker".into(), unread, Vec::new(), scene.now);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.inventory.surveyed(&"docker".into(), Survey::default(), Vec::new(), scene.now);
    assert_eq!(scene.llama(), Some(Readiness::Stopped), "now it has gone");
}

#[test]
fn what_cannot_be_seen_of_traefik_is_said_once_for_all_hosts() {
    let hints = |hosts: &[(&str, Option<Blind>, &[&str])]| {
        let mut scene = Scene::new();
        for (host, blind, undecided) in hosts {
            let undecided = undecided.iter().map(|name| (*name).to_owned()).collect();
            let survey = Survey { undecided, blind: blind.clone(), ..Survey::default() };
            scene.inventory.surveyed(&(*host).into(), survey, Vec::new(), scene.now);
        }
        let catalogue = scene.inventory.catalogue();
        assert!(catalogue.problems().is_empty());
        catalogue.hints().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let hidden = || Some(Blind::Hidden("edge".into()));
    let two =
        hints(&[("a", Some(Blind::NoTraefik), &["a/vllm"]), ("b", Some(Blind::NoTraefik), &["b/vllm"])]);
    assert!(two.len() == 1 && two[0].contains("none may lead to a/vllm, b/vllm. "), "{two:?}");
    assert!(two[0].contains("no Traefik is among the containers"), "{two:?}");
    let many = ["1", "2", "3", "4", "5", "6", "7"];
    assert!(hints(&[("a", Some(Blind::NoTraefik), &many)])[0].contains("1, 2, 3, 4, 5 and 2 more"));
    let beside = hints(&[("a", hidden(), &["a/vllm"]), ("b", Some(Blind::NoTraefik), &["b/vllm"])]);
    assert!(
        beside.len() == 1 && beside[0].contains("of edge ") && !beside[0].contains("b/vllm"),
        "{beside:?}"
    );
    assert_eq!(hints(&[("a", None, &[]), ("b", Some(Blind::NoTraefik), &["b/vllm"])]), Vec::<String>::new());
    assert_eq!(hints(&[("a", Some(Blind::NoTraefik), &[])]), Vec::<String>::new(), "all labels say it");
}

/// Probes repeat for ever. With thousands of servers, a catalogue for each answer would keep a processor busy.
#[test]
fn an_answer_that_says_nothing_new_is_no_news() {
    let models = |names: &[&str]| {
        let cards =
            names.iter().map(|name| ModelCard::named(ModelName::new(name).expect("a name"))).collect();
        Ok(Listing { cards, ..Listing::default() })
    };
    let mut scene = Scene::new();
    scene.survey(vec![container("1", None)]);
    let told = |scene: &mut Scene, answer: Answer| {
        scene.pass(REFRESH);
        assert_eq!(scene.answer(&answer), 1, "it is asked");
        let has_news = scene.inventory.has_news();
        let before = scene.inventory.catalogue().servers().map(Arc::clone).collect::<Vec<_>>();
        let again = scene.inventory.catalogue().servers().map(Arc::clone).collect::<Vec<_>>();
        assert!(before.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(a, b)), "it is described once");
        (has_news, before[0].models.len())
    };
    assert_eq!(told(&mut scene, models(&["llama"])), (true, 1));
    assert_eq!(told(&mut scene, models(&["llama"])), (false, 1));
    assert_eq!(told(&mut scene, models(&["llama", "qwen"])), (true, 2), "another model");
    assert_eq!(told(&mut scene, models(&["llama", "qwen"])), (false, 2));
    assert!(told(&mut scene, refused()).0, "a problem");
    assert_eq!(told(&mut scene, models(&["llama", "qwen"])), (true, 2), "that is over");
    scene.inventory.cordon(Cordons::default());
    assert!(scene.inventory.has_news(), "whatever operators do");
}

/// `modelgate explain` surveys once, and used to miss containers that had ended before.
#[test]
fn labelled_containers_are_known_whatever_became_of_them() {
    let mut scene = Scene::new();
    let mut ended = ContainerRecord { id: "c2".into(), name: "old".into(), ..healthy("t0") };
    ended.status = ContainerStatus::Exited;
    ended.labels.insert("com.docker.compose.service".into(), "llm".into());
    scene.survey(vec![healthy("t0"), ended]);
    let catalogue = scene.inventory.catalogue();
    assert_eq!(catalogue.servers().count(), 1);
    let [vllm, old] = catalogue.containers() else { panic!("both") };
    assert_eq!((vllm.name.as_str(), &vllm.outcome), ("vllm", &Outcome::Server));
    assert!(old.is_called("llm") && matches!(old.outcome, Outcome::Down(ServerState::Stopped(_))), "{old:?}");
}

/// The inventory of a Modelgate that has been started anew, with what the one before it kept, as it stands in the file.
fn started_anew(before: &Inventory, now: Instant) -> Scene {
    let file = serde_json::to_string(&before.kept()).expect("JSON");
    assert!(!file.contains("not Modelgate's"), "{file}");
    let kept: Vec<KeptServer> = serde_json::from_str(&file).expect("what was written");
    let mut scene = Scene { inventory: Inventory::default(), now, run_for: Duration::ZERO };
    let configured = Configured { servers: vec![file_spec()], ..Configured::default() };
    scene.inventory.configured(&configured, now);
    scene.inventory.adopt(&kept, now);
    scene
}

#[test]
fn what_was_ready_before_a_restart_is_ready_at_once_until_its_source_or_it_itself_says_otherwise() {
    let mut scene = Scene::new();
    let mut labelled = healthy("t0");
    labelled.labels.insert("com.example.token".into(), "not Modelgate's".into());
    let mut loading = container("t0", Some(ContainerHealth::Starting));
    loading.id = "c2".into();
    scene.survey(vec![labelled, loading]);
    scene
        .inventory
        .configured(&Configured { servers: vec![file_spec()], ..Configured::default() }, scene.now);
    assert_eq!(scene.answer(&llama()), 2);
    let before = scene.inventory;
    assert_eq!(before.kept().len(), 2, "what loads is not kept");
    let servers =
        |scene: &mut Scene| scene.inventory.catalogue().pool("llama").map_or(0, |pool| pool.ready.len());
    let hints = |scene: &mut Scene| -> Vec<String> {
        scene.inventory.catalogue().hints().iter().map(ToString::to_string).collect()
    };
    let anew = || started_anew(&before, Instant::now());

    let mut same = anew();
    assert!(same.inventory.has_adopted() && same.inventory.is_unsurveyed());
    assert_eq!(servers(&mut same), 2);
    assert!(hints(&mut same).iter().any(|hint| hint.contains("it has not been surveyed since the start")));
    assert_eq!(same.answer(&llama()), 2, "all are asked at once");
    same.survey(vec![healthy("t0")]);
    assert_eq!((servers(&mut same), hints(&mut same).len()), (2, 0));
    assert!(!same.inventory.is_unsurveyed());
    same.pass(Duration::from_secs(3600));
    assert_eq!(servers(&mut same), 2, "it was surveyed");

    let mut silent = anew();
    silent.answer(&refused());
    assert_eq!(
        silent.llama(),
        Some(Readiness::Starting),
        "one answer is enough, whatever its HEALTHCHECK said"
    );

    let mut restarted = anew();
    restarted.survey(vec![healthy("t1")]);
    assert_eq!(servers(&mut restarted), 1, "another run must be asked anew");

    let mut gone = anew();
    gone.survey(Vec::new());
    assert_eq!(servers(&mut gone), 1, "and the configuration's stays");

    let mut unsurveyed = anew();
    unsurveyed.pass(kept::KEPT_FOR - Duration::from_secs(1));
    assert_eq!(servers(&mut unsurveyed), 2);
    unsurveyed.pass(Duration::from_secs(1));
    assert_eq!(servers(&mut unsurveyed), 1, "Docker has not said for too long that it runs");

    // Servers that the configuration has no more are not there; then all is surveyed first.
    let mut other = Inventory::default();
    other.adopt(&before.kept(), Instant::now());
    assert!(!other.has_adopted());
    assert_eq!(other.catalogue().servers().count(), 0);
}
