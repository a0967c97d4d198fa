//! Whether a server runs, according to Docker, its HEALTHCHECK, or an operator who has cordoned it.

use std::{borrow::Cow, fmt, sync::Arc};

use super::Facts;

/// Why a server is not ready, for reasons other than its answers to probes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LifecycleFinding {
    /// Its container was never started.
    NotStarted,
    /// Docker is starting it again.
    Restarting,
    /// It has just been started.
    JustStarted,
    /// Its HEALTHCHECK has not passed yet.
    HealthcheckPending,
    /// Its HEALTHCHECK fails.
    HealthcheckFails,
    /// Its models have not been probed yet.
    ModelsNotAsked,
    /// Its readiness has not been probed yet.
    ReadyNotAsked,
    /// Its container is frozen.
    Frozen,
    /// It has been told to stop.
    ToldToStop,
    /// It has been sent a signal; Docker does not say which.
    Signalled,
    /// It has been disconnected from a network.
    Disconnected,
    /// It has stopped.
    Stopped,
    /// Its container has been removed.
    Removed,
    /// Its source no longer shows it.
    Gone,
    /// An operator has drained this run of it.
    Drained {
        /// The operator.
        by: Arc<str>,
    },
    /// An operator has paused it, across restarts.
    Paused {
        /// The operator.
        by: Arc<str>,
    },
}

impl LifecycleFinding {
    /// Whether it means that a run of a server is over, rather than only that it gets no requests.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Stopped | Self::Removed | Self::Gone => true,
            Self::NotStarted
            | Self::Restarting
            | Self::JustStarted
            | Self::HealthcheckPending
            | Self::HealthcheckFails
            | Self::ModelsNotAsked
            | Self::ReadyNotAsked
            | Self::Frozen
            | Self::ToldToStop
            | Self::Signalled
            | Self::Disconnected
            | Self::Drained { .. }
            | Self::Paused { .. } => false,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::NotStarted => Facts::fault("not_started"),
            Self::Restarting => Facts::fault("restarting"),
            Self::JustStarted => Facts::fault("just_started").passing(),
            Self::HealthcheckPending => Facts::fault("healthcheck_pending").passing(),
            Self::HealthcheckFails => Facts::fault("healthcheck_fails"),
            Self::ModelsNotAsked => Facts::fault("models_not_asked").passing(),
            Self::ReadyNotAsked => Facts::fault("ready_not_asked").passing(),
            Self::Frozen => Facts::fault("container_paused"),
            Self::ToldToStop => Facts::fault("told_to_stop"),
            Self::Signalled => Facts::fault("signalled").passing(),
            Self::Disconnected => Facts::fault("network_disconnected"),
            Self::Stopped => Facts::fault("stopped"),
            Self::Removed => Facts::fault("removed"),
            Self::Gone => Facts::fault("gone"),
            Self::Drained { .. } => Facts::fault("drained_by_operator"),
            Self::Paused { .. } => Facts::fault("paused_by_operator"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        let advice = match self {
            Self::NotStarted => {
                "docker start NAME; in Compose, see whether something that it depends on is not healthy."
            }
            Self::Restarting => {
                "It ends again and again; docker logs NAME says why. Out of memory, most often."
            }
            Self::JustStarted => {
                "Nothing: it is asked for its models within seconds. If this lasts, see docker logs NAME."
            }
            Self::HealthcheckPending => {
                "It is loading; requests are sent to it once its HEALTHCHECK passes, so that no client sees a 502. If this \
                 lasts: docker inspect --format '{{json .State.Health}}' NAME says why, and start_period may be too short for \
                 the model."
            }
            Self::HealthcheckFails => {
                "docker inspect --format '{{json .State.Health}}' NAME shows the last results. Is the program of the check \
                 (curl, wget) in the image, and the port the right one?"
            }
            Self::ModelsNotAsked | Self::ReadyNotAsked => "Nothing: it is asked within seconds.",
            Self::Frozen => "docker unpause NAME.",
            Self::ToldToStop => {
                "Nothing, if it is meant to stop: requests under way are finished. It gets requests again once it has been \
                 started anew."
            }
            Self::Signalled => {
                "Nothing: Modelgate looks within seconds whether it runs. If it does not, docker start NAME."
            }
            Self::Disconnected => {
                "Connect it to a network that Traefik and Modelgate are on: docker network connect NETWORK NAME."
            }
            Self::Stopped => {
                "docker start NAME. If it was not you who stopped it, docker logs NAME says why."
            }
            Self::Removed | Self::Gone => {
                "If it is to come back, start it anew, with docker compose up -d for instance. For a minute its models are \
                 answered with 503, then with 404."
            }
            Self::Drained { .. } => "Resume it here, or start it anew.",
            Self::Paused { .. } => "Resume it here.",
        };
        advice.into()
    }
}

impl fmt::Display for LifecycleFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it has been created, but not started",
            Self::Restarting => "Docker is restarting it",
            Self::JustStarted => "it has just been started",
            Self::HealthcheckPending => "its HEALTHCHECK has not passed yet",
            Self::HealthcheckFails => "its HEALTHCHECK fails",
            Self::ModelsNotAsked => "it has not been asked for its models yet",
            Self::ReadyNotAsked => "it has not been asked whether it is ready yet",
            Self::Frozen => "it is paused",
            Self::ToldToStop => "it has been told to stop",
            Self::Signalled => "it has been sent a signal",
            Self::Disconnected => "it has been disconnected from a network",
            Self::Stopped => "it has stopped",
            Self::Removed => "it has been removed",
            Self::Gone => "it has gone",
            Self::Drained { by } => {
                return write!(f, "drained by {by}: no new requests until it is started anew or resumed");
            }
            Self::Paused { by } => {
                return write!(f, "paused by {by}: no new requests until it is resumed");
            }
        })
    }
}
