//! Keys that were deleted or replaced lately. Only their digests are kept, as of all keys.

use std::time::SystemTime;

use access::{KeyDigest, RevokedKey, RevokedKeys};
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _, any::AnyRow};

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters, time},
};

impl Store {
    /// The keys that were revoked lately, the last ones first; at most [`RevokedKeys::MOST`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn revoked_keys(&self) -> Result<Vec<RevokedKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT sha256, name, consumer, revoked_at FROM revoked_keys WHERE revoked_at > $1
             ORDER BY revoked_at DESC, sha256 LIMIT $2",
        )
        .bind(oldest())
        .bind(i64::try_from(RevokedKeys::MOST).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        read(&rows)
    }

    /// The keys of these names that were revoked lately.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn revoked_keys_named(&self, names: &[String]) -> Result<Vec<RevokedKey>, StoreError> {
        let mut all = Vec::new();
        for some in names.chunks(AT_ONCE) {
            let statement = format!(
                "SELECT sha256, name, consumer, revoked_at FROM revoked_keys WHERE revoked_at > $1 AND name IN ({})",
                parameters(2, some.len())
            );
            let query = sqlx::query(AssertSqlSafe(statement)).bind(oldest());
            let rows = some.iter().fold(query, |query, name| query.bind(name.clone())).fetch_all(&self.pool);
            all.extend(read(&rows.await?)?);
        }
        Ok(all)
    }

    /// Deletes what is known of keys that were revoked too long ago, and of those beyond [`RevokedKeys::MOST`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_old_revoked_keys(&self) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM revoked_keys WHERE revoked_at <= $1")
            .bind(oldest())
            .execute(&self.pool)
            .await?;
        sqlx::query(
            "DELETE FROM revoked_keys WHERE sha256 NOT IN
             (SELECT sha256 FROM revoked_keys ORDER BY revoked_at DESC, sha256 LIMIT $1)",
        )
        .bind(i64::try_from(RevokedKeys::MOST).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn oldest() -> i64 {
    millis(SystemTime::now().checked_sub(RevokedKeys::KEEP).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// A digest that cannot be read belongs to no key.
fn read(rows: &[AnyRow]) -> Result<Vec<RevokedKey>, StoreError> {
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        let digest: String = row.try_get(0)?;
        let Ok(digest) = KeyDigest::parse_hex(&digest) else { continue };
        let at = time(row.try_get(3)?);
        keys.push(RevokedKey { digest, name: row.try_get(1)?, consumer: row.try_get(2)?, at });
    }
    Ok(keys)
}

/// Keeps the digests of a key's document that it has no more; all of them if it is deleted.
pub(crate) async fn keep_digests(
    connection: &mut AnyConnection,
    name: &str,
    (before, after): (&str, Option<&Value>),
    at: SystemTime,
) -> Result<(), StoreError> {
    // Of a document that cannot be read nothing is known.
    let before: Value = serde_json::from_str(before).unwrap_or_default();
    let after = after.map(digests).unwrap_or_default();
    let consumer = before["consumer"].as_str().unwrap_or_default();
    for digest in digests(&before).into_iter().filter(|digest| !after.contains(digest)) {
        sqlx::query(
            "INSERT INTO revoked_keys (sha256, name, consumer, revoked_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (sha256) DO UPDATE SET name = excluded.name, consumer = excluded.consumer,
             revoked_at = excluded.revoked_at",
        )
        .bind(digest)
        .bind(name)
        .bind(consumer)
        .bind(millis(at))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn digests(key: &Value) -> Vec<&str> {
    [&key["sha256"], &key["previous"]["sha256"]].into_iter().filter_map(Value::as_str).collect()
}
