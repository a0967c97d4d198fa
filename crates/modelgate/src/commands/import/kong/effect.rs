//! What one plugin comes to.

use std::collections::BTreeSet;

use crate::commands::import::found::Limit;

/// What a plugin restricts, as far as it can be said here.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// For all keys of a consumer together.
    pub(super) of_consumer: Limit,
    /// For each key.
    pub(super) of_key: Limit,
    pub(super) networks: Option<BTreeSet<String>>,
}
