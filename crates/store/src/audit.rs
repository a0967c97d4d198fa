//! Who changed what, when and from where; and some of the refusals.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use accounts::AccountKind;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Store, StoreError,
    database::{millis, rows, time},
};

/// Who does something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name of an admin token; `command line (ada)` with the system's user, if known; `/auth` for samples of refusals.
    pub name: String,
    /// From where, if that is known.
    pub origin: Option<Origin>,
}

/// From where somebody does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The client's address.
    Address(IpAddr),
    /// A command line has no address: the name of the host on which it runs; in a container, the container's.
    Host(String),
}

/// An audit entry that is to be written. Never contains a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Its id. An entry that is written again, because the first answer was lost, is stored once.
    id: String,
    /// When it happened, which may be long before it can be written. A change of an account has this time, too.
    pub at: SystemTime,
    /// Who.
    pub actor: Actor,
    /// What was done: `key created`.
    pub action: String,
    /// The name of what was changed. For changes of accounts it is filled in.
    pub subject: String,
    /// Further details.
    pub details: Value,
}

/// An audit entry in the store.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AuditEntry {
    /// Its id; ids sort by time.
    pub id: String,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who did it.
    pub actor: String,
    /// The client's IP address; none for a command line.
    pub address: Option<String>,
    /// The name of the host on which a command line ran.
    pub host: Option<String>,
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

impl Actor {
    /// A client with an address.
    pub fn at(name: impl Into<String>, address: IpAddr) -> Self {
        Self { name: name.into(), origin: Some(Origin::Address(address)) }
    }

    fn address(&self) -> Option<String> {
        match &self.origin {
            Some(Origin::Address(address)) => Some(address.to_string()),
            _ => None,
        }
    }

    fn host(&self) -> Option<&str> {
        match &self.origin {
            Some(Origin::Host(host)) => Some(host),
            _ => None,
        }
    }
}

/// Nobody knows from where.
impl From<&str> for Actor {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), origin: None }
    }
}

impl From<&Self> for Actor {
    fn from(actor: &Self) -> Self {
        actor.clone()
    }
}

impl Audit {
    /// Somebody does something now.
    pub fn new(actor: impl Into<Actor>, action: impl Into<String>) -> Self {
        let (at, subject, details) = (SystemTime::now(), String::new(), json!({}));
        Self { id: number(at), at, actor: actor.into(), action: action.into(), subject, details }
    }

    /// The same entry with another time, for what happened some time ago.
    #[must_use]
    pub fn happened(self, at: SystemTime) -> Self {
        Self { id: number(at), at, ..self }
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

    pub(crate) fn of(self, kind: AccountKind, name: &str) -> Self {
        Self { subject: format!("{kind} {name}"), ..self }
    }

    pub(crate) async fn insert(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        self.write(connection, &[(self.id.clone(), self.subject.clone())], "DO NOTHING").await
    }

    /// Writes the entry, or its details if it is there already: what was done was a part, and more is done now.
    pub(crate) async fn put(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let again = "DO UPDATE SET details = excluded.details";
        self.write(connection, &[(self.id.clone(), self.subject.clone())], again).await
    }

    /// Writes an entry about each of these names, in one statement.
    pub(crate) async fn insert_all(
        &self,
        connection: &mut AnyConnection,
        kind: AccountKind,
        names: &[&str],
    ) -> Result<(), StoreError> {
        let entries: Vec<_> = names.iter().map(|name| (number(self.at), format!("{kind} {name}"))).collect();
        if entries.is_empty() { Ok(()) } else { self.write(connection, &entries, "DO NOTHING").await }
    }

    /// Writes entries that differ only in id and subject. `again` says what is done with one that is there already.
    async fn write(
        &self,
        connection: &mut AnyConnection,
        entries: &[(String, String)],
        again: &str,
    ) -> Result<(), StoreError> {
        let statement = format!(
            "INSERT INTO audit (id, at, actor, address, host, action, subject, details) VALUES {}
             ON CONFLICT (id) {again}",
            rows(entries.len(), 8)
        );
        let (address, details) = (self.actor.address(), self.details.to_string());
        let query = sqlx::query(sqlx::AssertSqlSafe(statement));
        let query = entries.iter().fold(query, |query, (id, subject)| {
            let query = query.bind(id).bind(millis(self.at)).bind(&self.actor.name);
            let query = query.bind(address.clone()).bind(self.actor.host().map(str::to_owned));
            query.bind(&self.action).bind(subject).bind(details.as_str())
        });
        query.execute(connection).await?;
        Ok(())
    }
}

/// The id of a new entry: the time, and a random part to tell entries of the same millisecond apart.
fn number(at: SystemTime) -> String {
    // An import writes 100,000 entries of one millisecond.
    let mut random = [0; 8];
    if getrandom::fill(&mut random).is_err() {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        random = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    }
    format!("{:013}-{}", millis(at), hex::encode(random))
}

impl AuditEntry {
    /// The time of the entry.
    pub fn at(&self) -> SystemTime {
        time(self.at_ms)
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let details: String = row.try_get(7)?;
        Ok(Self {
            id: row.try_get(0)?,
            at_ms: row.try_get(1)?,
            actor: row.try_get(2)?,
            address: row.try_get(3)?,
            host: row.try_get(4)?,
            action: row.try_get(5)?,
            subject: row.try_get(6)?,
            details: serde_json::from_str(&details).unwrap_or_default(),
        })
    }
}

impl Store {
    /// Writes entries that belong to no change of an account. Writing an entry again changes nothing.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn record(&self, entries: &[Audit]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for entry in entries {
            entry.insert(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The matching entries, newest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at, actor, address, host, action, subject, details FROM audit
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
        rows.iter().map(AuditEntry::read).collect()
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
