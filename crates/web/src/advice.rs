//! What is known to be wrong with the Traefiks in use.

use std::collections::BTreeSet;

use traefik_config::{TraefikVersion, advisories};

use crate::Shared;

impl Shared {
    /// Published faults of each Traefik version that documents are rendered for, in words: that of the configuration, and
    /// those that Traefiks name when they poll. Which version really runs, Traefik does not say.
    pub fn advisories(&self) -> Vec<String> {
        let mut versions = BTreeSet::from([self.settings().traefik.version]);
        versions.extend(self.polls().instances().iter().filter(|i| i.is_traefik()).map(|i| i.rendered_for));
        versions.into_iter().flat_map(in_words).collect()
    }
}

fn in_words(version: TraefikVersion) -> impl Iterator<Item = String> {
    advisories(version).into_iter().map(move |advisory| format!("Traefik {version}: {advisory}"))
}
