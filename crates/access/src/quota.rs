//! How many requests or tokens are allowed in a day or a month, by a calendar.
//!
//! A quota is a plain count, since its period has a beginning and an end: all that was taken between
//! them. The counts outlive the process: somebody [takes what is not saved yet](Quotas::take_unsaved)
//! every second, adds it to a store, and [tells](Quotas::learn) what the store holds now, other
//! replicas' counts among it. Requests share no lock and never wait for that.

use std::{
    fmt,
    num::NonZeroU64,
    str::FromStr,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, ToSpan, Zoned, civil, tz::TimeZone};
use papaya::HashMap;

use crate::{LimitReached, Scope, Unit, limits::CellId};

/// A number of requests or tokens in a day or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    amount: NonZeroU64,
    unit: Unit,
    per: Calendar,
}

/// In which part of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Calendar {
    Day,
    Month,
}

/// An amount that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amount is {0}; it must be from 1 to {max}", max = Quota::MAX)]
pub struct InvalidQuota(u64);

/// One day, or one month, of one time zone: `2026-11-21` or `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    year: i16,
    month: i8,
    /// 0 for a whole month.
    day: i8,
}

/// Which count: of a key or a consumer, of a model, or of both, for one unit and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuotaId {
    cell: CellId,
    period: Period,
}

/// A text that is no [`QuotaId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not the name of a quota's count")]
pub struct InvalidQuotaId;

/// What a request takes from a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuotaDemand {
    pub(crate) scope: Scope,
    pub(crate) id: QuotaId,
    pub(crate) quota: Quota,
    pub(crate) cost: u32,
    /// How long the period lasts from now on.
    pub(crate) ends_after: Duration,
}

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Quotas {
    counts: HashMap<QuotaId, Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// Everything that is known of, the store's among it.
    used: AtomicU64,
    /// What the store has not been told yet.
    unsaved: AtomicI64,
    /// What the store said last. Only whoever saves reads and writes it.
    stored: AtomicU64,
}

impl Quota {
    /// The most that a quota can be: far beyond what a data centre makes in a month.
    pub const MAX: u64 = 1_000_000_000_000_000;

    /// An amount in each day or month.
    ///
    /// # Errors
    /// If it is 0 or larger than [`Self::MAX`].
    pub fn new(amount: u64, unit: Unit, per: Calendar) -> Result<Self, InvalidQuota> {
        let checked = NonZeroU64::new(amount).filter(|amount| amount.get() <= Self::MAX);
        Ok(Self { amount: checked.ok_or(InvalidQuota(amount))?, unit, per })
    }

    /// How many.
    pub fn amount(&self) -> u64 {
        self.amount.get()
    }

    /// What is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// In which part of the calendar.
    pub fn per(&self) -> Calendar {
        self.per
    }

    /// Tells quotas of one subject apart.
    pub(crate) fn window(&self) -> u8 {
        100 + self.per as u8 * 2 + self.unit as u8
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Calendar::Day => "a day",
            Calendar::Month => "a month",
        };
        write!(f, "{} {} {per}", self.amount, self.unit)
    }
}

impl Period {
    /// The day or month of a time.
    pub fn of(per: Calendar, now: &Zoned) -> Self {
        let day = match per {
            Calendar::Day => now.day(),
            Calendar::Month => 0,
        };
        Self { year: now.year(), month: now.month(), day }
    }

    /// When the next one begins.
    pub fn end(self, zone: &TimeZone) -> SystemTime {
        let next = civil::Date::new(self.year, self.month, self.day.max(1))
            .ok()
            .and_then(|date| date.checked_add(if self.day == 0 { 1.month() } else { 1.day() }).ok());
        // A midnight that a change of the clocks leaves out is the first moment after it.
        let end = next.and_then(|date| date.to_zoned(zone.clone()).ok());
        end.map_or(SystemTime::UNIX_EPOCH, |end| SystemTime::from(end.timestamp()))
    }
}

/// A time by the clocks of a zone.
pub(crate) fn local(now: SystemTime, zone: &TimeZone) -> Zoned {
    Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)?;
        if self.day > 0 {
            write!(f, "-{:02}", self.day)?;
        }
        Ok(())
    }
}

impl FromStr for Period {
    type Err = InvalidQuotaId;

    fn from_str(text: &str) -> Result<Self, InvalidQuotaId> {
        let mut parts = text.split('-');
        let year = parts.next().and_then(|year| year.parse().ok()).ok_or(InvalidQuotaId)?;
        let month = parts.next().and_then(|month| month.parse().ok()).ok_or(InvalidQuotaId)?;
        let day = parts.next().map_or(Ok(0), str::parse).map_err(|_| InvalidQuotaId)?;
        civil::Date::new(year, month, day.max(1)).map_err(|_| InvalidQuotaId)?;
        Ok(Self { year, month, day })
    }
}

impl QuotaId {
    pub(crate) fn new(subject: CellId, quota: &Quota, period: Period) -> Self {
        Self { cell: CellId { window: quota.window(), ..subject }, period }
    }

    /// Its day or month.
    pub fn period(&self) -> Period {
        self.period
    }

    /// Its name without the period: letters and digits only.
    pub fn subject(&self) -> String {
        let CellId { who, model, window } = self.cell;
        format!("{who:032x}{model:032x}{window:02x}")
    }

    /// Reads what [`Self::subject`] and [`Period`] have written.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse(subject: &str, period: &str) -> Result<Self, InvalidQuotaId> {
        let part = |range| subject.get(range).ok_or(InvalidQuotaId);
        if subject.len() != 66 {
            return Err(InvalidQuotaId);
        }
        let half = |text| u128::from_str_radix(text, 16).map_err(|_| InvalidQuotaId);
        let (who, model) = (half(part(0..32)?)?, half(part(32..64)?)?);
        let window = u8::from_str_radix(part(64..66)?, 16).map_err(|_| InvalidQuotaId)?;
        Ok(Self { cell: CellId { who, model, window }, period: period.parse()? })
    }
}

impl QuotaDemand {
    fn reached(&self, used: u64) -> LimitReached {
        let cost = u64::from(self.cost);
        debug_assert!(used + cost > self.quota.amount());
        LimitReached {
            scope: self.scope,
            limit: self.quota.into(),
            cost: self.cost,
            remaining: self.quota.amount().saturating_sub(used),
            retry_after: self.ends_after,
            reset_after: self.ends_after,
        }
    }
}

impl Quotas {
    /// How many counts there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much was taken.
    pub fn used(&self, id: &QuotaId) -> u64 {
        self.counts.pin().get(id).map_or(0, |count| count.used.load(Ordering::Acquire))
    }

    /// Whether a request would pass.
    pub(crate) fn peek(&self, demand: &QuotaDemand) -> Result<(), LimitReached> {
        let used = self.used(&demand.id);
        match used + u64::from(demand.cost) <= demand.quota.amount() {
            true => Ok(()),
            false => Err(demand.reached(used)),
        }
    }

    pub(crate) fn take(&self, demand: &QuotaDemand) -> Result<(), LimitReached> {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(demand.id, Count::default);
        let cost = u64::from(demand.cost);
        let more = |used: u64| (used + cost <= demand.quota.amount()).then_some(used + cost);
        match count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => {
                count.unsaved.fetch_add(i64::from(demand.cost), Ordering::AcqRel);
                Ok(())
            }
            Err(used) => Err(demand.reached(used)),
        }
    }

    /// Adds to a count, or takes away from it what was added before, whatever the quota.
    pub(crate) fn correct(&self, id: &QuotaId, by: i64) {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(*id, Count::default);
        count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| used.checked_add_signed(by)).ok();
        count.unsaved.fetch_add(by, Ordering::AcqRel);
    }

    /// What was counted since this was asked last: whoever asks adds it to the store.
    pub fn take_unsaved(&self) -> Vec<(QuotaId, i64)> {
        let counts = self.counts.pin();
        let unsaved = counts.iter().map(|(id, count)| (*id, count.unsaved.swap(0, Ordering::AcqRel)));
        unsaved.filter(|(_, unsaved)| *unsaved != 0).collect()
    }

    /// What the store holds, after `ours` of it came from here since it was learnt last. Only one thread may do this.
    pub fn learn(&self, id: QuotaId, stored: u64, ours: i64) {
        let counts = self.counts.pin();
        let count = counts.get_or_insert_with(id, Count::default);
        let expected = count.stored.swap(stored, Ordering::AcqRel).saturating_add_signed(ours);
        let by_others =
            i64::try_from(stored).unwrap_or(i64::MAX) - i64::try_from(expected).unwrap_or(i64::MAX);
        let more = |used: u64| Some(used.saturating_add_signed(by_others));
        count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok();
    }

    /// Forgets the counts of periods that are over and saved. `over` is a day before the current ones, so
    /// that no request which has begun before midnight loses what it counts.
    pub fn forget_before(&self, over: SystemTime, zone: &TimeZone) {
        let counts = self.counts.pin();
        counts.retain(|id, count| id.period.end(zone) > over || count.unsaved.load(Ordering::Acquire) != 0);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn at(text: &str, zone: &str) -> Zoned {
        let zone = TimeZone::get(zone).expect("a zone");
        text.parse::<Timestamp>().expect("a time").to_zoned(zone)
    }

    fn id(key: &str) -> QuotaId {
        let quota = Quota::new(1, Unit::Requests, Calendar::Day).expect("a quota");
        let now = at("2026-11-21T12:00:00Z", "UTC");
        QuotaId::new(CellId::of_model(key), &quota, Period::of(Calendar::Day, &now))
    }

    fn demand(key: &str, amount: u64, cost: u32) -> QuotaDemand {
        let quota = Quota::new(amount, Unit::Requests, Calendar::Day).expect("a quota");
        QuotaDemand { scope: Scope::Key, id: id(key), quota, cost, ends_after: Duration::from_secs(60) }
    }

    #[test]
    fn days_and_months_are_those_of_the_zone() {
        // Half past midnight in Berlin is still the day before in UTC, and here another month.
        let now = at("2026-10-31T23:30:00Z", "Europe/Berlin");
        let (day, month) = (Period::of(Calendar::Day, &now), Period::of(Calendar::Month, &now));
        assert_eq!((day.to_string(), month.to_string()), ("2026-11-01".into(), "2026-11".into()));
        let until = |period: Period, zone: &str| {
            Timestamp::try_from(period.end(&TimeZone::get(zone).expect("a zone")))
                .expect("a time")
                .to_string()
        };
        assert_eq!(until(day, "Europe/Berlin"), "2026-11-01T23:00:00Z");
        assert_eq!(until(month, "Europe/Berlin"), "2026-11-30T23:00:00Z");
        // The day on which summer begins has 23 hours; in Beirut it begins at midnight, which there is not.
        let spring: Period = "2026-03-29".parse().expect("a day");
        assert_eq!(until(spring, "Europe/Berlin"), "2026-03-29T22:00:00Z");
        let eve: Period = "2026-03-28".parse().expect("a day");
        assert_eq!(until(eve, "Asia/Beirut"), "2026-03-28T22:00:00Z");
        assert_eq!(until("2026-12".parse().expect("a month"), "UTC"), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn names_of_counts_survive_being_written_and_read() {
        let id = id("a");
        assert_eq!(QuotaId::parse(&id.subject(), &id.period().to_string()), Ok(id));
        for (subject, period) in [
            ("", "2026-11"),
            (&id.subject()[1..], "2026-11"),
            (&*id.subject(), "2026-13"),
            (&*id.subject(), "x"),
        ] {
            assert_eq!(QuotaId::parse(subject, period), Err(InvalidQuotaId), "{subject} {period}");
        }
    }

    #[test]
    fn amounts_are_checked() {
        let new = |amount| Quota::new(amount, Unit::Tokens, Calendar::Month);
        assert_eq!(new(0), Err(InvalidQuota(0)));
        assert_eq!(new(Quota::MAX + 1), Err(InvalidQuota(Quota::MAX + 1)));
        assert_eq!(new(5).map(|quota| quota.to_string()), Ok("5 tokens a month".into()));
    }

    #[test]
    fn a_refusal_counts_nothing_and_says_what_is_left() {
        let quotas = Quotas::default();
        assert_eq!(quotas.take(&demand("a", 10, 7)), Ok(()));
        let reached = quotas.take(&demand("a", 10, 4)).expect_err("three are left");
        assert_eq!((reached.remaining, reached.retry_after), (3, Duration::from_secs(60)));
        assert_eq!(quotas.peek(&demand("a", 10, 4)), Err(reached));
        assert_eq!(quotas.used(&id("a")), 7);
        assert_eq!(quotas.take(&demand("a", 10, 3)), Ok(()));
        // A reload that makes it smaller makes no count negative.
        assert_eq!(quotas.take(&demand("a", 5, 1)).expect_err("over").remaining, 0);
    }

    #[test]
    fn what_others_have_counted_is_learnt_and_nothing_counts_twice() {
        let quotas = Quotas::default();
        quotas.learn(id("a"), 5, 0);
        assert_eq!(quotas.used(&id("a")), 5, "from before a restart");
        quotas.take(&demand("a", 100, 3)).expect("passes");
        let unsaved = quotas.take_unsaved();
        assert_eq!(unsaved, [(id("a"), 3)]);
        quotas.take(&demand("a", 100, 1)).expect("passes while it is being saved");
        quotas.learn(id("a"), 10, 3);
        assert_eq!(quotas.used(&id("a")), 11, "5 before, 3 and 1 here, 2 by another replica");
        let unsaved = quotas.take_unsaved();
        assert_eq!(unsaved, [(id("a"), 1)]);
        quotas.correct(&id("a"), -1);
        assert_eq!((quotas.used(&id("a")), quotas.take_unsaved()), (10, vec![(id("a"), -1)]));
    }

    #[test]
    fn counts_that_are_over_are_forgotten_once_they_are_saved() {
        let quotas = Quotas::default();
        quotas.take(&demand("a", 100, 3)).expect("passes");
        let later = SystemTime::from(at("2026-11-23T00:00:00Z", "UTC").timestamp());
        quotas.forget_before(later, &TimeZone::UTC);
        assert_eq!(quotas.len(), 1, "it is not saved");
        quotas.take_unsaved();
        quotas.forget_before(SystemTime::from(at("2026-11-21T23:59:59Z", "UTC").timestamp()), &TimeZone::UTC);
        assert_eq!(quotas.len(), 1, "it is not over");
        quotas.forget_before(later, &TimeZone::UTC);
        assert!(quotas.is_empty());
    }

    #[test]
    fn threads_never_take_more_than_there_is_and_every_count_is_saved_once() {
        const AMOUNT: u64 = 20_000;
        let quotas = Quotas::default();
        let saved = AtomicI64::new(0);
        let passed: usize = thread::scope(|scope| {
            let taker = || (0..10_000).filter(|_| quotas.take(&demand("a", AMOUNT, 1)).is_ok()).count();
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(taker)).collect();
            scope.spawn(|| {
                while quotas.used(&id("a")) < AMOUNT {
                    for (id, ours) in quotas.take_unsaved() {
                        let stored = saved.fetch_add(ours, Ordering::Relaxed) + ours;
                        quotas.learn(id, u64::try_from(stored).expect("positive"), ours);
                    }
                }
            });
            takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
        });
        assert_eq!(passed as u64, AMOUNT);
        let rest: i64 = quotas.take_unsaved().iter().map(|(_, by)| by).sum();
        assert_eq!(saved.load(Ordering::Relaxed) + rest, i64::try_from(AMOUNT).expect("fits"));
    }
}
