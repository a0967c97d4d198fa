//! Odd answers of a Docker Engine or a Swarm, and missing ones.

use std::{borrow::Cow, fmt};

use super::{DockerHost, Facts};

/// What is wrong with the answers of a Docker Engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DockerFinding {
    /// It does not answer.
    Silent {
        /// Which one.
        host: DockerHost,
        /// The endpoint at which it should listen.
        endpoint: String,
        /// The client's error.
        error: String,
    },
    /// It has not been surveyed since Modelgate's start; what was known of it before is still in use.
    Kept {
        /// How many servers that is.
        servers: usize,
    },
    /// Another source already shows the same containers.
    SameEngine {
        /// That source's name.
        other: String,
    },
    /// It does not report the addresses of its Swarm's nodes.
    NodesUnknown {
        /// Its answer, or the error.
        error: String,
    },
    /// An entry of its list of containers cannot be read.
    ContainerUnreadable {
        /// Why.
        why: String,
    },
    /// An entry of its lists of services and tasks cannot be read.
    ServiceUnreadable {
        /// Why.
        why: String,
    },
    /// A container cannot be inspected.
    NotInspected {
        /// The request and the answer.
        error: String,
        /// It may be running, so what is known of it is kept.
        may_run: bool,
    },
    /// A container is in a state that Modelgate does not know.
    StateUnknown {
        /// Docker's word for it.
        said: String,
        /// Docker also reports that it is running.
        runs: bool,
    },
    /// A HEALTHCHECK has a state that Modelgate does not know.
    HealthUnknown {
        /// Docker's word for it.
        said: String,
    },
    /// A Swarm's report of a task that does not run.
    Task {
        /// Its state, and the reason if the Swarm gives one.
        said: String,
    },
}

impl DockerFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::Silent { .. } => Facts::fault("docker_silent"),
            Self::Kept { .. } => Facts::hint("docker_kept"),
            Self::SameEngine { .. } => Facts::fault("docker_host_twice"),
            Self::NodesUnknown { .. } => Facts::fault("swarm_nodes_unknown"),
            Self::ContainerUnreadable { .. } => Facts::fault("container_unreadable"),
            Self::ServiceUnreadable { .. } => Facts::fault("service_unreadable"),
            Self::NotInspected { .. } => Facts::fault("container_not_inspected"),
            Self::StateUnknown { .. } => Facts::fault("container_state_unknown"),
            Self::HealthUnknown { .. } => Facts::fault("container_health_unknown"),
            Self::Task { .. } => Facts::fault("swarm_task"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::Silent { host, .. } => format!(
                "Is the Docker socket, or the proxy before it, there and allowed? See {}. What is known goes on working.",
                host.key("endpoint")
            )
            .into(),
            Self::Kept { .. } => {
                "Nothing: it is surveyed as soon as it answers. Until then those servers are asked whether they are ready, for ten \
                 minutes at most."
                    .into()
            }
            Self::SameEngine { .. } => "Leave one of the two Docker hosts out of the configuration.".into(),
            Self::NodesUnknown { .. } => {
                "A proxy before the Docker socket must let GET /nodes through, as deploy/docker-socket-proxy.cfg shows.".into()
            }
            Self::ContainerUnreadable { .. } => {
                "docker inspect NAME on that host shows what is odd about it. The others are not touched.".into()
            }
            Self::ServiceUnreadable { .. } => {
                "docker service inspect NAME, or docker inspect ID for a task, shows what is odd about it. The others are not \
                 touched."
                    .into()
            }
            Self::NotInspected { .. } => {
                "docker inspect NAME on that host says the same; what it cannot show is often half removed (docker rm -f NAME), \
                 or forbidden by a proxy before the Docker socket."
                    .into()
            }
            Self::StateUnknown { .. } | Self::HealthUnknown { .. } => {
                "A newer Docker or Podman has this word; a newer Modelgate may know it.".into()
            }
            Self::Task { .. } => {
                "docker service ps SERVICE --no-trunc shows the same for all of its tasks.".into()
            }
        }
    }
}

impl fmt::Display for DockerFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { endpoint, error, .. } => write!(f, "{endpoint} does not answer: {error}"),
            Self::Kept { servers } => {
                let which = if *servers == 1 { "one server is" } else { "its servers are" };
                write!(f, "it has not been surveyed since the start; {which} known from before ({servers})")
            }
            Self::SameEngine { other } => write!(
                f,
                "it shows containers or tasks that are known from {other} already, and they are taken from there: both lead to \
                 the same Docker Engine or Swarm, so leave one out"
            ),
            Self::NodesUnknown { error } => {
                write!(f, "the addresses of the Swarm's nodes are not known: {error}")
            }
            Self::ContainerUnreadable { why } => {
                write!(f, "Docker's list of containers cannot be read at this one, so it is left out: {why}")
            }
            Self::ServiceUnreadable { why } => {
                write!(f, "Docker's list cannot be read at this one, so it is left out: {why}")
            }
            Self::NotInspected { error, may_run } => {
                let stays = if *may_run { "; what is known of it stays" } else { "" };
                write!(f, "Docker does not say how it is: {error}{stays}")
            }
            Self::StateUnknown { said, runs } => {
                let taken = if *runs { "it runs all the same" } else { "it is taken for stopped" };
                write!(f, "its state {said:?} is not known here; {taken}")
            }
            Self::HealthUnknown { said } => write!(
                f,
                "what its HEALTHCHECK says, {said:?}, is not known here; the server itself is asked"
            ),
            Self::Task { said } => write!(f, "Swarm says: {said}"),
        }
    }
}
