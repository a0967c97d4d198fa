//! All containers and servers, one on each line: the answer to a question about an unknown name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use catalogue::{Catalogue, Origin, Outcome, Problem, ProblemSubject, ServerRecord, ServerState};

/// A container or server.
pub(super) struct KnownServer<'a> {
    name: &'a str,
    service: Option<&'a str>,
    /// Its state, and the reason for it.
    pub(super) state: String,
    /// It gets requests, or is not meant to get any.
    is_well: bool,
}

/// All containers with the label, and all servers of the configuration, by name.
pub(super) fn all(catalogue: &Catalogue) -> Vec<KnownServer<'_>> {
    let servers: BTreeMap<&str, &ServerRecord> =
        catalogue.servers().map(|server| (server.spec.name.as_str(), &**server)).collect();
    let labelled = catalogue.containers().iter().map(|container| {
        let name = container.name.as_str();
        let (state, is_well) = match (servers.get(name), &container.outcome) {
            (Some(server), _) => told(server.state_name(), &server.state),
            (None, Outcome::Down(state)) => told(state.name(), state),
            (None, Outcome::NotEnabled) => ("its label inference.enable is false".into(), true),
            (None, Outcome::Rejected | Outcome::Server) => (faults(catalogue, name), false),
        };
        KnownServer { name, service: container.service.as_deref(), state, is_well }
    });
    let configured = catalogue.servers().filter(|server| server.spec.source.origin() == Origin::File);
    let configured = configured.map(|server| {
        let (state, is_well) = told(server.state_name(), &server.state);
        KnownServer { name: &server.spec.name, service: None, state, is_well }
    });
    let mut known: Vec<KnownServer<'_>> = labelled.chain(configured).collect();
    known.extend(only_named(catalogue, &known));
    known.sort_by_key(|known| known.name);
    known
}

/// Containers about which only problems are known: Docker does not give their state, or their label is misspelt.
fn only_named<'a>(catalogue: &'a Catalogue, known: &[KnownServer<'a>]) -> Vec<KnownServer<'a>> {
    let mut seen: BTreeSet<&str> = known.iter().map(|known| known.name).collect();
    seen.extend(catalogue.servers().map(|server| server.spec.name.as_str()));
    let names = catalogue.problems().iter().filter_map(|problem| match &problem.subject {
        ProblemSubject::Container(name) => Some(name.as_str()),
        ProblemSubject::Server(_) | ProblemSubject::Source(_) => None,
    });
    let names: BTreeSet<&str> = names.filter(|name| !seen.contains(name)).collect();
    let one = |name| KnownServer { name, service: None, state: faults(catalogue, name), is_well: false };
    names.into_iter().map(one).collect()
}

fn told(name: &str, state: &ServerState) -> (String, bool) {
    match state.why() {
        None => (name.to_owned(), name == "ready"),
        Some(why) => (format!("{name}: {why:#}"), false),
    }
}

/// The problems of a container that is not a server.
fn faults(catalogue: &Catalogue, name: &str) -> String {
    let about = catalogue.problems().iter().filter(|problem| is_about(problem, name));
    let faults: Vec<String> = about.map(|problem| format!("{:#}", problem.finding)).collect();
    if faults.is_empty() { "not routed".into() } else { format!("not routed: {}", faults.join("; ")) }
}

/// One line for each container or server.
pub(super) fn lines(known: &[KnownServer<'_>]) -> String {
    let mut text = String::new();
    for KnownServer { name, service, state, .. } in known {
        let service = service.filter(|service| service != name);
        let service = service.map(|service| format!(" (service {service})")).unwrap_or_default();
        let _ = write!(text, "\n  {name}{service}: {state}");
    }
    if text.is_empty() { " none".into() } else { text }
}

/// The containers and servers whose models may be missing, and why; empty if all are well.
pub(super) fn not_ready(catalogue: &Catalogue) -> String {
    let known: Vec<KnownServer<'_>> = all(catalogue).into_iter().filter(|known| !known.is_well).collect();
    match known.is_empty() {
        true => String::new(),
        false => format!("\nThese are not ready, and may have it once they are:{}", lines(&known)),
    }
}

/// Whether a problem is about the container or server of this name.
pub(super) fn is_about(problem: &Problem, name: &str) -> bool {
    matches!(&problem.subject, ProblemSubject::Container(n) | ProblemSubject::Server(n) if n == name)
}

/// Names on one line.
pub(super) fn list(items: &[&str]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}
