//! What a survey of a host finds: which servers there are, and from where they can be reached.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use catalogue::{Blind, ContainerRecord, NetworkView, OwnRouter, Problem, TaskRecord, TraefikSeen};

use super::{
    DockerOptions,
    wire::{self, Listed},
};

/// The result of a survey.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The containers with an `inference.enable` label.
    pub(crate) containers: Vec<ContainerRecord>,
    /// The tasks of the services with that label.
    pub(crate) tasks: Vec<TaskRecord>,
    /// The networks from which they must be reachable.
    pub(crate) network_view: NetworkView,
    /// Each one's stop signal.
    pub(crate) stop_signals: HashMap<String, i64>,
    /// Running containers that could not be inspected: what is known of them is kept.
    pub(crate) unread: Vec<String>,
    /// Problems other than those of labels.
    pub(crate) problems: Vec<Problem>,
    /// Containers for which Traefik may make default routers, and why that cannot be decided.
    pub(crate) undecided: BTreeSet<String>,
    pub(crate) blind: Option<Blind>,
    /// The routers that labels define.
    pub(crate) routers: Vec<OwnRouter>,
    /// The Traefiks that poll.
    pub(crate) traefiks: Vec<TraefikSeen>,
}

/// Something with addresses in networks: a container of this host, or a task anywhere in the Swarm.
#[derive(Debug, Clone)]
pub(super) struct NetworkMember {
    pub(super) container_id: String,
    pub(super) networks: BTreeMap<String, String>,
    pub(super) on_host_network: bool,
    /// The id of the container whose network it shares.
    pub(super) shares_with: Option<String>,
}

pub(super) fn place(container: &Listed) -> NetworkMember {
    let networks = wire::addresses(&container.network_settings.networks);
    let mode = container.host_config.network_mode.as_str();
    NetworkMember {
        container_id: container.id.clone(),
        // Podman 5 reports `host` for every container; a container on its host's network has no other network.
        on_host_network: mode == "host" && networks.keys().all(|name| name == "host"),
        shares_with: mode.strip_prefix("container:").map(str::to_owned),
        networks,
    }
}

/// Finds Traefik's networks by the address from which it polls Modelgate.
pub(super) fn network_view(
    places: &[NetworkMember],
    options: &DockerOptions,
    traefik_peers: &BTreeSet<IpAddr>,
    own_id: Option<&str>,
) -> NetworkView {
    let networks = |place: &NetworkMember| place.networks.keys().cloned().collect::<BTreeSet<String>>();
    let with_id = |id: &str| places.iter().find(|place| place.container_id == id);
    let own = own_id.and_then(with_id);
    let own = own.and_then(|own| own.shares_with.as_deref().and_then(with_id)).or(own);
    let is_peer = |place: &&NetworkMember| {
        place.networks.values().any(|a| a.parse().is_ok_and(|a: IpAddr| traefik_peers.contains(&a)))
    };
    let traefik =
        places.iter().filter(is_peer).map(networks).reduce(|a, b| a.intersection(&b).cloned().collect());
    NetworkView {
        host: options.given_name().map(str::to_owned),
        network: options.network.clone(),
        host_address: options.host_address.clone(),
        published: options.published,
        // Podman 4 shows no network for a container on its host's network.
        own_networks: own.filter(|p| !p.on_host_network && !p.networks.is_empty()).map(networks),
        traefik_networks: traefik,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DockerEndpoint;

    fn place(id: &str, networks: &[(&str, &str)]) -> NetworkMember {
        NetworkMember {
            container_id: id.into(),
            networks: networks.iter().map(|(name, ip)| ((*name).into(), (*ip).into())).collect(),
            on_host_network: false,
            shares_with: None,
        }
    }

    #[test]
    fn traefiks_networks_are_known_by_the_address_it_polls_from() {
        let places =
            [place("me", &[("ctl", "10.9.0.2")]), place("t", &[("edge", "10.1.0.2"), ("ctl", "10.9.0.3")])];
        let options = DockerOptions::new("gpu1", DockerEndpoint::Unix("/run/docker.sock".into()));
        let peers = BTreeSet::from(["10.9.0.3".parse().expect("an address")]);
        let seen = network_view(&places, &options, &peers, Some("me"));
        assert_eq!(seen.own_networks, Some(BTreeSet::from(["ctl".to_owned()])));
        assert_eq!(seen.traefik_networks, Some(BTreeSet::from(["ctl".to_owned(), "edge".to_owned()])));
        assert_eq!(seen.host.as_deref(), Some("gpu1"));
        let unseen = network_view(&places, &options, &BTreeSet::new(), None);
        assert_eq!((unseen.own_networks, unseen.traefik_networks), (None, None));
    }

    #[test]
    fn our_own_networks_whatever_the_engine_leaves_out() {
        let options = DockerOptions::new("docker", DockerEndpoint::Unix("/run/docker.sock".into()));
        let own = |containers: serde_json::Value| {
            let (all, odd) = wire::read_each::<Listed>(serde_json::from_value(containers).expect("a list"));
            assert!(odd.is_empty(), "{odd:?}");
            let places: Vec<NetworkMember> = all.iter().map(super::place).collect();
            network_view(&places, &options, &BTreeSet::new(), Some("me")).own_networks
        };
        let networks = |name: &str| json!({ "Networks": { name: { "IPAddress": "10.9.0.2" } } });
        let ctl = Some(BTreeSet::from(["ctl".to_owned()]));
        let docker = json!([{ "Id": "me", "HostConfig": { "NetworkMode": "ctl" }, "NetworkSettings": networks("ctl") }]);
        assert_eq!(own(docker), ctl);
        let podman_5 = json!([{ "Id": "me", "HostConfig": { "NetworkMode": "host" }, "NetworkSettings": networks("ctl") }]);
        assert_eq!(own(podman_5), ctl);
        let on_host = json!([{ "Id": "me", "HostConfig": { "NetworkMode": "host" },
            "NetworkSettings": { "Networks": { "host": { "IPAddress": "" } } } }]);
        assert_eq!(own(on_host), None);
        let on_host_in_podman_4 = json!([{ "Id": "me", "NetworkSettings": { "Networks": null } }]);
        assert_eq!(own(on_host_in_podman_4), None);
        let beside_a_vpn = json!([{ "Id": "vpn", "NetworkSettings": networks("ctl") },
            { "Id": "me", "HostConfig": { "NetworkMode": "container:vpn" }, "NetworkSettings": { "Networks": {} } }]);
        assert_eq!(own(beside_a_vpn), ctl);
    }
}
