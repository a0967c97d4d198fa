//! What `/auth` has counted, on its way to the store.

use std::{collections::HashMap, time::SystemTime};

use access::{Calendar, Period};
use jiff::{Timestamp, tz::TimeZone};
use store::{Store, StoreError};
use web::Shared;

/// The names of the periods that are under way.
pub(super) fn periods(zone: &TimeZone, now: SystemTime) -> Vec<String> {
    let now = Timestamp::try_from(now).unwrap_or_default().to_zoned(zone.clone());
    [Calendar::Day, Calendar::Month].map(|per| Period::of(per, &now).to_string()).into()
}

/// What the store holds of quotas at the start.
pub(super) fn learn(shared: &Shared, counts: Vec<(access::QuotaId, u64)>) {
    for (id, stored) in counts {
        shared.limiters().quotas().learn(id, stored, 0);
    }
}

/// Writes what was counted since the last time; what could not be written is kept.
pub(super) async fn write_counts(shared: &Shared, store: &Store, zone: &TimeZone) -> Result<(), StoreError> {
    let quotas = shared.limiters().quotas();
    let unsaved = Unsaved { shared, counts: quotas.take_unsaved() };
    let stored = store.add_counts(&unsaved.counts).await?;
    let ours: HashMap<_, _> = unsaved.saved().into_iter().collect();
    for (id, stored) in stored {
        quotas.learn(id, stored, ours.get(&id).copied().unwrap_or(0));
    }
    let now = SystemTime::now();
    let used = UnsavedUsage { shared, used: shared.usage().take() };
    let [day, _] = periods(zone, now).try_into().unwrap_or_default();
    store.add_usage(&day, now, &used.used).await?;
    used.saved();
    Ok(())
}

/// Counts on their way to the store; they are kept if they do not arrive, also if one stops waiting.
struct Unsaved<'s> {
    shared: &'s Shared,
    counts: Vec<(access::QuotaId, i64)>,
}

impl Unsaved<'_> {
    fn saved(mut self) -> Vec<(access::QuotaId, i64)> {
        std::mem::take(&mut self.counts)
    }
}

impl Drop for Unsaved<'_> {
    fn drop(&mut self) {
        self.shared.limiters().quotas().keep_unsaved(&self.counts);
    }
}

/// The same for usage.
struct UnsavedUsage<'s> {
    shared: &'s Shared,
    used: Vec<access::Used>,
}

impl UnsavedUsage<'_> {
    fn saved(mut self) {
        self.used.clear();
    }
}

impl Drop for UnsavedUsage<'_> {
    fn drop(&mut self) {
        self.shared.usage().put_back(&self.used);
    }
}
