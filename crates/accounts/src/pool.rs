//! What many accounts have alike, kept once: of 100,000 keys most have the same limits and models.

use std::collections::{HashMap, HashSet};

use access::ModelGlobs;
use limits::Limits;

use crate::Patterns;

/// More than that are not alike; then it begins anew.
const MOST: usize = 1_000;

/// Limits and models as they were met.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    limits: HashSet<Limits>,
    models: HashMap<Vec<String>, ModelGlobs>,
}

impl Pool {
    /// Limits like these.
    pub(crate) fn limits(&mut self, limits: Limits) -> Limits {
        if limits.is_empty() {
            return limits;
        }
        if let Some(known) = self.limits.get(&limits) {
            return known.clone();
        }
        if self.limits.len() >= MOST {
            self.limits.clear();
        }
        self.limits.insert(limits.clone());
        limits
    }

    /// Models like these.
    pub(crate) fn models(&mut self, models: &Patterns) -> ModelGlobs {
        if let Some(known) = self.models.get(models.texts()) {
            return known.clone();
        }
        if self.models.len() >= MOST {
            self.models.clear();
        }
        self.models.insert(models.texts().to_vec(), models.globs().clone());
        models.globs().clone()
    }
}
