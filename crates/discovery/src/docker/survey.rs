//! One look at everything on a host: which servers there are, and from where they can be reached.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use bollard::{Docker, models::ContainerSummary, query_parameters::ListContainersOptionsBuilder};
use catalogue::{ContainerRecord, Problem, TaskRecord, Vantage};

use super::{DockerOptions, api::Api, containers, own, swarm};

/// What one look showed.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The containers with an `inference.enable` label.
    pub(crate) containers: Vec<ContainerRecord>,
    /// The tasks of the services with that label.
    pub(crate) tasks: Vec<TaskRecord>,
    /// From where they can be reached.
    pub(crate) vantage: Vantage,
    /// The signal that stops each of them.
    pub(crate) stop_signals: HashMap<String, i64>,
    /// What is wrong beside what their labels say.
    pub(crate) problems: Vec<Problem>,
}

/// A connection to a host.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) docker: Docker,
    /// For what only a manager of a Swarm can be asked.
    pub(super) swarm: Option<Api>,
}

/// Something with addresses in networks: a container of this host, or a task anywhere in the Swarm.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) container_id: String,
    pub(super) networks: BTreeMap<String, String>,
    pub(super) on_host_network: bool,
}

impl Connection {
    pub(super) async fn open(options: &DockerOptions) -> Result<Self, String> {
        let docker = options.endpoint.connect().map_err(|error| error.to_string())?;
        let docker = docker.negotiate_version().await.map_err(|error| error.to_string())?;
        let swarm = match options.swarm {
            true => Some(Api::new(&options.endpoint, docker.client_version())?),
            false => None,
        };
        Ok(Self { docker, swarm })
    }

    pub(super) async fn survey(
        &self,
        options: &DockerOptions,
        traefik_peers: &BTreeSet<IpAddr>,
    ) -> Result<Survey, String> {
        let list = ListContainersOptionsBuilder::default().all(true).build();
        let all = self.docker.list_containers(Some(list)).await.map_err(|error| error.to_string())?;
        let mut places: Vec<Place> = all.iter().map(place).collect();
        let survey = match &self.swarm {
            None => containers::look(&self.docker, options, all).await?,
            Some(api) => swarm::look(&self.docker, api, options, &mut places).await?,
        };
        let vantage = vantage(&places, options, traefik_peers, own::container_id().as_deref());
        Ok(Survey { vantage, ..survey })
    }
}

fn place(container: &ContainerSummary) -> Place {
    let networks = container.network_settings.as_ref().and_then(|s| s.networks.clone()).unwrap_or_default();
    Place {
        container_id: container.id.clone().unwrap_or_default(),
        networks: networks.into_iter().map(|(name, n)| (name, n.ip_address.unwrap_or_default())).collect(),
        on_host_network: container.host_config.as_ref().and_then(|h| h.network_mode.as_deref())
            == Some("host"),
    }
}

/// How Traefik's networks are known: by the address from which it polls us.
fn vantage(
    places: &[Place],
    options: &DockerOptions,
    traefik_peers: &BTreeSet<IpAddr>,
    own_id: Option<&str>,
) -> Vantage {
    let networks = |place: &Place| place.networks.keys().cloned().collect::<BTreeSet<String>>();
    let own = places.iter().find(|p| own_id == Some(p.container_id.as_str()));
    let is_peer = |place: &&Place| {
        place.networks.values().any(|a| a.parse().is_ok_and(|a: IpAddr| traefik_peers.contains(&a)))
    };
    let traefik =
        places.iter().filter(is_peer).map(networks).reduce(|a, b| a.intersection(&b).cloned().collect());
    Vantage {
        host: options.given_name().map(str::to_owned),
        network: options.network.clone(),
        host_address: options.host_address.clone(),
        published: options.published,
        own_networks: own.filter(|p| !p.on_host_network).map(networks),
        traefik_networks: traefik,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DockerEndpoint;

    fn place(id: &str, networks: &[(&str, &str)]) -> Place {
        Place {
            container_id: id.into(),
            networks: networks.iter().map(|(name, ip)| ((*name).into(), (*ip).into())).collect(),
            on_host_network: false,
        }
    }

    #[test]
    fn traefiks_networks_are_known_by_the_address_it_polls_from() {
        let places =
            [place("me", &[("ctl", "10.9.0.2")]), place("t", &[("edge", "10.1.0.2"), ("ctl", "10.9.0.3")])];
        let options = DockerOptions {
            name: "gpu1".into(),
            endpoint: DockerEndpoint::Unix("/run/docker.sock".into()),
            network: None,
            host_address: None,
            published: false,
            swarm: false,
        };
        let peers = BTreeSet::from(["10.9.0.3".parse().expect("an address")]);
        let seen = vantage(&places, &options, &peers, Some("me"));
        assert_eq!(seen.own_networks, Some(BTreeSet::from(["ctl".to_owned()])));
        assert_eq!(seen.traefik_networks, Some(BTreeSet::from(["ctl".to_owned(), "edge".to_owned()])));
        assert_eq!(seen.host.as_deref(), Some("gpu1"));
        let unseen = vantage(&places, &options, &BTreeSet::new(), None);
        assert_eq!((unseen.own_networks, unseen.traefik_networks), (None, None));
    }
}
