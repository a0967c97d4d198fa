//! One look at everything: which containers there are, and from where they can be reached.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, HealthStatusEnum},
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};
use catalogue::{ContainerHealth, ContainerRecord, ContainerStatus, PublishedPort, Vantage};
use futures_util::{StreamExt as _, stream};

use super::{DockerOptions, event, own};

/// Inspections under way at once.
const PARALLEL: usize = 8;

/// What one look showed.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The containers with an `inference.enable` label.
    pub(crate) containers: Vec<ContainerRecord>,
    /// From where they can be reached.
    pub(crate) vantage: Vantage,
    /// The signal that stops each of them.
    pub(crate) stop_signals: HashMap<String, i64>,
}

pub(crate) async fn survey(
    docker: &Docker,
    options: &DockerOptions,
    traefik_peers: &BTreeSet<IpAddr>,
) -> Result<Survey, Error> {
    let all = docker.list_containers(Some(ListContainersOptionsBuilder::default().all(true).build())).await?;
    let vantage = vantage(&all, options, traefik_peers, own::container_id().as_deref());
    let ours =
        all.into_iter().filter(|c| c.labels.as_ref().is_some_and(|l| l.contains_key("inference.enable")));
    let inspected: Vec<Result<Option<ContainerInspectResponse>, Error>> = stream::iter(ours)
        .map(|c| async move { inspect(docker, c.id.as_deref().unwrap_or_default()).await })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut survey = Survey { containers: Vec::new(), vantage, stop_signals: HashMap::new() };
    for container in inspected {
        let Some(container) = container? else { continue };
        let stop_signal = container.config.as_ref().and_then(|c| c.stop_signal.as_deref());
        let stop_signal = stop_signal.and_then(event::signal_number);
        let record = record(container);
        survey.stop_signals.extend(stop_signal.map(|signal| (record.id.clone(), signal)));
        survey.containers.push(record);
    }
    survey.containers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(survey)
}

/// `None` if the container has gone since it was listed.
async fn inspect(docker: &Docker, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
    match docker.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(container) => Ok(Some(container)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// How Traefik's networks are known: by the address from which it polls us.
fn vantage(
    all: &[ContainerSummary],
    options: &DockerOptions,
    traefik_peers: &BTreeSet<IpAddr>,
    own_id: Option<&str>,
) -> Vantage {
    let own = all.iter().find(|c| own_id.is_some() && c.id.as_deref() == own_id);
    let is_peer = |c: &&ContainerSummary| {
        networks(c).values().any(|a| a.parse().is_ok_and(|a: IpAddr| traefik_peers.contains(&a)))
    };
    let traefik =
        all.iter().filter(is_peer).map(network_names).reduce(|a, b| a.intersection(&b).cloned().collect());
    Vantage {
        network: options.network.clone(),
        host_address: options.host_address.clone(),
        published: options.published,
        own_networks: own.filter(|c| !uses_host_network(c)).map(network_names),
        traefik_networks: traefik,
    }
}

fn uses_host_network(container: &ContainerSummary) -> bool {
    container.host_config.as_ref().and_then(|h| h.network_mode.as_deref()) == Some("host")
}

fn networks(container: &ContainerSummary) -> BTreeMap<String, String> {
    let networks = container.network_settings.as_ref().and_then(|s| s.networks.clone()).unwrap_or_default();
    networks.into_iter().map(|(name, n)| (name, n.ip_address.unwrap_or_default())).collect()
}

fn network_names(container: &ContainerSummary) -> BTreeSet<String> {
    networks(container).into_keys().collect()
}

fn record(container: ContainerInspectResponse) -> ContainerRecord {
    let config = container.config.unwrap_or_default();
    let state = container.state.unwrap_or_default();
    let settings = container.network_settings.unwrap_or_default();
    let health = state.health.and_then(|h| h.status).and_then(|status| match status {
        HealthStatusEnum::STARTING => Some(ContainerHealth::Starting),
        HealthStatusEnum::HEALTHY => Some(ContainerHealth::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(ContainerHealth::Unhealthy),
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
    });
    let published = settings.ports.unwrap_or_default().into_iter().flat_map(|(port, bindings)| {
        let container_port = tcp_port(&port);
        let hosts = bindings.unwrap_or_default().into_iter().filter_map(|b| b.host_port?.parse().ok());
        hosts.filter_map(move |host_port| Some(PublishedPort { container_port: container_port?, host_port }))
    });
    let mut published_ports: Vec<PublishedPort> = published.collect();
    published_ports.sort_by_key(|p| (p.container_port, p.host_port));
    ContainerRecord {
        id: container.id.unwrap_or_default(),
        name: container.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        status: match state.status {
            Some(ContainerStateStatusEnum::CREATED) => ContainerStatus::Created,
            Some(ContainerStateStatusEnum::RUNNING) => ContainerStatus::Running,
            Some(ContainerStateStatusEnum::PAUSED) => ContainerStatus::Paused,
            Some(ContainerStateStatusEnum::RESTARTING) => ContainerStatus::Restarting,
            _ => ContainerStatus::Exited,
        },
        health,
        started_at: state.started_at.unwrap_or_default(),
        networks: settings
            .networks
            .unwrap_or_default()
            .into_iter()
            .map(|(name, n)| (name, n.ip_address.unwrap_or_default()))
            .collect(),
        network_mode: container.host_config.and_then(|h| h.network_mode).unwrap_or_default(),
        exposed_ports: config.exposed_ports.unwrap_or_default().iter().filter_map(|p| tcp_port(p)).collect(),
        published_ports,
    }
}

/// `8000/tcp` is 8000; `53/udp` is none.
fn tcp_port(text: &str) -> Option<u16> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    (protocol == "tcp").then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerSummaryNetworkSettings, EndpointSettings};

    use super::*;
    use crate::DockerEndpoint;

    fn container(id: &str, networks: &[(&str, &str)]) -> ContainerSummary {
        let endpoint =
            |ip: &str| EndpointSettings { ip_address: Some(ip.into()), ..EndpointSettings::default() };
        let networks = networks.iter().map(|(name, ip)| ((*name).to_owned(), endpoint(ip))).collect();
        ContainerSummary {
            id: Some(id.into()),
            network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn traefiks_networks_are_known_by_the_address_it_polls_from() {
        let all = [
            container("me", &[("ctl", "10.9.0.2")]),
            container("t", &[("edge", "10.1.0.2"), ("ctl", "10.9.0.3")]),
        ];
        let options = DockerOptions {
            endpoint: DockerEndpoint::Unix("/run/docker.sock".into()),
            network: None,
            host_address: None,
            published: false,
        };
        let peers = BTreeSet::from(["10.9.0.3".parse().expect("an address")]);
        let seen = vantage(&all, &options, &peers, Some("me"));
        assert_eq!(seen.own_networks, Some(BTreeSet::from(["ctl".to_owned()])));
        assert_eq!(seen.traefik_networks, Some(BTreeSet::from(["ctl".to_owned(), "edge".to_owned()])));
        let unseen = vantage(&all, &options, &BTreeSet::new(), None);
        assert_eq!((unseen.own_networks, unseen.traefik_networks), (None, None));
    }

    #[test]
    fn ports_are_tcp_ports() {
        assert_eq!(tcp_port("8000/tcp"), Some(8000));
        assert_eq!(tcp_port("53/udp"), None);
    }
}
