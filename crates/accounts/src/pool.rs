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

#[cfg(test)]
mod tests {
    use limits::Rate;

    use super::*;

    /// Equal values share memory, and the pool of all that were ever used stays small.
    #[test]
    fn equal_values_are_one_and_their_number_is_bounded() {
        let mut pool = Pool::default();
        for amount in 1..=u32::try_from(MAX_VALUES + 1).expect("it fits") {
            pool.limits(Rate::per_minute(amount, None).expect("a rate").into());
            pool.models(&Patterns::new(vec![format!("m{amount}")]).expect("a pattern"));
            let kept = (amount as usize - 1) % MAX_VALUES + 1;
            assert_eq!((pool.limits.len(), pool.models.len()), (kept, kept));
        }
        assert!(pool.limits(Limits::default()).is_empty());
        let known = pool.models(&Patterns::new(vec!["m1001".into()]).expect("a pattern"));
        assert!(known.matches("m1001") && !known.matches("m1"));
        assert_eq!((pool.limits.len(), pool.models.len()), (1, 1));
    }
}
