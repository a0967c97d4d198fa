//! Turns a task of Docker Swarm, as a manager describes it, into a server.
//!
//! The labels are the service's (`deploy.labels` in Compose), which every manager knows; a container's labels are known only on
//! its node. One task is one run of one server: Swarm never restarts a task but replaces it with another. See
//! <https://docs.docker.com/engine/swarm/how-swarm-mode-works/swarm-task-states/>.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    AddressFinding, ContainerHealth, ContainerRecord, ContainerStatus, DockerFinding, Finding, HealthMode,
    Interpretation, NetworkView, Problem, PublishedPort, ServerId, ServerSpec, ServerState, ServerUrl,
    Source,
    container::{self, starting},
    label::{self, Labels, Reading},
};

/// The progress of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// On its way to a node, or being started there. With a HEALTHCHECK this lasts until it passes.
    Starting,
    /// Running.
    Running,
    /// It has ended, or could not be started.
    Ended,
}

/// A task as Swarm's list describes it, with what its service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    /// The task's id.
    pub id: String,
    /// The name shown to people: the service's name and the slot, or the node if the service is global.
    pub name: String,
    /// The image's name.
    pub image: String,
    /// The labels of the service.
    pub labels: BTreeMap<String, String>,
    /// Its progress.
    pub status: TaskStatus,
    /// Its state in Swarm, and the reason if Swarm gives one.
    pub said: String,
    /// Whether Swarm reports something that keeps it from running.
    pub failed: bool,
    /// The id of its container, once it has one.
    pub container_id: Option<String>,
    /// Whether the service defines a HEALTHCHECK; one in the image is not visible to a manager.
    pub has_healthcheck: bool,
    /// Its networks except for the ingress network, with its address in each (empty where it is not known).
    pub networks: BTreeMap<String, String>,
    /// Whether it shares its node's network.
    pub on_host_network: bool,
    /// The address of its node, if it is known.
    pub node_address: Option<String>,
    /// The TCP ports that the service says it listens on.
    pub exposed_ports: BTreeSet<u16>,
    /// The TCP ports that its node publishes for this task alone (`mode: host`).
    pub published_ports: Vec<PublishedPort>,
}

/// Reads a task. The problems name what is wrong with it.
pub fn interpret_task(task: &TaskRecord, network_view: &NetworkView) -> (Interpretation, Vec<Problem>) {
    let problem = |finding| Problem::container(&task.name, finding);
    let (labels, warnings) = match label::read(&task.labels) {
        Reading::NotEnabled => return (Interpretation::NotEnabled, Vec::new()),
        Reading::Faulty(faults) => {
            return (
                Interpretation::Rejected,
                faults.into_iter().map(|fault| problem(fault.into())).collect(),
            );
        }
        Reading::Read(labels, warnings) => (labels, warnings),
    };
    let mut problems: Vec<Problem> = warnings.into_iter().map(|warning| problem(warning.into())).collect();
    let said = || Finding::from(DockerFinding::Task { said: task.said.clone() });
    if task.failed {
        problems.push(problem(said()));
    }
    let interpretation = match task.status {
        TaskStatus::Starting => Interpretation::Down(starting(said())),
        TaskStatus::Ended => Interpretation::Down(ServerState::Stopped(said())),
        TaskStatus::Running => match describe(task, &labels, network_view) {
            Ok(spec) => {
                problems.extend(published_to_all(
                    task,
                    container::port(&labels, &task.exposed_ports),
                    network_view,
                ));
                Interpretation::Server(Box::new(spec), ServerState::Ready)
            }
            Err(finding) => {
                problems.push(problem(finding.into()));
                Interpretation::Rejected
            }
        },
    };
    (interpretation, problems)
}

fn describe(
    task: &TaskRecord,
    labels: &Labels,
    network_view: &NetworkView,
) -> Result<ServerSpec, AddressFinding> {
    // A task is running only once its HEALTHCHECK has passed, and Swarm replaces a task that fails it.
    let health = labels.health.unwrap_or(match task.has_healthcheck {
        true => HealthMode::Docker,
        false => HealthMode::Probe,
    });
    let container_id = task.container_id.as_ref().unwrap_or(&task.id).clone();
    Ok(ServerSpec {
        id: ServerId::docker(&task.id),
        name: task.name.clone(),
        source: Source::Docker { container_id, image: task.image.clone() },
        url: url(task, labels, network_view)?,
        base_path: labels.base_path.clone(),
        models: labels.models.clone(),
        health,
        incarnation: task.id.clone(),
        settings: labels.settings.clone(),
        model_settings: labels.model_settings.clone(),
        credential: None,
    })
}

fn url(task: &TaskRecord, labels: &Labels, network_view: &NetworkView) -> Result<ServerUrl, AddressFinding> {
    let port = container::port(labels, &task.exposed_ports);
    // Each node of a swarm has its own address, so the one that Swarm reports is preferred.
    let node = || task.node_address.as_deref().or(network_view.host_address.as_deref());
    if task.on_host_network {
        let address = node().ok_or_else(|| AddressFinding::NodeNetwork(network_view.docker_host()))?;
        return Ok(ServerUrl::http(address, port));
    }
    if network_view.published {
        let found = task.published_ports.iter().find(|p| p.container_port == port);
        let found = found
            .ok_or_else(|| AddressFinding::NodeDoesNotPublish { host: network_view.docker_host(), port })?;
        let address = node().ok_or_else(|| AddressFinding::NodeUnknown(network_view.docker_host()))?;
        return Ok(ServerUrl::http(address, found.host_port));
    }
    container::address(&as_container(task), labels, network_view)
        .map(|address| ServerUrl::http(address, port))
}

/// The port that the task's own node publishes; a port that all nodes publish is the service's.
fn published_to_all(task: &TaskRecord, port: u16, network_view: &NetworkView) -> Option<Problem> {
    let found =
        task.published_ports.iter().find(|p| p.container_port == port).filter(|_| !network_view.published)?;
    Some(container::open_port(&task.name, found.host_port, port))
}

/// The task's container, as far as a manager knows it, so that both choose networks in the same way.
fn as_container(task: &TaskRecord) -> ContainerRecord {
    ContainerRecord {
        id: task.id.clone(),
        name: task.name.clone(),
        image: task.image.clone(),
        labels: task.labels.clone(),
        status: ContainerStatus::Running,
        health: task.has_healthcheck.then_some(ContainerHealth::Healthy),
        started_at: task.id.clone(),
        networks: task.networks.clone(),
        network_mode: "swarm".into(),
        exposed_ports: task.exposed_ports.clone(),
        published_ports: task.published_ports.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(labels: &[(&str, &str)]) -> TaskRecord {
        let labels = labels.iter().chain(&[("inference.enable", "true")]);
        TaskRecord {
            id: "t1".into(),
            name: "vllm.1".into(),
            image: "vllm/vllm-openai".into(),
            labels: labels.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            status: TaskStatus::Running,
            said: "running".into(),
            failed: false,
            container_id: Some("c1".into()),
            has_healthcheck: false,
            networks: BTreeMap::from([("ai".into(), "10.0.1.3".into()), ("back".into(), "10.0.2.3".into())]),
            on_host_network: false,
            node_address: Some("192.0.2.7".into()),
            exposed_ports: BTreeSet::new(),
            published_ports: Vec::new(),
        }
    }

    fn spec(task: &TaskRecord, network_view: &NetworkView) -> ServerSpec {
        match interpret_task(task, network_view) {
            (Interpretation::Server(spec, ServerState::Ready), problems) if problems.is_empty() => *spec,
            other => panic!("{other:?}"),
        }
    }

    fn rejected(task: &TaskRecord, network_view: &NetworkView) -> String {
        match interpret_task(task, network_view) {
            (Interpretation::Rejected, problems) => problems[0].to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_running_task_is_a_server() {
        let spec = spec(&task(&[("inference.port", "9000")]), &NetworkView::default());
        assert_eq!((spec.id.as_str(), spec.name.as_str()), ("docker:t1", "vllm.1"));
        assert_eq!((spec.url.as_str(), spec.incarnation.as_str()), ("http://10.0.1.3:9000", "t1"));
        assert_eq!(
            spec.source,
            Source::Docker { container_id: "c1".into(), image: "vllm/vllm-openai".into() }
        );
    }

    #[test]
    fn networks_are_chosen_as_for_containers() {
        let on = |network: &str| Some(BTreeSet::from([network.to_owned()]));
        let shared = NetworkView { own_networks: on("back"), ..NetworkView::default() };
        assert_eq!(spec(&task(&[]), &shared).url.as_str(), "http://10.0.2.3:8000");
        assert_eq!(spec(&task(&[("inference.network", "ai")]), &shared).url.as_str(), "http://10.0.1.3:8000");
        let elsewhere = NetworkView { own_networks: on("x"), ..NetworkView::default() };
        assert!(rejected(&task(&[]), &elsewhere).contains("Modelgate is on: x"));
        let mut stack = task(&[("inference.network", "gpu"), ("com.docker.stack.namespace", "llm")]);
        stack.networks =
            BTreeMap::from([("a".into(), "10.0.1.3".into()), ("llm_gpu".into(), "10.0.3.3".into())]);
        assert_eq!(spec(&stack, &NetworkView::default()).url.as_str(), "http://10.0.3.3:8000");
        // The node itself assigns the addresses of a bridge network, so a manager does not know them.
        let unknown = TaskRecord { networks: BTreeMap::from([("br".into(), String::new())]), ..task(&[]) };
        assert_eq!(
            rejected(&unknown, &NetworkView::default()),
            "container vllm.1: it has no address on network \"br\""
        );
    }

    #[test]
    fn the_address_of_the_node() {
        let host = TaskRecord { on_host_network: true, networks: BTreeMap::new(), ..task(&[]) };
        let told = NetworkView { host_address: Some("manager".into()), ..NetworkView::default() };
        assert_eq!(spec(&host, &told).url.as_str(), "http://192.0.2.7:8000", "each node has its own");
        let unknown = TaskRecord { node_address: None, ..host };
        assert_eq!(spec(&unknown, &told).url.as_str(), "http://manager:8000");
        assert!(rejected(&unknown, &NetworkView::default()).contains("set docker.host_address"));
    }

    #[test]
    fn published_means_by_its_own_node() {
        let published = NetworkView { published: true, ..NetworkView::default() };
        assert!(rejected(&task(&[]), &published).contains("publish it with mode: host"));
        let port = PublishedPort { container_port: 8000, host_port: 30001, address: String::new() };
        let task = TaskRecord { published_ports: vec![port], ..task(&[]) };
        assert_eq!(spec(&task, &published).url.as_str(), "http://192.0.2.7:30001");
        // Where Traefik does not need it, it is a way past Modelgate.
        let told = |task: &TaskRecord| interpret_task(task, &NetworkView::default()).1;
        assert_eq!(told(&task), [container::open_port("vllm.1", 30001, 8000)]);
        let other = PublishedPort { container_port: 9000, host_port: 30001, address: String::new() };
        assert_eq!(told(&TaskRecord { published_ports: vec![other], ..task }), []);
    }

    #[test]
    fn the_port_is_the_only_one_that_the_service_has() {
        let one = TaskRecord { exposed_ports: BTreeSet::from([30000]), ..task(&[]) };
        assert_eq!(spec(&one, &NetworkView::default()).url.as_str(), "http://10.0.1.3:30000");
        let two = TaskRecord { exposed_ports: BTreeSet::from([30000, 9090]), ..one };
        assert_eq!(spec(&two, &NetworkView::default()).url.as_str(), "http://10.0.1.3:8000");
    }

    #[test]
    fn who_decides_about_health() {
        let health = |task: &TaskRecord| spec(task, &NetworkView::default()).health;
        assert_eq!(health(&task(&[])), HealthMode::Probe);
        assert_eq!(health(&TaskRecord { has_healthcheck: true, ..task(&[]) }), HealthMode::Docker);
        // The image may have a HEALTHCHECK that only the node can see.
        assert_eq!(health(&task(&[("inference.health", "docker")])), HealthMode::Docker);
    }

    #[test]
    fn tasks_that_do_not_run() {
        let said = |status, failed| {
            let task = TaskRecord { status, failed, said: "pending: no suitable node".into(), ..task(&[]) };
            interpret_task(&task, &NetworkView::default())
        };
        let why = || DockerFinding::Task { said: "pending: no suitable node".into() };
        assert_eq!(said(TaskStatus::Starting, false), (Interpretation::Down(starting(why())), Vec::new()));
        let (what, problems) = said(TaskStatus::Ended, true);
        assert_eq!(what, Interpretation::Down(ServerState::Stopped(why().into())));
        assert_eq!(problems[0].to_string(), "container vllm.1: Swarm says: pending: no suitable node");
        let foreign = TaskRecord { labels: BTreeMap::new(), ..task(&[]) };
        assert_eq!(interpret_task(&foreign, &NetworkView::default()).0, Interpretation::NotEnabled);
        assert!(
            rejected(&task(&[("inference.port", "x")]), &NetworkView::default()).contains("inference.port")
        );
    }
}
