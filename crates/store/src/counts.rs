//! Quota counts, and the batches by which they and usage are written.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use limits::QuotaId;
use sqlx::{AnyConnection, Row, any::AnyRow};
use tracing::warn;

use crate::{
    Store, StoreError, StoreUrl, UsedOn,
    database::{AT_ONCE, millis, rows},
    usage,
};

/// What one replica has counted since its last batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number, larger than that of the previous batch.
    pub number: i64,
    /// What was debited from quotas or refunded; each quota once.
    pub counts: Vec<(QuotaId, i64)>,
    /// Usage; each hour, key, consumer and model once.
    pub used: Vec<UsedOn>,
    /// When it was counted.
    pub at: SystemTime,
}

/// The store's answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The store's present counts of the quotas in the batch.
    pub counts: Vec<(QuotaId, u64)>,
    /// The batch's number among those of all replicas; `None` if the batch had been added before.
    pub batch: Option<i64>,
}

/// The identity of one counting process, different from all others, including earlier ones on the same machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer(pub(crate) String);

impl Writer {
    /// A new, unique identity.
    pub fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness, the time in nanoseconds and the process id tell processes apart.
        let _ = getrandom::fill(&mut random);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Self(format!("{nanos:032x}-{:08x}-{:016x}", std::process::id(), u64::from_be_bytes(random)))
    }
}

/// Its name, of digits, letters and hyphens.
impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Adds a batch exactly once (idempotent): a batch whose answer was lost is passed again unchanged.
    ///
    /// # Errors
    /// The store does not answer; then all of the batch was added, or nothing.
    pub async fn add(&self, writer: &Writer, batch: &Batch) -> Result<Added, StoreError> {
        let mut counts = batch.counts.clone();
        // All replicas write in the same order, so that no two of them deadlock.
        counts.sort_by_cached_key(|(id, _)| (id.period(), id.subject()));
        let mut transaction = self.begin().await?;
        // If the same batch is still being written over a lost connection, this statement waits until that has ended.
        let numbered = sqlx::query(
            "INSERT INTO writers (writer, batch, at) VALUES ($1, $2, $3)
             ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, at = excluded.at
             WHERE writers.batch < excluded.batch",
        )
        .bind(&writer.0)
        .bind(batch.number)
        .bind(millis(SystemTime::now()))
        .execute(&mut *transaction)
        .await?;
        let mut stored = Vec::with_capacity(counts.len());
        if numbered.rows_affected() == 0 {
            for some in counts.chunks(AT_ONCE) {
                stored.extend(counts_of(&mut transaction, some).await?);
            }
            return Ok(Added { counts: stored, batch: None });
        }
        if let StoreUrl::Postgres(_) = self.url {
            // Before it is asked which rows are there: a name that is erased meanwhile would come back (`erase.rs`).
            let lock = "LOCK TABLE usage, usage_hours IN ROW EXCLUSIVE MODE";
            sqlx::query(lock).execute(&mut *transaction).await?;
        }
        usage::add(&mut transaction, &batch.used, batch.at).await?;
        // From here on other writers wait.
        let row = sqlx::query("UPDATE counting SET batch = batch + 1 WHERE only_row = 1 RETURNING batch")
            .fetch_one(&mut *transaction)
            .await?;
        let number: i64 = row.try_get(0)?;
        for some in counts.chunks(AT_ONCE) {
            stored.extend(add_counts(&mut transaction, number, some).await?);
        }
        transaction.commit().await?;
        Ok(Added { counts: stored, batch: Some(number) })
    }

    /// The counts of some quotas; those of which nothing was taken are left out.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn counts_of(&self, ids: &[QuotaId]) -> Result<Vec<(QuotaId, u64)>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut found = Vec::with_capacity(ids.len());
        for some in ids.iter().map(|id| (*id, 0)).collect::<Vec<_>>().chunks(AT_ONCE) {
            found.extend(counts_of(&mut connection, some).await?);
        }
        Ok(found)
    }

    /// The number of batches so far, of all replicas.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn batches(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT batch FROM counting WHERE only_row = 1").fetch_one(&self.pool).await?;
        Ok(row.try_get(0)?)
    }

    /// The counts that changed after batch `after`, up to and including batch `up_to`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn counts_between(&self, after: i64, up_to: i64) -> Result<Vec<(QuotaId, u64)>, StoreError> {
        let rows =
            sqlx::query("SELECT period, subject, used FROM quota_counts WHERE batch > $1 AND batch <= $2")
                .bind(after)
                .bind(up_to)
                .fetch_all(&self.pool)
                .await?;
        rows.iter().filter_map(|row| count(row).transpose()).collect()
    }

    /// Deletes writers that have written nothing since `time`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_writers_before(&self, time: SystemTime) -> Result<u64, StoreError> {
        let done =
            sqlx::query("DELETE FROM writers WHERE at < $1").bind(millis(time)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// The counts of these periods.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn counts(&self, periods: &[String]) -> Result<Vec<(QuotaId, u64)>, StoreError> {
        let mut counts = Vec::new();
        for period in periods {
            let rows = sqlx::query("SELECT period, subject, used FROM quota_counts WHERE period = $1")
                .bind(period)
                .fetch_all(&self.pool)
                .await?;
            for row in &rows {
                counts.extend(count(row)?);
            }
        }
        Ok(counts)
    }

    /// Deletes the counts of periods before these: of days before a day, of weeks before a week, of months before a month. Their
    /// names have different lengths, and sort by time. What never ends is kept.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_counts_before(&self, earliest: &[String]) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for period in earliest {
            let done =
                sqlx::query("DELETE FROM quota_counts WHERE length(period) = length($1) AND period < $1")
                    .bind(period)
                    .execute(&self.pool)
                    .await?;
            deleted += done.rows_affected();
        }
        Ok(deleted)
    }
}

pub(crate) async fn add_counts(
    connection: &mut AnyConnection,
    batch: i64,
    counts: &[(QuotaId, i64)],
) -> Result<Vec<(QuotaId, u64)>, StoreError> {
    let statement = format!(
        "INSERT INTO quota_counts (period, subject, used, batch) VALUES {}
         ON CONFLICT (period, subject) DO UPDATE SET used = quota_counts.used + excluded.used, batch = excluded.batch
         RETURNING period, subject, used",
        rows(counts.len(), 4)
    );
    let query = counts.iter().fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, (id, by)| {
        query.bind(id.period().to_string()).bind(id.subject()).bind(*by).bind(batch)
    });
    query.fetch_all(connection).await?.iter().filter_map(|row| count(row).transpose()).collect()
}

pub(crate) async fn counts_of(
    connection: &mut AnyConnection,
    counts: &[(QuotaId, i64)],
) -> Result<Vec<(QuotaId, u64)>, StoreError> {
    let statement = format!(
        "SELECT period, subject, used FROM quota_counts WHERE (period, subject) IN (VALUES {})",
        rows(counts.len(), 2)
    );
    let query = counts.iter().fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, (id, _)| {
        query.bind(id.period().to_string()).bind(id.subject())
    });
    query.fetch_all(connection).await?.iter().filter_map(|row| count(row).transpose()).collect()
}

/// A count; one that cannot be read is left out and logged.
fn count(row: &AnyRow) -> Result<Option<(QuotaId, u64)>, StoreError> {
    let (period, subject, used): (String, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    match QuotaId::parse(&subject, &period) {
        Ok(id) => Ok(Some((id, u64::try_from(used).unwrap_or(0)))),
        Err(error) => {
            warn!(subject, period, %error, "a count of the store is left out");
            Ok(None)
        }
    }
}
