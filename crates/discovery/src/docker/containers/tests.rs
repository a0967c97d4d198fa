//! Answers of Podman 4.3.1 and Docker 28, recorded and shortened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::DockerEndpoint;

fn read(listed: Value, inspected: Value) -> (ContainerRecord, Option<String>) {
    let listed: Listed = serde_json::from_value(listed).expect("an entry of the list");
    let (record, odd) = record(serde_json::from_value(inspected).expect("an inspection"), &listed);
    (record, odd.map(|odd| odd.to_string()))
}

/// Podman 4.3.1: a container on its bridge, with a HEALTHCHECK and a published port.
fn podman() -> (Value, Value) {
    let listed = json!({
        "Id": "1c9787", "Names": ["/br"], "Image": "localhost/bb:latest", "Command": "/bin/sleep 100000",
        "Ports": [{ "PrivatePort": 8000, "PublicPort": 18877, "Type": "tcp" }],
        "Labels": { "inference.enable": "true" }, "State": "running", "Status": "Up 18 seconds",
        "NetworkSettings": { "Networks": { "podman": { "IPAMConfig": null, "Links": null, "IPAddress": "10.88.0.6" } } },
        "Mounts": [], "Name": "", "Config": null, "NetworkingConfig": null, "Platform": null
    });
    let inspected = json!({
        "Id": "1c9787", "Name": "/br", "Path": "/bin/sleep", "Args": ["100000"],
        "State": {
            "Status": "running", "Running": true, "Paused": false, "Restarting": false, "Pid": 22834,
            "StartedAt": "2026-11-26T20:40:01.17529763Z", "FinishedAt": "0001-01-01T00:00:00Z",
            "Health": { "Status": "starting", "FailingStreak": 1, "Log": [{ "ExitCode": 1, "Output": "" }] }
        },
        "Config": {
            "Image": "localhost/bb:latest", "Labels": { "inference.enable": "true" },
            "ExposedPorts": { "8000/tcp": {} }, "StopSignal": "15"
        },
        "HostConfig": { "NetworkMode": "bridge" },
        "NetworkSettings": {
            "Ports": { "8000/tcp": [{ "HostIp": "", "HostPort": "18877" }] }, "SecondaryIPAddresses": null,
            "Networks": { "podman": { "IPAMConfig": null, "Aliases": ["1c9787"], "IPAddress": "10.88.0.6" } }
        }
    });
    (listed, inspected)
}

/// The same container with another value at one place of the inspection.
fn but(pointer: &str, value: Value) -> (ContainerRecord, Option<String>) {
    let (listed, mut inspected) = podman();
    *inspected.pointer_mut(pointer).expect("a place") = value;
    read(listed, inspected)
}

#[test]
fn podman_and_docker_are_read_alike() {
    let (listed, inspected) = podman();
    let (record, odd) = read(listed, inspected);
    assert_eq!(odd, None);
    assert_eq!(record.health, Some(ContainerHealth::Starting));
    assert_eq!(record.networks, BTreeMap::from([("podman".into(), "10.88.0.6".into())]));
    assert_eq!(record.exposed_ports, BTreeSet::from([8000]));
    let published = PublishedPort { container_port: 8000, host_port: 18877, address: String::new() };
    assert_eq!(record.published_ports, [published]);

    // Podman's answer for a container on no network, and one on its host's: only the mode is set.
    let listed = json!({ "Id": "2c33", "Names": ["/ctl"], "Ports": [], "Labels": {}, "State": "exited",
        "NetworkSettings": { "Networks": null }, "Config": null });
    let inspected = json!({
        "Id": "2c33", "Name": "/ctl",
        "State": { "Status": "exited", "Running": false, "Health": { "Status": "", "FailingStreak": 0, "Log": null } },
        "Config": { "Labels": { "a": "b" }, "ExposedPorts": null, "StopSignal": "15" },
        "HostConfig": { "NetworkMode": "host" }, "NetworkSettings": { "Ports": {}, "Networks": {} }
    });
    let (record, odd) = read(listed, inspected);
    assert_eq!((record.status, record.health, odd), (ContainerStatus::Exited, None, None));
    assert_eq!((record.network_mode.as_str(), record.networks.len()), ("host", 0));

    // Docker 28: null for a port that is only exposed, an address for each family.
    let ports = json!({ "9090/tcp": null, "53/udp": [{ "HostIp": "0.0.0.0", "HostPort": "53" }],
        "8000/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "32768" }, { "HostIp": "::", "HostPort": "32768" }] });
    let (record, _) = but("/NetworkSettings/Ports", ports);
    let addresses: Vec<&str> = record.published_ports.iter().map(|p| p.address.as_str()).collect();
    assert_eq!(addresses, ["0.0.0.0", "::"]);
}

#[test]
fn every_word_for_a_state_is_understood_or_named() {
    for (word, expected) in [
        ("configured", ContainerStatus::Created),
        ("initialized", ContainerStatus::Created),
        ("stopped", ContainerStatus::Exited),
        ("stopping", ContainerStatus::Exited),
        ("dead", ContainerStatus::Exited),
        ("removing", ContainerStatus::Exited),
    ] {
        let (record, odd) = but("/State/Status", json!(word));
        assert_eq!((record.status, odd), (expected, None), "{word}");
    }
    let (record, odd) = but("/State/Status", json!("hibernating"));
    assert_eq!(record.status, ContainerStatus::Running, "it says so beside it");
    assert_eq!(odd.as_deref(), Some("its state \"hibernating\" is not known here; it runs all the same"));
    let dead = json!({ "Status": "bad state", "Running": false });
    let (record, odd) = but("/State", dead);
    assert_eq!(record.status, ContainerStatus::Exited);
    assert_eq!(odd.as_deref(), Some("its state \"bad state\" is not known here; it is taken for stopped"));
    assert_eq!(but("/State/Status", json!("")).0.status, ContainerStatus::Running, "Podman's unknown state");
    let (mut listed, inspected) = podman();
    listed["State"] = json!("stopping");
    assert_eq!(read(listed, inspected).0.status, ContainerStatus::Exited);
}

#[test]
fn a_health_word_that_is_not_known_leaves_it_to_the_server() {
    let (record, odd) = but("/State/Health/Status", json!("degraded"));
    assert_eq!(record.health, None);
    assert!(
        odd.is_some_and(|odd| odd.contains("\"degraded\"") && odd.contains("the server itself is asked"))
    );
    for none in [json!(""), json!("none"), json!(null)] {
        assert_eq!(but("/State/Health/Status", none.clone()).0.health, None, "{none}");
        assert_eq!(but("/State/Health", json!(null)).1, None);
    }
}

#[test]
fn what_is_missing_is_empty() {
    let (record, odd) = read(json!({ "Id": "c1", "Names": ["/half"], "State": "running" }), json!({}));
    assert_eq!((record.id.as_str(), record.name.as_str(), odd), ("c1", "half", None));
    assert!(record.networks.is_empty() && record.published_ports.is_empty());
    let (listed, _) = podman();
    let (record, _) = read(listed, json!({}));
    assert_eq!(record.status, ContainerStatus::Running, "by the list");
    assert!(record.labels.contains_key(OPT_IN) && record.networks.contains_key("podman"));
    for place in [
        "/Config",
        "/State",
        "/HostConfig",
        "/NetworkSettings",
        "/Config/Labels",
        "/Config/ExposedPorts",
        "/NetworkSettings/Networks",
        "/NetworkSettings/Ports",
        "/NetworkSettings/Networks/podman",
        "/Args",
    ] {
        assert_eq!(but(place, Value::Null).0.id, "1c9787", "{place}");
    }
}

#[test]
fn an_entry_that_cannot_be_read_is_named_if_it_may_be_ours() {
    let options = DockerOptions::new("gpu1", DockerEndpoint::Unix("/run/docker.sock".into()));
    let told = |item: Value| unreadable(&item, "why", &options).map(|problem| problem.to_string());
    let ours = told(json!({ "Names": ["/vllm"], "Labels": { "inference.enable": "true" }, "Ports": 7 }));
    assert!(
        ours.as_deref().is_some_and(|t| t.starts_with("container gpu1/vllm: ") && t.ends_with(": why")),
        "{ours:?}"
    );
    assert!(told(json!({ "Id": "abc", "Labels": [] })).is_some(), "nobody knows");
    assert_eq!(told(json!({ "Names": ["/db"], "Labels": { "a": "b" } })), None);
    assert_eq!(told(json!({ "Names": 7, "Labels": null })), None);
}

#[test]
fn ports_are_tcp_ports() {
    assert_eq!(tcp_port("8000/tcp"), Some(8000));
    assert_eq!(tcp_port("53/udp"), None);
}

/// Operators used to get no hint why such a container was ignored.
#[test]
fn a_container_with_a_misspelt_opt_in_is_named_while_it_runs() {
    let listed = |name: &str, label: &str, state: &str| -> Listed {
        serde_json::from_value(
            json!({ "Id": name, "Names": [format!("/{name}")], "Labels": { label: "true" },
            "State": state }),
        )
        .expect("an entry of the list")
    };
    let all = [
        listed("vllm", "Inference.Enable", "running"),
        listed("old", "Inference.Enable", "exited"),
        listed("good", "inference.enable", "running"),
        listed("web", "traefik.enable", "running"),
    ];
    let options = DockerOptions::new("docker", DockerEndpoint::Unix("/run/docker.sock".into()));
    let told: Vec<String> = misspelt(&options, &all).iter().map(ToString::to_string).collect();
    let words =
        "label Inference.Enable is not known, so it is left alone; did you mean inference.enable=true?";
    assert_eq!(told, [format!("container vllm: {words}")]);
}
