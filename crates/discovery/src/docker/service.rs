//! Services and nodes of a Swarm, with the fields that are used.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::wire::or_default;

/// An entry of `GET /services`
/// (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceList>).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub(super) id: String,
    #[serde(rename = "Spec", deserialize_with = "or_default")]
    pub(super) spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ServiceSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) task_template: TaskTemplate,
    #[serde(deserialize_with = "or_default")]
    pub(super) endpoint_spec: EndpointSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TaskTemplate {
    #[serde(deserialize_with = "or_default")]
    pub(super) container_spec: Template,
}

/// The template of its containers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Template {
    #[serde(deserialize_with = "or_default")]
    pub(super) image: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) command: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    /// `NAME=value`. Some are secrets: variables are looked up by name and never kept.
    #[serde(deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) mounts: Vec<TemplateMount>,
    #[serde(deserialize_with = "or_default")]
    pub(super) configs: Vec<TemplateConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TemplateMount {
    #[serde(deserialize_with = "or_default")]
    pub(super) target: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TemplateConfig {
    #[serde(deserialize_with = "or_default")]
    pub(super) file: TemplateFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TemplateFile {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EndpointSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<EndpointPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EndpointPort {
    #[serde(deserialize_with = "or_default")]
    pub(super) protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) target_port: u16,
    #[serde(deserialize_with = "or_default")]
    pub(super) published_port: u16,
    /// `ingress`, on every node, or `host`, on the task's own.
    #[serde(deserialize_with = "or_default")]
    pub(super) publish_mode: String,
}

/// An entry of `GET /nodes`
/// (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Node/operation/NodeList>).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    id: String,
    #[serde(rename = "Status", deserialize_with = "or_default")]
    status: Address,
    #[serde(rename = "ManagerStatus", deserialize_with = "or_default")]
    manager_status: Address,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "Addr", deserialize_with = "or_default")]
    addr: String,
}

/// The address of each node. A manager may report its own as `0.0.0.0`; then the address that the other managers use is better.
pub(super) fn node_addresses(nodes: &[Node]) -> HashMap<String, String> {
    let usable = |address: &&str| !["", "0.0.0.0", "::"].contains(address);
    let address = |node: &Node| {
        let own = Some(node.status.addr.as_str()).filter(usable);
        let as_manager = node.manager_status.addr.rsplit_once(':');
        let host = as_manager.map(|(host, _)| host.trim_matches(['[', ']'])).filter(usable);
        own.or(host).map(str::to_owned)
    };
    nodes.iter().filter_map(|node| Some((node.id.clone(), address(node)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_do_not_know_their_own_address() {
        let node = |id: &str, own: &str, manager: Option<&str>| Node {
            id: id.into(),
            status: Address { addr: own.into() },
            manager_status: Address { addr: manager.unwrap_or_default().into() },
        };
        let found = node_addresses(&[
            node("a", "192.0.2.7", Some("192.0.2.8:2377")),
            node("b", "0.0.0.0", Some("[2001:db8::9]:2377")),
            node("c", "0.0.0.0", None),
        ]);
        let expected = [("a", "192.0.2.7"), ("b", "2001:db8::9")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(found, HashMap::from(expected));
    }
}
