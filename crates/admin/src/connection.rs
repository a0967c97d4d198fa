//! What Modelgate is connected to, and the state of each connection.

use std::{sync::Arc, time::SystemTime};

use catalogue::{Catalogue, DockerFinding, ProblemSubject};
use shared_limits::Health;
use store::State;

use crate::{Admin, finding::Finding, format};

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) name: String,
    pub(crate) class: &'static str,
    pub(crate) state: String,
    /// Further details.
    pub(crate) note: String,
    /// What is wrong, if anything.
    pub(crate) fault: Option<Finding>,
}

/// All connections except the Traefiks, which have a table of their own.
pub(crate) fn all(admin: &Admin, catalogue: Option<&Catalogue>) -> Vec<Connection> {
    let mut all = docker(admin, catalogue);
    all.push(store(admin));
    all.push(limits(admin));
    all
}

fn docker(admin: &Admin, catalogue: Option<&Catalogue>) -> Vec<Connection> {
    let of = |(name, endpoint): &(String, String)| {
        let source = if name == "docker" { name.clone() } else { format!("docker {name}") };
        let is_silent = |p: &&catalogue::Problem| {
            p.subject == ProblemSubject::Source(source.clone())
                && matches!(p.finding, catalogue::Finding::Docker(DockerFinding::Silent { .. }))
        };
        let title = if name == "docker" { "Docker".to_owned() } else { format!("Docker {name}") };
        let is_silent = match catalogue {
            Some(catalogue) => catalogue.problems().iter().any(|problem| is_silent(&problem)),
            None => admin.shared.catalogue().obstacles().iter().any(|problem| is_silent(&problem)),
        };
        let (class, state) = match (catalogue, is_silent) {
            (_, true) => ("bad", "does not answer"),
            (None, false) => ("warn", "not looked at yet"),
            (Some(_), false) => ("good", "connected"),
        };
        // The catalogue reports the problem as an issue of its own.
        Connection { name: title, class, state: state.into(), note: endpoint.clone(), fault: None }
    };
    admin.program.docker.iter().map(of).collect()
}

fn store(admin: &Admin) -> Connection {
    let kind = admin.registry.store().map_or("", |store| store.url().kind());
    let (class, state, fault) = match &*admin.registry.state() {
        State::Off => ("off", "none".to_owned(), None),
        State::Up => {
            let problems = admin.registry.problems();
            let fault = problems
                .first()
                .map(|first| Finding::Accounts { first: first.clone(), others: problems.len() - 1 });
            (if fault.is_some() { "warn" } else { "good" }, "connected".to_owned(), fault)
        }
        State::Down { since, why } => {
            let span = SystemTime::now().duration_since(*since).unwrap_or_default();
            let fault = Finding::StoreDown { span, why: why.clone() };
            ("bad", "down".to_owned(), Some(fault))
        }
    };
    let note = match (kind, class) {
        (_, "off") => "keys are those of the configuration".to_owned(),
        (kind, _) => kind.to_owned(),
    };
    Connection { name: "Store".into(), class, state, note, fault }
}

fn limits(admin: &Admin) -> Connection {
    let name = "Shared limits".to_owned();
    let Some(counting) = admin.shared.shared_counting() else {
        let note = "limits are counted in memory, by this Modelgate alone".to_owned();
        return Connection { name, class: "off", state: "none".into(), note, fault: None };
    };
    let on_failure = counting.on_failure();
    match &*counting.limits().health().borrow() {
        Health::Up => {
            let note =
                format!("{} share them", format::counted(counting.limits().replicas() as usize, "Modelgate"));
            Connection { name, class: "good", state: "connected".into(), note, fault: None }
        }
        Health::Down(why) => {
            let alone = format::count(counting.alone());
            let note = format!("fail: {}; {alone} decisions without it", on_failure.as_str());
            let fault = Finding::SharedLimitsDown { why: Arc::clone(why), on_failure };
            Connection { name, class: "bad", state: "down".into(), note, fault: Some(fault) }
        }
    }
}

#[cfg(test)]
mod tests {
    use accounts::{AccountKind, Unusable};
    use store::{AccountFinding, Store, StoreUrl};

    use super::*;
    use crate::testing::{Dashboard, found::Discovery};

    fn states(dashboard: &Dashboard) -> Vec<(String, String)> {
        let loaded = dashboard.admin.shared.catalogue().load();
        let all = all(&dashboard.admin, loaded.as_deref());
        all.into_iter().map(|connection| (connection.name, connection.state)).collect()
    }

    #[tokio::test]
    async fn docker_and_store_say_how_they_are() {
        let silent = Discovery::of_docker("/nowhere/docker.sock").obstacles().await;
        let dashboard = Dashboard::of(Catalogue::assemble([], silent));
        let url: StoreUrl = "postgres://127.0.0.1:9/modelgate".parse().expect("a URL");
        let (since, why) =
            (SystemTime::now(), Store::open(url).await.expect_err("nobody listens").to_string());
        dashboard.admin.registry.set_state(State::Down { since, why });
        let expected = [("Docker", "does not answer"), ("Store", "down"), ("Shared limits", "none")];
        assert_eq!(states(&dashboard), expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
        dashboard.admin.registry.set_state(State::Up);
        let faults =
            || -> Vec<Finding> { all(&dashboard.admin, None).into_iter().filter_map(|c| c.fault).collect() };
        assert!(faults().is_empty());
        let taken = |name| AccountFinding::Unusable(Unusable::taken(AccountKind::Key, name));
        dashboard.admin.registry.set_problems(vec![taken("a"), taken("b")]);
        let told: Vec<String> = faults().iter().map(ToString::to_string).collect();
        assert_eq!(told, [format!("{}; and 1 more", taken("a"))]);
        let dashboard = Dashboard::of(Catalogue::default());
        let expected = [("Docker", "connected"), ("Store", "none"), ("Shared limits", "none")];
        assert_eq!(states(&dashboard), expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    }
}
