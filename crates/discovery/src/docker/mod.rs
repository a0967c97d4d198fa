//! Docker as a source of servers: any number of hosts, each an Engine or a manager of a Swarm.
//!
//! The Engine API in use: `GET /containers/json`, `GET /containers/{id}/json` and `GET /events`; for
//! a Swarm `GET /services`, `GET /tasks`, `GET /containers/json` and, for tasks on their node's own
//! network, `GET /nodes` (<https://docs.docker.com/reference/api/engine/>). Nothing is ever written.

mod api;
mod connection;
mod containers;
mod doors;
mod event;
mod own;
mod service;
mod survey;
mod swarm;
mod watch;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

pub(crate) use event::Withdrawal;
pub(crate) use survey::Survey;
pub(crate) use watch::{DockerUpdate, watch};

/// Where the Docker Engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEndpoint {
    /// `unix:///var/run/docker.sock`, as a path.
    Unix(PathBuf),
    /// `tcp://host:port`, without encryption; a socket proxy, for instance.
    Tcp(String),
    /// `tcp://host:port` with TLS client authentication.
    Tls(String, DockerTls),
}

/// PEM files for a Docker Engine with TLS client authentication (<https://docs.docker.com/engine/security/protect-access/>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerTls {
    /// The CA that signed the Engine's certificate.
    pub ca: PathBuf,
    /// The client certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A Docker host to discover servers on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// Its unique name; [`DockerOptions::DEFAULT_NAME`] if there is only one host.
    pub name: String,
    /// Where the Engine listens.
    pub endpoint: DockerEndpoint,
    /// The network whose addresses are used.
    pub network: Option<String>,
    /// The host's own address, for host networking and published ports.
    pub host_address: Option<String>,
    /// Use only published ports: the host is remote.
    pub published: bool,
    /// Only containers of this Compose project, or services of this stack; `None`: all.
    pub project: Option<String>,
    /// It is a manager of a Swarm, whose tasks are the servers.
    pub swarm: bool,
    /// The ports of Modelgate's own container that are for Traefik alone.
    pub own_ports: BTreeSet<u16>,
}

/// The name of a Docker host; unique.
pub(crate) type HostName = Arc<str>;

impl DockerOptions {
    /// The name of the only host.
    pub const DEFAULT_NAME: &str = "docker";

    /// A host whose containers are reached at their own addresses.
    pub fn new(name: &str, endpoint: DockerEndpoint) -> Self {
        Self {
            name: name.into(),
            endpoint,
            network: None,
            host_address: None,
            published: false,
            project: None,
            swarm: false,
            own_ports: BTreeSet::new(),
        }
    }

    /// Whether a container or service with these labels is looked at.
    fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        /// What Compose sets on containers, and `docker stack deploy` on services.
        const PROJECTS: [&str; 2] = ["com.docker.compose.project", "com.docker.stack.namespace"];
        self.project.as_ref().is_none_or(|project| {
            PROJECTS.iter().any(|label| labels.get(*label).is_some_and(|found| found == project))
        })
    }

    /// The name, unless it is the default one.
    fn given_name(&self) -> Option<&str> {
        given_name(&self.name)
    }

    /// The name shown to people for a container or task, with the host's name if there are several hosts.
    fn full_name(&self, name: &str) -> String {
        match self.given_name() {
            Some(host) => format!("{host}/{name}"),
            None => name.into(),
        }
    }
}

/// A host's name in the configuration, unless it is the default one.
pub(crate) fn given_name(host: &str) -> Option<&str> {
    (host != DockerOptions::DEFAULT_NAME).then_some(host)
}

/// A host's name as a source of servers.
pub(crate) fn source_name(host: &str) -> String {
    match host {
        DockerOptions::DEFAULT_NAME => host.into(),
        _ => format!("docker {host}"),
    }
}

impl std::fmt::Display for DockerEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_leaves_out_the_containers_of_others() {
        let mut options = DockerOptions::new("docker", DockerEndpoint::Unix("/run/docker.sock".into()));
        let labels = |label: &str, project: &str| BTreeMap::from([(label.to_owned(), project.to_owned())]);
        let [compose, stack] = ["com.docker.compose.project", "com.docker.stack.namespace"];
        assert!(options.takes(&BTreeMap::new()) && options.takes(&labels(compose, "other")));
        options.project = Some("ai".into());
        for (found, taken) in [
            (labels(compose, "ai"), true),
            (labels(stack, "ai"), true),
            (labels(compose, "AI"), false),
            (labels(compose, "ai2"), false),
            (labels("project", "ai"), false),
            (BTreeMap::new(), false),
        ] {
            assert_eq!(options.takes(&found), taken, "{found:?}");
        }
    }
}
