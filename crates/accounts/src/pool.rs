//! Shares equal values in memory: most of 100,000 keys have the same few limits and models.

use std::collections::{HashMap, HashSet};

use access::ModelGlobs;
use limits::Limits;

use crate::Patterns;

/// How many distinct values are kept; beyond that there is little to share, and the pool is emptied.
const MAX_VALUES: usize = 1_000;

/// The distinct limits and models so far.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    limits: HashSet<Limits>,
    models: HashMap<Vec<String>, ModelGlobs>,
}

impl Pool {
    /// The shared copy of these limits.
    pub(crate) fn limits(&mut self, limits: Limits) -> Limits {
        if limits.is_empty() {
            return limits;
        }
        if let Some(known) = self.limits.get(&limits) {
            return known.clone();
        }
        if self.limits.len() >= MAX_VALUES {
            self.limits.clear();
        }
        self.limits.insert(limits.clone());
        limits
    }

    /// The shared copy of these models.
    pub(crate) fn models(&mut self, models: &Patterns) -> ModelGlobs {
        if let Some(known) = self.models.get(models.texts()) {
            return known.clone();
        }
        if self.models.len() >= MAX_VALUES {
            self.models.clear();
        }
        self.models.insert(models.texts().to_vec(), models.globs().clone());
        models.globs().clone()
    }
}
