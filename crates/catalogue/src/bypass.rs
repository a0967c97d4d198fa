//! Doors past Modelgate: routers that Traefik's Docker or Swarm provider makes to servers, and that ask for no key.
//!
//! Such a provider makes routers from the `traefik.*` labels of containers and, unless `exposedByDefault` is false, a router
//! for each container that has a port (<https://doc.traefik.io/traefik/reference/install-configuration/providers/docker/>).
//! Doors are reported as far as labels and the command line of a Traefik on the same host show them; the rest is left
//! undecided, which is reported once.

mod constraint;
mod label;
mod provider;

use std::collections::{BTreeMap, BTreeSet};

use crate::{Behind, DoorFinding, LabelledRouter, Problem};
use label::{Guard, Middleware, Protocol, Router, TraefikLabels};

pub use provider::{Provider, ProviderKind, Sight, StaticConfiguration};

/// A container, or a service of a Swarm, as Traefik's provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposable {
    /// The name shown to people, with its host's name where there are several hosts.
    pub name: String,
    /// Its name in Docker.
    pub docker_name: String,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports that it exposes; a Swarm service shows no ports to Traefik.
    pub ports: BTreeSet<u16>,
    /// Its role for Modelgate.
    pub role: Role,
}

/// The role of a container for Modelgate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// An inference server: it must not be reachable without a key.
    Server,
    /// Modelgate itself, with the ports that are for Traefik alone.
    Modelgate(BTreeSet<u16>),
    /// Anything else; its labels may still define routers and middlewares.
    Other,
}

/// The doors found on one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doors {
    /// The doors.
    pub problems: Vec<Problem>,
    /// The containers that are doors if Traefik exposes containers by default.
    pub undecided: BTreeSet<String>,
    /// Why that cannot be decided here.
    pub blind: Option<Blind>,
    /// All routers for HTTP that labels of containers define with a rule, whatever they lead to.
    pub routers: Vec<OwnRouter>,
}

/// A Traefik that polls Modelgate, with the version that its image names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraefikSeen {
    /// The container's name.
    pub container: String,
    /// The version, such as `v3.7.15`.
    pub version: String,
}

/// A router that labels of a container define. Traefik tries it beside Modelgate's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnRouter {
    /// The container's name.
    pub container: String,
    /// The router's name.
    pub name: String,
    /// Its rule.
    pub rule: String,
    /// Its priority; `None`: the length of the rule.
    pub priority: Option<usize>,
    /// Whether it takes only what comes by TLS.
    pub has_tls: bool,
    /// The names of its middlewares.
    pub middlewares: Vec<String>,
    /// What those that labels define ask Modelgate: the queries of `/auth`.
    pub asks: Vec<String>,
    /// Whether Traefik may leave the container out.
    pub is_doubtful: bool,
}

/// Why some doors of a host may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blind {
    /// No Traefik is among its containers.
    NoTraefik,
    /// This Traefik's configuration is not on its command line.
    Hidden(String),
}

/// Whether Traefik makes routers for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Taken {
    No,
    Perhaps,
    Yes,
}

/// Finds the doors of one host, from all of its containers and the Traefiks among them.
pub fn doors(all: &[Exposable], traefiks: &[(String, Sight)]) -> Doors {
    let blind = match traefiks.iter().find(|(_, sight)| *sight == Sight::Hidden) {
        Some((name, _)) => Some(Blind::Hidden(name.clone())),
        None => traefiks.is_empty().then_some(Blind::NoTraefik),
    };
    let sights: Vec<&Sight> = traefiks.iter().map(|(_, sight)| sight).collect();
    let read: Vec<Candidate<'_>> = all.iter().filter_map(|it| Candidate::new(it, &sights)).collect();
    let middlewares: BTreeMap<&str, &Middleware> = read
        .iter()
        .flat_map(|c| c.labels.middlewares.iter().map(|(name, what)| (name.as_str(), what)))
        .collect();
    let mut found = Doors { blind, ..Doors::default() };
    for candidate in &read {
        candidate.by_labels(&read, &middlewares, &mut found);
        candidate.by_default(&mut found);
        found.routers.extend(candidate.own_routers(&middlewares));
    }
    found.routers.sort();
    found.problems.sort();
    found.problems.dedup();
    found
}

/// A container for which Traefik makes routers, or may.
struct Candidate<'a> {
    it: &'a Exposable,
    taken: Taken,
    labels: TraefikLabels,
    /// Traefik's name for its service and for its default router.
    own_name: String,
}

impl<'a> Candidate<'a> {
    fn new(it: &'a Exposable, sights: &[&Sight]) -> Option<Self> {
        let labels = TraefikLabels::read(&it.labels);
        let taken = taken(&labels, &it.labels, sights);
        let own_name = own_name(it);
        (taken != Taken::No).then_some(Self { it, taken, labels, own_name })
    }

    fn is_concern(&self) -> bool {
        self.it.role != Role::Other
    }

    /// The doors made by the routers in its labels.
    fn by_labels(&self, all: &[Self], middlewares: &BTreeMap<&str, &Middleware>, found: &mut Doors) {
        for router in &self.labels.routers {
            for target in all.iter().filter(|target| target.is_concern() && self.leads_to(router, target)) {
                let guard = label::guard(router, middlewares);
                found.problems.extend(self.door(router, target, &guard));
            }
        }
    }

    /// The routers for HTTP in its labels. One without a rule gets Traefik's default rule, which is not known here.
    fn own_routers(&self, middlewares: &BTreeMap<&str, &Middleware>) -> Vec<OwnRouter> {
        let of_http = self.labels.routers.iter().filter(|router| router.protocol == Protocol::Http);
        let own = |router: &Router| {
            Some(OwnRouter {
                container: self.it.name.clone(),
                name: router.name.clone(),
                rule: router.rule.clone()?,
                priority: router.priority,
                has_tls: router.has_tls,
                middlewares: router.middlewares.clone(),
                asks: label::asked(router, middlewares),
                is_doubtful: self.taken != Taken::Yes,
            })
        };
        of_http.filter_map(own).collect()
    }

    fn leads_to(&self, router: &Router, target: &Self) -> bool {
        let services = match router.protocol {
            Protocol::Http => &target.labels.services,
            Protocol::Tcp => &target.labels.tcp_services,
        };
        let has = |name: &str| match services.is_empty() {
            true => target.own_name == name,
            false => services.contains_key(name),
        };
        let leads = match router.service.as_deref() {
            None => std::ptr::eq(self, target) && services.len() <= 1,
            Some(service) => match service.rsplit_once('@') {
                None => has(service),
                Some((name, "docker" | "swarm")) => has(name),
                Some(_) => false,
            },
        };
        leads && target.is_open_at(services)
    }

    /// Whether Traefik finds a port for it, and that port must not be reachable.
    fn is_open_at(&self, services: &BTreeMap<String, Option<u16>>) -> bool {
        let by_label: Vec<u16> = services.values().copied().flatten().collect();
        match (&self.it.role, by_label.is_empty()) {
            (Role::Modelgate(private), false) => by_label.iter().any(|port| private.contains(port)),
            (Role::Modelgate(private), true) => {
                self.it.ports.first().is_some_and(|port| private.contains(port))
            }
            (_, false) => true,
            (_, true) => !self.it.ports.is_empty(),
        }
    }

    fn door(&self, router: &Router, target: &Self, guard: &Guard) -> Option<Problem> {
        let labelled = || LabelledRouter {
            name: router.name.clone(),
            made_by: (!std::ptr::eq(self, target)).then(|| self.it.name.clone()),
            is_doubtful: self.taken != Taken::Yes,
            leads_to: target.it.role.behind(),
        };
        let finding = match guard {
            Guard::Closed => return None,
            _ if router.protocol == Protocol::Tcp => DoorFinding::TcpRouter(labelled()),
            Guard::None(others) => {
                DoorFinding::UncheckedRouter { router: labelled(), middlewares: others.clone() }
            }
            Guard::Unseen(names) => {
                DoorFinding::UnseenCheck { router: labelled(), middlewares: names.clone() }
            }
        };
        Some(Problem::container(&target.it.name, finding))
    }

    /// The door made by Traefik's default router for a container without routers of its own.
    fn by_default(&self, found: &mut Doors) {
        let labels = &self.labels;
        let only_tcp = labels.has_tcp_or_udp && labels.services.is_empty() && labels.middlewares.is_empty();
        let makes_one = labels.routers.iter().all(|router| router.protocol == Protocol::Tcp)
            && labels.services.len() <= 1
            && !only_tcp;
        if !self.is_concern() || !makes_one || !self.is_open_at(&labels.services) {
            return;
        }
        if self.taken == Taken::Perhaps {
            found.undecided.insert(self.it.name.clone());
            return;
        }
        let finding = DoorFinding::Exposed {
            by_label: labels.enable == Some(true),
            host: self.own_name.clone(),
            leads_to: self.it.role.behind(),
        };
        found.problems.push(Problem::container(&self.it.name, finding));
    }
}

impl Role {
    fn behind(&self) -> Behind {
        match self {
            Self::Modelgate(_) => Behind::Modelgate,
            Self::Server | Self::Other => Behind::Server,
        }
    }
}

/// Whether one of the Traefiks makes routers for it.
fn taken(labels: &TraefikLabels, all: &BTreeMap<String, String>, sights: &[&Sight]) -> Taken {
    let unseen = match labels.enable {
        Some(true) => Taken::Yes,
        Some(false) => Taken::No,
        None => Taken::Perhaps,
    };
    if labels.enable == Some(false) || labels.is_refused {
        return Taken::No;
    }
    if sights.is_empty() {
        return unseen;
    }
    let by = |sight: &&Sight| match sight {
        Sight::Off => Taken::No,
        Sight::Hidden => unseen,
        Sight::On(provider) => {
            let enabled = labels.enable.unwrap_or(provider.exposed_by_default);
            match (enabled, provider.constraint.as_deref().map(|text| constraint::matches(text, all))) {
                (false, _) | (_, Some(Some(false))) => Taken::No,
                (true, Some(None)) => Taken::Perhaps,
                (true, None | Some(Some(true))) => Taken::Yes,
            }
        }
    };
    sights.iter().map(by).max().unwrap_or(Taken::No)
}

/// Traefik's name for a container: from Compose's labels, or Docker's name; all but letters and digits become dashes.
fn own_name(it: &Exposable) -> String {
    let label = |name: &str| it.labels.get(name).filter(|value| !value.is_empty());
    let name = match (label("com.docker.compose.service"), label("com.docker.compose.project")) {
        (Some(service), Some(project)) => format!("{service}_{project}"),
        _ => it.docker_name.clone(),
    };
    let words: Vec<&str> =
        name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

#[cfg(test)]
mod tests;
