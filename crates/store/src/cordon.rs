//! Servers that operators have withdrawn by hand. They hold in every Modelgate of the store, and over restarts.

use std::time::SystemTime;

use sqlx::Row;

use crate::{Store, StoreError, database::millis};

/// The cordon of one server, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCordon {
    /// The server's id.
    pub server: String,
    /// The run that is drained; `None`: until the server is resumed.
    pub drained_run: Option<String>,
    /// The operator's name.
    pub by: String,
}

const DRAIN: &str = "drain";
const PAUSE: &str = "pause";

impl Store {
    /// All cordons, by server.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn cordons(&self) -> Result<Vec<StoredCordon>, StoreError> {
        let found = sqlx::query("SELECT server, kind, run, operator FROM cordons ORDER BY server");
        let read = |row: &sqlx::any::AnyRow| {
            let kind: String = row.try_get(1)?;
            let run: String = row.try_get(2)?;
            let drained_run = (kind == DRAIN).then_some(run);
            Ok(StoredCordon { server: row.try_get(0)?, drained_run, by: row.try_get(3)? })
        };
        found.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Cordons a server from `at` on, in place of what held for it.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn cordon(&self, cordon: &StoredCordon, at: SystemTime) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO cordons (server, kind, run, operator, set_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server) DO UPDATE \
             SET kind = excluded.kind, run = excluded.run, operator = excluded.operator, set_at = excluded.set_at",
        );
        let kind = if cordon.drained_run.is_some() { DRAIN } else { PAUSE };
        let statement = statement.bind(cordon.server.clone()).bind(kind);
        let statement = statement.bind(cordon.drained_run.clone().unwrap_or_default());
        statement.bind(cordon.by.clone()).bind(millis(at)).execute(&self.pool).await?;
        Ok(())
    }

    /// Lets a server take requests again.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn resume(&self, server: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM cordons WHERE server = $1")
            .bind(server.to_owned())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
