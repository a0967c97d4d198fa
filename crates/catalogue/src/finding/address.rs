//! Servers that have no address at which Traefik reaches them.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use super::Facts;

/// Why a container or task has no address at which it can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFinding {
    /// It is not on any network.
    NoNetwork {
        /// Docker's network mode.
        mode: String,
    },
    /// It is not on the network by which it should be reached.
    NotAttached {
        /// Where that network is set.
        asked_for: AskedFor,
        /// The network.
        wanted: String,
        /// The networks that it is on.
        attached: Vec<String>,
    },
    /// It is on no network that Traefik and Modelgate share.
    NotShared {
        /// The networks that it is on.
        attached: Vec<String>,
        /// Modelgate's, if they are known.
        modelgate: Option<BTreeSet<String>>,
        /// Traefik's, if they are known.
        traefik: Option<BTreeSet<String>>,
    },
    /// It has no address on the network that was chosen.
    NoAddress {
        /// That network.
        network: String,
    },
    /// It is on its host's network, whose address Modelgate's container does not know.
    HostNetwork(DockerHost),
    /// It is on the network of a Swarm's node whose address is not known.
    NodeNetwork(DockerHost),
    /// `reach: published`, but the host's address is not set.
    HostUnknown(DockerHost),
    /// `reach: published`, but the host does not publish its port.
    PortNotPublished {
        /// Where it runs.
        host: DockerHost,
        /// Its port.
        port: u16,
    },
    /// `reach: published`, but its node does not publish the port for this task alone.
    NodeDoesNotPublish {
        /// Where it runs.
        host: DockerHost,
        /// Its port.
        port: u16,
    },
    /// `reach: published`, but its node's address is not known.
    NodeUnknown(DockerHost),
}

/// Where the network is set by which a server should be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AskedFor {
    /// Its label `inference.network`.
    ByLabel,
    /// The configuration of its Docker host.
    ByConfiguration(DockerHost),
}

/// A Docker host by its name in `docker.hosts`; `None` is the one that `docker` itself describes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DockerHost(pub Option<String>);

impl DockerHost {
    /// The full name of this host's key in the configuration.
    pub fn key(&self, key: &str) -> String {
        match &self.0 {
            None => format!("docker.{key}"),
            Some(host) => format!("docker.hosts[{host}].{key}"),
        }
    }
}

impl AddressFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::NoNetwork { .. } => Facts::fault("no_network"),
            Self::NotAttached { .. } => Facts::fault("network_not_attached"),
            Self::NotShared { .. } => Facts::fault("no_shared_network"),
            Self::NoAddress { .. } => Facts::fault("no_address_on_network"),
            Self::HostNetwork(_) => Facts::fault("host_network_without_address"),
            Self::NodeNetwork(_) => Facts::fault("node_network_without_address"),
            Self::HostUnknown(_) => Facts::fault("published_without_host_address"),
            Self::PortNotPublished { .. } => Facts::fault("port_not_published"),
            Self::NodeDoesNotPublish { .. } => Facts::fault("port_not_published_by_node"),
            Self::NodeUnknown(_) => Facts::fault("published_without_node_address"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::NoNetwork { .. } => {
                "Give it a network that Traefik and Modelgate are on: networks: in its Compose file.".into()
            }
            Self::NotAttached { asked_for: AskedFor::ByLabel, .. } => {
                "Correct the label to one of the networks that it is attached to, or attach it to that one (networks: in its \
                 Compose file); then start the container anew: docker compose up -d."
                    .into()
            }
            Self::NotAttached { asked_for: AskedFor::ByConfiguration(host), .. } => format!(
                "Set {} to one of the networks that it is attached to, or attach it to that one (networks: in its Compose \
                 file).",
                host.key("network")
            )
            .into(),
            Self::NotShared { .. } => {
                "Attach the container to a network that Traefik and Modelgate are on (networks: in its Compose file). Without \
                 one Traefik would show the service with 0 servers, or answer 502 or 504."
                    .into()
            }
            Self::NoAddress { .. } => {
                "Docker gives it an address once it runs; if it does, disconnect it from the network and connect it again."
                    .into()
            }
            Self::HostNetwork(host) => format!(
                "Set {} to the Docker host's address on a network that Traefik reaches.",
                host.key("host_address")
            )
            .into(),
            Self::NodeNetwork(host) | Self::NodeUnknown(host) => format!(
                "A proxy before the Docker socket must let GET /nodes through, as deploy/docker-socket-proxy.cfg shows; with \
                 one node, setting {} to its address will do.",
                host.key("host_address")
            )
            .into(),
            Self::HostUnknown(_) => "Set it to an address of the Docker host that Traefik reaches.".into(),
            Self::PortNotPublished { .. } => {
                "Publish the port on the Docker host: ports: in its Compose file.".into()
            }
            Self::NodeDoesNotPublish { port, .. } => format!(
                "Publish it among ports: of the service in its Compose file, with target: {port} and mode: host, and deploy it \
                 again: docker stack deploy."
            )
            .into(),
        }
    }
}

impl fmt::Display for AddressFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetwork { mode } => write!(
                f,
                "it is on no network (network mode {mode:?}): attach it to one that Traefik and Modelgate are on"
            ),
            Self::NotAttached { asked_for, wanted, attached } => {
                write!(f, "{asked_for} is {wanted:?}, but it is attached to: {}", attached.join(", "))
            }
            Self::NotShared { attached, modelgate, traefik } => {
                let attached = attached.join(", ");
                write!(f, "it is not on a network shared with Traefik and Modelgate: it is on: {attached}")?;
                for (who, networks) in [("Modelgate", modelgate), ("Traefik", traefik)] {
                    if let Some(networks) = networks {
                        let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
                        write!(f, "; {who} is on: {}", networks.join(", "))?;
                    }
                }
                Ok(())
            }
            Self::NoAddress { network } => write!(f, "it has no address on network {network:?}"),
            Self::HostNetwork(host) => write!(
                f,
                "it uses network_mode: host, and Modelgate runs in a container: set {} to an address of the Docker host that \
                 Traefik and Modelgate can reach",
                host.key("host_address")
            ),
            Self::NodeNetwork(host) => write!(
                f,
                "it uses its node's network, and the node's address is not known: set {}",
                host.key("host_address")
            ),
            Self::HostUnknown(host) => {
                write!(f, "{} is published, but {} is not set", host.key("reach"), host.key("host_address"))
            }
            Self::PortNotPublished { host, port } => write!(
                f,
                "{} is published, but its port {port} is not published: add ports: [\"{port}\"]",
                host.key("reach")
            ),
            Self::NodeDoesNotPublish { host, port } => write!(
                f,
                "{} is published, but its node does not publish its port {port} for it alone: publish it with mode: host (with \
                 mode: ingress each request would go to any task)",
                host.key("reach")
            ),
            Self::NodeUnknown(host) => {
                write!(f, "{} is published, but its node's address is not known", host.key("reach"))
            }
        }
    }
}

impl fmt::Display for AskedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByLabel => f.write_str("label inference.network"),
            Self::ByConfiguration(host) => f.write_str(&host.key("network")),
        }
    }
}
