//! Counts usage by hour, key and model: for people to look at, not for limits.
//!
//! ```text
//! /auth      ─ allowed, refused ─▶ counts, which are atomic ─┬─ take ─▶ the store
//! the ledger ─ settled          ─▶ corrections, behind a lock ┘
//! ```

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    mem,
    ops::AddAssign,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use papaya::Equivalent;

use crate::{Denial, Grant, Reason};

/// Counts since the last take. `/auth` takes no lock.
#[derive(Debug, Default)]
pub struct Usage {
    counts: papaya::HashMap<UsedBy, Count>,
    /// What was settled since the last take. `/auth` never comes here.
    settled: Mutex<HashMap<UsedBy, UsedCounts>>,
    /// How long after an hour of UTC an hour of the time zone begins, in seconds.
    offset: AtomicU32,
}

/// One key's usage of one model in an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// When the requests came, whenever they were settled.
    pub hour: UsageHour,
    /// The key's name.
    pub key: String,
    /// The key's consumer.
    pub consumer: String,
    /// The model; empty if none was named or it is not known.
    pub model: String,
    /// What was counted since the last take.
    pub counts: UsedCounts,
}

/// Whose usage of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsageOf<'a> {
    /// The key's name.
    pub key: &'a str,
    /// The key's consumer.
    pub consumer: &'a str,
    /// The model; empty if none was named, or if the client may have invented its name.
    pub model: &'a str,
}

/// When an hour of the time zone begins, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageHour(pub u32);

/// What requests have used. In what is added to an earlier count, numbers may be below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedCounts {
    /// Admitted requests.
    pub requests: i64,
    /// Refused requests.
    pub refused: i64,
    /// Admitted requests that the server refused or never got.
    pub errors: i64,
    /// Admitted requests whose client went away, or whose answer broke off.
    pub aborted: i64,
    /// How long the settled requests took in all.
    pub milliseconds: i64,
    /// Tokens of prompts, cached ones included.
    pub prompt: i64,
    /// Those of them that were cached, as far as that is known.
    pub cached: i64,
    /// Tokens of answers.
    pub completion: i64,
    /// Tokens of prompts and answers that a server has told.
    pub exact: i64,
    /// Those that follow from the length of the answer.
    pub measured: i64,
    /// Those that are as `/auth` has estimated them.
    pub estimated: i64,
    /// What it costs, in units of 10⁻⁹ of the currency.
    pub cost: i64,
}

/// What `/auth` takes a request for until more is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageEstimate {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens of the answer.
    pub completion: u32,
    /// What they cost, in units of 10⁻⁹ of the currency.
    pub cost: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct UsedBy {
    hour: UsageHour,
    key: Box<str>,
    consumer: Box<str>,
    model: Box<str>,
}

/// Borrowed, so that a look-up allocates nothing.
#[derive(Clone, Copy)]
struct UsedByRef<'a> {
    hour: UsageHour,
    of: UsageOf<'a>,
}

/// What `/auth` counts.
#[derive(Debug, Default)]
struct Count {
    requests: AtomicI64,
    refused: AtomicI64,
    prompt: AtomicI64,
    completion: AtomicI64,
    cost: AtomicI64,
    /// The number of consecutive takes without a count.
    idle: AtomicU64,
}

/// A count is forgotten after this many consecutive idle takes: ten minutes at two takes a second.
const IDLE: u64 = 1_200;
/// The maximum number of counts, which bounds the memory to some 50 MB, and likewise that of corrections.
const MOST: usize = 200_000;
const HOUR: u32 = 3_600;

impl Usage {
    /// Says how long after an hour of UTC an hour of the time zone begins: half an hour in India.
    pub fn align(&self, offset: Duration) {
        let seconds = u32::try_from(offset.as_secs()).unwrap_or(0) % HOUR;
        self.offset.store(seconds, Ordering::Relaxed);
    }

    /// Counts an admitted request by its estimate. Returns the hour to which it belongs.
    pub fn allowed(&self, of: UsageOf<'_>, at: SystemTime, estimate: UsageEstimate) -> UsageHour {
        let UsageEstimate { prompt, completion, cost } = estimate;
        let hour = self.hour(at);
        self.count(UsedByRef { hour, of }, |count| {
            count.requests.fetch_add(1, Ordering::Relaxed);
            count.prompt.fetch_add(prompt.into(), Ordering::Relaxed);
            count.completion.fetch_add(completion.into(), Ordering::Relaxed);
            if cost != 0 {
                count.cost.fetch_add(cost, Ordering::Relaxed);
            }
        });
        hour
    }

    /// Counts a refused request, if its key is known.
    pub fn refused(&self, denial: &Denial, at: SystemTime) {
        let Some(key) = &denial.key else { return };
        // Only these reasons mean that the model exists; other names come from the client, who can invent any number.
        let is_known = matches!(denial.reason, Reason::LimitReached(_) | Reason::LimitsUnavailable);
        let model = denial.model.as_deref().filter(|_| is_known).unwrap_or_default();
        let of = UsageOf { key: &key.name, consumer: &key.consumer.name, model };
        self.count(UsedByRef { hour: self.hour(at), of }, |count| {
            count.refused.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Corrects the count of an admitted request, in the hour that [`allowed`](Self::allowed) has returned.
    pub fn settled(&self, of: UsageOf<'_>, hour: UsageHour, by: UsedCounts) {
        if by == UsedCounts::default() {
            return;
        }
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let of = UsedByRef { hour, of }.to_owned();
        let is_full = settled.len() >= MOST && !settled.contains_key(&of);
        *settled.entry(if is_full { others(hour).to_owned() } else { of }).or_default() += by;
    }

    /// Returns and resets the counts. Each settlement is in it as a whole.
    pub fn take(&self) -> Vec<Used> {
        self.take_and_forget(IDLE)
    }

    /// The same; forgets counts that have been idle at this number of takes before.
    fn take_and_forget(&self, idle: u64) -> Vec<Used> {
        // The settlements first: then the estimates that they replace are among the counts, or were taken before.
        let mut taken = mem::take(&mut *self.settled.lock().unwrap_or_else(PoisonError::into_inner));
        let counts = self.counts.pin();
        for (by, count) in &counts {
            let fresh = count.take();
            if fresh != UsedCounts::default() {
                count.idle.store(0, Ordering::Relaxed);
                *taken.entry(by.clone()).or_default() += fresh;
            } else if count.idle.fetch_add(1, Ordering::Relaxed) >= idle {
                // A count made at this very moment, after minutes of idleness, is lost.
                counts.remove(by);
            }
        }
        let used = |(by, counts): (UsedBy, UsedCounts)| {
            let UsedBy { hour, key, consumer, model } = by;
            Used { hour, key: key.into(), consumer: consumer.into(), model: model.into(), counts }
        };
        taken.into_iter().map(used).collect()
    }

    fn hour(&self, at: SystemTime) -> UsageHour {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let offset = self.offset.load(Ordering::Relaxed);
        UsageHour(seconds.saturating_sub(offset) / HOUR * HOUR + offset)
    }

    fn count(&self, by: UsedByRef<'_>, add: impl FnOnce(&Count)) {
        let counts = self.counts.pin();
        match counts.get(&by) {
            Some(count) => add(count),
            None if counts.len() < MOST => add(counts.get_or_insert_with(by.to_owned(), Count::default)),
            None => add(counts.get_or_insert_with(others(by.hour).to_owned(), Count::default)),
        }
    }
}

/// What does not fit.
fn others(hour: UsageHour) -> UsedByRef<'static> {
    UsedByRef { hour, of: UsageOf { key: "(others)", consumer: "(others)", model: "" } }
}

impl UsageHour {
    /// When it begins.
    pub fn start(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.into())
    }
}

impl Count {
    fn take(&self) -> UsedCounts {
        let [requests, refused, prompt, completion, cost] =
            [&self.requests, &self.refused, &self.prompt, &self.completion, &self.cost]
                .map(|count| count.swap(0, Ordering::Relaxed));
        let estimated = prompt + completion;
        UsedCounts { requests, refused, prompt, completion, estimated, cost, ..UsedCounts::default() }
    }
}

impl UsedCounts {
    /// All tokens.
    pub fn tokens(&self) -> i64 {
        self.exact + self.measured + self.estimated
    }
}

impl AddAssign for UsedCounts {
    fn add_assign(&mut self, more: Self) {
        self.requests += more.requests;
        self.refused += more.refused;
        self.errors += more.errors;
        self.aborted += more.aborted;
        self.milliseconds += more.milliseconds;
        self.prompt += more.prompt;
        self.cached += more.cached;
        self.completion += more.completion;
        self.exact += more.exact;
        self.measured += more.measured;
        self.estimated += more.estimated;
        // Clients choose how long answers may be, so this may come to any amount.
        self.cost = self.cost.saturating_add(more.cost);
    }
}

impl<'a> From<&'a Grant> for UsageOf<'a> {
    fn from(grant: &'a Grant) -> Self {
        let model = grant.known_model().unwrap_or_default();
        Self { key: &grant.key.name, consumer: &grant.consumer.name, model }
    }
}

impl UsedByRef<'_> {
    fn to_owned(self) -> UsedBy {
        let Self { hour, of: UsageOf { key, consumer, model } } = self;
        UsedBy { hour, key: key.into(), consumer: consumer.into(), model: model.into() }
    }
}

impl Hash for UsedByRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.hour, self.of).hash(state);
    }
}

impl Hash for UsedBy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { hour, key, consumer, model } = self;
        UsedByRef { hour: *hour, of: UsageOf { key, consumer, model } }.hash(state);
    }
}

impl Equivalent<UsedBy> for UsedByRef<'_> {
    fn equivalent(&self, other: &UsedBy) -> bool {
        let UsageOf { key, consumer, model } = self.of;
        self.hour == other.hour
            && *key == *other.key
            && *consumer == *other.consumer
            && *model == *other.model
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const LLAMA: UsageOf<'_> = UsageOf { key: "alice", consumer: "team", model: "llama" };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_settlement_belongs_to_the_hour_of_its_request() {
        let usage = Usage::default();
        let hour = usage.allowed(LLAMA, at(7_199), estimate(12, 1_000));
        assert_eq!(hour, UsageHour(3_600));
        let by = UsedCounts { completion: -990, exact: 22, estimated: -1_012, ..UsedCounts::default() };
        usage.settled(LLAMA, hour, by);
        usage.allowed(LLAMA, at(7_200), estimate(1, 1));
        let mut taken = usage.take();
        taken.sort_by_key(|used| used.hour);
        let counts =
            |used: &Used| (used.hour.0, used.counts.requests, used.counts.tokens(), used.counts.exact);
        assert_eq!(taken.iter().map(counts).collect::<Vec<_>>(), [(3_600, 1, 22, 22), (7_200, 1, 2, 0)]);
        assert_eq!((&*taken[0].key, &*taken[0].consumer, &*taken[0].model), ("alice", "team", "llama"));
        assert_eq!(usage.take(), []);
        usage.settled(LLAMA, hour, UsedCounts { aborted: 1, ..UsedCounts::default() });
        assert_eq!(usage.take()[0].counts, UsedCounts { aborted: 1, ..UsedCounts::default() });
    }

    #[test]
    fn an_hour_begins_when_the_time_zone_says() {
        let usage = Usage::default();
        usage.align(Duration::from_secs(1_800));
        for (seconds, hour) in [(5_399, 1_800), (5_400, 5_400), (8_999, 5_400), (9_000, 9_000)] {
            assert_eq!(usage.hour(at(seconds)), UsageHour(hour), "{seconds}");
        }
    }

    /// Names come and go, and memory is not to grow with all that ever were.
    #[test]
    fn what_is_idle_for_long_is_forgotten_and_counted_anew() {
        let usage = Usage::default();
        for _ in 0..2 {
            usage.allowed(LLAMA, at(0), estimate(1, 2));
            let counts: Vec<_> = usage.take_and_forget(2).into_iter().map(|used| used.counts).collect();
            assert_eq!(
                counts,
                [UsedCounts {
                    requests: 1,
                    prompt: 1,
                    completion: 2,
                    estimated: 3,
                    cost: 9,
                    ..UsedCounts::default()
                }]
            );
            for still_there in [1, 1, 0] {
                assert_eq!(usage.take_and_forget(2), []);
                assert_eq!(usage.counts.len(), still_there);
            }
        }
    }

    #[test]
    fn each_figure_is_added_to_its_own() {
        let counts = |n: i64| UsedCounts {
            requests: n,
            refused: 2 * n,
            errors: 3 * n,
            aborted: 4 * n,
            milliseconds: 5 * n,
            prompt: 6 * n,
            cached: 7 * n,
            completion: 8 * n,
            exact: 9 * n,
            measured: 10 * n,
            estimated: 11 * n,
            cost: 12 * n,
        };
        let mut sum = counts(3);
        sum += counts(4);
        assert_eq!((sum, sum.tokens()), (counts(7), 7 * 30));
        sum += UsedCounts { cost: i64::MAX, ..UsedCounts::default() };
        assert_eq!(sum.cost, i64::MAX, "a client chooses how long answers may be");
    }

    #[test]
    fn its_memory_is_bounded() {
        let usage = Usage::default();
        for i in 0..MOST + 10 {
            let key = &*format!("key-{i}");
            let hour = usage.allowed(UsageOf { key, ..LLAMA }, at(0), estimate(1, 0));
            usage.settled(UsageOf { key, ..LLAMA }, hour, UsedCounts { errors: 1, ..UsedCounts::default() });
        }
        assert_eq!(usage.counts.len(), MOST + 1);
        let taken = usage.take();
        assert_eq!(taken.len(), MOST + 1);
        let others = taken.into_iter().find(|used| used.key == "(others)").expect("others").counts;
        assert_eq!((others.requests, others.tokens(), others.errors), (10, 10, 10));
    }

    /// A token costs 3.
    fn estimate(prompt: u32, completion: u32) -> UsageEstimate {
        UsageEstimate { prompt, completion, cost: 3 * i64::from(prompt + completion) }
    }

    /// Hours, tokens of the prompt and those of the answer.
    type Asked = (u64, u32, u32);

    fn ask_and_settle(usage: &Usage, requests: &[Asked]) {
        for (hour, prompt, used) in requests {
            let hour = usage.allowed(LLAMA, at(hour * 3_600), estimate(*prompt, 1_000));
            let (exact, estimated) = (i64::from(prompt + used), -i64::from(prompt + 1_000));
            let completion = i64::from(*used) - 1_000;
            let cost = 3 * completion;
            usage.settled(
                LLAMA,
                hour,
                UsedCounts { completion, exact, estimated, cost, ..UsedCounts::default() },
            );
        }
    }

    proptest! {
        /// Whatever is taken when, while others count: nothing is lost, and what was taken so far always adds up.
        #[test]
        fn what_was_taken_adds_up(requests in vec((0_u64..3, 1_u32..100, 0_u32..100), 0..200)) {
            let (usage, mut sum) = (Usage::default(), UsedCounts::default());
            std::thread::scope(|scope| {
                let halves = requests.split_at(requests.len() / 2);
                let counting = [halves.0, halves.1].map(|half| {
                    let usage = &usage;
                    scope.spawn(move || ask_and_settle(usage, half))
                });
                while counting.iter().any(|thread| !thread.is_finished()) {
                    // Here ten minutes' worth of takes come within a millisecond, so nothing may count as idle: on a busy machine a
                    // count was forgotten between the look-up and the addition of a thread that had to wait.
                    usage.take_and_forget(u64::MAX).into_iter().for_each(|used| sum += used.counts);
                    assert!(sum.estimated >= 0 && sum.prompt + sum.completion == sum.tokens(), "{sum:?}");
                    // A settlement never comes without the cost of its estimate.
                    assert!(sum.cost >= 0, "{sum:?}");
                }
            });
            usage.take().into_iter().for_each(|used| sum += used.counts);
            let exact: i64 = requests.iter().map(|(_, prompt, used)| i64::from(prompt + used)).sum();
            prop_assert_eq!(sum.cost, 3 * exact);
            prop_assert_eq!((sum.requests, sum.exact, sum.estimated), (requests.len() as i64, exact, 0));
        }
    }
}
