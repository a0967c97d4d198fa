//! Since when each server has been in its state.
//!
//! The catalogue has no times: it says the same as long as nothing changes. So each one that is published is compared
//! with what was known.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use catalogue::{Catalogue, Reader, ServerId};

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

    /// Compares a catalogue with what was known.
    pub(crate) fn see(&self, catalogue: &Catalogue, now: SystemTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |server: &catalogue::ServerRecord| {
            let state = server.state.name();
            let before = known.get(&server.spec.id).filter(|(name, _)| *name == state);
            (server.spec.id.clone(), (state, before.map_or(now, |(_, since)| *since)))
        };
        let seen = catalogue.servers().map(|server| since(server)).collect();
        *known = seen;
    }

    /// Since when a server has been in the state that it is in; `None` for a moment, when it is new.
    pub(crate) fn of(&self, server: &catalogue::ServerRecord) -> Option<SystemTime> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&server.spec.id).filter(|(name, _)| *name == server.state.name()).map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use catalogue::{LifecycleFinding, ServerState};

    use super::*;
    use crate::testing::server;

    #[test]
    fn a_state_lasts_until_it_changes_whatever_else_does() {
        let (since, start) = (Since::default(), SystemTime::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gpu = server("gpu", ServerState::Starting(LifecycleFinding::HealthcheckPending.into()), &[]);
        let seen = |gpu: &catalogue::ServerRecord, seconds| {
            since.see(&Catalogue::assemble([gpu.clone()], Vec::new()), at(seconds));
            since.of(gpu)
        };
        assert_eq!(seen(&gpu, 1), Some(at(1)));
        gpu.state = ServerState::Starting(LifecycleFinding::ModelsNotAsked.into());
        assert_eq!(seen(&gpu, 2), Some(at(1)), "still starting");
        gpu.state = ServerState::Ready;
        assert_eq!(seen(&gpu, 3), Some(at(3)));
        since.see(&Catalogue::default(), at(4));
        assert_eq!(since.of(&gpu), None, "gone");
    }
}
