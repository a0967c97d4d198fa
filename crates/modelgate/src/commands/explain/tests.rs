use catalogue::{
    Catalogue, Interpretation, LabelFinding, Labelled, LifecycleFinding, ModelCard, ModelName, Outcome,
    Problem, ServerRecord, ServerSpec, ServerState, ServerUrl,
};

use super::{container::explain as container, model::no_such_model};

fn labelled(name: &str, service: &str, outcome: Outcome) -> Labelled {
    Labelled { name: name.into(), service: Some(service.into()), outcome }
}

fn server(name: &str, state: ServerState, models: &[&str]) -> ServerRecord {
    let card = |model: &&str| ModelCard::named(ModelName::new(model).expect("a name"));
    let spec = ServerSpec {
        source: catalogue::Source::Docker { container_id: name.into(), image: "vllm".into() },
        ..ServerSpec::configured(name, ServerUrl::http(name, 8000))
    };
    ServerRecord {
        spec,
        state,
        listed_as: catalogue::Kind::Vllm,
        has_others: false,
        models: models.iter().map(card).collect(),
    }
}

/// A ready server, one that is loading, one that has exited, one with an invalid label, and a container without labels for us.
fn stack() -> Catalogue {
    let loads = ServerState::Starting(LifecycleFinding::HealthcheckPending.into());
    let ended = ServerState::Stopped(LifecycleFinding::Stopped.into());
    let gpu1 = ServerSpec::configured("gpu1", ServerUrl::http("gpu1", 8000));
    let gpu1 = ServerRecord { spec: gpu1, ..server("gpu1", ServerState::Ready, &["phi"]) };
    let problems = vec![
        Problem::container(
            "ai-bad-1",
            LabelFinding::NotAllowed {
                label: "inference.port".into(),
                found: "abc".into(),
                allowed: "a number",
            },
        ),
        Problem::container("ai-typo-1", LabelFinding::EnableMisspelt { label: "Inference.Enable".into() }),
    ];
    let servers = [server("ai-vllm-1", ServerState::Ready, &["llama"]), server("ai-big-1", loads, &[]), gpu1];
    Catalogue::assemble(servers, problems).with_containers(vec![
        labelled("ai-vllm-1", "vllm", Outcome::Server),
        labelled("ai-big-1", "big", Outcome::Server),
        labelled("ai-old-1", "old", Outcome::Down(ended)),
        labelled("ai-bad-1", "bad", Outcome::Rejected),
        labelled("ai-db-1", "db", Outcome::NotEnabled),
    ])
}

#[test]
fn composes_name_of_a_service_will_do() {
    for (name, parts) in [
        ("vllm", ["ai-vllm-1", "ready"]),
        ("ai-vllm-1", ["ai-vllm-1", "ready"]),
        ("bad", ["inference.port=\"abc\"", "to do: "]),
        ("old", ["ai-old-1", "stopped: it has stopped"]),
        ("db", ["ai-db-1", "inference.enable is false"]),
    ] {
        let text = container(&stack(), None, name).expect(name);
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
    }
}

#[test]
fn a_name_that_nothing_has_is_answered_with_all_that_there_is() {
    let told = container(&stack(), None, "vlm").expect_err("nothing is called so");
    for line in [
        "ai-vllm-1 (service vllm): ready",
        "ai-big-1 (service big): starting: its HEALTHCHECK has not passed yet",
        "ai-old-1 (service old): stopped: it has stopped",
        "ai-bad-1 (service bad): not routed: label inference.port=\"abc\" is not allowed: write a number",
        "ai-db-1 (service db): its label inference.enable is false",
        "ai-typo-1: not routed: label Inference.Enable is not known",
        "gpu1: ready",
    ] {
        assert!(told.contains(&format!("\n  {line}")), "{line}: {told}");
    }
}

#[test]
fn a_model_that_nobody_has_may_be_that_of_a_server_that_is_not_ready() {
    let told = no_such_model(&stack(), "qwen");
    assert!(told.starts_with("no server has a model \"qwen\"; known are: llama, phi"), "{told}");
    for name in ["ai-big-1", "ai-old-1", "ai-bad-1", "ai-typo-1"] {
        assert!(told.contains(&format!("\n  {name}")), "{name}: {told}");
    }
    assert!(!["ai-vllm-1", "gpu1", "ai-db-1"].iter().any(|name| told.contains(name)), "{told}");
    let all_ready = Catalogue::assemble([server("a", ServerState::Ready, &["llama"])], Vec::new());
    assert_eq!(no_such_model(&all_ready, "qwen"), "no server has a model \"qwen\"; known are: llama");
}

#[test]
fn what_a_container_is_read_as_is_kept() {
    let state = ServerState::Stopped(LifecycleFinding::Stopped.into());
    let record = catalogue::ContainerRecord {
        id: "c1".into(),
        name: "ai-vllm-1".into(),
        image: String::new(),
        labels: [("com.docker.compose.service".to_owned(), "vllm".to_owned())].into(),
        status: catalogue::ContainerStatus::Exited,
        health: None,
        started_at: String::new(),
        networks: Default::default(),
        network_mode: String::new(),
        exposed_ports: Default::default(),
        published_ports: Vec::new(),
    };
    let read = Labelled::container(&record, &Interpretation::Down(state.clone()));
    assert_eq!(read, labelled("ai-vllm-1", "vllm", Outcome::Down(state)));
    assert!(read.is_called("vllm") && read.is_called("ai-vllm-1") && !read.is_called("ai"));
}
