//! The health of a server and its source: Docker's HEALTHCHECK, or Modelgate's own probes.

use catalogue::{Finding, HealthMode, LifecycleFinding, ServerRecord, ServerState};

/// The health of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShownHealth {
    /// One word, or that the health is unknown.
    pub(crate) word: &'static str,
    /// The source of the health.
    pub(crate) by: &'static str,
}

impl ShownHealth {
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
    use catalogue::{Catalogue, ContainerHealth, ContainerRecord, ContainerStatus, Cordon, CordonKind};

    use super::*;
    use crate::testing::{
        Dashboard,
        found::{ChangingServer, Discovery, Does, container, healthy, interpreted, record},
    };

    fn assert_health(server: &ServerRecord, word: &'static str, by: &'static str) {
        assert_eq!(
            ShownHealth::of(server),
            ShownHealth { word, by },
            "{}: {:?}",
            server.spec.name,
            server.state
        );
    }

    fn server<'c>(catalogue: &'c Catalogue, name: &str) -> &'c ServerRecord {
        catalogue.servers().find(|server| server.spec.name == name).expect(name)
    }

    #[test]
    fn what_docker_says_of_a_container_is_its_health() {
        use ContainerHealth::{Healthy, Starting, Unhealthy};
        use ContainerStatus::{Paused, Running};
        for (status, health, word, by) in [
            (Running, Some(Healthy), "healthy", "HEALTHCHECK"),
            (Running, Some(Starting), "starting", "HEALTHCHECK"),
            (Running, Some(Unhealthy), "unhealthy", "HEALTHCHECK"),
            (Paused, Some(Healthy), "not known", "HEALTHCHECK"),
            (Running, None, "healthy", "probe"),
            (Paused, None, "not known", "probe"),
        ] {
            let gpu = ContainerRecord { status, health, ..container("gpu", 8000, &[]) };
            assert_health(&record(&gpu), word, by);
        }
        // Findings without a word in them, which only a Docker host's events make.
        let lost = |state| ServerRecord { state, ..record(&container("gpu", 8000, &[])) };
        for why in [LifecycleFinding::ToldToStop, LifecycleFinding::Disconnected] {
            assert_health(&lost(ServerState::Draining(why.into())), "not known", "probe");
        }
        assert_health(&lost(ServerState::Stopped(LifecycleFinding::Stopped.into())), "not known", "probe");
    }

    /// Servers that answer, and then fail or are cordoned.
    #[tokio::test]
    async fn what_a_server_answers_is_its_health_where_no_healthcheck_looks_after_it() {
        let (loads, good) = (Does::Answer(200, 503), Does::Answer(200, 200));
        let servers = [
            ChangingServer::start(loads).await,
            ChangingServer::start(good).await,
            ChangingServer::start(good).await,
        ];
        let asked = [("inference.ready.path", "/ready")];
        let of = |name: &str, server: &ChangingServer| container(name, server.port, &asked);
        let [loading, well, held] = &servers;
        let discovery = Discovery::start(&[
            of("probed-loading", loading),
            healthy(of("checked-loading", loading)),
            of("probed", well),
            healthy(of("checked", well)),
            of("paused", held),
        ]);
        let found = discovery.all_asked().await;
        assert_health(server(&found, "probed-loading"), "starting", "probe");
        assert_health(server(&found, "checked-loading"), "healthy", "HEALTHCHECK");
        assert_health(server(&found, "probed"), "healthy", "probe");

        let cordon = Cordon { kind: CordonKind::Pause, by: "alice".into() };
        let paused = server(&found, "paused").spec.id.clone();
        discovery.cordons.send_modify(|cordons| cordons.cordon(paused, cordon));
        well.now(loads);
        let is_lost = |catalogue: &Catalogue| {
            ["probed", "checked"].iter().all(|name| server(catalogue, name).state.name() == "draining")
        };
        let found = discovery.until(is_lost).await;
        assert_health(server(&found, "probed"), "unhealthy", "probe");
        assert_health(server(&found, "checked"), "healthy", "HEALTHCHECK");
        assert_health(server(&found, "paused"), "healthy", "probe");
        // It fails while it is withdrawn.
        held.now(loads);
        let fails = |catalogue: &Catalogue| ShownHealth::of(server(catalogue, "paused")).word == "unhealthy";
        discovery.until(fails).await;
    }

    #[tokio::test]
    async fn list_and_page_say_how_a_server_is() {
        let unhealthy = Some(ContainerHealth::Unhealthy);
        let gpu =
            ContainerRecord { health: unhealthy, ..container("gpu", 8000, &[("inference.models", "llama")]) };
        let (spec, state, _) = interpreted(&gpu);
        let gpu = ServerRecord { spec, ..crate::testing::server("gpu", state, &["llama"]) };
        let dashboard = Dashboard::of(Catalogue::assemble([gpu], Vec::new()));
        for path in ["/servers", "/models/llama"] {
            let page = dashboard.page(path).await;
            assert!(
                page.contains("unhealthy <span class=\"muted small\">HEALTHCHECK</span>"),
                "{path}: {page}"
            );
        }
        let page = dashboard.page("/servers/docker%3Aid-of-gpu").await;
        assert!(page.contains("<dt>Health</dt><dd>unhealthy, by its HEALTHCHECK</dd>"), "{page}");
    }
}
