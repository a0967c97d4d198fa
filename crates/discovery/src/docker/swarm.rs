//! The tasks of a Swarm's labelled services, as plain records.
//!
//! A manager is asked for services and tasks; the containers of its own node help with what a
//! manager does not know: the addresses that a node itself gives out, on a bridge for instance.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::{
    Docker,
    models::{Node, Service, ServiceSpec},
    query_parameters::{ListNodesOptions, ListServicesOptions},
};
use catalogue::{Problem, PublishedPort, TaskRecord, TaskStatus};
use serde::Deserialize;

use super::{DockerOptions, Survey, api::Api, event, survey::Place};

/// `filters={"desired-state":["running"]}`: not what has been replaced or is to stop.
const TASKS: &str = "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D";
const OPT_IN: &str = "inference.enable";

/// The part of a task that counts here
/// (<https://pkg.go.dev/github.com/docker/docker/api/types/swarm#Task>).
#[derive(Debug, Deserialize)]
struct Task {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "ServiceID", default)]
    service_id: String,
    #[serde(rename = "NodeID", default)]
    node_id: String,
    #[serde(rename = "Slot", default)]
    slot: u64,
    #[serde(rename = "Spec", default)]
    spec: Spec,
    #[serde(rename = "Status", default)]
    status: Status,
    /// `null` if there are none.
    #[serde(rename = "NetworksAttachments", default)]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Spec {
    container_spec: ContainerSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerSpec {
    image: String,
    stop_signal: String,
    /// The API's description, and so bollard, writes `HealthCheck`; Docker does not.
    healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Healthcheck {
    test: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Status {
    state: String,
    err: String,
    container_status: Option<ContainerStatus>,
    port_status: Option<PortStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    container_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PortStatus {
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Port {
    protocol: String,
    target_port: u16,
    published_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attachment {
    network: Network,
    /// With the length of the prefix: `10.0.1.3/24`.
    addresses: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    spec: NetworkSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSpec {
    name: String,
    /// The one that published ports are routed through; no way to a single task.
    ingress: bool,
}

/// Looks at services and tasks. Tasks of other nodes are added to the places.
pub(super) async fn look(
    docker: &Docker,
    api: &Api,
    options: &DockerOptions,
    places: &mut Vec<Place>,
) -> Result<Survey, String> {
    let services = docker.list_services(None::<ListServicesOptions>).await.map_err(|e| e.to_string())?;
    let tasks: Vec<Task> = api.get(TASKS).await?;
    let mut survey = Survey::default();
    let mut ours: HashMap<&str, &ServiceSpec> = HashMap::new();
    for (id, spec) in services.iter().filter_map(|s: &Service| Some((s.id.as_deref()?, s.spec.as_ref()?))) {
        match has(&spec.labels) {
            true => _ = ours.insert(id, spec),
            false => survey.problems.extend(labelled_in_the_wrong_place(spec, options)),
        }
    }
    let nodes = match tasks.iter().any(|t| ours.contains_key(t.service_id.as_str()) && t.needs_its_node()) {
        true => node_addresses(docker.list_nodes(None::<ListNodesOptions>).await.map_err(|e| e.to_string())?),
        false => HashMap::new(),
    };
    let local: HashMap<String, Place> = places.iter().map(|p| (p.container_id.clone(), p.clone())).collect();
    for task in &tasks {
        let here = task.container_id().and_then(|id| local.get(id));
        if here.is_none() {
            places.push(task.place());
        }
        let Some(spec) = ours.get(task.service_id.as_str()) else { continue };
        let record = task.record(spec, options, here, nodes.get(&task.node_id));
        let stop_signal = event::signal_number(&task.spec.container_spec.stop_signal);
        survey.stop_signals.extend(stop_signal.map(|signal| (record.id.clone(), signal)));
        survey.tasks.push(record);
    }
    survey.tasks.sort_by(|a, b| a.id.cmp(&b.id));
    survey.problems.sort();
    Ok(survey)
}

impl Task {
    fn container_id(&self) -> Option<&str> {
        let id = self.status.container_status.as_ref().map(|c| c.container_id.as_str());
        id.filter(|id| !id.is_empty())
    }

    /// Its networks, with its address in each (empty where the manager knows none).
    fn networks(&self) -> BTreeMap<String, String> {
        let attachments = self.attachments.iter().flatten();
        let networks = attachments.filter(|a| !a.network.spec.ingress && a.network.spec.name != "host");
        let address = |a: &Attachment| {
            let first = a.addresses.iter().flatten().find(|address| !address.is_empty());
            first.map(|address| address.split('/').next().unwrap_or_default().to_owned())
        };
        networks.map(|a| (a.network.spec.name.clone(), address(a).unwrap_or_default())).collect()
    }

    fn on_host_network(&self) -> bool {
        self.attachments.iter().flatten().any(|a| a.network.spec.name == "host")
    }

    fn published_ports(&self) -> Vec<PublishedPort> {
        let ports = self.status.port_status.iter().flat_map(|s| s.ports.iter().flatten());
        let tcp = ports.filter(|p| p.protocol == "tcp" && p.published_port != 0);
        tcp.map(|p| PublishedPort { container_port: p.target_port, host_port: p.published_port }).collect()
    }

    fn needs_its_node(&self) -> bool {
        self.on_host_network() || !self.published_ports().is_empty()
    }

    fn place(&self) -> Place {
        Place {
            container_id: self.container_id().unwrap_or_default().into(),
            networks: self.networks(),
            on_host_network: self.on_host_network(),
        }
    }

    fn record(
        &self,
        service: &ServiceSpec,
        options: &DockerOptions,
        here: Option<&Place>,
        node_address: Option<&String>,
    ) -> TaskRecord {
        let service_name = service.name.as_deref().unwrap_or_default();
        // A service with one task on each node has no slots.
        let which = match self.slot {
            0 => self.node_id.chars().take(12).collect(),
            slot => slot.to_string(),
        };
        let said = match self.status.err.is_empty() {
            true => self.status.state.clone(),
            false => {
                format!("{}: {}", self.status.state, self.status.err.chars().take(200).collect::<String>())
            }
        };
        let targets = service.endpoint_spec.iter().flat_map(|e| e.ports.iter().flatten());
        TaskRecord {
            id: self.id.clone(),
            name: options.full_name(&format!("{service_name}.{which}")),
            image: self.spec.container_spec.image.clone(),
            labels: service.labels.clone().unwrap_or_default().into_iter().collect(),
            status: status(&self.status.state),
            said,
            failed: !self.status.err.is_empty(),
            container_id: self.container_id().map(str::to_owned),
            has_healthcheck: self.spec.container_spec.has_healthcheck(),
            networks: complete(self.networks(), here),
            on_host_network: self.on_host_network(),
            node_address: node_address.cloned(),
            exposed_ports: targets
                .filter_map(|p| u16::try_from(p.target_port?).ok())
                .collect::<BTreeSet<_>>(),
            published_ports: self.published_ports(),
        }
    }
}

impl ContainerSpec {
    /// `["NONE"]` turns one off, and an empty list means the image's.
    fn has_healthcheck(&self) -> bool {
        let test = self.healthcheck.iter().flat_map(|h| h.test.iter().flatten()).next();
        test.is_some_and(|first| !first.is_empty() && first != "NONE")
    }
}

fn status(state: &str) -> TaskStatus {
    match state {
        "running" => TaskStatus::Running,
        "complete" | "shutdown" | "failed" | "rejected" | "remove" | "orphaned" => TaskStatus::Ended,
        _ => TaskStatus::Starting,
    }
}

/// Puts in what the node knows: the addresses that it has given out itself, and its default network.
fn complete(mut networks: BTreeMap<String, String>, here: Option<&Place>) -> BTreeMap<String, String> {
    let Some(here) = here.filter(|here| !here.on_host_network) else { return networks };
    if networks.is_empty() {
        return here.networks.clone();
    }
    for (name, address) in networks.iter_mut().filter(|(_, address)| address.is_empty()) {
        *address = here.networks.get(name).cloned().unwrap_or_default();
    }
    networks
}

fn has(labels: &Option<HashMap<String, String>>) -> bool {
    labels.as_ref().is_some_and(|labels| labels.contains_key(OPT_IN))
}

fn labelled_in_the_wrong_place(service: &ServiceSpec, options: &DockerOptions) -> Option<Problem> {
    let container = service.task_template.as_ref()?.container_spec.as_ref()?;
    has(&container.labels).then(|| {
        let name = options.full_name(service.name.as_deref().unwrap_or_default());
        let message = "label inference.enable is on the containers of this service; in a Swarm it must be on the \
                       service itself (deploy.labels in Compose)";
        Problem::container(&name, message)
    })
}

/// The address of each node. A manager may call its own `0.0.0.0`; then the one that the other
/// managers use is better.
fn node_addresses(nodes: Vec<Node>) -> HashMap<String, String> {
    let usable = |address: &String| !address.is_empty() && address != "0.0.0.0" && address != "::";
    let address = |node: &Node| {
        let own = node.status.as_ref().and_then(|s| s.addr.clone());
        let as_manager = node.manager_status.as_ref().and_then(|s| s.addr.clone());
        let host = as_manager.and_then(|a| a.rsplit_once(':').map(|(host, _)| host.to_owned()));
        own.filter(usable).or(host.map(|h| h.trim_matches(['[', ']']).to_owned()).filter(usable))
    };
    nodes.into_iter().filter_map(|node| Some((node.id.clone()?, address(&node)?))).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::{ManagerStatus, NodeStatus};
    use serde_json::json;

    use super::*;
    use crate::DockerEndpoint;

    /// As `GET /tasks` of Docker Engine 20.10 gives them, shortened.
    fn task(attachments: &serde_json::Value) -> Task {
        serde_json::from_value(json!({
            "ID": "t1", "ServiceID": "s1", "Slot": 2, "NodeID": "fv1g0mmkhmgk7sybon040qxbm",
            "Spec": { "ContainerSpec": { "Image": "vllm" } },
            "Status": {
                "Timestamp": "2026-11-21T04:39:54Z", "State": "running", "Message": "started",
                "ContainerStatus": { "ContainerID": "c1", "PID": 13310, "ExitCode": 0 },
                "PortStatus": { "Ports": [
                    { "Protocol": "tcp", "TargetPort": 8000, "PublishedPort": 30001, "PublishMode": "host" },
                    { "Protocol": "udp", "TargetPort": 53, "PublishedPort": 30002, "PublishMode": "host" }
                ] }
            },
            "DesiredState": "running", "NetworksAttachments": attachments
        }))
        .expect("a task")
    }

    fn attachment(name: &str, address: Option<&str>) -> serde_json::Value {
        json!({ "Network": { "ID": "n", "Spec": { "Name": name, "Ingress": name == "ingress" } },
                "Addresses": address.map(|a| vec![a]) })
    }

    fn options(name: &str) -> DockerOptions {
        DockerOptions {
            name: name.into(),
            endpoint: DockerEndpoint::Unix("/run/docker.sock".into()),
            network: None,
            host_address: None,
            published: false,
            swarm: true,
        }
    }

    fn service() -> ServiceSpec {
        let labels = HashMap::from([("inference.enable".to_owned(), "true".to_owned())]);
        ServiceSpec { name: Some("vllm".into()), labels: Some(labels), ..ServiceSpec::default() }
    }

    #[test]
    fn a_task_has_the_addresses_that_the_swarm_gave_it() {
        let attachments =
            json!([attachment("ingress", Some("10.0.0.9/24")), attachment("ai", Some("10.0.1.3/24"))]);
        let record = task(&attachments).record(&service(), &options("docker"), None, None);
        assert_eq!(record.networks, BTreeMap::from([("ai".to_owned(), "10.0.1.3".to_owned())]));
        assert_eq!((record.name.as_str(), record.container_id.as_deref()), ("vllm.2", Some("c1")));
        assert_eq!(record.published_ports, [PublishedPort { container_port: 8000, host_port: 30001 }]);
        let elsewhere = task(&attachments).record(&service(), &options("gpu1"), None, None);
        assert_eq!(elsewhere.name, "gpu1/vllm.2");
    }

    #[test]
    fn the_node_knows_what_the_manager_does_not() {
        let here = Place {
            container_id: "c1".into(),
            networks: BTreeMap::from([("br".into(), "172.20.0.5".into())]),
            on_host_network: false,
        };
        let networks = |attachments: &serde_json::Value| {
            task(attachments).record(&service(), &options("docker"), Some(&here), None).networks
        };
        assert_eq!(networks(&json!([attachment("br", None)])), here.networks);
        assert_eq!(networks(&json!(null)), here.networks, "a service without networks is on the node's own");
        let mixed = networks(&json!([attachment("br", None), attachment("ai", Some("10.0.1.3/24"))]));
        assert_eq!(mixed["ai"], "10.0.1.3");
    }

    #[test]
    fn a_task_on_its_nodes_network() {
        let task = task(&json!([attachment("host", None)]));
        assert!(task.needs_its_node());
        let record = task.record(&service(), &options("docker"), None, Some(&"192.0.2.7".into()));
        assert!(record.on_host_network && record.networks.is_empty());
        assert_eq!(record.node_address.as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn nodes_that_do_not_know_their_own_address() {
        let node = |id: &str, own: &str, manager: Option<&str>| Node {
            id: Some(id.into()),
            status: Some(NodeStatus { addr: Some(own.into()), ..NodeStatus::default() }),
            manager_status: manager
                .map(|addr| ManagerStatus { addr: Some(addr.into()), ..ManagerStatus::default() }),
            ..Node::default()
        };
        let found = node_addresses(vec![
            node("a", "192.0.2.7", Some("192.0.2.8:2377")),
            node("b", "0.0.0.0", Some("[2001:db8::9]:2377")),
            node("c", "0.0.0.0", None),
        ]);
        let expected = [("a", "192.0.2.7"), ("b", "2001:db8::9")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(found, HashMap::from(expected));
    }

    #[test]
    fn healthchecks_of_a_service() {
        let has = |container: serde_json::Value| {
            serde_json::from_value::<ContainerSpec>(container).expect("a container").has_healthcheck()
        };
        assert!(has(json!({ "Healthcheck": { "Test": ["CMD-SHELL", "true"] } })));
        assert!(!has(json!({ "Healthcheck": { "Test": ["NONE"] } })));
        assert!(!has(json!({ "Healthcheck": { "Interval": 500 } })), "the image's, if it has one");
        assert!(!has(json!({ "Image": "vllm" })));
    }
}
