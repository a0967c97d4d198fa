//! The labelled containers of a host, as plain records.

use std::time::Duration;

use catalogue::{
    ContainerHealth, ContainerRecord, ContainerStatus, DockerFinding, OPT_IN, Problem, PublishedPort,
    misspelt_opt_in,
};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::{
    DockerOptions, Survey,
    api::{Api, ApiError},
    event,
    wire::{self, Inspected, Listed, State},
};

/// The maximum number of concurrent inspections.
const PARALLEL: usize = 8;
/// The time limit for one inspection: an Engine answers for a hanging container only once that is gone.
const TIME: Duration = Duration::from_secs(5);

pub(super) async fn look(api: &Api, options: &DockerOptions, all: &[Listed]) -> Result<Survey, ApiError> {
    let ours: Vec<Listed> = all
        .iter()
        .filter(|it| it.labels.contains_key(OPT_IN) && options.takes(&it.labels))
        .cloned()
        .collect();
    let inspected: Vec<(Listed, Result<Inspected, ApiError>)> = stream::iter(ours)
        .map(|listed| async move {
            let inspected = inspect(api, &listed.id).await;
            (listed, inspected)
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut survey = Survey { problems: misspelt(options, all), ..Survey::default() };
    for (listed, inspected) in inspected {
        let name = options.full_name(listed.name());
        match inspected {
            Ok(inspected) => {
                let stop_signal = event::signal_number(&inspected.config.stop_signal);
                let (mut record, odd) = record(inspected, &listed);
                record.name = options.full_name(&record.name);
                survey.problems.extend(odd.map(|odd| Problem::container(&record.name, odd)));
                survey.stop_signals.extend(stop_signal.map(|signal| (record.id.clone(), signal)));
                survey.containers.push(record);
            }
            // It has gone since it was listed.
            Err(error) if error.status() == Some(404) => {}
            Err(ApiError::Unreachable(why)) => return Err(ApiError::Unreachable(why)),
            Err(error) => {
                let error = error.to_string().replace(&listed.id, listed.name());
                let may_run = may_run(&listed);
                let finding = DockerFinding::NotInspected { error, may_run };
                survey.problems.push(Problem::container(&name, finding));
                survey.unread.extend(may_run.then(|| listed.id.clone()));
            }
        }
    }
    survey.containers.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(survey)
}

/// Problems of running containers whose label is probably a misspelt opt-in.
fn misspelt(options: &DockerOptions, all: &[Listed]) -> Vec<Problem> {
    let ours = |listed: &&Listed| may_run(listed) && options.takes(&listed.labels);
    let found = all.iter().filter(ours).filter_map(|listed| {
        let finding = misspelt_opt_in(&listed.labels)?;
        Some(Problem::container(&options.full_name(listed.name()), finding))
    });
    found.collect()
}

pub(super) async fn inspect(api: &Api, id: &str) -> Result<Inspected, ApiError> {
    api.get_within(&format!("/containers/{id}/json"), TIME).await
}

/// The problem of an unreadable entry of the list, if it may have opted in.
pub(super) fn unreadable(item: &Value, why: &str, options: &DockerOptions) -> Option<Problem> {
    let labels = item.get("Labels");
    let is_anothers = labels.is_none_or(|labels| {
        labels.is_null() || labels.as_object().is_some_and(|labels| !labels.contains_key(OPT_IN))
    });
    let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
    let name = text("/Names/0").or(text("/Id")).unwrap_or("without a name").trim_start_matches('/');
    let finding = DockerFinding::ContainerUnreadable { why: why.to_owned() };
    (!is_anothers).then(|| Problem::container(&options.full_name(name), finding))
}

/// The record from both answers, and what is odd about them. For a half-removed container, the list supplies what the
/// inspection lacks.
fn record(inspected: Inspected, listed: &Listed) -> (ContainerRecord, Option<DockerFinding>) {
    let Inspected { id, name, state, config, host_config, network_settings: settings, .. } = inspected;
    let (status, odd_state) = status(&state, &listed.state);
    let (health, odd_health) = match status {
        ContainerStatus::Running | ContainerStatus::Paused => health(&state.health.status),
        // Podman reports a health even for containers that are not running.
        _ => (None, None),
    };
    let published = settings.ports.iter().flat_map(|(port, bindings)| {
        let container_port = tcp_port(port);
        bindings.iter().flatten().filter_map(move |binding| {
            let (container_port, host_port) = (container_port?, binding.port()?);
            Some(PublishedPort { container_port, host_port, address: binding.host_ip.clone() })
        })
    });
    let mut published_ports: Vec<PublishedPort> = published.collect();
    published_ports.sort_by_key(|p| (p.container_port, p.host_port));
    let record = ContainerRecord {
        id: if id.is_empty() { listed.id.clone() } else { id },
        name: if name.is_empty() {
            listed.name().to_owned()
        } else {
            name.trim_start_matches('/').to_owned()
        },
        image: if config.image.is_empty() { listed.image.clone() } else { config.image },
        labels: if config.labels.is_empty() { listed.labels.clone() } else { config.labels },
        status,
        health,
        started_at: state.started_at,
        networks: wire::addresses(match settings.networks.is_empty() {
            true => &listed.network_settings.networks,
            false => &settings.networks,
        }),
        network_mode: host_config.network_mode,
        exposed_ports: config.exposed_ports.keys().filter_map(|port| tcp_port(port)).collect(),
        published_ports,
    };
    (record, odd_state.or(odd_health))
}

/// Whether it is running, or may start running by itself; true for an unknown state.
pub(super) fn may_run(listed: &Listed) -> bool {
    !matches!(word(&listed.state), Some(ContainerStatus::Exited | ContainerStatus::Created))
}

/// Docker's words for a container's state, and Podman's (<https://docs.podman.io/en/latest/markdown/podman-ps.1.html>,
/// `--filter status`).
fn word(state: &str) -> Option<ContainerStatus> {
    match state {
        "created" | "configured" | "initialized" => Some(ContainerStatus::Created),
        "running" => Some(ContainerStatus::Running),
        "paused" => Some(ContainerStatus::Paused),
        "restarting" => Some(ContainerStatus::Restarting),
        "exited" | "stopped" | "stopping" | "removing" | "dead" => Some(ContainerStatus::Exited),
        _ => None,
    }
}

/// The status. An unknown word is reported, and the Engine's other fields decide.
fn status(state: &State, listed: &str) -> (ContainerStatus, Option<DockerFinding>) {
    // Podman's inspection calls a container that is being stopped `running`; its list says `stopping`.
    if listed == "stopping" {
        return (ContainerStatus::Exited, None);
    }
    let said = if state.status.is_empty() { listed } else { &state.status };
    if let Some(known) = word(said) {
        return (known, None);
    }
    let by_flags = match state {
        State { paused: true, .. } => ContainerStatus::Paused,
        State { restarting: true, .. } => ContainerStatus::Restarting,
        State { running: true, .. } => ContainerStatus::Running,
        _ => ContainerStatus::Exited,
    };
    let odd =
        || DockerFinding::StateUnknown { said: said.to_owned(), runs: by_flags != ContainerStatus::Exited };
    (by_flags, (!said.is_empty()).then(odd))
}

/// The state of its HEALTHCHECK. An unknown word is reported, and the server itself is probed.
fn health(word: &str) -> (Option<ContainerHealth>, Option<DockerFinding>) {
    match word {
        "starting" => (Some(ContainerHealth::Starting), None),
        "healthy" => (Some(ContainerHealth::Healthy), None),
        "unhealthy" => (Some(ContainerHealth::Unhealthy), None),
        "" | "none" => (None, None),
        other => (None, Some(DockerFinding::HealthUnknown { said: other.to_owned() })),
    }
}

/// `8000/tcp` is 8000; `None` for `53/udp`.
fn tcp_port(text: &str) -> Option<u16> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    (protocol == "tcp").then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests;
