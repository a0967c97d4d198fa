//! Writes what `/auth` has counted to the store.
//!
//! Each batch has a number, which the store saves in the same transaction. A batch whose answer was lost is sent again unchanged,
//! and is counted once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use access::UsageHour;
use jiff::{Timestamp, tz::TimeZone};
use limits::{Calendar, Period, QuotaId};
use store::{Batch, Store, StoreError, Unwritten, UsedOn, Writer};
use web::Shared;

/// The maximum number of counts, and of usage rows, in a batch.
const MAX_BATCH: usize = 1_000;
/// A flush stops after this time and leaves the rest for later: account changes must be in force within a second.
const ENOUGH: Duration = Duration::from_millis(250);

/// The names of the current periods.
pub(super) fn periods(zone: &TimeZone, now: SystemTime) -> Vec<String> {
    let now = Timestamp::try_from(now).unwrap_or_default().to_zoned(zone.clone());
    Calendar::ALL.map(|per| Period::of(per, &now).to_string()).into()
}

/// The day of a time.
pub(super) fn day(zone: &TimeZone, at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or_default().to_zoned(zone.clone());
    Period::of(Calendar::Day, &at).to_string()
}

/// How long after an hour of UTC an hour of the time zone begins, at this time.
pub(super) fn offset(zone: &TimeZone, at: SystemTime) -> Duration {
    const HOUR: i32 = 3_600;
    let east = zone.to_offset(Timestamp::try_from(at).unwrap_or_default()).seconds();
    Duration::from_secs((-east).rem_euclid(HOUR).unsigned_abs().into())
}

/// Counts that are not known to be in the store yet.
#[derive(Debug)]
pub(super) struct Outbox {
    writer: Writer,
    /// The number of our last batch.
    last: i64,
    batches: VecDeque<Batch>,
    /// The counts of all batches in the store up to this number, from any replica, are known.
    known: i64,
    /// Whether the store has yet to get what a stop could not write.
    pub(super) has_kept: bool,
}

/// The quota counts that a store holds.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// The store held at least this many batches when the counts were read.
    pub(super) batches: i64,
    pub(super) counts: Vec<(QuotaId, u64)>,
    /// Whether the store did not take what a stop could not write.
    pub(super) has_kept: bool,
}

impl Counted {
    /// Reads the counts from the store.
    pub(super) async fn of(store: &Store, zone: &TimeZone) -> Result<Self, StoreError> {
        let batches = store.batches().await?;
        let counts = store.counts(&periods(zone, SystemTime::now())).await?;
        Ok(Self { batches, counts, has_kept: false })
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { writer: Writer::new(), last: 0, batches: VecDeque::new(), known: 0, has_kept: false }
    }

    /// Whether all that was taken is in the store.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// All that is not known to be in the store, what was counted since the last batch among it: for a process that ends.
    pub(super) fn take_all(&mut self, shared: &Shared, zone: &TimeZone) -> Unwritten {
        self.take(shared, zone);
        Unwritten { writer: self.writer.clone(), batches: self.batches.drain(..).collect() }
    }

    /// Learns what the store holds.
    pub(super) fn learn(&mut self, shared: &Shared, counted: Counted) {
        (self.known, self.has_kept) = (counted.batches, counted.has_kept);
        self.learn_counts(shared, counted.counts);
    }

    /// Takes over counts that were read while no write was under way. Quotas with counts that are still unwritten are left out,
    /// because the store may or may not have these already.
    fn learn_counts(&self, shared: &Shared, counts: Vec<(QuotaId, u64)>) {
        let on_their_way: HashSet<&QuotaId> =
            self.batches.iter().flat_map(|batch| batch.counts.iter().map(|(id, _)| id)).collect();
        for (id, stored) in counts.into_iter().filter(|(id, _)| !on_their_way.contains(id)) {
            shared.limiters().quotas().learn(id, stored, 0);
        }
    }

    /// Writes the counts, and takes over those of other replicas. Counts that could not be written are kept, also if the future
    /// is dropped. Returns whether everything was written.
    pub(super) async fn write(
        &mut self,
        shared: &Shared,
        store: &Store,
        zone: &TimeZone,
    ) -> Result<bool, StoreError> {
        let begun = Instant::now();
        // Counts that were left from the last time are sent first.
        self.send(shared, store, begun).await?;
        if self.batches.is_empty() {
            self.take(shared, zone);
            self.send(shared, store, begun).await?;
        }
        self.hear(shared, store).await?;
        Ok(self.is_empty())
    }

    /// Takes over the counts of other replicas, whether or not this one has counted anything.
    async fn hear(&mut self, shared: &Shared, store: &Store) -> Result<(), StoreError> {
        let batches = store.batches().await?;
        if batches != self.known {
            // A lower number means that the database was restored to an earlier state.
            let known = if batches < self.known { 0 } else { self.known };
            let counts = store.counts_between(known, batches).await?;
            self.learn_counts(shared, counts);
            self.known = batches;
        }
        Ok(())
    }

    /// Takes what has been counted since the last call.
    fn take(&mut self, shared: &Shared, zone: &TimeZone) {
        let (counts, used) = (shared.limiters().quotas().take_unsaved(), shared.usage().take());
        let at = SystemTime::now();
        shared.usage().align(offset(zone, at));
        let mut days = HashMap::new();
        let mut day = |hour: UsageHour| days.entry(hour).or_insert_with(|| day(zone, hour.start())).clone();
        let used: Vec<_> = used.into_iter().map(|used| UsedOn { day: day(used.hour), used }).collect();
        let (mut counts, mut used) = (counts.chunks(MAX_BATCH), used.chunks(MAX_BATCH));
        loop {
            let (counts, used) = (counts.next().map(<[_]>::to_vec), used.next().map(<[UsedOn]>::to_vec));
            if counts.is_none() && used.is_none() {
                return;
            }
            self.last += 1;
            let (counts, used) = (counts.unwrap_or_default(), used.unwrap_or_default());
            self.batches.push_back(Batch { number: self.last, counts, used, at });
        }
    }

    async fn send(&mut self, shared: &Shared, store: &Store, begun: Instant) -> Result<(), StoreError> {
        while let Some(batch) = self.batches.front().filter(|_| begun.elapsed() < ENOUGH) {
            let added = store.add(&self.writer, batch).await?;
            let ours: HashMap<_, _> = batch.counts.iter().copied().collect();
            // Otherwise another replica has written in between.
            if added.batch == Some(self.known + 1) {
                self.known += 1;
            }
            for (id, stored) in added.counts {
                shared.limiters().quotas().learn(id, stored, ours.get(&id).copied().unwrap_or(0));
            }
            self.batches.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_begin_as_the_time_zone_says() {
        let at = |text: &str| SystemTime::from(text.parse::<Timestamp>().expect("a time"));
        for (zone, time, minutes, of_day) in [
            ("UTC", "2026-11-21T23:30:00Z", 0, "2026-11-21"),
            ("Europe/Berlin", "2026-11-21T23:30:00Z", 0, "2026-11-22"),
            ("Asia/Kolkata", "2026-11-21T18:30:00Z", 30, "2026-11-22"),
            ("Asia/Kathmandu", "2026-11-21T18:14:00Z", 15, "2026-11-21"),
            ("America/St_Johns", "2026-11-21T03:29:00Z", 30, "2026-11-20"),
        ] {
            let zone = TimeZone::get(zone).expect("a zone");
            let usual = offset(&zone, at(time));
            assert_eq!(
                (usual.as_secs() / 60, day(&zone, at(time))),
                (minutes, of_day.to_owned()),
                "{zone:?}"
            );
        }
    }
}
