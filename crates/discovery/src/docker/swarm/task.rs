//! A task of a Swarm: one run of one server.

use std::collections::BTreeMap;

use catalogue::{PublishedPort, TaskRecord, TaskStatus};
use serde::Deserialize;

use super::super::{DockerOptions, service::ServiceSpec, survey::NetworkMember, wire::or_default};

/// The used fields of a task (<https://pkg.go.dev/github.com/docker/docker/api/types/swarm#Task>).
#[derive(Debug, Deserialize)]
pub(super) struct Task {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "ServiceID", default, deserialize_with = "or_default")]
    pub(super) service_id: String,
    #[serde(rename = "NodeID", default, deserialize_with = "or_default")]
    pub(super) node_id: String,
    #[serde(rename = "Slot", default, deserialize_with = "or_default")]
    slot: u64,
    #[serde(rename = "Spec", default, deserialize_with = "or_default")]
    pub(super) spec: Spec,
    #[serde(rename = "Status", default, deserialize_with = "or_default")]
    status: Status,
    #[serde(rename = "NetworksAttachments", default, deserialize_with = "or_default")]
    attachments: Vec<Attachment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub(super) container_spec: ContainerSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerSpec {
    #[serde(deserialize_with = "or_default")]
    image: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) stop_signal: String,
    /// The API description has `HealthCheck`; Docker writes `Healthcheck`.
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
    #[serde(deserialize_with = "or_default")]
    state: String,
    #[serde(deserialize_with = "or_default")]
    err: String,
    container_status: Option<ContainerStatus>,
    port_status: Option<PortStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    #[serde(rename = "ContainerID", deserialize_with = "or_default")]
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
    #[serde(deserialize_with = "or_default")]
    protocol: String,
    #[serde(deserialize_with = "or_default")]
    target_port: u16,
    #[serde(deserialize_with = "or_default")]
    published_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attachment {
    #[serde(deserialize_with = "or_default")]
    network: Network,
    /// With the prefix length: `10.0.1.3/24`.
    addresses: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    #[serde(deserialize_with = "or_default")]
    spec: NetworkSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSpec {
    #[serde(deserialize_with = "or_default")]
    name: String,
    /// The ingress network, through which published ports are routed; it does not lead to a single task.
    #[serde(deserialize_with = "or_default")]
    ingress: bool,
}

impl Task {
    pub(super) fn container_id(&self) -> Option<&str> {
        let id = self.status.container_status.as_ref().map(|c| c.container_id.as_str());
        id.filter(|id| !id.is_empty())
    }

    /// Its networks, with its address in each (empty where the manager does not know it).
    fn networks(&self) -> BTreeMap<String, String> {
        let attachments = self.attachments.iter();
        let networks = attachments.filter(|a| !a.network.spec.ingress && a.network.spec.name != "host");
        let address = |a: &Attachment| {
            let first = a.addresses.iter().flatten().find(|address| !address.is_empty());
            first.map(|address| address.split('/').next().unwrap_or_default().to_owned())
        };
        networks.map(|a| (a.network.spec.name.clone(), address(a).unwrap_or_default())).collect()
    }

    fn on_host_network(&self) -> bool {
        self.attachments.iter().any(|a| a.network.spec.name == "host")
    }

    fn published_ports(&self) -> Vec<PublishedPort> {
        let ports = self.status.port_status.iter().flat_map(|s| s.ports.iter().flatten());
        let tcp = ports.filter(|p| p.protocol == "tcp" && p.published_port != 0);
        let published = |p: &Port| PublishedPort {
            container_port: p.target_port,
            host_port: p.published_port,
            address: String::new(),
        };
        tcp.map(published).collect()
    }

    pub(super) fn needs_its_node(&self) -> bool {
        self.on_host_network() || !self.published_ports().is_empty()
    }

    pub(super) fn place(&self) -> NetworkMember {
        NetworkMember {
            container_id: self.container_id().unwrap_or_default().into(),
            networks: self.networks(),
            on_host_network: self.on_host_network(),
            shares_with: None,
        }
    }

    pub(super) fn record(
        &self,
        service: &ServiceSpec,
        options: &DockerOptions,
        here: Option<&NetworkMember>,
        node_address: Option<&String>,
    ) -> TaskRecord {
        let service_name = &service.name;
        // A global service has no slots.
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
        TaskRecord {
            id: self.id.clone(),
            name: options.full_name(&format!("{service_name}.{which}")),
            image: self.spec.container_spec.image.clone(),
            labels: service.labels.clone(),
            status: status(&self.status.state),
            said,
            failed: !self.status.err.is_empty(),
            container_id: self.container_id().map(str::to_owned),
            has_healthcheck: self.spec.container_spec.has_healthcheck(),
            networks: complete(self.networks(), here),
            on_host_network: self.on_host_network(),
            node_address: node_address.cloned(),
            exposed_ports: service.endpoint_spec.ports.iter().map(|port| port.target_port).collect(),
            published_ports: self.published_ports(),
        }
    }
}

impl ContainerSpec {
    /// `["NONE"]` turns it off; an empty list means the image's own.
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

/// Adds what its node knows: addresses that the node assigned itself, and the default network.
fn complete(
    mut networks: BTreeMap<String, String>,
    here: Option<&NetworkMember>,
) -> BTreeMap<String, String> {
    let Some(here) = here.filter(|here| !here.on_host_network) else { return networks };
    if networks.is_empty() {
        return here.networks.clone();
    }
    for (name, address) in networks.iter_mut().filter(|(_, address)| address.is_empty()) {
        *address = here.networks.get(name).cloned().unwrap_or_default();
    }
    networks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DockerEndpoint;

    /// The answer of `GET /tasks` of Docker Engine 20.10, shortened.
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
            swarm: true,
            ..DockerOptions::new(name, DockerEndpoint::Unix("/run/docker.sock".into()))
        }
    }

    fn service() -> ServiceSpec {
        let labels = BTreeMap::from([("inference.enable".to_owned(), "true".to_owned())]);
        ServiceSpec { name: "vllm".into(), labels, ..ServiceSpec::default() }
    }

    #[test]
    fn a_task_has_the_addresses_that_the_swarm_gave_it() {
        let attachments =
            json!([attachment("ingress", Some("10.0.0.9/24")), attachment("ai", Some("10.0.1.3/24"))]);
        let record = task(&attachments).record(&service(), &options("docker"), None, None);
        assert_eq!(record.networks, BTreeMap::from([("ai".to_owned(), "10.0.1.3".to_owned())]));
        assert_eq!((record.name.as_str(), record.container_id.as_deref()), ("vllm.2", Some("c1")));
        assert_eq!(
            record.published_ports,
            [PublishedPort { container_port: 8000, host_port: 30001, address: String::new() }]
        );
        let elsewhere = task(&attachments).record(&service(), &options("gpu1"), None, None);
        assert_eq!(elsewhere.name, "gpu1/vllm.2");
    }

    #[test]
    fn the_node_knows_what_the_manager_does_not() {
        let here = NetworkMember {
            container_id: "c1".into(),
            networks: BTreeMap::from([("br".into(), "172.20.0.5".into())]),
            on_host_network: false,
            shares_with: None,
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
