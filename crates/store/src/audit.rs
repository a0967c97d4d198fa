//! Who changed what, and when; and some of the refusals.

use std::time::SystemTime;

use accounts::Kind;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Store, StoreError,
    database::{millis, rows, time},
};

/// What is to be written down about a change. Never a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Who: the name of an admin token, or `command line (ada)`, the system's user, if known.
    pub actor: String,
    /// What was done: `key created`.
    pub action: String,
    /// To what: a name. Changes of accounts fill it in.
    pub subject: String,
    /// What else is worth knowing.
    pub details: Value,
}

/// What was written down.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    /// Its number: by time.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What else is worth knowing.
    pub details: Value,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Whose: `command line` is anybody there, `command line (ada)` that user.
    pub actor: Option<String>,
    /// To what.
    pub subject: Option<String>,
    /// Only those that begin with this: `key`, or `refused`.
    pub action: Option<String>,
    /// Only those before this number, newest first; without it, the newest of all.
    pub before: Option<String>,
    /// How many at most.
    pub limit: u32,
}

impl Audit {
    /// Somebody has done something.
    pub fn new(actor: impl Into<String>, action: impl Into<String>) -> Self {
        Self { actor: actor.into(), action: action.into(), subject: String::new(), details: json!({}) }
    }

    /// The same with details.
    #[must_use]
    pub fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// The same about something.
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

    /// The same about each of these, in one statement.
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

/// A new entry's number: by time, and by chance among those of one millisecond.
fn number(at: SystemTime) -> String {
    let mut random = [0; 5];
    // Without randomness two entries of one millisecond may collide; then the second is refused, and said so.
    let _ = getrandom::fill(&mut random);
    format!("{:013}-{}", millis(at), hex::encode(random))
}

impl Entry {
    /// When.
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
    /// Writes entries down that belong to no change of an account.
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

    /// What was written down, newest first.
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

    /// Forgets entries that are older.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_audit_before(&self, time: SystemTime) -> Result<u64, StoreError> {
        // Numbers begin with the time, and have an index.
        let first = format!("{:013}", millis(time));
        let done = sqlx::query("DELETE FROM audit WHERE id < $1").bind(first).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }
}
