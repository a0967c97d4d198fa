//! Known faults of the Traefiks in use.

use std::collections::BTreeSet;

use traefik_config::{TraefikVersion, advisories};

use crate::Shared;

impl Shared {
    /// The published faults, as text, of each Traefik version that documents are rendered for: the configured one, and those
    /// that Traefiks name when they poll. Traefik does not report its real version.
    pub fn advisories(&self) -> Vec<String> {
        let mut versions = BTreeSet::from([self.settings().traefik.version]);
        versions.extend(self.polls().instances().iter().filter(|i| i.is_traefik()).map(|i| i.rendered_for));
        versions.into_iter().flat_map(in_words).collect()
    }
}

fn in_words(version: TraefikVersion) -> impl Iterator<Item = String> {
    advisories(version).into_iter().map(move |advisory| format!("Traefik {version}: {advisory}"))
}
