//! The containers that are labelled for Modelgate, whatever became of them: an operator asks about those that are no
//! servers, too.

use crate::{ContainerRecord, Interpretation, ServerState, TaskRecord};

/// Where Compose says which service a container is of.
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// A container, or a task of a Swarm, that has the label `inference.enable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Its name, as servers and problems have it.
    pub name: String,
    /// What its service is called in its Compose file, if it has one.
    pub service: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a labelled container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its label says no.
    NotEnabled,
    /// It cannot be used; its problems say why.
    Rejected,
    /// It does not run.
    Down(ServerState),
    /// It is a server, whose state the catalogue has.
    Server,
}

impl Labelled {
    /// A container, by what it was read as.
    pub fn container(container: &ContainerRecord, read: &Interpretation) -> Self {
        let service = container.labels.get(COMPOSE_SERVICE).cloned();
        Self { name: container.name.clone(), service, outcome: Outcome::of(read) }
    }

    /// A task of a Swarm, by what it was read as.
    pub fn task(task: &TaskRecord, read: &Interpretation) -> Self {
        Self { name: task.name.clone(), service: None, outcome: Outcome::of(read) }
    }

    /// Whether somebody who says this name means it.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.service.as_deref() == Some(name)
    }
}

impl Outcome {
    fn of(read: &Interpretation) -> Self {
        match read {
            Interpretation::NotEnabled => Self::NotEnabled,
            Interpretation::Rejected => Self::Rejected,
            Interpretation::Down(state) => Self::Down(state.clone()),
            Interpretation::Server(..) => Self::Server,
        }
    }
}
