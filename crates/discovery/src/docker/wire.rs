//! The few fields of the Engine's answers that are used, parsed leniently: absent or null becomes empty, unknown fields and
//! words are ignored. The users' tests have recorded answers of Docker and Podman.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// An entry of `GET /containers/json`
/// (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerList>).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    #[serde(deserialize_with = "or_default")]
    pub(super) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) image: String,
    /// The program and its arguments, as one text.
    #[serde(deserialize_with = "or_default")]
    pub(super) command: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) state: String,
    /// Podman 4 leaves it out, and Podman 5 reports `host` for every container.
    #[serde(deserialize_with = "or_default")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "or_default")]
    pub(super) network_settings: ListedNetworks,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<ListedPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    #[serde(deserialize_with = "or_default")]
    pub(super) network_mode: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedNetworks {
    /// Null in Podman for a container on no network, or on its host's.
    #[serde(deserialize_with = "or_default")]
    pub(super) networks: BTreeMap<String, Option<Endpoint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    #[serde(rename = "IPAddress", deserialize_with = "or_default")]
    pub(super) ip_address: String,
}

/// An exposed port; it is published if it has a public port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedPort {
    #[serde(deserialize_with = "or_default")]
    pub(super) private_port: u16,
    #[serde(deserialize_with = "or_default")]
    pub(super) r#type: String,
}

/// `GET /containers/{id}/json`
/// (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerInspect>).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    #[serde(deserialize_with = "or_default")]
    pub(super) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    /// The program.
    #[serde(deserialize_with = "or_default")]
    pub(super) path: String,
    /// Its arguments.
    #[serde(deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) state: State,
    #[serde(deserialize_with = "or_default")]
    pub(super) config: Config,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "or_default")]
    pub(super) network_settings: Networks,
    #[serde(deserialize_with = "or_default")]
    pub(super) mounts: Vec<Mount>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) running: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) paused: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) restarting: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) started_at: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) health: Health,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    /// Empty in Podman without a HEALTHCHECK.
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "or_default")]
    pub(super) image: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    /// The keys are ports: `8000/tcp`.
    #[serde(deserialize_with = "or_default")]
    pub(super) exposed_ports: BTreeMap<String, Value>,
    #[serde(deserialize_with = "or_default")]
    pub(super) stop_signal: String,
    /// `NAME=value`. Some are secrets: variables are looked up by name and never kept.
    #[serde(deserialize_with = "or_default")]
    pub(super) env: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Networks {
    #[serde(deserialize_with = "or_default")]
    pub(super) networks: BTreeMap<String, Option<Endpoint>>,
    /// By port; null if it is only exposed.
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: BTreeMap<String, Option<Vec<Binding>>>,
}

/// A port of the host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Binding {
    /// Empty in Podman for all addresses.
    #[serde(deserialize_with = "or_default")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_port: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Mount {
    #[serde(deserialize_with = "or_default")]
    pub(super) destination: String,
}

/// A line of `GET /events`
/// (<https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemEvents>).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Event {
    #[serde(deserialize_with = "or_default")]
    pub(super) r#type: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) action: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) actor: Actor,
    /// Podman's field for what Docker writes after `health_status: `.
    #[serde(deserialize_with = "or_default")]
    pub(super) health_status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub(super) id: String,
    #[serde(rename = "Attributes", deserialize_with = "or_default")]
    pub(super) attributes: BTreeMap<String, String>,
}

impl Listed {
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or(self.id.as_str(), |name| name.trim_start_matches('/'))
    }
}

impl Binding {
    /// Docker writes the port as text.
    pub(super) fn port(&self) -> Option<u16> {
        match &self.host_port {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64().and_then(|port| port.try_into().ok()),
        }
    }
}

/// The address in each network; empty where there is none.
pub(super) fn addresses(networks: &BTreeMap<String, Option<Endpoint>>) -> BTreeMap<String, String> {
    let address = |endpoint: &Option<Endpoint>| endpoint.as_ref().map(|e| e.ip_address.clone());
    networks.iter().map(|(name, endpoint)| (name.clone(), address(endpoint).unwrap_or_default())).collect()
}

/// Parses the items of a list. Unreadable items are left out and returned with the reason.
pub(super) fn read_each<T: DeserializeOwned>(items: Vec<Value>) -> (Vec<T>, Vec<(Value, String)>) {
    let (mut read, mut left_out) = (Vec::new(), Vec::new());
    for item in items {
        match T::deserialize(&item) {
            Ok(it) => read.push(it),
            Err(error) => left_out.push((item, error.to_string())),
        }
    }
    (read, left_out)
}

/// Reads null as the empty value.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_item_that_cannot_be_read_costs_no_other() {
        let items =
            vec![json!({ "Id": "a", "Labels": null }), json!({ "Id": 7 }), json!({ "Id": "b" }), json!("c")];
        let (read, left_out) = read_each::<Listed>(items);
        assert_eq!(read.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(left_out.len(), 2);
        assert!(left_out[0].1.contains("expected a string"), "{left_out:?}");
    }

    #[test]
    fn a_port_of_the_host_is_text_or_a_number() {
        let port = |value: Value| Binding { host_port: value, ..Binding::default() }.port();
        assert_eq!(port(json!("8000")), Some(8000));
        assert_eq!(port(json!(8000)), Some(8000));
        assert_eq!([json!(""), json!(null), json!(70000), json!([])].map(port), [None; 4]);
    }
}
