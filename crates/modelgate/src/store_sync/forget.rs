//! Deletes usage that is old enough, beside everything else: some rows at a time, so that whoever writes hardly waits. Then the
//! latest months are summed up anew.

use std::{sync::Arc, time::Duration};

use store::{Store, StoreError, UsageTable};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::reading::late;

/// The number of rows that are deleted at once.
const ROWS: u32 = 500;
/// How long a deletion may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two deletions.
const PAUSE: Duration = Duration::from_millis(50);

/// The deletion that is under way, if there is one; dropping it ends it.
#[derive(Debug, Default)]
pub(super) struct Forgetting(Option<JoinHandle<()>>);

impl Forgetting {
    /// Deletes the usage of days and of hours before these days, unless that is still under way, and sums up these months.
    pub(super) fn start(
        &mut self,
        store: &Arc<Store>,
        [days_before, hours_before]: [String; 2],
        months: [String; 2],
    ) {
        if self.0.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let store = Arc::clone(store);
        self.0 = Some(tokio::spawn(async move {
            let of_days = [UsageTable::Days, UsageTable::Months, UsageTable::Models, UsageTable::ModelMonths];
            let of_days = of_days.map(|table| (table, &days_before));
            for (table, day) in [(UsageTable::Hours, &hours_before)].into_iter().chain(of_days) {
                match forget(&store, table, day).await {
                    Ok(0) => {}
                    Ok(rows) => info!(rows, before = day, ?table, "old usage was deleted"),
                    Err(error) => warn!(%error, "old usage cannot be deleted"),
                }
            }
            for month in months {
                if let Err(error) = store.sum_up(&month).await {
                    warn!(%error, month, "usage cannot be summed up");
                }
            }
        }));
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn forget(store: &Store, table: UsageTable, before: &str) -> Result<u64, StoreError> {
    let mut all = 0;
    loop {
        let forgotten = timeout(PATIENCE, store.forget_usage_before(table, before, ROWS)).await;
        let rows = forgotten.unwrap_or_else(|_| Err(late()))?;
        all += rows;
        if rows < ROWS.into() {
            return Ok(all);
        }
        sleep(PAUSE).await;
    }
}
