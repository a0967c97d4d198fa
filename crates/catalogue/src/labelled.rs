//! The containers that are labelled for Modelgate, whatever became of them: operators also ask about labelled containers that
//! are not servers.

use crate::{ContainerRecord, Interpretation, ServerState, TaskRecord};

/// The label in which Compose stores a container's service.
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// A container, or a task of a Swarm, that has the label `inference.enable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Its name, as in servers and problems.
    pub name: String,
    /// Its service's name in the Compose file, if it has one.
    pub service: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a labelled container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its label is not true.
    NotEnabled,
    /// It cannot be used; its problems say why.
    Rejected,
    /// It does not run.
    Down(ServerState),
    /// It is a server; the catalogue has its state.
    Server,
}

impl Labelled {
    /// A container, with the result of reading it.
    pub fn container(container: &ContainerRecord, read: &Interpretation) -> Self {
        let service = container.labels.get(COMPOSE_SERVICE).cloned();
        Self { name: container.name.clone(), service, outcome: Outcome::of(read) }
    }

    /// A task of a Swarm, with the result of reading it.
    pub fn task(task: &TaskRecord, read: &Interpretation) -> Self {
        Self { name: task.name.clone(), service: None, outcome: Outcome::of(read) }
    }

    /// Whether this is a name of it.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `modelgate explain` finds a container by what the operator types.
    #[test]
    fn a_container_is_called_by_its_name_or_its_service() {
        let labelled = |service: Option<&str>| Labelled {
            name: "ai-vllm-1".into(),
            service: service.map(str::to_owned),
            outcome: Outcome::Server,
        };
        for (service, typed, is_it) in [
            (Some("vllm"), "ai-vllm-1", true),
            (Some("vllm"), "vllm", true),
            (Some("vllm"), "ai", false),
            (None, "ai-vllm-1", true),
            (None, "vllm", false),
        ] {
            assert_eq!(labelled(service).is_called(typed), is_it, "{service:?} {typed}");
        }
    }
}
