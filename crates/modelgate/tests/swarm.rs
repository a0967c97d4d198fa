//! Services of a Docker Swarm, discovered by a real manager and routed through a real Traefik.
//!
//! The Swarm has one node, this machine, so its tasks are on a bridge, on an overlay and on the node's own network.
//! The overlay can be entered by members only: there it is the address that is looked at.

mod common;
#[path = "../../discovery/tests/common/engine.rs"]
mod engine;

use std::{collections::BTreeSet, process::Command, time::Duration};

use common::{NEWEST, Stack, server};
use engine::PrivateEngine;
use serde_json::Value;
use testkit::{docker, eventually, free_port, need};

const SOON: Duration = Duration::from_secs(60);

/// One Swarm at a time: the ports by which nodes talk to each other cannot be chosen.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A manager and only node. It leaves its Swarm on drop, before its engine ends.
struct Swarm {
    engine: PrivateEngine,
    image: String,
}

impl Swarm {
    async fn start() -> Option<Self> {
        need(docker::available().await, "a Docker Engine")?;
        let image = need(docker::sim_image().await, "the image of the simulated server")?;
        let engine = need(PrivateEngine::start(&[]).await, "a Docker Engine of the test's own")?;
        engine.engine().load_from_local(&image).await.expect("the image");
        let swarm = Self { engine, image };
        let listen = format!("127.0.0.1:{}", free_port());
        swarm.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]).await;
        // A bridge that every node has; the node itself gives out its addresses.
        swarm.docker(&["network", "create", "--config-only", "bridge-of-a-node"]).await;
        let from = ["--scope", "swarm", "--driver", "bridge", "--config-from", "bridge-of-a-node"];
        swarm.docker(&[&["network", "create"], &from[..], &["near"]].concat()).await;
        Some(swarm)
    }

    async fn docker(&self, args: &[&str]) -> String {
        self.engine.docker(args).await
    }

    async fn service(&self, name: &str, flags: &[&str]) {
        let always = ["service", "create", "--detach", "--no-resolve-image", "--name", name];
        self.docker(&[&always[..], flags, &[self.image.as_str()]].concat()).await;
    }

    /// The ids of a service's tasks that are to run.
    async fn tasks(&self, service: &str) -> Vec<String> {
        let listed = self
            .docker(&["service", "ps", "--no-trunc", "--quiet", "--filter", "desired-state=running", service])
            .await;
        listed.lines().map(str::to_owned).collect()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let endpoint = self.engine.engine().endpoint();
        // The bridge by which containers leave an overlay would outlive the engine.
        for args in [&["swarm", "leave", "--force"], &["network", "rm", "docker_gwbridge"][..]] {
            let _ = Command::new("docker").args(["--host", &endpoint]).args(args).output();
        }
    }
}

async fn stack(swarm: &Swarm) -> Option<Stack> {
    let yaml = format!("docker:\n  endpoint: {}\n  swarm: true\n", swarm.engine.engine().endpoint());
    common::stack(NEWEST, &[], &yaml).await
}

/// Waits until exactly so many servers answer for a model, and returns them.
async fn servers(stack: &Stack, model: &str, wanted: usize) -> BTreeSet<String> {
    eventually(SOON, || async {
        let mut seen = BTreeSet::new();
        for _ in 0..4 * wanted {
            let answer = stack.chat(model).await;
            if answer.status() == 200 {
                seen.insert(server(&answer));
            }
        }
        (seen.len() == wanted).then_some(seen)
    })
    .await
}

async fn problems(stack: &Stack) -> String {
    let answer = stack.client.get(format!("{}/readyz", stack.modelgate.admin_url())).send().await;
    let ready: Value = answer.expect("an answer").json().await.expect("JSON");
    ready["problems"].to_string()
}

async fn wait_for_problem(stack: &Stack, parts: &[&str]) {
    eventually(SOON, || async {
        let problems = problems(stack).await;
        parts.iter().all(|part| problems.contains(part)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tasks_are_servers_wherever_they_are_and_follow_their_service() {
    let _alone = ALONE.lock().await;
    let Some(swarm) = Swarm::start().await else { return };
    const HEALTH: [&str; 4] = ["--health-cmd", "/sim-server healthcheck", "--health-interval", "500ms"];
    let enabled = ["--label", "inference.enable=true"];
    let near =
        [&enabled[..], &HEALTH, &["--network", "near", "--replicas", "2", "--env", "SIM_MODELS=sw-near"]];
    swarm.service("near", &near.concat()).await;
    // On the node's own network a server is at the node's address.
    let port = free_port().to_string();
    let (sim_port, label) = (format!("SIM_PORT={port}"), format!("inference.port={port}"));
    let host = ["--network", "host", "--label", &label, "--env", &sim_port, "--env", "SIM_MODELS=sw-host"];
    swarm.service("host", &[&enabled[..], &host].concat()).await;

    let Some(stack) = stack(&swarm).await else { return };
    stack.wait_for("sw-host").await;
    let first = servers(&stack, "sw-near", 2).await;

    // Fewer, and no request fails on the way: the manager's own node tells that a container is stopped.
    swarm.docker(&["service", "scale", "--detach", "near=1"]).await;
    let stays = eventually(SOON, || async {
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            let answer = stack.chat("sw-near").await;
            assert_eq!(answer.status(), 200, "while one of two tasks goes");
            seen.insert(server(&answer));
        }
        (seen.len() == 1).then_some(seen)
    })
    .await;
    assert!(stays.is_subset(&first), "{stays:?} {first:?}");

    // More.
    swarm.docker(&["service", "scale", "--detach", "near=3"]).await;
    assert!(stays.is_subset(&servers(&stack, "sw-near", 3).await));

    // Swarm replaces a container that dies by another task.
    let before = swarm.tasks("host").await;
    let container = swarm.docker(&["ps", "--quiet", "--filter", "name=host.1"]).await;
    swarm.docker(&["kill", &container]).await;
    eventually(SOON, || async { (stack.chat("sw-host").await.status() == 503).then_some(()) }).await;
    stack.wait_for("sw-host").await;
    assert_ne!(swarm.tasks("host").await, before);

    // A service that is removed is missed, and then forgotten.
    swarm.docker(&["service", "rm", "near"]).await;
    eventually(SOON, || async { (stack.chat("sw-near").await.status() == 503).then_some(()) }).await;
}

#[tokio::test]
async fn what_keeps_a_task_from_being_routed_is_told() {
    let _alone = ALONE.lock().await;
    let Some(swarm) = Swarm::start().await else { return };
    swarm.docker(&["network", "create", "--driver", "overlay", "far"]).await;
    let enabled = ["--label", "inference.enable=true"];
    swarm.service("labelled-inside", &["--container-label", "inference.enable=true"]).await;
    swarm
        .service("far", &[&enabled[..], &["--network", "far", "--label", "inference.port=8123"]].concat())
        .await;
    swarm.service("nowhere", &[&enabled[..], &["--constraint", "node.labels.gpu==yes"]].concat()).await;
    let Some(stack) = stack(&swarm).await else { return };
    wait_for_problem(
        &stack,
        &["labelled-inside", "it must be on the service itself (deploy.labels in Compose)"],
    )
    .await;
    wait_for_problem(&stack, &["nowhere.1", "Swarm says: pending: no suitable node"]).await;

    // The manager knows the address that the overlay has given to the task, and that is the one which is asked.
    let format = "{{range .NetworksAttachments}}{{index .Addresses 0}}{{end}}";
    let address = eventually(SOON, || async {
        let task = swarm.tasks("far").await.pop()?;
        let address = swarm.docker(&["inspect", "--type", "task", "--format", format, &task]).await;
        // With the length of its prefix, as soon as it has one.
        Some(address.split_once('/')?.0.to_owned())
    })
    .await;
    wait_for_problem(&stack, &["far.1", &format!("http://{address}:8123")]).await;
}
