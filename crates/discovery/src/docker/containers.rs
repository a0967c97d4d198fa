//! The labelled containers of a host, as plain records.

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, HealthStatusEnum},
    query_parameters::InspectContainerOptions,
};
use catalogue::{ContainerHealth, ContainerRecord, ContainerStatus, PublishedPort};
use futures_util::{StreamExt as _, stream};

use super::{DockerOptions, Survey, event};

/// Inspections under way at once.
const PARALLEL: usize = 8;

pub(super) async fn look(
    docker: &Docker,
    options: &DockerOptions,
    all: Vec<ContainerSummary>,
) -> Result<Survey, String> {
    let ours =
        all.into_iter().filter(|c| c.labels.as_ref().is_some_and(|l| l.contains_key("inference.enable")));
    let inspected: Vec<Result<Option<ContainerInspectResponse>, Error>> = stream::iter(ours)
        .map(|c| async move { inspect(docker, c.id.as_deref().unwrap_or_default()).await })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut survey = Survey::default();
    for container in inspected {
        let Some(container) = container.map_err(|error| error.to_string())? else { continue };
        let stop_signal = container.config.as_ref().and_then(|c| c.stop_signal.as_deref());
        let stop_signal = stop_signal.and_then(event::signal_number);
        let mut record = record(container);
        record.name = options.full_name(&record.name);
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
    use super::*;

    #[test]
    fn ports_are_tcp_ports() {
        assert_eq!(tcp_port("8000/tcp"), Some(8000));
        assert_eq!(tcp_port("53/udp"), None);
    }
}
