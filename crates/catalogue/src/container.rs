//! Turns a container, as Docker describes it, into a server: labels, address and state.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    AddressFinding, AskedFor, DockerHost, DoorFinding, Finding, HealthMode, LabelFinding, LifecycleFinding,
    Problem, ServerId, ServerSpec, ServerState, ServerUrl, Source,
    label::{self, Labels, Reading},
};

/// The default port, where neither label nor image names one: vLLM's.
const DEFAULT_PORT: u16 = 8000;

/// A container's status in Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Between two runs.
    Restarting,
    /// Not running any more, or being removed.
    Exited,
}

/// The state of the container's HEALTHCHECK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerHealth {
    /// It has not passed yet.
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// A container port that the Docker host publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port inside the container.
    pub container_port: u16,
    /// The port on the host.
    pub host_port: u16,
    /// The host's address that it is bound to; empty or unspecified (`0.0.0.0`, `::`) if it is bound to all of them.
    pub address: String,
}

/// A container as Docker's list and inspect describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Its full id.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// The image's name.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its status.
    pub status: ContainerStatus,
    /// The state of its HEALTHCHECK; `None` if it has none.
    pub health: Option<ContainerHealth>,
    /// When it was last started, as Docker writes it.
    pub started_at: String,
    /// The networks that it is attached to, with its address in each (empty while it has none).
    pub networks: BTreeMap<String, String>,
    /// Docker's network mode: `host`, `none`, `container:<id>`, or a network's name.
    pub network_mode: String,
    /// The TCP ports that image and container expose.
    pub exposed_ports: BTreeSet<u16>,
    /// The TCP ports that the host publishes.
    pub published_ports: Vec<PublishedPort>,
}

/// The point from which servers must be reachable. Modelgate probes a server at the same address to which Traefik sends requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// The Docker host's name in `docker.hosts`; `None` for the one that `docker` itself describes.
    pub host: Option<String>,
    /// The network to use, from the configuration.
    pub network: Option<String>,
    /// The Docker host's address, from the configuration.
    pub host_address: Option<String>,
    /// Use the ports that the Docker host publishes and never a container's own address.
    pub published: bool,
    /// The networks that Modelgate's own container is on; `None` if it runs on the host, from
    /// where every bridge network can be reached.
    pub own_networks: Option<BTreeSet<String>>,
    /// The networks of the Traefik that polls Modelgate; `None` while unknown, or if it runs on the host.
    pub traefik_networks: Option<BTreeSet<String>>,
}

impl NetworkView {
    /// This Docker host, as findings name it.
    pub(crate) fn docker_host(&self) -> DockerHost {
        DockerHost(self.host.clone())
    }
}

/// What Modelgate makes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interpretation {
    /// It is not labelled `inference.enable=true`.
    NotEnabled,
    /// It is labelled `inference.enable=true` but cannot be used; the problems say why.
    Rejected,
    /// It is labelled `inference.enable=true` but is not running; it has no address now.
    Down(ServerState),
    /// It is a server. [`ServerState::Ready`] means that Docker shows it as ready, so it can be probed.
    Server(Box<ServerSpec>, ServerState),
}

/// Reads a container. The problems name what is wrong with it.
pub fn interpret(container: &ContainerRecord, network_view: &NetworkView) -> (Interpretation, Vec<Problem>) {
    let problem = |finding| Problem::container(&container.name, finding);
    let (labels, warnings) = match label::read(&container.labels) {
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
    match container.status {
        ContainerStatus::Created => {
            return (Interpretation::Down(starting(LifecycleFinding::NotStarted)), problems);
        }
        ContainerStatus::Restarting => {
            return (Interpretation::Down(starting(LifecycleFinding::Restarting)), problems);
        }
        ContainerStatus::Exited => {
            let stopped = ServerState::Stopped(LifecycleFinding::Stopped.into());
            return (Interpretation::Down(stopped), problems);
        }
        ContainerStatus::Running | ContainerStatus::Paused => {}
    }
    match describe(container, &labels, network_view) {
        Ok((spec, state)) => {
            problems.extend(published_to_all(
                container,
                port(&labels, &container.exposed_ports),
                network_view,
            ));
            (Interpretation::Server(Box::new(spec), state), problems)
        }
        Err(finding) => {
            problems.push(problem(finding));
            (Interpretation::Rejected, problems)
        }
    }
}

pub(crate) fn starting(why: impl Into<Finding>) -> ServerState {
    ServerState::Starting(why.into())
}

fn describe(
    container: &ContainerRecord,
    labels: &Labels,
    network_view: &NetworkView,
) -> Result<(ServerSpec, ServerState), Finding> {
    let health = match (labels.health, container.health) {
        (Some(HealthMode::Docker), None) => {
            return Err(LabelFinding::NoHealthcheck.into());
        }
        (Some(mode), _) => mode,
        (None, Some(_)) => HealthMode::Docker,
        (None, None) => HealthMode::Probe,
    };
    let spec = ServerSpec {
        id: ServerId::docker(&container.id),
        name: container.name.clone(),
        source: Source::Docker { container_id: container.id.clone(), image: container.image.clone() },
        url: url(container, labels, network_view)?,
        base_path: labels.base_path.clone(),
        models: labels.models.clone(),
        health,
        incarnation: container.started_at.clone(),
        settings: labels.settings.clone(),
        model_settings: labels.model_settings.clone(),
        credential: None,
    };
    let state = match (container.status, health, container.health) {
        (ContainerStatus::Paused, ..) => ServerState::Draining(LifecycleFinding::Frozen.into()),
        (_, HealthMode::Docker, Some(ContainerHealth::Starting)) => {
            starting(LifecycleFinding::HealthcheckPending)
        }
        (_, HealthMode::Docker, Some(ContainerHealth::Unhealthy)) => {
            ServerState::Draining(LifecycleFinding::HealthcheckFails.into())
        }
        _ => ServerState::Ready,
    };
    Ok((spec, state))
}

fn url(
    container: &ContainerRecord,
    labels: &Labels,
    network_view: &NetworkView,
) -> Result<ServerUrl, AddressFinding> {
    let port = port(labels, &container.exposed_ports);
    if network_view.published {
        return published(container, port, network_view);
    }
    if container.network_mode == "host" {
        let on_host = network_view.own_networks.is_none().then_some("127.0.0.1");
        let address = network_view.host_address.as_deref().or(on_host);
        let address = address.ok_or_else(|| AddressFinding::HostNetwork(network_view.docker_host()))?;
        return Ok(ServerUrl::http(address, port));
    }
    address(container, labels, network_view).map(|address| ServerUrl::http(address, port))
}

/// The port to use: the one named by the label, else the only exposed one, else vLLM's.
pub(crate) fn port(labels: &Labels, exposed: &BTreeSet<u16>) -> u16 {
    labels.port.unwrap_or_else(|| {
        let mut exposed = exposed.iter();
        match (exposed.next(), exposed.next()) {
            (Some(only), None) => *only,
            _ => DEFAULT_PORT,
        }
    })
}

fn published(
    container: &ContainerRecord,
    port: u16,
    network_view: &NetworkView,
) -> Result<ServerUrl, AddressFinding> {
    let host = network_view.host_address.as_deref();
    let host = host.ok_or_else(|| AddressFinding::HostUnknown(network_view.docker_host()))?;
    if container.network_mode == "host" {
        return Ok(ServerUrl::http(host, port));
    }
    let found = container.published_ports.iter().find(|p| p.container_port == port);
    let found =
        found.ok_or_else(|| AddressFinding::PortNotPublished { host: network_view.docker_host(), port })?;
    Ok(ServerUrl::http(host, found.host_port))
}

/// The published port by which anybody who reaches the Docker host can ask the server without a key. No finding where Traefik
/// itself needs the published port.
fn published_to_all(container: &ContainerRecord, port: u16, network_view: &NetworkView) -> Option<Problem> {
    let to_all =
        |p: &&PublishedPort| p.container_port == port && ["", "0.0.0.0", "::"].contains(&p.address.as_str());
    let found = container.published_ports.iter().find(to_all).filter(|_| !network_view.published)?;
    Some(open_port(&container.name, found.host_port, port))
}

/// The hint about a server's port that its host publishes on every address.
pub fn open_port(name: &str, host_port: u16, port: u16) -> Problem {
    Problem::container(name, DoorFinding::OpenPort { port, host_port })
}

/// Its address on the network that is chosen by labels, configuration and `network_view`.
pub(crate) fn address<'a>(
    container: &'a ContainerRecord,
    labels: &Labels,
    network_view: &NetworkView,
) -> Result<&'a str, AddressFinding> {
    let attached = || container.networks.keys().cloned().collect::<Vec<_>>();
    if container.networks.is_empty() {
        return Err(AddressFinding::NoNetwork { mode: container.network_mode.clone() });
    }
    if let Some(wanted) = labels.network.as_ref().or(network_view.network.as_ref()) {
        let asked_for = || match labels.network.is_some() {
            true => AskedFor::ByLabel,
            false => AskedFor::ByConfiguration(network_view.docker_host()),
        };
        let network = resolve(container, wanted).ok_or_else(|| AddressFinding::NotAttached {
            asked_for: asked_for(),
            wanted: wanted.clone(),
            attached: attached(),
        })?;
        return with_address(container, network);
    }
    let shared = |name: &str, with: &Option<BTreeSet<String>>| with.as_ref().is_none_or(|w| w.contains(name));
    let network = container
        .networks
        .keys()
        .find(|name| shared(name, &network_view.own_networks) && shared(name, &network_view.traefik_networks))
        .ok_or_else(|| AddressFinding::NotShared {
            attached: attached(),
            modelgate: network_view.own_networks.clone(),
            traefik: network_view.traefik_networks.clone(),
        })?;
    with_address(container, network)
}

/// The network of that name, or of the short name that it has in Compose and `docker stack`.
fn resolve<'a>(container: &'a ContainerRecord, wanted: &str) -> Option<&'a String> {
    const PROJECTS: [&str; 2] = ["com.docker.compose.project", "com.docker.stack.namespace"];
    let projects = PROJECTS.iter().filter_map(|label| container.labels.get(*label));
    let full: Vec<String> = projects.map(|project| format!("{project}_{wanted}")).collect();
    let networks = || container.networks.keys();
    networks().find(|n| *n == wanted).or_else(|| networks().find(|n| full.contains(n)))
}

fn with_address<'a>(container: &'a ContainerRecord, network: &str) -> Result<&'a str, AddressFinding> {
    match container.networks.get(network).map(String::as_str) {
        Some(address) if !address.is_empty() => Ok(address),
        _ => Err(AddressFinding::NoAddress { network: network.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(labels: &[(&str, &str)]) -> ContainerRecord {
        let labels = labels.iter().chain(&[("inference.enable", "true")]);
        ContainerRecord {
            id: "c1".into(),
            name: "vllm".into(),
            image: "vllm/vllm-openai".into(),
            labels: labels.map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            status: ContainerStatus::Running,
            health: None,
            started_at: "2026-01-01T00:00:00Z".into(),
            networks: BTreeMap::from([("ai".into(), "10.1.0.2".into()), ("back".into(), "10.2.0.2".into())]),
            network_mode: "ai".into(),
            exposed_ports: BTreeSet::new(),
            published_ports: Vec::new(),
        }
    }

    fn on(networks: &[&str]) -> Option<BTreeSet<String>> {
        Some(networks.iter().map(|n| (*n).into()).collect())
    }

    /// The URL, or the first problem.
    fn url_of(container: &ContainerRecord, network_view: &NetworkView) -> String {
        match interpret(container, network_view) {
            (Interpretation::Server(spec, _), _) => spec.url.to_string(),
            (_, problems) => problems[0].finding.to_string(),
        }
    }

    #[test]
    fn the_port_comes_from_label_then_image_then_default() {
        let mut c = container(&[]);
        assert_eq!(url_of(&c, &NetworkView::default()), "http://10.1.0.2:8000");
        c.exposed_ports = BTreeSet::from([30000]);
        assert_eq!(url_of(&c, &NetworkView::default()), "http://10.1.0.2:30000");
        c.exposed_ports = BTreeSet::from([30000, 9090]);
        assert_eq!(
            url_of(&c, &NetworkView::default()),
            "http://10.1.0.2:8000",
            "two exposed ports decide nothing"
        );
        c.labels.insert("inference.port".into(), "9090".into());
        assert_eq!(url_of(&c, &NetworkView::default()), "http://10.1.0.2:9090");
    }

    #[test]
    fn the_address_is_one_that_modelgate_and_traefik_share() {
        let c = container(&[]);
        let network_view = |own, traefik| NetworkView {
            own_networks: own,
            traefik_networks: traefik,
            ..NetworkView::default()
        };
        assert_eq!(url_of(&c, &network_view(on(&["back", "x"]), None)), "http://10.2.0.2:8000");
        assert_eq!(url_of(&c, &network_view(on(&["ai", "back"]), on(&["back"]))), "http://10.2.0.2:8000");
        assert_eq!(
            url_of(&c, &network_view(on(&["x"]), on(&["back"]))),
            "it is not on a network shared with Traefik and Modelgate: it is on: ai, back; Modelgate is on: x; Traefik is on: back"
        );
    }

    #[test]
    fn a_named_network_wins_and_must_be_there() {
        let network_view =
            NetworkView { network: Some("back".into()), own_networks: on(&["ai"]), ..NetworkView::default() };
        assert_eq!(url_of(&container(&[]), &network_view), "http://10.2.0.2:8000");
        assert_eq!(url_of(&container(&[("inference.network", "ai")]), &network_view), "http://10.1.0.2:8000");
        assert_eq!(
            url_of(&container(&[("inference.network", "nope")]), &network_view),
            "label inference.network is \"nope\", but it is attached to: ai, back"
        );
        let of_host =
            NetworkView { host: Some("gpu1".into()), network: Some("nope".into()), ..NetworkView::default() };
        assert_eq!(
            url_of(&container(&[]), &of_host),
            "docker.hosts[gpu1].network is \"nope\", but it is attached to: ai, back"
        );
    }

    #[test]
    fn compose_short_names_of_networks_work() {
        let mut c = container(&[("inference.network", "gpu"), ("com.docker.compose.project", "stack")]);
        c.networks = BTreeMap::from([("stack_gpu".into(), "10.3.0.2".into())]);
        assert_eq!(url_of(&c, &NetworkView::default()), "http://10.3.0.2:8000");
    }

    #[test]
    fn host_network() {
        let mut c = container(&[]);
        c.network_mode = "host".into();
        c.networks = BTreeMap::from([("host".into(), String::new())]);
        assert_eq!(url_of(&c, &NetworkView::default()), "http://127.0.0.1:8000", "Modelgate is on the host");
        let in_container = NetworkView { own_networks: on(&["ai"]), ..NetworkView::default() };
        assert!(url_of(&c, &in_container).contains("set docker.host_address"));
        let told = NetworkView { host_address: Some("10.0.0.5".into()), ..in_container };
        assert_eq!(url_of(&c, &told), "http://10.0.0.5:8000");
    }

    #[test]
    fn published_ports_of_a_remote_host() {
        let network_view =
            NetworkView { published: true, host_address: Some("gpu2".into()), ..NetworkView::default() };
        let mut c = container(&[]);
        assert!(url_of(&c, &network_view).contains("its port 8000 is not published"));
        c.published_ports =
            vec![PublishedPort { container_port: 8000, host_port: 32768, address: "0.0.0.0".into() }];
        assert_eq!(url_of(&c, &network_view), "http://gpu2:32768");
    }

    /// Anybody in the network asks such a server without a key; a finding where there is none teaches operators to look away.
    #[test]
    fn a_port_that_everybody_reaches_is_told() {
        let port = |container_port, address: &str| PublishedPort {
            container_port,
            host_port: 32768,
            address: address.into(),
        };
        let published =
            NetworkView { published: true, host_address: Some("gpu2".into()), ..NetworkView::default() };
        for (ports, network_view, is_told) in [
            (vec![port(8000, "0.0.0.0")], NetworkView::default(), true),
            (vec![port(8000, "::")], NetworkView::default(), true),
            (vec![port(8000, "")], NetworkView::default(), true),
            (vec![port(8000, "127.0.0.1")], NetworkView::default(), false),
            (vec![port(9000, "0.0.0.0")], NetworkView::default(), false),
            (vec![port(8000, "0.0.0.0")], published, false),
            (vec![], NetworkView::default(), false),
        ] {
            let container = ContainerRecord { published_ports: ports.clone(), ..container(&[]) };
            let (_, problems) = interpret(&container, &network_view);
            let expected = is_told.then(|| open_port("vllm", 32768, 8000));
            assert_eq!(problems, Vec::from_iter(expected), "{ports:?}");
        }
    }

    #[test]
    fn who_decides_about_health() {
        let state = |labels: &[(&str, &str)], health| {
            let c = ContainerRecord { health, ..container(labels) };
            match interpret(&c, &NetworkView::default()) {
                (Interpretation::Server(spec, state), _) => (spec.health, state.name()),
                other => panic!("{other:?}"),
            }
        };
        use ContainerHealth::{Healthy, Starting, Unhealthy};
        assert_eq!(state(&[], None), (HealthMode::Probe, "ready"));
        assert_eq!(state(&[], Some(Starting)), (HealthMode::Docker, "starting"));
        assert_eq!(state(&[], Some(Healthy)), (HealthMode::Docker, "ready"));
        assert_eq!(state(&[], Some(Unhealthy)), (HealthMode::Docker, "draining"));
        assert_eq!(state(&[("inference.health", "probe")], Some(Unhealthy)), (HealthMode::Probe, "ready"));
        let (what, problems) =
            interpret(&container(&[("inference.health", "docker")]), &NetworkView::default());
        assert_eq!(what, Interpretation::Rejected);
        assert_eq!(problems[0].finding, LabelFinding::NoHealthcheck.into());
    }

    #[test]
    fn a_stopped_container_is_down_and_a_foreign_one_is_not_ours() {
        let mut c = container(&[]);
        c.status = ContainerStatus::Exited;
        assert!(matches!(
            interpret(&c, &NetworkView::default()).0,
            Interpretation::Down(ServerState::Stopped(_))
        ));
        c.labels.clear();
        assert_eq!(interpret(&c, &NetworkView::default()).0, Interpretation::NotEnabled);
    }
}
