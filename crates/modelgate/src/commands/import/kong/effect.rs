//! The effect of one plugin.

use std::collections::BTreeSet;

use crate::commands::import::found::Limit;

/// What a plugin restricts, as far as Modelgate can express it.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Limits over all keys of a consumer.
    pub(super) of_consumer: Limit,
    /// Limits of each key.
    pub(super) of_key: Limit,
    pub(super) networks: Option<BTreeSet<String>>,
}
