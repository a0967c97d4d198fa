//! Ways past Modelgate, on which no key is asked for; and routers and ports that may be such a way.

use std::{borrow::Cow, fmt};

use super::Facts;
use crate::Blind;

/// A way past Modelgate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DoorFinding {
    /// Labels define a TCP router, whose requests cannot be checked.
    TcpRouter(LabelledRouter),
    /// Labels define a router without Modelgate's check.
    UncheckedRouter {
        /// The router.
        router: LabelledRouter,
        /// Its middlewares.
        middlewares: Vec<String>,
    },
    /// Labels define a router whose middlewares are defined where Modelgate cannot see them.
    UnseenCheck {
        /// The router.
        router: LabelledRouter,
        /// Those middlewares.
        middlewares: Vec<String>,
    },
    /// Traefik makes a default router.
    Exposed {
        /// The label `traefik.enable=true` asks for it; otherwise it comes from the provider's default.
        by_label: bool,
        /// The host of its rule.
        host: String,
        /// What it leads to.
        leads_to: Behind,
    },
    /// The host publishes a server's port on every address.
    OpenPort {
        /// The port of the server.
        port: u16,
        /// The port of the host.
        host_port: u16,
    },
    /// Modelgate cannot see what Traefik exposes by default.
    TraefikUnseen {
        /// Why.
        why: Blind,
        /// The first of the containers to which a router may lead.
        names: Vec<String>,
        /// How many more there are.
        more: usize,
    },
}

/// A router that labels define in Traefik.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelledRouter {
    /// Its name.
    pub name: String,
    /// The container whose labels define it, if that is not the container it leads to.
    pub made_by: Option<String>,
    /// Traefik may leave it out; Modelgate cannot tell.
    pub is_doubtful: bool,
    /// What it leads to.
    pub leads_to: Behind,
}

/// What is behind a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behind {
    /// An inference server.
    Server,
    /// The part of Modelgate that is for Traefik alone.
    Modelgate,
}

const DO_NOT_EXPOSE: &str = "Set traefik.enable: \"false\" among the labels of its service in the Compose file, or start \
     Traefik with --providers.docker.exposedByDefault=false (swarm for a Swarm). Then look whether anybody got there: \
     Traefik's access log names the router.";

impl DoorFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::TcpRouter(_) => Facts::danger("tcp_router_unchecked"),
            Self::UncheckedRouter { .. } => Facts::danger("router_unchecked"),
            Self::UnseenCheck { .. } => Facts::hint("router_check_unseen"),
            Self::Exposed { .. } => Facts::danger("exposed_by_traefik"),
            Self::OpenPort { .. } => Facts::hint("port_published_to_all"),
            Self::TraefikUnseen { .. } => Facts::hint("traefik_unseen"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        let advice = match self {
            Self::TcpRouter(_) => {
                "Set traefik.enable: \"false\" among the labels of its service in the Compose file (the label \
                 traefik.enable=false), and start it anew: docker compose up -d. Clients reach it through Modelgate's routers."
            }
            Self::UncheckedRouter { .. } => {
                "If the router is left over, set traefik.enable: \"false\" among the labels of its service in the Compose file; \
                 if it is needed, add modelgate@http to its middlewares. Then start the container anew: docker compose up -d."
            }
            Self::UnseenCheck { .. } => {
                "Look at that middleware where it is defined, in Traefik's file for instance: without a key, a request to the \
                 router must be answered 401."
            }
            // Traefik's default does not matter where a label decides.
            Self::Exposed { by_label: true, .. } => {
                "Set traefik.enable: \"false\" among the labels of its service in the Compose file, and start it anew: docker \
                 compose up -d. Modelgate's routers do not need it. Then look whether anybody got there: Traefik's access log \
                 names the router."
            }
            Self::Exposed { by_label: false, .. } => DO_NOT_EXPOSE,
            Self::OpenPort { .. } => {
                "Take the port away from ports: in its Compose file, or bind it to 127.0.0.1. Traefik and Modelgate reach the \
                 server by its network."
            }
            Self::TraefikUnseen { .. } => {
                "Set traefik.enable: \"false\" among the labels of the services that are named; Modelgate needs no router of \
                 theirs."
            }
        };
        advice.into()
    }
}

impl fmt::Display for DoorFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpRouter(router) => write!(
                f,
                "{router}, a TCP router: what passes there is not checked, so everybody reaches it without a key, management \
                 paths included{}: take the labels traefik.tcp.routers.{}.* away, or set the label traefik.enable=false",
                router.unless(),
                router.name
            ),
            Self::UncheckedRouter { router, middlewares } => unchecked(f, router, middlewares),
            Self::UnseenCheck { router, middlewares } => write!(
                f,
                "{router}; whether its middlewares {} have Modelgate's check in them cannot be seen from here: they must have \
                 modelgate@http among them, or a forwardAuth to Modelgate's /auth",
                middlewares.join(", ")
            ),
            Self::Exposed { by_label, host, leads_to } => {
                let how = match by_label {
                    true => "its label traefik.enable=true has Traefik make a router for it",
                    false => {
                        "Traefik's provider exposes it by itself, since exposedByDefault is true unless it is set"
                    }
                };
                let reach = match leads_to {
                    Behind::Modelgate => {
                        "reach what only Traefik is to reach, such as /traefik with all servers' addresses"
                    }
                    Behind::Server => "reach it past Modelgate's keys and limits, management paths included",
                };
                write!(
                    f,
                    "{how}: requests with \"Host: {host}\" (or by Traefik's defaultRule) {reach}: set the label \
                     traefik.enable=false, or exposedByDefault=false in Traefik"
                )
            }
            Self::OpenPort { port, host_port } => write!(
                f,
                "its port {port} is published on every address of its host, as {host_port}: whoever reaches the host asks the \
                 server without a key, management paths included. Traefik does not need it: leave `ports:` out, or write \
                 \"127.0.0.1:{host_port}:{port}\""
            ),
            Self::TraefikUnseen { why, names, more } => unseen(f, why, names, *more),
        }
    }
}

fn unchecked(f: &mut fmt::Formatter<'_>, router: &LabelledRouter, middlewares: &[String]) -> fmt::Result {
    let others = match middlewares.is_empty() {
        true => String::new(),
        false => format!(" (its middlewares: {})", middlewares.join(", ")),
    };
    let reached = match router.leads_to {
        Behind::Modelgate => "what only Traefik is to reach, such as /traefik, is reached",
        Behind::Server => "it is reached",
    };
    write!(
        f,
        "{router} without Modelgate's check{others}: {reached} past Modelgate's keys and limits, management paths included{}: add \
         modelgate@http to the label traefik.http.routers.{}.middlewares, or take the router's labels away, or set the label \
         traefik.enable=false",
        router.unless(),
        router.name
    )
}

fn unseen(f: &mut fmt::Formatter<'_>, why: &Blind, names: &[String], more: usize) -> fmt::Result {
    let why = match why {
        Blind::Hidden(traefik) => {
            format!("the static configuration of {traefik} does not stand on its command line")
        }
        Blind::NoTraefik => "no Traefik is among the containers".into(),
    };
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    write!(
        f,
        "whether Traefik exposes containers by itself, past Modelgate, cannot be seen from here: {why}. If it has a Docker or Swarm \
         provider, exposedByDefault must be false there; its dashboard lists every router, and of those @docker or @swarm none may \
         lead to {}{more}. The label traefik.enable=false on them settles it",
        names.join(", ")
    )
}

impl LabelledRouter {
    fn unless(&self) -> &'static str {
        match self.is_doubtful {
            true => " (unless Traefik's exposedByDefault is false, which cannot be seen from here)",
            false => "",
        }
    }
}

impl fmt::Display for LabelledRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.made_by {
            None => f.write_str("its labels make")?,
            Some(other) => write!(f, "the labels of container {other} make")?,
        }
        write!(f, " the router {:?} in Traefik", self.name)
    }
}
