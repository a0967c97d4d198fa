use std::collections::{BTreeMap, BTreeSet, HashMap};

use catalogue::{
    BasePath, ContainerHealth, ContainerRecord, ContainerStatus, ModelName, Readiness, ServerUrl, Vantage,
};

use super::*;

/// A roster with a clock that a test advances.
struct Scene {
    roster: Roster,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { roster: Roster::default(), now: Instant::now() }
    }

    fn survey(&mut self, containers: Vec<ContainerRecord>) {
        let survey = Survey { containers, vantage: Vantage::default(), stop_signals: HashMap::new() };
        self.roster.surveyed(&survey, Vec::new(), self.now);
    }

    fn withdraw(&mut self, reason: &'static str, until_restart: bool) {
        self.roster.withdraw(Withdrawal { container_id: "c1".into(), reason, until_restart });
    }

    /// Answers every question that is due; returns how many were.
    fn answer(&mut self, answer: &Answer) -> usize {
        let due = self.roster.take_due(self.now);
        for spec in &due {
            self.roster.answered(spec, answer.clone(), self.now);
        }
        due.len()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.roster.expire(self.now);
    }

    /// The state of the pool `llama`; `None` if the model is not known.
    fn llama(&self) -> Option<Readiness> {
        self.roster.catalogue().pool("llama").map(|p| p.readiness())
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

fn llama() -> Answer {
    Answer::Models(vec![ModelCard::named(ModelName::new("llama").expect("a name"))], Vec::new())
}

fn refused() -> Answer {
    Answer::Unreachable("cannot connect".into())
}

#[test]
fn a_container_becomes_healthy_is_asked_and_is_live() {
    let mut scene = Scene::new();
    scene.survey(vec![container("t0", Some(ContainerHealth::Starting))]);
    assert_eq!(scene.answer(&llama()), 0, "nobody asks a server that its HEALTHCHECK calls starting");
    assert!(scene.roster.all_asked());
    scene.survey(vec![healthy("t0")]);
    assert!(!scene.roster.all_asked());
    assert_eq!(scene.answer(&llama()), 1);
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.answer(&llama()), 0);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.answer(&llama()), 1, "a fresh look every 30 s");
}

#[test]
fn a_stop_signal_withdraws_although_the_list_still_says_running() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.withdraw("it has been told to stop", true);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.survey(vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "the same run stays withdrawn");
    scene.withdraw("it is paused", false);
    scene.survey(vec![healthy("t0")]);
    assert_eq!(scene.llama(), Some(Readiness::Draining), "a lesser mark does not replace it");
    scene.survey(vec![healthy("t1")]);
    assert_eq!(scene.llama(), Some(Readiness::Starting), "another run is asked anew");
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
}

#[test]
fn a_pause_lasts_until_the_list_says_otherwise() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.withdraw("it is paused", false);
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
    let survey =
        Survey { containers: vec![healthy("t0")], vantage: Vantage::default(), stop_signals: HashMap::new() };
    let meanwhile = Withdrawal { container_id: "c1".into(), reason: "it is paused", until_restart: false };
    scene.roster.surveyed(&survey, vec![meanwhile], scene.now);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
}

#[test]
fn the_models_of_a_container_that_went_linger_for_a_minute() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.survey(vec![ContainerRecord { status: ContainerStatus::Exited, ..healthy("t0") }]);
    assert_eq!(scene.llama(), Some(Readiness::Draining));
    scene.pass(Duration::from_secs(30));
    scene.survey(vec![]);
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.llama(), Some(Readiness::Draining));
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
    for _ in 0..5 {
        scene.pass(REFRESH);
        assert_eq!(scene.answer(&Answer::Unusable("GET … answers 500".into())), 1);
    }
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    assert_eq!(scene.roster.catalogue().problems()[0].to_string(), "container vllm: GET … answers 500");
}

#[test]
fn a_docker_host_that_does_not_answer_takes_nothing_away() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    scene.answer(&llama());
    scene.roster.unreachable("unix:///run/docker.sock", "connection refused");
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    assert!(
        scene.roster.catalogue().problems()[0].to_string().contains("does not answer: connection refused")
    );
    scene.survey(vec![healthy("t0")]);
    assert!(scene.roster.catalogue().problems().is_empty());
}

#[test]
fn a_bad_label_skips_that_container_alone() {
    let mut scene = Scene::new();
    let mut bad = ContainerRecord { id: "c2".into(), name: "bad".into(), ..healthy("t0") };
    bad.labels.insert("inference.port".into(), "abc".into());
    scene.survey(vec![healthy("t0"), bad]);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    let problems = scene.roster.catalogue().problems().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        problems,
        ["container bad: label inference.port=\"abc\" is not allowed: write a number from 1 to 65535"]
    );
}

#[test]
fn an_answer_of_the_run_before_is_not_believed() {
    let mut scene = Scene::new();
    scene.survey(vec![healthy("t0")]);
    let due = scene.roster.take_due(scene.now);
    scene.survey(vec![healthy("t1")]);
    scene.roster.answered(&due[0], llama(), scene.now);
    assert_eq!(scene.llama(), None);
    assert_eq!(scene.answer(&llama()), 1, "the new run is asked at once");
}

#[test]
fn servers_of_the_file_come_and_go_with_it() {
    let spec = ServerSpec {
        id: ServerId::file("gpu"),
        name: "gpu".into(),
        source: Source::File,
        url: ServerUrl::http("gpu", 8000),
        base_path: BasePath::default(),
        models: Vec::new(),
        health: HealthMode::Probe,
        incarnation: String::new(),
    };
    let mut scene = Scene::new();
    scene.roster.configured(std::slice::from_ref(&spec), scene.now);
    scene.answer(&llama());
    assert_eq!(scene.llama(), Some(Readiness::Ready));
    scene.survey(vec![]);
    assert_eq!(scene.llama(), Some(Readiness::Ready), "a look at Docker says nothing about the file");
    scene.roster.configured(&[], scene.now);
    assert_eq!(scene.llama(), None);
}
