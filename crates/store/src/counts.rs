//! What was taken from quotas, and what was used.

use std::time::SystemTime;

use access::{QuotaId, Used};
use sqlx::{Row, any::AnyRow};
use tracing::warn;

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters},
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

impl Store {
    /// Adds to counts of quotas. The answer is what the store holds now for each.
    ///
    /// # Errors
    /// The store does not answer; then nothing was added.
    pub async fn add_counts(&self, counts: &[(QuotaId, i64)]) -> Result<Vec<(QuotaId, u64)>, StoreError> {
        if counts.is_empty() {
            return Ok(Vec::new());
        }
        let mut sorted = counts.to_vec();
        // In one order everywhere, so that two replicas never wait for each other.
        sorted.sort_by_cached_key(|(id, _)| (id.period(), id.subject()));
        let mut transaction = self.begin().await?;
        let mut stored = Vec::with_capacity(counts.len());
        for (id, by) in sorted {
            let row = sqlx::query(
                "INSERT INTO quota_counts (period, subject, used) VALUES ($1, $2, $3)
                 ON CONFLICT (period, subject) DO UPDATE SET used = quota_counts.used + excluded.used RETURNING used",
            )
            .bind(id.period().to_string())
            .bind(id.subject())
            .bind(by)
            .fetch_one(&mut *transaction)
            .await?;
            stored.push((id, u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0)));
        }
        transaction.commit().await?;
        Ok(stored)
    }

    /// The counts of these days and months.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn counts(&self, periods: &[String]) -> Result<Vec<(QuotaId, u64)>, StoreError> {
        let mut counts = Vec::new();
        for period in periods {
            let rows = sqlx::query("SELECT subject, used FROM quota_counts WHERE period = $1")
                .bind(period)
                .fetch_all(&self.pool)
                .await?;
            for row in rows {
                let (subject, used): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
                match QuotaId::parse(&subject, period) {
                    Ok(id) => counts.push((id, u64::try_from(used).unwrap_or(0))),
                    Err(error) => warn!(subject, period, %error, "a count of the store is left out"),
                }
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

    /// Adds to what was used on a day.
    ///
    /// # Errors
    /// The store does not answer; then nothing was added.
    pub async fn add_usage(&self, day: &str, now: SystemTime, used: &[Used]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<&Used> = used.iter().collect();
        sorted.sort_by_key(|used| (&used.key, &used.model, &used.consumer));
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut transaction = self.begin().await?;
        for used in sorted {
            sqlx::query(
                "INSERT INTO usage (day, key_name, consumer, model, requests, tokens, refused, last_used)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (key_name, day, model, consumer) DO UPDATE SET requests = usage.requests + excluded.requests,
                 tokens = usage.tokens + excluded.tokens, refused = usage.refused + excluded.refused,
                 last_used = excluded.last_used",
            )
            .bind(day)
            .bind(&used.key)
            .bind(&used.consumer)
            .bind(&used.model)
            .bind(number(used.requests))
            .bind(number(used.tokens))
            .bind(number(used.refused))
            .bind(millis(now) / 1_000 * 1_000)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
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
