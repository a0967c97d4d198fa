//! What `/auth` has counted, on its way to the store.
//!
//! Each batch has a number, which the store keeps in the same transaction: one whose answer was lost is written again as
//! it was, and counts once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

use access::Used;
use jiff::{Timestamp, tz::TimeZone};
use limits::{Calendar, Period, QuotaId};
use store::{Batch, Store, StoreError, Writer};
use web::Shared;

/// The most counts, and the most rows of usage, in a batch.
const MOST: usize = 1_000;
/// After so long the rest waits: changes of accounts are to be in force within a second.
const ENOUGH: Duration = Duration::from_millis(250);

/// The names of the periods that are under way.
pub(super) fn periods(zone: &TimeZone, now: SystemTime) -> Vec<String> {
    let now = Timestamp::try_from(now).unwrap_or_default().to_zoned(zone.clone());
    [Calendar::Day, Calendar::Month].map(|per| Period::of(per, &now).to_string()).into()
}

/// What was counted and is not known to be in the store yet.
#[derive(Debug)]
pub(super) struct Outbox {
    writer: Writer,
    /// The number of the last batch.
    last: i64,
    batches: VecDeque<Batch>,
    /// Up to which of all batches in the store, by whomever, the counts are known.
    known: i64,
}

/// What a store holds of quotas.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// After how many batches that was, at least.
    pub(super) batches: i64,
    pub(super) counts: Vec<(QuotaId, u64)>,
}

impl Counted {
    /// Asks the store.
    pub(super) async fn of(store: &Store, zone: &TimeZone) -> Result<Self, StoreError> {
        let batches = store.batches().await?;
        Ok(Self { batches, counts: store.counts(&periods(zone, SystemTime::now())).await? })
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { writer: Writer::new(), last: 0, batches: VecDeque::new(), known: 0 }
    }

    /// Whether all that was taken is in the store.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Learns what the store holds.
    pub(super) fn learn(&mut self, shared: &Shared, counted: Counted) {
        self.known = counted.batches;
        self.learn_counts(shared, counted.counts);
    }

    /// Learns counts that were read when nothing was being written; not those of quotas of which some is on its way, as the
    /// store may have that already or not.
    fn learn_counts(&self, shared: &Shared, counts: Vec<(QuotaId, u64)>) {
        let on_their_way: HashSet<&QuotaId> =
            self.batches.iter().flat_map(|batch| batch.counts.iter().map(|(id, _)| id)).collect();
        for (id, stored) in counts.into_iter().filter(|(id, _)| !on_their_way.contains(id)) {
            shared.limiters().quotas().learn(id, stored, 0);
        }
    }

    /// Writes what was counted, and learns what others have. What could not be written stays, also if one stops waiting.
    /// Whether that was all.
    pub(super) async fn write(
        &mut self,
        shared: &Shared,
        store: &Store,
        zone: &TimeZone,
    ) -> Result<bool, StoreError> {
        let begun = Instant::now();
        // What was left the last time comes first.
        self.send(shared, store, begun).await?;
        if self.batches.is_empty() {
            self.take(shared, zone);
            self.send(shared, store, begun).await?;
        }
        self.hear(shared, store).await?;
        Ok(self.is_empty())
    }

    /// Learns what others have counted, whether or not anything was counted here.
    async fn hear(&mut self, shared: &Shared, store: &Store) -> Result<(), StoreError> {
        let batches = store.batches().await?;
        if batches != self.known {
            // A lower number: the database was put back to an earlier state.
            let known = if batches < self.known { 0 } else { self.known };
            let counts = store.counts_between(known, batches).await?;
            self.learn_counts(shared, counts);
            self.known = batches;
        }
        Ok(())
    }

    /// Takes what has been counted since the last time.
    fn take(&mut self, shared: &Shared, zone: &TimeZone) {
        let (counts, used) = (shared.limiters().quotas().take_unsaved(), shared.usage().take());
        let at = SystemTime::now();
        let [day, _] = periods(zone, at).try_into().unwrap_or_default();
        let (mut counts, mut used) = (counts.chunks(MOST), used.chunks(MOST));
        loop {
            let (counts, used) = (counts.next().map(<[_]>::to_vec), used.next().map(<[Used]>::to_vec));
            if counts.is_none() && used.is_none() {
                return;
            }
            self.last += 1;
            let (counts, used) = (counts.unwrap_or_default(), used.unwrap_or_default());
            self.batches.push_back(Batch { number: self.last, counts, used, day: day.clone(), at });
        }
    }

    async fn send(&mut self, shared: &Shared, store: &Store, begun: Instant) -> Result<(), StoreError> {
        while let Some(batch) = self.batches.front().filter(|_| begun.elapsed() < ENOUGH) {
            let added = store.add(&self.writer, batch).await?;
            let ours: HashMap<_, _> = batch.counts.iter().copied().collect();
            // Else somebody else has written, too.
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
