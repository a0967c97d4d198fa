//! How a server is, and by whom that is known: Docker, by its HEALTHCHECK, or Modelgate's own questions.

use catalogue::{HealthMode, Hold, ServerRecord, ServerState};

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// One word, or that it is not known.
    pub(crate) word: &'static str,
    /// Who says so.
    pub(crate) by: &'static str,
}

impl Health {
    /// How a server is, which an operator may have withdrawn. Who is withdrawn by hand was ready.
    pub(super) fn of(server: &ServerRecord, hold: Option<&Hold>) -> Self {
        let mode = server.spec.health;
        let by = match mode {
            HealthMode::Docker => "HEALTHCHECK",
            HealthMode::Probe => "probe",
        };
        Self { word: word(&server.state, mode, hold), by }
    }
}

fn word(state: &ServerState, mode: HealthMode, hold: Option<&Hold>) -> &'static str {
    let why = state.why().unwrap_or_default();
    let is_held = || hold.is_some_and(|hold| hold.reason() == why);
    match state {
        ServerState::Ready => "healthy",
        // Docker says that it is, and yet it cannot be used.
        _ if why.starts_with("healthy, but ") => "healthy",
        ServerState::Starting(_) => "starting",
        ServerState::Draining(_) if is_held() => "healthy",
        ServerState::Draining(_) if is_unhealthy(why, mode) => "unhealthy",
        ServerState::Draining(_) | ServerState::Stopped(_) => "not known",
    }
}

/// Whether that is why it was withdrawn, and not because somebody has stopped, paused or disconnected it.
fn is_unhealthy(why: &str, mode: HealthMode) -> bool {
    match mode {
        HealthMode::Docker => why.contains("HEALTHCHECK fails"),
        HealthMode::Probe => !why.starts_with("it is paused") && !why.starts_with("it has "),
    }
}

#[cfg(test)]
mod tests {
    use catalogue::{Catalogue, HoldKind};

    use super::*;
    use crate::testing::{Dashboard, server};

    #[test]
    fn who_says_how_a_server_is() {
        use HealthMode::{Docker, Probe};
        let starting = |why: &str| ServerState::Starting(why.into());
        let draining = |why: &str| ServerState::Draining(why.into());
        for (state, mode, word) in [
            (ServerState::Ready, Docker, "healthy"),
            (starting("its HEALTHCHECK has not passed yet"), Docker, "starting"),
            (starting("healthy, but /v1/models answers 404: set inference.models"), Docker, "healthy"),
            (draining("its HEALTHCHECK fails"), Docker, "unhealthy"),
            (draining("healthy, but /ready answers 503, so it is not ready"), Docker, "healthy"),
            (draining("it is paused"), Docker, "not known"),
            (draining("it has been told to stop"), Docker, "not known"),
            (ServerState::Ready, Probe, "healthy"),
            (starting("cannot connect to http://10.0.0.1:8000: refused"), Probe, "starting"),
            (draining("cannot connect to http://10.0.0.1:8000: refused"), Probe, "unhealthy"),
            (draining("it does not answer"), Probe, "unhealthy"),
            (draining("it is paused"), Probe, "not known"),
            (draining("it has been disconnected from a network"), Probe, "not known"),
            (ServerState::Stopped("it has stopped".into()), Probe, "not known"),
        ] {
            let mut gpu = server("gpu", state, &[]);
            gpu.spec.health = mode;
            let by = if mode == Docker { "HEALTHCHECK" } else { "probe" };
            assert_eq!(Health::of(&gpu, None), Health { word, by }, "{:?}", gpu.state);
        }
    }

    #[tokio::test]
    async fn list_and_page_say_how_a_server_is() {
        let mut gpu = server("gpu", ServerState::Draining("its HEALTHCHECK fails".into()), &["llama"]);
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
        let hold = Hold { kind: HoldKind::Pause, by: "alice".into() };
        let word =
            |why: String| Health::of(&server("gpu", ServerState::Draining(why), &[]), Some(&hold)).word;
        assert_eq!(word(hold.reason()), "healthy");
        assert_eq!(word("it does not answer".into()), "unhealthy");
    }
}
