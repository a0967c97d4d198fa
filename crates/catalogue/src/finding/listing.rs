//! Parts of a server's list of models that cannot be used.

use std::{borrow::Cow, fmt};

use super::Facts;
use crate::{InvalidModelName, MAX_MODELS_PER_SERVER, Origin};

/// What is wrong with a list of models.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListingFinding {
    /// It has no models.
    NoModels(Origin),
    /// An entry has no `id`.
    EntryWithoutId,
    /// A model has a name that cannot be used.
    UnusableName(InvalidModelName),
    /// It is longer than is allowed for one server.
    TooMany {
        /// How many it has.
        count: usize,
    },
    /// The server answers only requests with its own `Host`, but is sent the clients' `Host`.
    OwnHostOnly(Origin),
}

impl ListingFinding {
    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::NoModels(_) => Facts::fault("lists_no_models"),
            Self::EntryWithoutId => Facts::fault("lists_entry_without_id"),
            Self::UnusableName(_) => Facts::fault("lists_unusable_name"),
            Self::TooMany { .. } => Facts::fault("lists_too_many_models"),
            Self::OwnHostOnly(_) => Facts::fault("lists_for_own_host_only"),
        }
    }

    pub(super) fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::NoModels(origin) => format!(
                "Load or pull a model into it (ollama pull …), or name its models with {}.",
                origin.models()
            )
            .into(),
            Self::EntryWithoutId => {
                "Its other models are used. If one is missing, name them all by hand: the label inference.models, or models in \
                 its entry in servers:."
                    .into()
            }
            Self::UnusableName(_) => {
                "Give the model another name on the server: 1 to 256 printable ASCII characters, without a blank at either end. \
                 Its other models are used."
                    .into()
            }
            Self::TooMany { .. } => {
                "Name those that are wanted by hand: the label inference.models, or the key models of its entry in servers.".into()
            }
            Self::OwnHostOnly(origin) => format!(
                "Set {} to false: then Traefik asks it for its own host. Set it to true if it knows the hosts that clients ask for.",
                origin.setting("pass_host_header")
            )
            .into(),
        }
    }
}

impl fmt::Display for ListingFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModels(_) => f.write_str("it lists no models"),
            Self::EntryWithoutId => f.write_str("it lists an entry without an \"id\""),
            Self::UnusableName(invalid) => write!(f, "it lists a model that is left out: {invalid}"),
            Self::TooMany { count } => {
                write!(f, "it lists {count} models; the first {MAX_MODELS_PER_SERVER} are used")
            }
            Self::OwnHostOnly(_) => f.write_str(
                "it lists its models for its own Host only, and requests come with that of their clients (pass_host_header)",
            ),
        }
    }
}
