//! The names of models that were ready lately.

use std::time::{Duration, SystemTime};

use sqlx::Row;

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, rows},
};

impl Store {
    /// The names that were noted since a time, at most so many, the latest first.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn model_names(&self, since: SystemTime, most: usize) -> Result<Vec<String>, StoreError> {
        let query =
            sqlx::query("SELECT name FROM model_names WHERE seen >= $1 ORDER BY seen DESC, name LIMIT $2");
        let query = query.bind(millis(since)).bind(i64::try_from(most).unwrap_or(i64::MAX));
        let found = query.fetch_all(&self.pool).await?;
        found.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Notes that these models, each named once, were there at a time. Names that were not noted for `keep` are deleted, and the
    /// oldest of more than `most`.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn note_model_names(
        &self,
        names: &[&str],
        at: SystemTime,
        keep: Duration,
        most: usize,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for names in names.chunks(AT_ONCE) {
            let statement = format!(
                "INSERT INTO model_names (name, seen) VALUES {} ON CONFLICT (name) DO UPDATE SET seen = excluded.seen",
                rows(names.len(), 2)
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let query =
                names.iter().fold(query, |query, name| query.bind((*name).to_owned()).bind(millis(at)));
            query.execute(&mut *transaction).await?;
        }
        let oldest = at.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
        sqlx::query("DELETE FROM model_names WHERE seen < $1")
            .bind(millis(oldest))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "DELETE FROM model_names WHERE name NOT IN (SELECT name FROM model_names ORDER BY seen DESC, name LIMIT $1)",
        )
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}
