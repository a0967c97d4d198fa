//! Counts usage by key and model: for people to look at, not for limits.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use papaya::{Equivalent, HashMap};

use crate::{Denial, Grant, Reason};

/// Counts since the last take. Requests share no lock.
#[derive(Debug, Default)]
pub struct Usage {
    counts: HashMap<UsedBy, Count>,
}

/// One key's usage of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The key's name.
    pub key: String,
    /// The key's consumer.
    pub consumer: String,
    /// The model; empty if none was named or it is not known.
    pub model: String,
    /// Admitted requests.
    pub requests: u64,
    /// Their tokens: the estimates on arrival, and the corrections of earlier ones, so it may be below zero.
    pub tokens: i64,
    /// Refused requests.
    pub refused: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct UsedBy {
    key: Box<str>,
    consumer: Box<str>,
    model: Box<str>,
}

/// Borrowed, so that a look-up allocates nothing.
#[derive(Clone, Copy)]
struct UsedByRef<'a> {
    key: &'a str,
    consumer: &'a str,
    model: &'a str,
}

#[derive(Debug, Default)]
struct Count {
    requests: AtomicU64,
    tokens: AtomicI64,
    refused: AtomicU64,
    /// The number of consecutive takes without a count.
    idle: AtomicU64,
}

/// A pair is forgotten after this many consecutive idle takes: ten minutes at two takes a second.
const IDLE: u64 = 1_200;
/// The maximum number of pairs of key and model, which bounds the memory to some 50 MB.
const MOST: usize = 200_000;

impl Usage {
    /// Counts an admitted request. Its tokens may be added later.
    pub fn allowed(&self, grant: &Grant) {
        self.count(Self::of_grant(grant), |count| {
            count.requests.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Adds the tokens of an admitted request.
    pub fn tokens(&self, key: &str, consumer: &str, model: &str, tokens: u32) {
        self.count(UsedByRef { key, consumer, model }, |count| {
            count.tokens.fetch_add(tokens.into(), Ordering::Relaxed);
        });
    }

    /// Corrects the tokens of an admitted request by what it has really used.
    pub fn correct(&self, key: &str, consumer: &str, model: &str, difference: i64) {
        self.count(UsedByRef { key, consumer, model }, |count| {
            count.tokens.fetch_add(difference, Ordering::Relaxed);
        });
    }

    /// Counts a refused request, if its key is known.
    pub fn refused(&self, denial: &Denial) {
        let Some(key) = &denial.key else { return };
        // Only these reasons mean that the model exists; other names come from the client, who can invent any number.
        let is_known = matches!(denial.reason, Reason::LimitReached(_) | Reason::LimitsUnavailable);
        let model = denial.model.as_deref().filter(|_| is_known).unwrap_or_default();
        self.count(UsedByRef { key: &key.name, consumer: &key.consumer.name, model }, |count| {
            count.refused.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Returns and resets the counts.
    pub fn take(&self) -> Vec<Used> {
        let counts = self.counts.pin();
        let mut taken = Vec::new();
        for (by, count) in &counts {
            let [requests, refused] =
                [&count.requests, &count.refused].map(|count| count.swap(0, Ordering::Relaxed));
            let tokens = count.tokens.swap(0, Ordering::Relaxed);
            if requests + refused > 0 || tokens != 0 {
                count.idle.store(0, Ordering::Relaxed);
                let [key, consumer, model] = [&by.key, &by.consumer, &by.model].map(ToString::to_string);
                taken.push(Used { key, consumer, model, requests, tokens, refused });
            } else if count.idle.fetch_add(1, Ordering::Relaxed) >= IDLE {
                // A count made at this very moment, after minutes of idleness, is lost.
                counts.remove(by);
            }
        }
        taken
    }

    fn of_grant(grant: &Grant) -> UsedByRef<'_> {
        let model = grant.known_model().unwrap_or_default();
        UsedByRef { key: &grant.key.name, consumer: &grant.consumer.name, model }
    }

    fn count(&self, by: UsedByRef<'_>, add: impl FnOnce(&Count)) {
        let counts = self.counts.pin();
        match counts.get(&by) {
            Some(count) => add(count),
            None if counts.len() < MOST => add(counts.get_or_insert_with(by.to_owned(), Count::default)),
            None => {
                let others = UsedByRef { key: "(others)", consumer: "(others)", model: "" };
                add(counts.get_or_insert_with(others.to_owned(), Count::default));
            }
        }
    }
}

impl UsedByRef<'_> {
    fn to_owned(self) -> UsedBy {
        UsedBy { key: self.key.into(), consumer: self.consumer.into(), model: self.model.into() }
    }
}

impl Hash for UsedByRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.key, self.consumer, self.model).hash(state);
    }
}

impl Hash for UsedBy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { key, consumer, model } = self;
        UsedByRef { key, consumer, model }.hash(state);
    }
}

impl Equivalent<UsedBy> for UsedByRef<'_> {
    fn equivalent(&self, other: &UsedBy) -> bool {
        *self.key == *other.key && *self.consumer == *other.consumer && *self.model == *other.model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(key: &str, model: &str, requests: u64, tokens: i64, refused: u64) -> Used {
        Used { key: key.into(), consumer: "team".into(), model: model.into(), requests, tokens, refused }
    }

    #[test]
    fn what_is_taken_is_taken_once() {
        let usage = Usage::default();
        usage.tokens("alice", "team", "llama", 30);
        usage.tokens("alice", "team", "llama", 12);
        usage.tokens("bob", "team", "llama", 1);
        let mut taken = usage.take();
        taken.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(taken, [used("alice", "llama", 0, 42, 0), used("bob", "llama", 0, 1, 0)]);
        assert_eq!(usage.take(), []);
        usage.tokens("alice", "team", "llama", 1);
        assert_eq!(usage.take(), [used("alice", "llama", 0, 1, 0)]);
        usage.correct("alice", "team", "llama", -988);
        assert_eq!(usage.take(), [used("alice", "llama", 0, -988, 0)]);
        assert_eq!(usage.take(), []);
    }

    #[test]
    fn its_memory_is_bounded() {
        let usage = Usage::default();
        for i in 0..MOST + 10 {
            usage.tokens(&format!("key-{i}"), "team", "llama", 1);
        }
        assert_eq!(usage.counts.len(), MOST + 1);
        let others = usage.take().into_iter().find(|used| used.key == "(others)").expect("others");
        assert_eq!(others.tokens, 10);
    }
}
