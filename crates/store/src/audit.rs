//! The audit log: who changed what, and when; and samples of refusals.

use std::time::SystemTime;

use accounts::Kind;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Store, StoreError,
    database::{millis, rows, time},
};

/// An audit entry to be written. Never contains a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Who did it: the name of an admin token, or `command line (ada)` with the system user, if known.
    pub actor: String,
    /// What was done, such as `key created`.
    pub action: String,
    /// The name of what was changed. For changes of accounts it is filled in.
    pub subject: String,
    /// Further details.
    pub details: Value,
}

/// An audit entry in the store.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    /// Its id; ids sort by time.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// The name of what was changed.
    pub subject: String,
    /// Further details.
    pub details: Value,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only entries of this actor: `command line` means any user there, `command line (ada)` that user.
    pub actor: Option<String>,
    /// Only entries about this name.
    pub subject: Option<String>,
    /// Only entries whose action begins with this: `key`, or `refused`.
    pub action: Option<String>,
    /// Only entries before this id, newest first; if absent, the newest of all.
    pub before: Option<String>,
    /// The maximum number.
    pub limit: u32,
}

impl Audit {
    /// An entry without details.
    pub fn new(actor: impl Into<String>, action: impl Into<String>) -> Self {
        Self { actor: actor.into(), action: action.into(), subject: String::new(), details: json!({}) }
    }

    /// Adds details.
    #[must_use]
    pub fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// Sets the name of what was changed.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), ..self }
    }

    pub(crate) fn of(self, kind: Kind, name: &str) -> Self {
        Self { subject: format!("{kind} {name}"), ..self }
    }

    pub(crate) async fn insert(
        &self,
        connection: &mut AnyConnection,
        at: SystemTime,
    ) -> Result<(), StoreError> {
        self.write(connection, std::slice::from_ref(&self.subject), at).await
    }

    /// Writes an entry about each of these names, in one statement.
    pub(crate) async fn insert_all(
        &self,
        connection: &mut AnyConnection,
        kind: Kind,
        names: &[&str],
        at: SystemTime,
    ) -> Result<(), StoreError> {
        let subjects: Vec<String> = names.iter().map(|name| format!("{kind} {name}")).collect();
        if subjects.is_empty() { Ok(()) } else { self.write(connection, &subjects, at).await }
    }

    async fn write(
        &self,
        connection: &mut AnyConnection,
        subjects: &[String],
        at: SystemTime,
    ) -> Result<(), StoreError> {
        let statement = format!(
            "INSERT INTO audit (id, at, actor, action, subject, details) VALUES {}",
            rows(subjects.len(), 6)
        );
        let details = self.details.to_string();
        let query = subjects.iter().fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, subject| {
            let query = query.bind(number(at)).bind(millis(at)).bind(&self.actor).bind(&self.action);
            query.bind(subject).bind(details.as_str())
        });
        query.execute(connection).await?;
        Ok(())
    }
}

/// The id of a new entry: the time, and a random part to tell entries of the same millisecond apart.
fn number(at: SystemTime) -> String {
    let mut random = [0; 5];
    // Without randomness two ids of the same millisecond may collide; then the second write fails with an error.
    let _ = getrandom::fill(&mut random);
    format!("{:013}-{}", millis(at), hex::encode(random))
}

impl Entry {
    /// The time of the entry.
    pub fn at(&self) -> SystemTime {
        time(self.at_ms)
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let details: String = row.try_get(5)?;
        Ok(Self {
            id: row.try_get(0)?,
            at_ms: row.try_get(1)?,
            actor: row.try_get(2)?,
            action: row.try_get(3)?,
            subject: row.try_get(4)?,
            details: serde_json::from_str(&details).unwrap_or_default(),
        })
    }
}

impl Store {
    /// Writes entries that belong to no change of an account.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn record(&self, entries: &[Audit]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for entry in entries {
            entry.insert(&mut transaction, SystemTime::now()).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The matching entries, newest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at, actor, action, subject, details FROM audit
             WHERE (CAST($1 AS TEXT) IS NULL OR actor = $1 OR substr(actor, 1, length($1) + 2) = $1 || ' (')
             AND (CAST($2 AS TEXT) IS NULL OR subject = $2)
             AND (CAST($3 AS TEXT) IS NULL OR substr(action, 1, length($3)) = $3) AND (CAST($4 AS TEXT) IS NULL OR id < $4)
             ORDER BY id DESC LIMIT $5",
        )
        .bind(filter.actor.clone())
        .bind(filter.subject.clone())
        .bind(filter.action.clone())
        .bind(filter.before.clone())
        .bind(i64::from(filter.limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(Entry::read).collect()
    }

    /// Deletes entries that are older than `time`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_audit_before(&self, time: SystemTime) -> Result<u64, StoreError> {
        // Ids begin with the time, and are indexed.
        let first = format!("{:013}", millis(time));
        let done = sqlx::query("DELETE FROM audit WHERE id < $1").bind(first).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }
}
