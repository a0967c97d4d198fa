//! The names of models that were ready lately.

use std::time::{Duration, SystemTime};

use sqlx::Row;

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, rows},
};

impl Store {
    /// The names that were noted since a time, the latest first, and `most` at most.
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

    /// The own name of the model that had this name lately, if that is another one.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn own_model_name(&self, name: &str) -> Result<Option<String>, StoreError> {
        let query = sqlx::query("SELECT own_name FROM model_names WHERE name = $1").bind(name.to_owned());
        let row = query.fetch_optional(&self.pool).await?;
        let own: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        Ok(own.filter(|own| !own.is_empty() && own != name))
    }

    /// Notes that these names were served at a time, each with its model's own name; each name occurs once. Names that were not noted
    /// for `keep` are deleted, and the oldest of more than `most`.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn note_model_names(
        &self,
        names: &[(&str, &str)],
        at: SystemTime,
        keep: Duration,
        most: usize,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        for names in names.chunks(AT_ONCE) {
            let statement = format!(
                "INSERT INTO model_names (name, own_name, seen) VALUES {} \
                 ON CONFLICT (name) DO UPDATE SET own_name = excluded.own_name, seen = excluded.seen",
                rows(names.len(), 3)
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(statement));
            let query = names.iter().fold(query, |query, (name, own)| {
                query.bind((*name).to_owned()).bind((*own).to_owned()).bind(millis(at))
            });
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
