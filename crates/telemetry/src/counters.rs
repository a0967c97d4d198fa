//! How many requests were allowed, and how many refused for which reason.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// The maximum number of reasons, more than exist; further ones count as [`OTHER`].
pub(crate) const MAX_CODES: usize = 63;
/// The code of refusals without a counter of their own.
const OTHER: &str = "other";

/// The counters. Counting takes no lock: a reason's counter is found by comparing a few pointers.
#[derive(Debug)]
pub(crate) struct Counters {
    allowed: AtomicU64,
    refused: [RefusalCount; MAX_CODES],
    others: AtomicU64,
}

/// The refusals for one reason. Slots are assigned in the order in which reasons first occur.
#[derive(Debug, Default)]
struct RefusalCount {
    code: OnceLock<&'static str>,
    count: AtomicU64,
}

/// The counts at some moment, or between two moments. Refusals are indexed by their slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) allowed: u64,
    refused: Vec<(&'static str, u64)>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            allowed: AtomicU64::new(0),
            refused: std::array::from_fn(|_| RefusalCount::default()),
            others: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Counts a request that was allowed, or refused for a reason.
    pub(crate) fn add(&self, refused: Option<&'static str>) {
        let counter = match refused {
            None => &self.allowed,
            Some(code) => self.of(code),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, code: &'static str) -> &AtomicU64 {
        let is_its_own = |place: &&RefusalCount| {
            let theirs = *place.code.get_or_init(|| code);
            // Usually both are the same static text; the full comparison handles the other cases.
            std::ptr::eq(theirs, code) || theirs == code
        };
        self.refused.iter().find(is_its_own).map_or(&self.others, |place| &place.count)
    }

    pub(crate) fn read(&self) -> Counts {
        let counts = self.refused.iter().map_while(|place| {
            let code = place.code.get()?;
            Some((*code, place.count.load(Ordering::Relaxed)))
        });
        let mut refused: Vec<_> = counts.collect();
        if refused.len() == MAX_CODES {
            refused.push((OTHER, self.others.load(Ordering::Relaxed)));
        }
        Counts { allowed: self.allowed.load(Ordering::Relaxed), refused }
    }
}

impl Counts {
    /// Refusals by reason; those that did not occur are left out.
    pub(crate) fn refused(&self) -> Vec<(&'static str, u64)> {
        self.refused.iter().filter(|(_, count)| *count > 0).copied().collect()
    }

    /// The counts since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let refused = self.refused.iter().enumerate().map(|(place, (code, now))| {
            let then = earlier.refused.get(place).map_or(0, |(_, then)| *then);
            (*code, now.saturating_sub(then))
        });
        Self { allowed: self.allowed.saturating_sub(earlier.allowed), refused: refused.collect() }
    }

    /// Adds counts. `more` may contain reasons that occurred later, but those of `self` have the same slots in it.
    pub(crate) fn add(&mut self, more: &Self) {
        self.allowed += more.allowed;
        for (place, (code, count)) in more.refused.iter().enumerate() {
            match self.refused.get_mut(place) {
                Some((_, sum)) => *sum += count,
                None => self.refused.push((code, *count)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_codes_at_different_addresses_are_one_reason() {
        let counters = Counters::default();
        let copy: &'static str = String::from("model_not_found").leak();
        for refused in [Some("model_not_found"), None, Some(copy), Some("missing_api_key")] {
            counters.add(refused);
        }
        let counts = counters.read();
        assert_eq!(counts.allowed, 1);
        assert_eq!(counts.refused(), [("model_not_found", 2), ("missing_api_key", 1)]);
    }

    #[test]
    fn what_came_since_knows_new_reasons() {
        let counters = Counters::default();
        counters.add(Some("a"));
        let then = counters.read();
        counters.add(Some("b"));
        counters.add(Some("a"));
        counters.add(None);
        let since = counters.read().since(&then);
        assert_eq!((since.allowed, since.refused()), (1, vec![("a", 1), ("b", 1)]));
        let mut sum = then;
        sum.add(&since);
        assert_eq!(sum, counters.read());
    }

    #[test]
    fn more_reasons_than_places_are_still_counted() {
        let counters = Counters::default();
        for i in 0..MAX_CODES + 5 {
            counters.add(Some(format!("code-{i}").leak()));
        }
        let refused = counters.read().refused();
        assert_eq!(refused.iter().map(|(_, count)| count).sum::<u64>(), MAX_CODES as u64 + 5);
        assert_eq!(refused.last(), Some(&(OTHER, 5)));
    }
}
