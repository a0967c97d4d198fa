//! Counts usage by hour, key and model: for people to look at, not for limits.
//!
//! ```text
//! /auth      ─ allowed, refused ─▶ counts, which are atomic ─┬─ gather ─▶ the watcher, for metrics
//!                                                            ▼
//! the ledger ─ settled ─▶ corrections, behind a lock ──▶ gathered ─ take ─▶ the store
//! ```

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    mem,
    ops::AddAssign,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use papaya::Equivalent;

use crate::{Denial, Grant, Reason, estimate::Media};

/// Counts since the last take. `/auth` takes no lock.
#[derive(Debug, Default)]
pub struct Usage {
    counts: papaya::HashMap<UsedBy, Count>,
    /// Refusals by reason, for the watcher alone.
    refusals: papaya::HashMap<RefusedBy, RefusalsCount>,
    watcher: OnceLock<Box<dyn UsageWatcher>>,
    /// What was gathered and nobody has taken yet.
    gathered: Mutex<HashMap<UsedBy, UsedCounts>>,
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

/// Sees what is counted, whether or not anybody takes it.
pub trait UsageWatcher: fmt::Debug + Send + Sync {
    /// Requests were allowed: how many, and their estimates.
    fn allowed(&self, of: UsageOf<'_>, counts: &UsedCounts);
    /// Requests were refused for a reason. The model is empty unless it is known to exist; so is the key.
    fn refused(&self, of: UsageOf<'_>, code: &'static str, count: u64);
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
    /// How long the settled requests took in all, without those that the server refused: their time is not paid for.
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
    /// Images that were asked for.
    pub images: i64,
    /// Sound that was sent to be written down or translated, in milliseconds.
    pub sound: i64,
    /// Characters of text that was sent to be spoken.
    pub characters: i64,
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
    /// What it uses that is not counted in tokens.
    pub media: Media,
}

/// Who was refused for which reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RefusedBy {
    consumer: Box<str>,
    model: Box<str>,
    code: &'static str,
}

/// Borrowed, so that a look-up allocates nothing.
#[derive(Clone, Copy, Hash)]
struct RefusedByRef<'a> {
    consumer: &'a str,
    model: &'a str,
    code: &'static str,
}

#[derive(Debug, Default)]
struct RefusalsCount {
    presence: Presence,
    count: AtomicU64,
    idle: AtomicU64,
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
    presence: Presence,
    requests: AtomicI64,
    refused: AtomicI64,
    prompt: AtomicI64,
    completion: AtomicI64,
    cost: AtomicI64,
    images: AtomicI64,
    sound: AtomicI64,
    characters: AtomicI64,
    /// The number of consecutive takes without a count.
    idle: AtomicU64,
}

/// How many threads add to a count at this moment. A count may be forgotten only while there are none; after that nobody adds to
/// it any more, and a new one takes its place. So nothing is lost, and nobody waits.
#[derive(Debug, Default)]
struct Presence(AtomicU32);

impl Presence {
    /// The count is forgotten.
    const GONE: u32 = 1 << 31;

    /// Runs `add` unless the count is forgotten already. Returns whether it ran.
    fn while_there<T>(&self, add: impl FnOnce() -> T) -> bool {
        if self.0.fetch_add(1, Ordering::AcqRel) & Self::GONE != 0 {
            return false;
        }
        add();
        self.0.fetch_sub(1, Ordering::Release);
        true
    }

    /// Forgets the count, unless somebody adds to it. Returns whether nobody does from now on.
    fn end(&self) -> bool {
        self.0.compare_exchange(0, Self::GONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn is_gone(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::GONE != 0
    }
}

/// A count is forgotten after this many consecutive idle takes: ten minutes at two takes a second.
const IDLE: u64 = 1_200;
/// The maximum number of counts, which bounds the memory to some 50 MB, and likewise that of corrections and of what was
/// gathered.
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
        let UsageEstimate { prompt, completion, cost, media } = estimate;
        let hour = self.hour(at);
        self.count(UsedByRef { hour, of }, |count| {
            count.requests.fetch_add(1, Ordering::Relaxed);
            count.prompt.fetch_add(prompt.into(), Ordering::Relaxed);
            count.completion.fetch_add(completion.into(), Ordering::Relaxed);
            if cost != 0 {
                // Clients choose how long answers may be, so this may come to any amount.
                let more = |sum: i64| Some(sum.saturating_add(cost));
                let _ = count.cost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            }
            if media != Media::default() {
                let [images, sound, characters] = media.counts();
                count.images.fetch_add(images, Ordering::Relaxed);
                count.sound.fetch_add(sound, Ordering::Relaxed);
                count.characters.fetch_add(characters, Ordering::Relaxed);
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
        if self.watcher.get().is_some() {
            let by = RefusedByRef { consumer: of.consumer, model, code: denial.reason.code() };
            self.count_refusal(by);
        }
    }

    fn count_refusal(&self, by: RefusedByRef<'_>) {
        let refusals = self.refusals.pin();
        loop {
            let found = refusals.get(&by);
            let by = match found {
                None if refusals.len() >= MOST => RefusedByRef { consumer: OTHERS, model: "", ..by },
                _ => by,
            };
            let counted =
                found.unwrap_or_else(|| refusals.get_or_insert_with(by.to_owned(), RefusalsCount::default));
            let add = || counted.count.fetch_add(1, Ordering::Relaxed);
            if counted.presence.while_there(add) {
                return;
            }
            // The error only means that another thread has done so.
            let _ = refusals.remove_if(&by, |_, found| found.presence.is_gone());
        }
    }

    /// Tells what is counted from now on; later calls change nothing.
    pub fn watch(&self, watcher: impl UsageWatcher + 'static) {
        let _ = self.watcher.set(Box::new(watcher));
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
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        self.gather_into(&mut gathered, idle);
        let taken = mem::take(&mut *gathered);
        drop(gathered);
        let used = |(by, counts): (UsedBy, UsedCounts)| {
            let UsedBy { hour, key, consumer, model } = by;
            Used { hour, key: key.into(), consumer: consumer.into(), model: model.into(), counts }
        };
        taken.into_iter().map(used).collect()
    }

    /// Shows the watcher what was counted. The next [`take`](Self::take) returns it.
    pub fn gather(&self) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        self.gather_into(&mut gathered, IDLE);
    }

    fn gather_into(&self, gathered: &mut HashMap<UsedBy, UsedCounts>, idle: u64) {
        let mut add = |by: UsedBy, counts| {
            // One more than in each source: what did not fit there.
            let is_full = gathered.len() > MOST && !gathered.contains_key(&by);
            let by = if is_full { others(by.hour).to_owned() } else { by };
            *gathered.entry(by).or_default() += counts;
        };
        // The settlements first: then the estimates that they replace are among the counts, or were gathered before.
        let settled = mem::take(&mut *self.settled.lock().unwrap_or_else(PoisonError::into_inner));
        settled.into_iter().for_each(|(by, counts)| add(by, counts));
        let (counts, watcher) = (self.counts.pin(), self.watcher.get());
        for (by, count) in &counts {
            let mut note = || {
                let fresh = count.take();
                let is_fresh = fresh != UsedCounts::default();
                if is_fresh {
                    count.idle.store(0, Ordering::Relaxed);
                    if let Some(watcher) = watcher.filter(|_| fresh.requests != 0) {
                        watcher.allowed(by.of(), &fresh);
                    }
                    add(by.clone(), fresh);
                }
                is_fresh
            };
            if !note() && count.idle.fetch_add(1, Ordering::Relaxed) >= idle && count.presence.end() {
                // What was counted since then is its last.
                note();
                let _ = counts.remove_if(by, |_, found| found.presence.is_gone());
            }
        }
        watcher.into_iter().for_each(|watcher| self.show_refusals(&**watcher));
    }

    fn show_refusals(&self, watcher: &dyn UsageWatcher) {
        let refusals = self.refusals.pin();
        for (by, counted) in &refusals {
            let note = || {
                let fresh = counted.count.swap(0, Ordering::Relaxed);
                if fresh > 0 {
                    counted.idle.store(0, Ordering::Relaxed);
                    let of = UsageOf { key: "", consumer: &by.consumer, model: &by.model };
                    watcher.refused(of, by.code, fresh);
                }
                fresh > 0
            };
            if !note() && counted.idle.fetch_add(1, Ordering::Relaxed) >= IDLE && counted.presence.end() {
                note();
                let _ = refusals.remove_if(by, |_, found| found.presence.is_gone());
            }
        }
    }

    fn hour(&self, at: SystemTime) -> UsageHour {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let offset = self.offset.load(Ordering::Relaxed);
        UsageHour(seconds.saturating_sub(offset) / HOUR * HOUR + offset)
    }

    fn count(&self, by: UsedByRef<'_>, add: impl Fn(&Count)) {
        let counts = self.counts.pin();
        loop {
            let found = counts.get(&by);
            let by = match found {
                None if counts.len() >= MOST => others(by.hour),
                _ => by,
            };
            let count = found.unwrap_or_else(|| counts.get_or_insert_with(by.to_owned(), Count::default));
            if count.presence.while_there(|| add(count)) {
                return;
            }
            // The error only means that another thread has done so.
            let _ = counts.remove_if(&by, |_, found| found.presence.is_gone());
        }
    }
}

/// The key and the consumer of what does not fit.
const OTHERS: &str = "(others)";

/// What does not fit.
fn others(hour: UsageHour) -> UsedByRef<'static> {
    UsedByRef { hour, of: UsageOf { key: OTHERS, consumer: OTHERS, model: "" } }
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
        let [images, sound, characters] =
            [&self.images, &self.sound, &self.characters].map(|count| match count.load(Ordering::Relaxed) {
                0 => 0,
                _ => count.swap(0, Ordering::Relaxed),
            });
        let estimated = prompt + completion;
        let counts = UsedCounts { requests, refused, prompt, completion, estimated, ..UsedCounts::default() };
        UsedCounts { cost, images, sound, characters, ..counts }
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
        self.images += more.images;
        self.sound += more.sound;
        self.characters += more.characters;
        // Clients choose how long answers may be, so this may come to any amount.
        self.cost = self.cost.saturating_add(more.cost);
    }
}

impl<'a> From<&'a Grant> for UsageOf<'a> {
    fn from(grant: &'a Grant) -> Self {
        let model = grant.own_model().unwrap_or_default();
        Self { key: &grant.key.name, consumer: &grant.consumer.name, model }
    }
}

impl UsedBy {
    fn of(&self) -> UsageOf<'_> {
        UsageOf { key: &self.key, consumer: &self.consumer, model: &self.model }
    }
}

impl RefusedByRef<'_> {
    fn to_owned(self) -> RefusedBy {
        RefusedBy { consumer: self.consumer.into(), model: self.model.into(), code: self.code }
    }
}

impl Equivalent<RefusedBy> for RefusedByRef<'_> {
    fn equivalent(&self, other: &RefusedBy) -> bool {
        self.consumer == &*other.consumer && self.model == &*other.model && self.code == other.code
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

    /// What is counted as `consumer/model`, with a reason if it was refused.
    #[derive(Debug, Clone, Default)]
    struct WatchedUsage(std::sync::Arc<Mutex<std::collections::BTreeMap<String, i64>>>);

    impl UsageWatcher for WatchedUsage {
        fn allowed(&self, of: UsageOf<'_>, counts: &UsedCounts) {
            let mut seen = self.0.lock().expect("no panic");
            *seen.entry(format!("{}/{}", of.consumer, of.model)).or_default() += counts.requests;
        }

        fn refused(&self, of: UsageOf<'_>, code: &'static str, count: u64) {
            let mut seen = self.0.lock().expect("no panic");
            *seen.entry(format!("{}/{} {code}", of.consumer, of.model)).or_default() += count as i64;
        }
    }

    #[test]
    fn a_watcher_sees_each_count_once_however_often_it_is_gathered_and_taken() {
        let (usage, seen) = (Usage::default(), WatchedUsage::default());
        usage.watch(seen.clone());
        let consumer = std::sync::Arc::new(crate::Consumer::new("team"));
        let key = crate::Key::new("alice", std::sync::Arc::clone(&consumer), crate::KeyDigest::of("mg-1"));
        let key = std::sync::Arc::new(key);
        let denial = |reason| Denial {
            reason,
            consumer: Some(std::sync::Arc::clone(&consumer)),
            key: Some(std::sync::Arc::clone(&key)),
            tokens: None,
            sum: None,
            model: Some("invented".into()),
        };
        let hour = usage.allowed(LLAMA, at(0), estimate(1, 1));
        usage.refused(&denial(Reason::ExpiredKey), at(0));
        usage.gather();
        assert_eq!(seen.0.lock().expect("no panic").len(), 2, "before anything is taken");
        usage.gather();
        usage.allowed(LLAMA, at(0), estimate(1, 1));
        usage.settled(LLAMA, hour, UsedCounts { aborted: 1, ..UsedCounts::default() });
        for reason in [Reason::ExpiredKey, Reason::LimitsUnavailable] {
            usage.refused(&denial(reason), at(0));
        }
        let taken: i64 = usage.take().iter().map(|used| used.counts.requests + used.counts.refused).sum();
        assert_eq!(taken, 5, "what was gathered is taken");
        let seen: Vec<_> = seen.0.lock().expect("no panic").clone().into_iter().collect();
        let expected = [
            ("team/ expired_api_key".to_owned(), 2),
            ("team/invented limits_unavailable".to_owned(), 1),
            ("team/llama".to_owned(), 2),
        ];
        assert_eq!(seen, expected);
    }

    /// Clients choose whom they are refused as by their key, and models by their name.
    #[test]
    fn refusals_are_told_by_name_and_are_bounded() {
        let (usage, seen) = (Usage::default(), WatchedUsage::default());
        usage.watch(seen.clone());
        let names: Vec<String> =
            (0..MOST + 10).map(|number| format!("{}/{}", number % 7, number / 7)).collect();
        for (number, name) in names.iter().enumerate() {
            let (consumer, model) = name.split_once('/').expect("two names");
            for _ in 0..=number % 3 {
                usage.count_refusal(RefusedByRef { consumer, model, code: "quota_exceeded" });
            }
        }
        // Whoever is counted already has a place.
        let (consumer, model) = names[0].split_once('/').expect("two names");
        usage.count_refusal(RefusedByRef { consumer, model, code: "quota_exceeded" });
        usage.gather();
        let told = mem::take(&mut *seen.0.lock().expect("no panic"));
        assert_eq!(told.len(), MOST + 1);
        for (number, name) in names.iter().enumerate().take(MOST) {
            let expected = i64::try_from(number % 3 + 1 + usize::from(number == 0)).ok();
            assert_eq!(told.get(&format!("{name} quota_exceeded")).copied(), expected, "{name}");
        }
        let others: usize = (MOST..MOST + 10).map(|number| number % 3 + 1).sum();
        assert_eq!(told.get("(others)/ quota_exceeded").copied(), i64::try_from(others).ok());
    }

    #[test]
    fn refusals_that_are_idle_are_not_told_and_are_forgotten() {
        let (usage, seen) = (Usage::default(), WatchedUsage::default());
        usage.watch(seen.clone());
        usage.count_refusal(RefusedByRef { consumer: "team", model: "", code: "quota_exceeded" });
        usage.gather();
        seen.0.lock().expect("no panic").clear();
        for _ in 0..IDLE {
            usage.gather();
        }
        assert!(seen.0.lock().expect("no panic").is_empty(), "nobody was refused since");
        assert_eq!(usage.refusals.len(), 1, "it is idle, but not for long enough");
        usage.gather();
        assert_eq!(usage.refusals.len(), 0);
    }

    #[test]
    fn an_hour_begins_when_the_time_zone_says() {
        assert_eq!(UsageHour(5_400).start(), at(5_400));
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
            images: 13 * n,
            sound: 14 * n,
            characters: 15 * n,
        };
        let mut sum = counts(3);
        sum += counts(4);
        assert_eq!((sum, sum.tokens()), (counts(7), 7 * 30));
        sum += UsedCounts { cost: i64::MAX, ..UsedCounts::default() };
        assert_eq!(sum.cost, i64::MAX, "a client chooses how long answers may be");
        let (usage, at) = (Usage::default(), SystemTime::UNIX_EPOCH);
        for _ in 0..200 {
            let estimate = UsageEstimate { cost: 100_000_000_000_000_000, ..UsageEstimate::default() };
            usage.allowed(UsageOf { key: "k", consumer: "c", model: "m" }, at, estimate);
        }
        assert_eq!(usage.take()[0].counts.cost, i64::MAX, "and how many there are");
    }

    #[test]
    fn its_memory_is_bounded() {
        let usage = Usage::default();
        for i in 0..MOST + 10 {
            let key = &*format!("key-{i}");
            let hour = usage.allowed(UsageOf { key, ..LLAMA }, at(0), estimate(1, 0));
            usage.settled(UsageOf { key, ..LLAMA }, hour, UsedCounts { errors: 1, ..UsedCounts::default() });
        }
        // Whoever is counted already has a place.
        usage.allowed(UsageOf { key: "key-0", ..LLAMA }, at(0), estimate(1, 0));
        assert_eq!(usage.counts.len(), MOST + 1);
        let taken = usage.take();
        assert_eq!(taken.len(), MOST + 1);
        let first = taken.iter().find(|used| used.key == "key-0").expect("it was counted").counts;
        assert_eq!((first.requests, first.tokens(), first.errors), (2, 2, 1));
        let others = taken.into_iter().find(|used| used.key == "(others)").expect("others").counts;
        assert_eq!((others.requests, others.tokens(), others.errors), (10, 10, 10));
    }

    /// Nothing is added to a forgotten count, and none is forgotten while something is added to it.
    #[test]
    fn a_count_is_forgotten_only_while_nobody_adds_to_it() {
        let presence = Presence::default();
        let add = || assert!(!presence.end() && !presence.is_gone(), "somebody adds");
        assert!(presence.while_there(add) && !presence.is_gone());
        assert!(presence.end() && presence.is_gone());
        assert!(!presence.while_there(|| panic!("it is forgotten")));
        assert!(presence.is_gone() && !presence.end());
    }

    /// A token costs 3.
    fn estimate(prompt: u32, completion: u32) -> UsageEstimate {
        let media = Media::default();
        UsageEstimate { prompt, completion, cost: 3 * i64::from(prompt + completion), media }
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
                    // Each count is forgotten as soon as it is idle: once this lost what a thread added that had looked it up.
                    usage.take_and_forget(0).into_iter().for_each(|used| sum += used.counts);
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

    /// Images, sound and speech are paid by their number, and not by tokens.
    #[test]
    fn media_are_counted_with_their_request_and_taken_once() {
        let usage = Usage::default();
        for (images, sound, characters) in [(2, 0, 0), (1, 500, 0), (0, 250, 70), (0, 0, 0)] {
            let media = Media { images, sound, characters };
            usage.allowed(LLAMA, at(0), UsageEstimate { media, ..estimate(0, 0) });
        }
        let counts =
            UsedCounts { requests: 4, images: 3, sound: 750, characters: 70, ..UsedCounts::default() };
        assert_eq!(usage.take().iter().map(|used| used.counts).collect::<Vec<_>>(), [counts]);
        assert_eq!(usage.take(), []);
    }
}
