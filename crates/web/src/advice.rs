//! Known faults of the Traefiks in use.

use std::collections::BTreeSet;

use traefik_config::{TraefikVersion, advisories};

use crate::Shared;

/// What is said of the faults of a Traefik whose version nobody has named.
pub const UNKNOWN_TRAEFIK: &str = "which version of Traefik runs is not known, so neither are its published faults; set traefik.version to it";

impl Shared {
    /// The published faults, as text, of each Traefik version that is named: by the configuration, and by Traefiks when they poll.
    /// Traefik does not report its real version. Of one that nobody has named, nothing is said but that.
    pub fn advisories(&self) -> Vec<String> {
        let settings = self.settings();
        let usual = settings.traefik.version;
        let mut versions: BTreeSet<TraefikVersion> =
            self.polls().instances().iter().filter(|i| i.is_traefik()).map(|i| i.rendered_for).collect();
        let is_named = settings.version_is_given || versions.iter().any(|version| *version != usual);
        match settings.version_is_given {
            true => versions.insert(usual),
            false => versions.remove(&usual),
        };
        let unknown = (!is_named).then(|| UNKNOWN_TRAEFIK.to_owned());
        unknown.into_iter().chain(versions.into_iter().flat_map(in_words)).collect()
    }
}

fn in_words(version: TraefikVersion) -> impl Iterator<Item = String> {
    advisories(version).into_iter().map(move |advisory| format!("Traefik {version}: {advisory}"))
}
