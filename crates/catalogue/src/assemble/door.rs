//! What a request meets behind a route: the kind of program, its base path, and the paths that the operator opens there.

use std::{collections::BTreeSet, sync::Arc};

use super::Branch;
use crate::{BasePath, Kind, OpenPath, ServerRecord};

/// What requests of a route group meet. Servers with equal values share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// Which program it is.
    pub kind: Kind,
    /// What `/v1` in a request's path becomes.
    pub base_path: BasePath,
    /// The paths that the operator opens; if any are given, all others are closed. Empty: the kind's own paths.
    pub paths: Vec<OpenPath>,
    /// Whether WebSockets pass even though their messages may name a model.
    pub websockets: bool,
}

impl Door {
    fn of(server: &ServerRecord) -> Self {
        let settings = &server.spec.settings;
        Self {
            kind: server.kind(),
            base_path: server.spec.base_path.clone(),
            paths: settings.paths.clone(),
            websockets: settings.websockets,
        }
    }

    /// The doors of a group's servers, of its canary and of its mirror.
    pub(super) fn all<'a>(
        ready: &[Arc<ServerRecord>],
        branches: impl IntoIterator<Item = &'a Branch>,
    ) -> Vec<Self> {
        let mut doors: BTreeSet<Self> = ready.iter().map(|server| Self::of(server)).collect();
        doors.extend(branches.into_iter().flat_map(|branch| &branch.ready).map(|server| Self::of(server)));
        doors.into_iter().collect()
    }
}
