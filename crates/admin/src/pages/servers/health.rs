//! The health of a server and its source: Docker's HEALTHCHECK, or Modelgate's own probes.

use catalogue::{Finding, HealthMode, LifecycleFinding, ServerRecord, ServerState};

/// The health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// One word, or that the health is unknown.
    pub(crate) word: &'static str,
    /// The source of the health.
    pub(crate) by: &'static str,
}

impl Health {
    /// The health of a server. A server that was cordoned had been ready.
    pub(super) fn of(server: &ServerRecord) -> Self {
        let by = match server.spec.health {
            HealthMode::Docker => "HEALTHCHECK",
            HealthMode::Probe => "probe",
        };
        Self { word: word(&server.state), by }
    }
}

fn word(state: &ServerState) -> &'static str {
    let is_well = state.why().and_then(is_well);
    match (state, is_well) {
        (ServerState::Ready, _) | (ServerState::Starting(_) | ServerState::Draining(_), Some(true)) => {
            "healthy"
        }
        (ServerState::Starting(_), _) => "starting",
        (ServerState::Draining(_), Some(false)) => "unhealthy",
        (ServerState::Draining(_) | ServerState::Stopped(_), _) => "not known",
    }
}

/// What the reason why a server is not ready says about its health. It is healthy if its HEALTHCHECK passes or an operator has
/// cordoned it, and unhealthy if the HEALTHCHECK or Modelgate's probes failed. If it is stopped, paused or disconnected, its
/// health is unknown.
fn is_well(why: &Finding) -> Option<bool> {
    match why {
        Finding::Probe(finding) => Some(finding.asked.is_healthy),
        Finding::Lifecycle(LifecycleFinding::Drained { .. } | LifecycleFinding::Paused { .. }) => Some(true),
        Finding::Lifecycle(LifecycleFinding::HealthcheckFails) => Some(false),
        Finding::Lifecycle(_)
        | Finding::Label(_)
        | Finding::Address(_)
        | Finding::Docker(_)
        | Finding::Listing(_)
        | Finding::Setting(_)
        | Finding::Door(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use catalogue::{
        Asked, Catalogue, ContainerHealth, ContainerRecord, ContainerStatus, Cordon, CordonKind,
        Interpretation, NetworkView, ProbeFault, ProbeFinding, interpret,
    };

    use super::*;
    use crate::testing::{Dashboard, server};

    /// A server as the catalogue describes its container.
    fn described(status: ContainerStatus, health: Option<ContainerHealth>) -> ServerRecord {
        let container = ContainerRecord {
            id: "c1".into(),
            name: "gpu".into(),
            image: "vllm".into(),
            labels: BTreeMap::from([("inference.enable".into(), "true".into())]),
            status,
            health,
            started_at: String::new(),
            networks: BTreeMap::from([("ai".into(), "10.1.0.2".into())]),
            network_mode: "ai".into(),
            exposed_ports: BTreeSet::new(),
            published_ports: Vec::new(),
        };
        match interpret(&container, &NetworkView::default()) {
            (Interpretation::Server(spec, state), _) => {
                ServerRecord { spec: *spec, ..server("gpu", state, &[]) }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The finding about what the server answered.
    fn answered(server: &ServerRecord, fault: ProbeFault) -> Finding {
        ProbeFinding { asked: Asked::of(&server.spec), fault }.into()
    }

    fn fails() -> ProbeFault {
        ProbeFault::NotReady { path: "/ready".into(), status: 503 }
    }

    #[test]
    fn who_says_how_a_server_is() {
        use ContainerHealth::{Healthy, Starting, Unhealthy};
        use ContainerStatus::{Paused, Running};
        let healthy = || described(Running, Some(Healthy));
        let probed = || described(Running, None);
        let with = |record: ServerRecord, state: ServerState| ServerRecord { state, ..record };
        let draining = |why: LifecycleFinding| ServerState::Draining(why.into());
        let refused = |record: &ServerRecord| answered(record, fails());
        for (gpu, word, by) in [
            (healthy(), "healthy", "HEALTHCHECK"),
            (described(Running, Some(Starting)), "starting", "HEALTHCHECK"),
            (with(healthy(), ServerState::Starting(refused(&healthy()))), "healthy", "HEALTHCHECK"),
            (described(Running, Some(Unhealthy)), "unhealthy", "HEALTHCHECK"),
            (with(healthy(), ServerState::Draining(refused(&healthy()))), "healthy", "HEALTHCHECK"),
            (described(Paused, Some(Healthy)), "not known", "HEALTHCHECK"),
            (with(healthy(), draining(LifecycleFinding::ToldToStop)), "not known", "HEALTHCHECK"),
            (probed(), "healthy", "probe"),
            (with(probed(), ServerState::Starting(refused(&probed()))), "starting", "probe"),
            (with(probed(), ServerState::Draining(refused(&probed()))), "unhealthy", "probe"),
            (described(Paused, None), "not known", "probe"),
            (with(probed(), draining(LifecycleFinding::Disconnected)), "not known", "probe"),
            (with(probed(), ServerState::Stopped(LifecycleFinding::Stopped.into())), "not known", "probe"),
        ] {
            assert_eq!(Health::of(&gpu), Health { word, by }, "{:?}", gpu.state);
        }
    }

    #[tokio::test]
    async fn list_and_page_say_how_a_server_is() {
        let state = described(ContainerStatus::Running, Some(ContainerHealth::Unhealthy)).state;
        let mut gpu = server("gpu", state, &["llama"]);
        gpu.spec.health = HealthMode::Docker;
        let dashboard = Dashboard::of(Catalogue::assemble([gpu], Vec::new()));
        for path in ["/servers", "/models/llama"] {
            let page = dashboard.page(path).await;
            assert!(
                page.contains("unhealthy <span class=\"muted small\">HEALTHCHECK</span>"),
                "{path}: {page}"
            );
        }
        let page = dashboard.page("/servers/file%3Agpu").await;
        assert!(page.contains("<dt>Health</dt><dd>unhealthy, by its HEALTHCHECK</dd>"), "{page}");
    }

    #[test]
    fn who_is_withdrawn_by_hand_is_healthy_unless_it_fails_meanwhile() {
        let cordon = Cordon { kind: CordonKind::Pause, by: "alice".into() };
        let mut gpu = described(ContainerStatus::Running, None);
        gpu.state = ServerState::Draining(cordon.finding());
        assert_eq!(Health::of(&gpu).word, "healthy");
        gpu.state = ServerState::Draining(answered(&gpu, fails()));
        assert_eq!(Health::of(&gpu).word, "unhealthy");
    }
}
