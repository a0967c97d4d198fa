//! Quota counts and usage.

use std::time::{SystemTime, UNIX_EPOCH};

use access::Used;
use limits::QuotaId;
use sqlx::{AnyConnection, Row, any::AnyRow};
use tracing::warn;

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters, rows},
};

/// The usage of one model by one key on one day.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UsageRow {
    /// The day, in the time zone of quotas: `2026-11-21`; empty in a sum over days.
    pub day: String,
    /// The key's name.
    pub key: String,
    /// The key's consumer.
    pub consumer: String,
    /// The model; empty if the request named none.
    pub model: String,
    /// Requests that were allowed.
    pub requests: i64,
    /// Their tokens: what servers or Traefik have told, else as estimated at the time of the request.
    pub estimated_tokens: i64,
    /// Requests that were refused.
    pub refused: i64,
    /// When the last request came, in milliseconds since 1970, to the second.
    pub last_used_ms: i64,
}

/// Which usage to list.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Only usage of this key.
    pub key: Option<String>,
    /// Only usage of this consumer.
    pub consumer: Option<String>,
    /// Only usage of this model.
    pub model: Option<String>,
    /// The first day.
    pub from: Option<String>,
    /// The last day, inclusive.
    pub to: Option<String>,
    /// The maximum number of rows.
    pub limit: u32,
}

/// What one replica has counted since its last batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number, larger than that of the previous batch.
    pub number: i64,
    /// What was debited from quotas or refunded; each quota once.
    pub counts: Vec<(QuotaId, i64)>,
    /// Usage; each key, consumer and model once.
    pub used: Vec<Used>,
    /// The day of the usage, in the time zone of quotas: `2026-11-21`.
    pub day: String,
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
pub struct Writer(String);

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
        let mut used: Vec<&Used> = batch.used.iter().collect();
        used.sort_by_key(|used| (&used.key, &used.model, &used.consumer));
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
        for some in used.chunks(AT_ONCE) {
            add_usage(&mut transaction, batch, some).await?;
        }
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

    /// The counts of these periods (days and months).
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

    /// Deletes the counts of days before this day, and of months before this month.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_counts_before(&self, day: &str, month: &str) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM quota_counts WHERE (length(period) = 10 AND period < $1) OR (length(period) = 7 AND period < $2)",
        )
        .bind(day)
        .bind(month)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Deletes the usage of days before this one.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_usage_before(&self, day: &str) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM usage WHERE day < $1").bind(day).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// Usage by day, key and model; the newest day first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT day, key_name, consumer, model, requests, tokens, refused, last_used FROM usage
             WHERE (CAST($1 AS TEXT) IS NULL OR key_name = $1) AND (CAST($2 AS TEXT) IS NULL OR consumer = $2)
             AND (CAST($3 AS TEXT) IS NULL OR model = $3) AND (CAST($4 AS TEXT) IS NULL OR day >= $4)
             AND (CAST($5 AS TEXT) IS NULL OR day <= $5) ORDER BY day DESC, key_name, model LIMIT $6",
        )
        .bind(filter.key.clone())
        .bind(filter.consumer.clone())
        .bind(filter.model.clone())
        .bind(filter.from.clone())
        .bind(filter.to.clone())
        .bind(i64::from(filter.limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(usage_row).collect()
    }

    /// When each of these keys was last used, in milliseconds since 1970; keys that were never used are left out.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn last_used(&self, keys: &[String]) -> Result<Vec<(String, i64)>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let statement = format!(
                "SELECT key_name, max(last_used) FROM usage WHERE key_name IN ({}) GROUP BY key_name",
                parameters(1, some.len())
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let rows =
                some.iter().fold(query, |query, key| query.bind(key.clone())).fetch_all(&self.pool).await?;
            for row in rows {
                all.push((row.try_get(0)?, row.try_get(1)?));
            }
        }
        Ok(all)
    }
}

async fn add_counts(
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

async fn counts_of(
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

async fn add_usage(connection: &mut AnyConnection, batch: &Batch, used: &[&Used]) -> Result<(), StoreError> {
    let statement = format!(
        "INSERT INTO usage (day, key_name, consumer, model, requests, tokens, refused, last_used) VALUES {}
         ON CONFLICT (key_name, day, model, consumer) DO UPDATE SET requests = usage.requests + excluded.requests,
         tokens = usage.tokens + excluded.tokens, refused = usage.refused + excluded.refused,
         last_used = excluded.last_used",
        rows(used.len(), 8)
    );
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let at = millis(batch.at) / 1_000 * 1_000;
    let query = used.iter().fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, used| {
        let query = query.bind(&batch.day).bind(&used.key).bind(&used.consumer).bind(&used.model);
        query.bind(number(used.requests)).bind(used.tokens).bind(number(used.refused)).bind(at)
    });
    query.execute(connection).await?;
    Ok(())
}

fn usage_row(row: &AnyRow) -> Result<UsageRow, StoreError> {
    Ok(UsageRow {
        day: row.try_get(0)?,
        key: row.try_get(1)?,
        consumer: row.try_get(2)?,
        model: row.try_get(3)?,
        requests: row.try_get(4)?,
        estimated_tokens: row.try_get(5)?,
        refused: row.try_get(6)?,
        last_used_ms: row.try_get(7)?,
    })
}
