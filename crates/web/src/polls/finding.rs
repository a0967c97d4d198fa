//! What is wrong with the polls of Traefiks, as values.

use std::{fmt, net::IpAddr, time::Duration};

use catalogue::Severity;

use super::GONE;

/// A problem of polls. Its text includes the advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollFinding {
    /// No Traefik has polled.
    NoTraefik,
    /// A Traefik has stopped polling, and no other polls.
    Silent {
        /// The address from which it polled.
        address: IpAddr,
        /// The time since its last poll.
        silent_for: Duration,
    },
    /// A Traefik has stopped polling, while another polls.
    SilentBesideAnother {
        /// The address from which it polled.
        address: IpAddr,
        /// The time since its last poll.
        silent_for: Duration,
    },
    /// A Traefik polls so rarely that changes are late.
    Slow {
        /// The address from which it polls.
        address: IpAddr,
        /// The time between two polls.
        interval: Duration,
    },
}

impl PollFinding {
    /// Its name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTraefik => "no_traefik_polls",
            Self::Silent { .. } => "traefik_silent",
            Self::SilentBesideAnother { .. } => "traefik_silent_beside_another",
            Self::Slow { .. } => "traefik_polls_slowly",
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoTraefik | Self::Silent { .. } | Self::Slow { .. } => Severity::Bad,
            Self::SilentBesideAnother { .. } => Severity::Warn,
        }
    }
}

impl fmt::Display for PollFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTraefik => f.write_str(
                "no Traefik has polled yet: start it with --providers.http.endpoint=http://<this host>:<port of \
                 listen.provider>/traefik, and see that it reaches that address",
            ),
            Self::Silent { address, silent_for } => write!(
                f,
                "the Traefik at {address} has not polled for {} s: it goes on with what it was told last; is it running, and does \
                 it reach Modelgate?",
                silent_for.as_secs()
            ),
            Self::SilentBesideAnother { address, silent_for } => write!(
                f,
                "the Traefik at {address} has not polled for {} s, while another does: if it was replaced, this goes away {} \
                 minutes after its last poll; if not, is it running, and does it reach Modelgate?",
                silent_for.as_secs(),
                GONE.as_secs() / 60
            ),
            Self::Slow { address, interval } => write!(
                f,
                "the Traefik at {address} polls every {:.0} s only, so that changes are late: set \
                 --providers.http.pollInterval=100ms (Modelgate holds each poll until there is something new)",
                interval.as_secs_f64()
            ),
        }
    }
}
