//! What was taken from quotas, and what was used.

use std::time::{SystemTime, UNIX_EPOCH};

use access::Used;
use limits::QuotaId;
use sqlx::{AnyConnection, Row, any::AnyRow};
use tracing::warn;

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters, rows},
};

/// What one key has used of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UsageRow {
    /// The day, in the time zone of quotas: `2026-11-21`; empty in a sum over days.
    pub day: String,
    /// The key's name.
    pub key: String,
    /// Whose it was.
    pub consumer: String,
    /// The model; empty if none was named.
    pub model: String,
    /// Requests that were let pass.
    pub requests: i64,
    /// Their tokens, as estimated when they came.
    pub estimated_tokens: i64,
    /// Requests that were refused.
    pub refused: i64,
    /// When the last one came, in milliseconds since 1970, to the second.
    pub last_used_ms: i64,
}

/// Which usage to list.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Of which key.
    pub key: Option<String>,
    /// Of which consumer.
    pub consumer: Option<String>,
    /// Of which model.
    pub model: Option<String>,
    /// From which day on.
    pub from: Option<String>,
    /// Until which day, that one included.
    pub to: Option<String>,
    /// How many rows at most.
    pub limit: u32,
}

/// What one Modelgate has counted since its last batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number: larger than that of the batch before.
    pub number: i64,
    /// What was taken from quotas, or given back; each once.
    pub counts: Vec<(QuotaId, i64)>,
    /// What was used; each key, consumer and model once.
    pub used: Vec<Used>,
    /// On which day that was, in the time zone of quotas: `2026-11-21`.
    pub day: String,
    /// When it was counted.
    pub at: SystemTime,
}

/// What the store says of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// What it holds now of each quota in it.
    pub counts: Vec<(QuotaId, u64)>,
    /// Which batch of all it was, if it was added now.
    pub batch: Option<i64>,
}

/// Tells one process that counts from all others, those before it on the same machine among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer(String);

impl Writer {
    /// One that there has not been.
    pub fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness the time, to the nanosecond, and the process' number tell processes apart.
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
    /// Adds what was counted, once: a batch of which one does not know whether it has arrived is given again as it was.
    ///
    /// # Errors
    /// The store does not answer; then all of it was added, or nothing.
    pub async fn add(&self, writer: &Writer, batch: &Batch) -> Result<Added, StoreError> {
        let mut counts = batch.counts.clone();
        // In one order everywhere, so that two replicas never wait for each other.
        counts.sort_by_cached_key(|(id, _)| (id.period(), id.subject()));
        let mut used: Vec<&Used> = batch.used.iter().collect();
        used.sort_by_key(|used| (&used.key, &used.model, &used.consumer));
        let mut transaction = self.begin().await?;
        // Should the same batch still be on its way by a connection that was lost, this waits until it has ended.
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
        // From here on others wait.
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

    /// How many batches there have been, of all that count.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn batches(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT batch FROM counting WHERE only_row = 1").fetch_one(&self.pool).await?;
        Ok(row.try_get(0)?)
    }

    /// The counts that were changed after one batch, up to another one.
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

    /// Forgets processes that have written nothing since then.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_writers_before(&self, time: SystemTime) -> Result<u64, StoreError> {
        let done =
            sqlx::query("DELETE FROM writers WHERE at < $1").bind(millis(time)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// The counts of these days and months.
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

    /// Forgets the counts of periods before these: of days before this day, and of months before this month.
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

    /// Forgets what was used on days before this one.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_usage_before(&self, day: &str) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM usage WHERE day < $1").bind(day).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// What was used by day, key and model; the newest day first.
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

    /// When these keys were used last, in milliseconds since 1970; those that never were are left out.
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

/// One that cannot be read is left out, and named.
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
        query.bind(number(used.requests)).bind(number(used.tokens)).bind(number(used.refused)).bind(at)
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
