//! The advice for findings that the catalogue itself makes about containers, labels and servers.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Catalogue, ContainerHealth, ContainerRecord, ContainerStatus, Cordon, CordonKind, Exposable, Finding,
    Interpretation, Kind, ModelCard, ModelName, NetworkView, Provider, Role, ServerRecord, ServerSpec,
    ServerState, ServerUrl, Setting, Sight, doors, interpret, open_port,
};

fn container(labels: &[(&str, &str)]) -> ContainerRecord {
    let labels = labels.iter().chain(&[("inference.enable", "true")]);
    ContainerRecord {
        id: "c1".into(),
        name: "vllm".into(),
        image: "vllm/vllm-openai".into(),
        labels: labels.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        status: ContainerStatus::Running,
        health: None,
        started_at: String::new(),
        networks: BTreeMap::from([("ai".into(), "10.1.0.2".into())]),
        network_mode: "ai".into(),
        exposed_ports: BTreeSet::new(),
        published_ports: Vec::new(),
    }
}

/// The finding about a container: a problem, or why it is not ready.
fn found(container: &ContainerRecord, network_view: &NetworkView) -> Finding {
    let (found, problems) = interpret(container, network_view);
    let why = match found {
        Interpretation::Down(state) | Interpretation::Server(_, state) => state.why().cloned(),
        Interpretation::NotEnabled | Interpretation::Rejected => None,
    };
    problems.into_iter().next().map(|problem| problem.finding).or(why).expect("something is wrong")
}

#[test]
fn each_problem_of_a_container_has_an_answer() {
    let plain = NetworkView::default();
    let on = |name: &str| Some(BTreeSet::from([name.to_owned()]));
    let elsewhere =
        NetworkView { own_networks: on("x"), traefik_networks: on("x"), ..NetworkView::default() };
    let published = NetworkView { published: true, ..NetworkView::default() };
    let named =
        NetworkView { host: Some("gpu1".into()), network: Some("other".into()), ..NetworkView::default() };
    let host = ContainerRecord { network_mode: "host".into(), ..container(&[]) };
    let none = ContainerRecord { networks: BTreeMap::new(), network_mode: "none".into(), ..container(&[]) };
    let unhealthy = ContainerRecord { health: Some(ContainerHealth::Unhealthy), ..container(&[]) };
    let loading = ContainerRecord { health: Some(ContainerHealth::Starting), ..container(&[]) };
    let status = |status| ContainerRecord { status, ..container(&[]) };
    for (container, network_view, code, part) in [
        (container(&[("inference.port", "abc")]), &plain, "label_not_allowed", "Correct the label and start"),
        (container(&[("inference.prot", "8000")]), &plain, "label_unknown", "Correct the label's name"),
        (
            container(&[("inference.health", "docker")]),
            &plain,
            "label_without_healthcheck",
            "Give the service a healthcheck",
        ),
        (container(&[("inference.network", "other")]), &plain, "network_not_attached", "Correct the label"),
        (container(&[]), &named, "network_not_attached", "Set docker.hosts[gpu1].network"),
        (container(&[]), &elsewhere, "no_shared_network", "Attach the container to a network"),
        (none, &plain, "no_network", "Give it a network"),
        (host, &elsewhere, "host_network_without_address", "docker.host_address"),
        (container(&[]), &published, "published_without_host_address", "Set it to an address"),
        (unhealthy, &plain, "healthcheck_fails", "docker inspect"),
        (loading, &plain, "healthcheck_pending", "start_period"),
        (status(ContainerStatus::Paused), &plain, "container_paused", "docker unpause"),
        (status(ContainerStatus::Created), &plain, "not_started", "docker start"),
        (status(ContainerStatus::Restarting), &plain, "restarting", "docker logs"),
        (status(ContainerStatus::Exited), &plain, "stopped", "docker start"),
    ] {
        let finding = found(&container, network_view);
        assert_eq!(finding.code(), code, "{finding}");
        assert!(finding.advice().contains(part), "{part}: {}", finding.advice());
    }
}

#[test]
fn each_door_has_an_answer() {
    let exposable = |labels: &[(&str, &str)], role| Exposable {
        name: "vllm".into(),
        docker_name: "vllm".into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ports: BTreeSet::from([8000]),
        role,
    };
    let provider = Sight::On(Provider { exposed_by_default: true, constraint: None });
    let rule = |kind: &str| (format!("traefik.{kind}.routers.a.rule"), "Host(`a`)");
    let (http, tcp) = (rule("http"), rule("tcp"));
    let unseen = [(http.0.as_str(), http.1), ("traefik.http.routers.a.middlewares", "sso@file")];
    let enabled = [("traefik.enable", "true")];
    for (it, part) in [
        (exposable(&[], Role::Server), "exposedByDefault=false"),
        (exposable(&[], Role::Modelgate(BTreeSet::from([8000]))), "exposedByDefault=false"),
        (exposable(&[(&http.0, http.1)], Role::Server), "add modelgate@http to its middlewares"),
        (exposable(&[(&tcp.0, tcp.1)], Role::Server), "Clients reach it through Modelgate's routers"),
        (exposable(&unseen, Role::Server), "Look at that middleware"),
    ] {
        let found = doors(&[it], &[("traefik".into(), provider.clone())]).problems;
        let [problem] = &found[..] else { panic!("{found:?}") };
        assert!(problem.finding.advice().contains(part), "{problem}: {}", problem.finding.advice());
    }
    // Here the label opens it, not Traefik's default.
    let by_label = doors(&[exposable(&enabled, Role::Server)], &[("traefik".into(), provider)]).problems;
    let advice = by_label[0].finding.advice();
    assert!(advice.contains("traefik.enable: \"false\"") && !advice.contains("exposedByDefault"), "{advice}");
    assert!(open_port("vllm", 32768, 8000).finding.advice().contains("127.0.0.1"));
}

#[test]
fn what_an_operator_has_done_can_be_undone() {
    for kind in [CordonKind::Pause, CordonKind::Drain { incarnation: String::new() }] {
        let finding = Cordon { kind, by: "alice".into() }.finding();
        assert!(finding.advice().contains("Resume"), "{finding}");
    }
}

fn server(name: &str, kind: Kind, models: &[&str], settings: &[(&str, &str)]) -> ServerRecord {
    let card = |name: &&str| ModelCard::named(ModelName::new(name).expect("a name"));
    let mut spec = ServerSpec::configured(name, ServerUrl::http(name, 8000));
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut spec.settings, &mut spec.model_settings).expect(text);
    }
    let models = models.iter().map(card).collect();
    ServerRecord { spec, state: ServerState::Ready, listed_as: kind, has_others: false, models }
}

#[test]
fn settings_that_do_not_fit_have_an_answer() {
    let canary = ("canary.model", "next");
    for (servers, code, part) in [
        // Its advice used to be "set inference.models", because of the 404 in the text.
        (
            vec![server("a", Kind::Vllm, &["llama"], &[("aliases", "fast")])],
            "alias_unknown_to_vllm",
            "Start vLLM with --served-model-name llama fast:",
        ),
        (
            vec![server("a", Kind::Other, &["llama"], &[("aliases", "fast=qwen")])],
            "alias_of_unknown_model",
            "fast=MODEL, with a model that this server lists",
        ),
        (
            vec![server("a", Kind::Other, &["llama", "qwen"], &[("aliases", "fast")])],
            "alias_without_model",
            "fast=MODEL",
        ),
        (
            vec![server("a", Kind::Other, &["llama", "qwen"], &[("single_model", "true")])],
            "single_model_has_several",
            "Take single_model away",
        ),
        (
            vec![
                server("a", Kind::Other, &["llama"], &[("strategy", "p2c")]),
                server("b", Kind::Other, &["llama"], &[("strategy", "hrw")]),
            ],
            "settings_conflict",
            "under models: in the configuration",
        ),
        (
            vec![server("a", Kind::Other, &["llama"], &[canary])],
            "branch_without_model",
            "start a server of next",
        ),
        (
            vec![server("a", Kind::Other, &["llama"], &[canary]), server("b", Kind::Vllm, &["next"], &[])],
            "branch_name_not_accepted",
            "--served-model-name next llama",
        ),
        (
            vec![
                server("a", Kind::Other, &["llama"], &[canary]),
                server("b", Kind::Ollama, &["next", "llama"], &[]),
            ],
            "branch_has_both_models",
            "Take llama off b",
        ),
    ] {
        let catalogue = Catalogue::assemble(servers, Vec::new());
        let found: Vec<_> = catalogue.problems().iter().map(|problem| problem.finding.code()).collect();
        assert_eq!(found, [code], "{:?}", catalogue.problems());
        let advice = catalogue.problems()[0].finding.advice();
        assert!(advice.contains(part), "{part}: {advice}");
    }
}
