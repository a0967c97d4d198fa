//! Labels that are wrong.

use std::{borrow::Cow, fmt};

use super::Facts;
use crate::{InvalidBasePath, InvalidModelName, label};

/// What is wrong with a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelFinding {
    /// Its value is not allowed.
    NotAllowed {
        /// The label.
        label: String,
        /// The beginning of its value.
        found: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// `inference.api.base_path` is not a path that can be used.
    BasePath(InvalidBasePath),
    /// An entry of `inference.models` is not a model's name.
    ModelName(InvalidModelName),
    /// A setting lacks another one that it needs; the text begins with the setting's key.
    Inconsistent(&'static str),
    /// A label that is probably a misspelt `inference.enable`, which the container lacks.
    EnableMisspelt {
        /// The label.
        label: String,
    },
    /// The label is unknown, so it has no effect.
    Unknown {
        /// The label.
        label: String,
    },
    /// `inference.health=docker` for a container without a HEALTHCHECK.
    NoHealthcheck,
    /// `inference.enable` is on the containers of a Swarm service, where managers do not see it.
    OnContainers,
}

impl LabelFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::NotAllowed { .. } => Facts::fault("label_not_allowed"),
            Self::BasePath(_) => Facts::fault("label_base_path"),
            Self::ModelName(_) => Facts::fault("label_model_name"),
            Self::Inconsistent(_) => Facts::fault("label_inconsistent"),
            Self::EnableMisspelt { .. } => Facts::fault("label_enable_misspelt"),
            Self::Unknown { .. } => Facts::fault("label_unknown"),
            Self::NoHealthcheck => Facts::fault("label_without_healthcheck"),
            Self::OnContainers => Facts::fault("label_on_containers"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        let advice = match self {
            Self::NotAllowed { .. } | Self::BasePath(_) | Self::ModelName(_) | Self::Inconsistent(_) => {
                "Correct the label and start the container anew: docker compose up -d, or docker stack deploy in a Swarm. \
                 Labels cannot change while it runs."
            }
            Self::EnableMisspelt { .. } => {
                "Write inference.enable=true, and start the container anew: docker compose up -d, or docker stack deploy in a \
                 Swarm. If it is no inference server, take the label away."
            }
            Self::Unknown { .. } => {
                "Correct the label's name, or take it away, and start the container anew: docker compose up -d, or docker \
                 stack deploy in a Swarm. All labels are in deploy/reference.md."
            }
            Self::NoHealthcheck => {
                "Give the service a healthcheck in its Compose file, or take the label away: then Modelgate asks the server \
                 itself."
            }
            Self::OnContainers => {
                "Move the labels from labels: to deploy.labels: of the service in its Compose file, and deploy it again: \
                 docker stack deploy."
            }
        };
        advice.into()
    }

    pub(super) fn choices(&self) -> Option<String> {
        match self {
            // Where it is clear what was meant, a list of all labels hides it.
            Self::Unknown { label } if label::meant(label).is_none() => {
                Some(label::known().collect::<Vec<_>>().join(", "))
            }
            Self::Unknown { .. }
            | Self::NotAllowed { .. }
            | Self::BasePath(_)
            | Self::ModelName(_)
            | Self::Inconsistent(_)
            | Self::EnableMisspelt { .. }
            | Self::NoHealthcheck
            | Self::OnContainers => None,
        }
    }
}

impl fmt::Display for LabelFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { label, found, allowed } => {
                write!(f, "label {label}={found:?} is not allowed: write {allowed}")
            }
            Self::BasePath(invalid) => write!(f, "label inference.api.base_path: {invalid}"),
            Self::ModelName(invalid) => write!(f, "label inference.models: {invalid}"),
            Self::Inconsistent(fault) => write!(f, "label {}{fault}", label::PREFIX),
            Self::EnableMisspelt { label: found } => write!(
                f,
                "label {} is not known, so it is left alone; did you mean {}=true?",
                found.escape_debug(),
                label::OPT_IN
            ),
            Self::Unknown { label: found } => {
                write!(f, "label {} is not known and has no effect", found.escape_debug())?;
                if let Some(meant) = label::meant(found) {
                    return write!(f, " (did you mean {meant}?)");
                }
                match self.choices() {
                    Some(known) if !f.alternate() => write!(f, "; known are {known}"),
                    Some(_) | None => Ok(()),
                }
            }
            Self::NoHealthcheck => f.write_str(
                "label inference.health=\"docker\", but the container has no HEALTHCHECK: give it one, or write \
                 inference.health=probe",
            ),
            Self::OnContainers => f.write_str(
                "label inference.enable is on the containers of this service; in a Swarm it must be on the service itself \
                 (deploy.labels in Compose)",
            ),
        }
    }
}
