//! Requests of models that have a price, by paths whose requests use something else: nothing is counted of them, so they are free
//! unless a hard budget refuses them. Noted for operators; `/auth` comes here, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A model with a price, and a path by which it is used without cost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UncountedPath {
    /// The name under which it has its price: its own, or the one that clients used.
    pub model: String,
    /// The path of the first of these requests, without its query.
    pub path: String,
}

/// At most this many models are noted.
const MOST: usize = 100;
/// How long a path is told after its last request.
const KEEP: Duration = Duration::from_secs(24 * 3_600);
const LONGEST_PATH: usize = 100;

/// The first such path of each model.
#[derive(Debug, Default)]
pub(crate) struct UncountedPaths(papaya::HashMap<Box<str>, Noted>);

#[derive(Debug)]
struct Noted {
    path: Box<str>,
    /// In seconds since 1970.
    last: AtomicU64,
}

impl UncountedPaths {
    pub(crate) fn note(&self, model: &str, uri: &str, at: SystemTime) {
        let (noted, now) = (self.0.pin(), seconds(at));
        if let Some(known) = noted.get(model) {
            known.last.store(now, Ordering::Relaxed);
        } else if noted.len() < MOST {
            let path = uri.split('?').next().unwrap_or_default().chars().take(LONGEST_PATH).collect();
            noted.insert(model.into(), Noted { path, last: AtomicU64::new(now) });
        }
    }

    /// Those of the last day, in the order of their models.
    pub(crate) fn lately(&self, now: SystemTime) -> Vec<UncountedPath> {
        let noted = self.0.pin();
        let oldest = seconds(now).saturating_sub(KEEP.as_secs());
        noted.retain(|_, noted| noted.last.load(Ordering::Relaxed) >= oldest);
        let mut all: Vec<_> = noted
            .iter()
            .map(|(model, noted)| UncountedPath { model: model.to_string(), path: noted.path.to_string() })
            .collect();
        all.sort();
        all
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_path_of_each_model_is_told_for_a_day_after_the_last_request() {
        let (paths, at) =
            (UncountedPaths::default(), |hour: u64| UNIX_EPOCH + Duration::from_secs(hour * 3_600));
        paths.note("flux", "/v1/chat/completions?x=y", at(1));
        paths.note("flux", "/prompt", at(20));
        paths.note("aura", "/prompt", at(2));
        let told = |hour| -> Vec<String> {
            paths.lately(at(hour)).into_iter().map(|path| format!("{} {}", path.model, path.path)).collect()
        };
        assert_eq!(told(26), ["aura /prompt", "flux /v1/chat/completions"]);
        assert_eq!(told(44), ["flux /v1/chat/completions"]);
        assert_eq!(told(45), Vec::<String>::new());
        (0..200).for_each(|number| paths.note(&format!("model {number}"), "/", at(46)));
        assert_eq!(told(46).len(), MOST);
    }
}
