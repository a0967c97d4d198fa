//! Since when each server has been in its state, and since when it has been expected to become ready.
//!
//! The catalogue contains no times, so that it stays the same as long as nothing changes. Therefore each published catalogue is
//! compared with the previous states.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use catalogue::{Catalogue, Finding, LifecycleFinding, Reader, ServerId, ServerRecord};

/// The state of each server by name, and since when.
#[derive(Debug, Default)]
pub(crate) struct Since(Mutex<HashMap<ServerId, (&'static str, SystemTime)>>);

impl Since {
    /// Compares each catalogue that is published; never returns.
    pub(crate) async fn watch(&self, catalogue: &Reader) {
        let mut generation = 0;
        loop {
            let now = catalogue.changed_since(generation).await;
            generation = now.generation();
            self.see(&now, SystemTime::now());
        }
    }

    /// Compares a catalogue with the known states.
    pub(crate) fn see(&self, catalogue: &Catalogue, now: SystemTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |server: &ServerRecord| {
            let state = server.state_name();
            let before = known.get(&server.spec.id).filter(|(name, _)| *name == state);
            (server.spec.id.clone(), (state, before.map_or(now, |(_, since)| *since)))
        };
        let seen = catalogue.servers().map(|server| since(server)).collect();
        *known = seen;
    }

    /// Since when a server has been in its present state; `None` for a moment when it is new.
    pub(crate) fn of(&self, server: &ServerRecord) -> Option<SystemTime> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&server.spec.id).filter(|(name, _)| *name == server.state_name()).map(|(_, since)| *since)
    }

    /// Since when a server has had time to become ready: the start of its container, which may be long before Modelgate's. If
    /// that is unknown, or the server has not been probed yet, the time of its state counts.
    pub(crate) fn loading(&self, server: &ServerRecord, now: SystemTime) -> Option<SystemTime> {
        let started = server.spec.started().filter(|at| *at <= now && !is_yet_to_be_asked(server));
        started.or_else(|| self.of(server))
    }
}

/// Whether nothing is known of this run of a server yet. A container that has just been started still has the time of its
/// previous start.
fn is_yet_to_be_asked(server: &ServerRecord) -> bool {
    use LifecycleFinding::{JustStarted, ModelsNotAsked, ReadyNotAsked};
    matches!(server.state.why(), Some(Finding::Lifecycle(JustStarted | ModelsNotAsked | ReadyNotAsked)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use catalogue::{LifecycleFinding, ServerState, Source};

    use super::*;
    use crate::testing::server;

    #[test]
    fn a_state_lasts_until_it_changes_whatever_else_does() {
        let (since, start) = (Since::default(), SystemTime::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gpu = server("gpu", ServerState::Starting(LifecycleFinding::HealthcheckPending.into()), &[]);
        let seen = |gpu: &ServerRecord, seconds| {
            since.see(&Catalogue::assemble([gpu.clone()], Vec::new()), at(seconds));
            since.of(gpu)
        };
        assert_eq!(seen(&gpu, 1), Some(at(1)));
        gpu.state = ServerState::Starting(LifecycleFinding::ModelsNotAsked.into());
        assert_eq!(seen(&gpu, 2), Some(at(1)), "still starting");
        gpu.state = ServerState::Ready;
        assert_eq!(seen(&gpu, 3), Some(at(3)), "it answers, and has no models");
        gpu.models = server("gpu", ServerState::Ready, &["llama"]).models;
        assert_eq!(seen(&gpu, 4), Some(at(4)));
        gpu.models.extend(server("gpu", ServerState::Ready, &["phi"]).models);
        assert_eq!(seen(&gpu, 5), Some(at(4)), "still ready");
        since.see(&Catalogue::default(), at(6));
        assert_eq!(since.of(&gpu), None, "gone");
    }

    /// Regression: the ten minutes started again whenever Modelgate was restarted.
    #[test]
    fn a_container_loads_since_it_was_started() {
        let now =
            SystemTime::from(jiff::civil::date(2026, 11, 27).at(12, 0, 0, 0).in_tz("UTC").expect("a time"));
        let (seen, pending) = (now - Duration::from_secs(5), LifecycleFinding::HealthcheckPending);
        let loading = |source: Source, incarnation: &str, why: LifecycleFinding| {
            let mut gpu = server("gpu", ServerState::Starting(why.into()), &[]);
            (gpu.spec.source, gpu.spec.incarnation) = (source, incarnation.into());
            let since = Since::default();
            since.see(&Catalogue::assemble([gpu.clone()], Vec::new()), seen);
            let at = since.loading(&gpu, now).expect("it has been seen");
            now.duration_since(at).expect("in the past").as_secs()
        };
        let docker = || Source::Docker { container_id: "c1".into(), image: "vllm".into() };
        assert_eq!(loading(docker(), "2026-11-27T11:00:00.123456789Z", pending.clone()), 3599);
        assert_eq!(loading(docker(), "2026-11-27T13:00:00+02:00", pending.clone()), 3600, "Podman");
        for (incarnation, why) in [
            ("2026-11-27T12:30:00Z", "the clock of its host is ahead"),
            ("0001-01-01T00:00:00Z", "it was never started"),
            ("9ff4w7ns8q2k", "a task's id"),
        ] {
            assert_eq!(loading(docker(), incarnation, pending.clone()), 5, "{why}");
        }
        assert_eq!(loading(docker(), "2026-11-27T11:00:00Z", LifecycleFinding::JustStarted), 5);
        assert_eq!(loading(Source::File, "2026-11-27T11:00:00Z", pending), 5);
    }
}
