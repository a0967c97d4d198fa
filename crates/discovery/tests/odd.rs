//! One odd container, or a Docker host that is down, takes nothing from the others.

mod common;

use std::time::{Duration, Instant};

use catalogue::{LifecycleFinding, ServerSpec, ServerState, ServerUrl};
use common::{Discovery, fake::FakeEngine, host, problems, state};
use discovery::DockerEndpoint;
use serde_json::{Value, json};
use testkit::{free_port, sim::Sim};

/// Waits until a server is ready, and returns the problems at that time.
async fn ready_with(discovery: &Discovery, name: &str, part: &str) -> Vec<String> {
    discovery
        .wait(|catalogue| {
            let problems = problems(catalogue);
            let is_told = problems.iter().any(|problem| problem.contains(part));
            (state(catalogue, name)? == ServerState::Ready && is_told).then_some(problems)
        })
        .await
}

#[tokio::test]
async fn one_odd_container_is_named_and_the_rest_lives() {
    let sim = Sim::start("odd", &["llama"]);
    let port = sim.addr().port();
    let engine = FakeEngine::start(0).await;
    let refuses = |answer: u16, message: &'static str| {
        move |_: &mut Value, status: &mut u16, inspected: &mut Value| {
            *status = answer;
            *inspected = json!({ "message": message });
        }
    };
    let says = |place: &'static str, value: Value| {
        move |_: &mut Value, _: &mut u16, inspected: &mut Value| {
            *inspected.pointer_mut(place).expect("a place") = value;
        }
    };
    engine.has("good", port, |_, _, _| {});
    engine.has("layer", port, refuses(500, "layer does not exist"));
    engine.has("forbidden", port, refuses(403, ""));
    engine.has("gone", port, refuses(404, "No such container"));
    engine.has("list", port, |_, _, inspected| *inspected = json!("nonsense"));
    engine.has("labels", port, |listed, _, _| listed["Labels"] = json!(["inference.enable"]));
    engine.has("unlabelled", port, |listed, _, _| {
        (listed["Labels"], listed["Ports"]) = (json!({}), json!("8000"));
    });
    engine.has("stopped", port, |listed, _, _| {
        (listed["Labels"], listed["State"]) = (json!(null), json!("stopped"));
    });
    engine.has("bare", port, |_, _, inspected| *inspected = json!({ "State": { "Status": "exited" } }));
    engine.has(
        "degraded",
        port,
        says("/State", json!({ "Status": "running", "Health": { "Status": "degraded" } })),
    );

    let discovery = Discovery::start(vec![host("docker", engine.endpoint())], Vec::new());
    let told = ready_with(&discovery, "good", "degraded").await;
    for part in [
        "container layer: Docker does not say how it is: GET /containers/layer/json answers 500: layer does not exist",
        "container forbidden: Docker does not say how it is: GET /containers/forbidden/json answers 403",
        "container list: Docker does not say how it is: GET /containers/list/json: ",
        "container labels: Docker's list of containers cannot be read at this one",
        "container degraded: what its HEALTHCHECK says, \"degraded\", is not known here",
    ] {
        assert_eq!(told.iter().filter(|problem| problem.starts_with(part)).count(), 1, "{part}: {told:#?}");
    }
    assert_eq!(told.len(), 5, "nothing of those that are gone, stopped or not ours: {told:#?}");
    discovery.wait_state("degraded", &ServerState::Ready).await;

    // A known container keeps its state while it cannot be inspected, whatever the events say.
    engine.has("good", port, refuses(500, "too many open files"));
    engine.event("{\"Type\":7");
    ready_with(&discovery, "good", "container good: Docker does not say how it is").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&discovery.now().expect("published"), "good"), Some(ServerState::Ready));
    engine.has("good", port, says("/State", json!({ "Status": "stopped", "Running": false })));
    engine.event(r#"{"Type":"container","Action":"cleanup","Actor":null}"#);
    engine.event(r#"{"Type":"container","Action":"start","Actor":{"ID":"other"}}"#);
    discovery.wait_state("good", &ServerState::Stopped(LifecycleFinding::Stopped.into())).await;
}

#[tokio::test]
async fn a_docker_host_that_is_down_at_the_start_keeps_nothing_else_from_being_served() {
    let (file, late) = (Sim::start("file", &["a"]), Sim::start("late", &["b"]));
    let port = free_port();
    let down = || vec![host("gpu1", DockerEndpoint::Tcp(format!("tcp://127.0.0.1:{port}")))];
    let lost = format!("source docker gpu1: tcp://127.0.0.1:{port} does not answer");
    let alone = Discovery::start(down(), Vec::new());
    let began = Instant::now();
    let server = ServerSpec::configured("file", ServerUrl::http("127.0.0.1", file.addr().port()));
    let discovery = Discovery::start(down(), vec![server]);
    let told = ready_with(&discovery, "file", &lost).await;
    assert!(began.elapsed() > Duration::from_secs(3), "it is given a little time: {:?}", began.elapsed());
    assert_eq!(told.len(), 1, "{told:?}");
    // Without a server there is no catalogue, and so no document that would remove Traefik's routes.
    assert!(alone.now().is_none());
    let obstacles = alone.obstacles();
    assert!(obstacles.len() == 1 && obstacles[0].starts_with(&lost), "{obstacles:?}");

    let engine = FakeEngine::start(port).await;
    engine.has("late", late.addr().port(), |_, _, _| {});
    for discovery in [&alone, &discovery] {
        discovery.wait_state("gpu1/late", &ServerState::Ready).await;
        assert_eq!(problems(&discovery.now().expect("published")), Vec::<String>::new());
    }
}
