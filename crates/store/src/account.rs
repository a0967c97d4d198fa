//! Plans, consumers and keys in the store.

use std::{collections::BTreeSet, time::SystemTime};

use accounts::{Account, AccountKind};
use serde_json::Value;
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Audit, Conflict, Store, StoreError, StoreUrl, Unreadable,
    database::{AT_ONCE, millis, parameters, rows, time},
    networks::forget_networks,
    revoked::keep_digests,
};

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<A> {
    /// The account itself.
    pub account: A,
    /// When it was created.
    pub created: SystemTime,
    /// When it was last changed.
    pub changed: SystemTime,
}

/// Which accounts to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those whose name, or whose consumer's name, contains this text, ignoring case.
    pub search: Option<String>,
    /// Only keys of this consumer.
    pub consumer: Option<String>,
    /// Only those that refer to this plan.
    pub plan: Option<String>,
    /// Only those whose name comes after this one.
    pub after: Option<String>,
    /// The maximum number.
    pub limit: u32,
}

/// A page of accounts, sorted by name.
#[derive(Debug, Clone)]
pub struct Page<A> {
    /// The accounts; unreadable ones are given by name.
    pub items: Vec<Result<Stored<A>, Unreadable>>,
    /// The number of matching accounts on all pages.
    pub total: u64,
}

/// What is expected under the name before a write.
#[derive(Debug, Clone, PartialEq)]
enum Before {
    Absent,
    Present,
    Either,
    Exactly(Value),
}

impl Store {
    /// Adds an account.
    ///
    /// # Errors
    /// There is already an account of that name, or a key with that digest.
    pub async fn create<A: Account>(&self, account: &A, audit: Audit) -> Result<Stored<A>, StoreError> {
        self.write(account, Before::Absent, audit).await
    }

    /// Replaces the account of the same name.
    ///
    /// # Errors
    /// There is no such account, or another key has that digest.
    pub async fn replace<A: Account>(&self, account: &A, audit: Audit) -> Result<Stored<A>, StoreError> {
        self.write(account, Before::Present, audit).await
    }

    /// Adds an account, or replaces the one of the same name.
    ///
    /// # Errors
    /// Another key has that digest.
    pub async fn put<A: Account>(&self, account: &A, audit: Audit) -> Result<Stored<A>, StoreError> {
        self.write(account, Before::Either, audit).await
    }

    /// Replaces the account `from`, of which `account` is a changed copy; `None` if there was none.
    ///
    /// # Errors
    /// The stored account is no longer `from`: somebody else's change would be undone.
    pub async fn change<A: Account>(
        &self,
        from: Option<&A>,
        account: &A,
        audit: Audit,
    ) -> Result<Stored<A>, StoreError> {
        let before = match from {
            Some(from) => Before::Exactly(from.to_json()),
            None => Before::Absent,
        };
        self.write(account, before, audit).await
    }

    async fn write<A: Account>(
        &self,
        account: &A,
        before: Before,
        audit: Audit,
    ) -> Result<Stored<A>, StoreError> {
        let (kind, name, now) = (A::KIND, account.name(), audit.at);
        let document = account.to_json();
        let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
        let sha256 = text("sha256");
        let mut transaction = self.begin().await?;
        let revision = next_revision(&mut transaction).await?;
        let known = find(&mut transaction, kind, name).await?;
        match (&before, &known) {
            (Before::Absent, Some(_)) => return Err(Conflict::Exists(kind, name.to_owned()).into()),
            (Before::Present | Before::Exactly(_), None) => {
                return Err(Conflict::Missing(kind, name.to_owned()).into());
            }
            // Compared as read now: an older version may have written the same account as a different text.
            (Before::Exactly(expected), Some(known))
                if Unreadable::or_read::<A>(name, &known.document).ok().map(|now| now.to_json()).as_ref()
                    != Some(expected) =>
            {
                return Err(Conflict::Changed(kind, name.to_owned()).into());
            }
            _ => {}
        }
        if let Some(sha256) = &sha256 {
            let same = sqlx::query("SELECT name FROM accounts WHERE sha256 = $1 AND name <> $2")
                .bind(sha256)
                .bind(name)
                .fetch_optional(&mut *transaction)
                .await?;
            if let Some(row) = same {
                return Err(Conflict::SameKey(row.try_get(0)?).into());
            }
        }
        if let (AccountKind::Key, Some(known)) = (kind, &known) {
            keep_digests(&mut transaction, name, (&known.document, Some(&document)), now).await?;
        }
        let created = known.as_ref().map_or(millis(now), |known| known.created);
        sqlx::query(
            "INSERT INTO accounts (kind, name, document, consumer, sha256, plan, created, changed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document, consumer = excluded.consumer,
             sha256 = excluded.sha256, plan = excluded.plan, changed = excluded.changed",
        )
        .bind(kind.as_str())
        .bind(name)
        .bind(document.to_string())
        .bind(text("consumer").filter(|_| kind == AccountKind::Key))
        .bind(sha256)
        .bind(text("plan"))
        .bind(created)
        .bind(millis(now))
        .execute(&mut *transaction)
        .await?;
        note_change(&mut transaction, revision, kind.as_str(), name).await?;
        audit.of(kind, name).insert(&mut transaction).await?;
        self.commit(transaction).await?;
        Ok(Stored { account: account.clone(), created: time(created), changed: time(millis(now)) })
    }

    /// Removes an account. Removing one that does not exist is not an error; returns whether it existed.
    ///
    /// # Errors
    /// It is a plan that others refer to, or a consumer that has keys; without it these would have no limits.
    pub async fn delete(&self, kind: AccountKind, name: &str, audit: Audit) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let revision = next_revision(&mut transaction).await?;
        let Some(known) = find(&mut transaction, kind, name).await? else { return Ok(false) };
        let users = match kind {
            AccountKind::Plan => {
                Some("SELECT kind, name FROM accounts WHERE plan = $1 ORDER BY kind, name LIMIT 3")
            }
            AccountKind::Consumer => {
                Some("SELECT kind, name FROM accounts WHERE consumer = $1 ORDER BY name LIMIT 3")
            }
            AccountKind::Key => None,
        };
        if let Some(users) = users {
            let rows = sqlx::query(users).bind(name).fetch_all(&mut *transaction).await?;
            if !rows.is_empty() {
                let named = |row: &AnyRow| {
                    Ok(format!("{} {:?}", row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?))
                };
                let users = rows.iter().map(named).collect::<Result<Vec<_>, sqlx::Error>>()?;
                return Err(Conflict::InUse(kind, name.to_owned(), users.join(", ")).into());
            }
        }
        if kind == AccountKind::Key {
            keep_digests(&mut transaction, name, (&known.document, None), audit.at).await?;
            forget_networks(&mut transaction, &[name.to_owned()]).await?;
        }
        sqlx::query("DELETE FROM accounts WHERE kind = $1 AND name = $2")
            .bind(kind.as_str())
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        note_change(&mut transaction, revision, kind.as_str(), name).await?;
        audit.of(kind, name).insert(&mut transaction).await?;
        self.commit(transaction).await?;
        Ok(true)
    }

    /// An account by name.
    ///
    /// # Errors
    /// The store does not answer, or the account cannot be read.
    pub async fn get<A: Account>(&self, name: &str) -> Result<Option<Stored<A>>, StoreError> {
        let row = sqlx::query(
            "SELECT name, document, created, changed FROM accounts WHERE kind = $1 AND name = $2",
        )
        .bind(A::KIND.as_str())
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| read(&row)).transpose()?.transpose()?)
    }

    /// The existing accounts among these names; unreadable ones are given by name.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn get_all<A: Account>(
        &self,
        names: &[String],
    ) -> Result<Vec<Result<Stored<A>, Unreadable>>, StoreError> {
        let mut all = Vec::with_capacity(names.len());
        for some in names.chunks(AT_ONCE) {
            let statement = format!(
                "SELECT name, document, created, changed FROM accounts WHERE kind = $1 AND name IN ({})",
                parameters(2, some.len())
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(A::KIND.as_str());
            let rows = some.iter().fold(query, |query, name| query.bind(name.clone())).fetch_all(&self.pool);
            for row in rows.await? {
                all.push(read(&row)?);
            }
        }
        Ok(all)
    }

    /// A page of accounts, sorted by name.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list<A: Account>(&self, filter: &Filter) -> Result<Page<A>, StoreError> {
        let pattern = filter.search.as_deref().map(pattern);
        // An absent filter is NULL, for which PostgreSQL must be told a type.
        const FITS: &str = "kind = $1 AND (CAST($2 AS TEXT) IS NULL OR lower(name) LIKE $2 ESCAPE '\\'
             OR lower(coalesce(consumer, '')) LIKE $2 ESCAPE '\\')
             AND (CAST($3 AS TEXT) IS NULL OR consumer = $3) AND (CAST($4 AS TEXT) IS NULL OR plan = $4)";
        let bound = |statement: String| {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(A::KIND.as_str())
                .bind(pattern.clone())
                .bind(filter.consumer.clone())
                .bind(filter.plan.clone())
        };
        let total =
            bound(format!("SELECT count(*) FROM accounts WHERE {FITS}")).fetch_one(&self.pool).await?;
        let total: i64 = total.try_get(0)?;
        // Sorted by bytes, as SQLite and the file's accounts are; the database's own collation may be that of a language.
        let name = match self.url {
            StoreUrl::Sqlite(_) => "name",
            StoreUrl::Postgres(_) => "name COLLATE \"C\"",
        };
        let select = format!(
            "SELECT name, document, created, changed FROM accounts
             WHERE {FITS} AND (CAST($5 AS TEXT) IS NULL OR {name} > $5) ORDER BY {name} LIMIT $6"
        );
        let rows = bound(select)
            .bind(filter.after.clone())
            .bind(i64::from(filter.limit))
            .fetch_all(&self.pool)
            .await?;
        let items = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Page { items, total: u64::try_from(total).unwrap_or(0) })
    }

    /// Writes many accounts at once, for imports. Those whose name or digest exists already are not written, and are returned.
    ///
    /// # Errors
    /// The store does not answer; then nothing was written.
    pub async fn create_all<A: Account>(
        &self,
        accounts: &[A],
        audit: &Audit,
    ) -> Result<Vec<Conflict>, StoreError> {
        let mut transaction = self.begin().await?;
        // Locks out other writers before anything else is touched. All writers take this lock first.
        next_revision(&mut transaction).await?;
        let mut conflicts = Vec::new();
        for some in accounts.chunks(AT_ONCE) {
            let written = insert_all(&mut transaction, some, audit.at).await?;
            // Two of the same name: the first is written.
            let mut left = written.clone();
            let is_there = |account: &&A| !left.remove(account.name());
            let there = some
                .iter()
                .filter(is_there)
                .map(|account| Conflict::Exists(A::KIND, account.name().to_owned()));
            conflicts.extend(there);
            let names: Vec<&str> = written.iter().map(String::as_str).collect();
            note_changes(&mut transaction, A::KIND.as_str(), &names).await?;
            audit.insert_all(&mut transaction, A::KIND, &names).await?;
        }
        self.commit(transaction).await?;
        Ok(conflicts)
    }

    pub(crate) async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Any>, StoreError> {
        // SQLite's default transaction takes the write lock late, and may then fail because another writer was faster.
        let statement = match self.url {
            StoreUrl::Sqlite(_) => "BEGIN IMMEDIATE",
            StoreUrl::Postgres(_) => "BEGIN",
        };
        Ok(self.pool.begin_with(statement).await?)
    }

    pub(crate) async fn commit(
        &self,
        mut transaction: sqlx::Transaction<'static, sqlx::Any>,
    ) -> Result<(), StoreError> {
        if matches!(self.url, StoreUrl::Postgres(_)) {
            sqlx::query("SELECT pg_notify('modelgate', '')").execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// What is known about an account before it is written.
struct OldDocument {
    created: i64,
    document: String,
}

async fn find(
    connection: &mut AnyConnection,
    kind: AccountKind,
    name: &str,
) -> Result<Option<OldDocument>, StoreError> {
    let row = sqlx::query("SELECT created, document FROM accounts WHERE kind = $1 AND name = $2")
        .bind(kind.as_str())
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let known = |row: AnyRow| Ok(OldDocument { created: row.try_get(0)?, document: row.try_get(1)? });
    row.map(known).transpose()
}

/// Writes accounts in one statement; those whose name or digest exists are left out. Returns the names that were written.
async fn insert_all<A: Account>(
    connection: &mut AnyConnection,
    accounts: &[A],
    now: SystemTime,
) -> Result<BTreeSet<String>, StoreError> {
    let statement = format!(
        "INSERT INTO accounts (kind, name, document, consumer, sha256, plan, created, changed) VALUES {}
         ON CONFLICT DO NOTHING RETURNING name",
        rows(accounts.len(), 8)
    );
    let query = accounts.iter().fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, account| {
        let document = account.to_json();
        let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
        let consumer = text("consumer").filter(|_| A::KIND == AccountKind::Key);
        let query = query.bind(A::KIND.as_str()).bind(account.name().to_owned()).bind(document.to_string());
        let query = query.bind(consumer).bind(text("sha256")).bind(text("plan"));
        query.bind(millis(now)).bind(millis(now))
    });
    let written = query.fetch_all(connection).await?;
    written.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Records at most [`AT_ONCE`] changes, each with a number of its own. `what` is a kind of account, or
/// [`ERASED_CONSUMER`](crate::follow::ERASED_CONSUMER). Other writers wait until this transaction has ended.
pub(crate) async fn note_changes(
    connection: &mut AnyConnection,
    what: &'static str,
    names: &[&str],
) -> Result<(), StoreError> {
    if names.is_empty() {
        return Ok(());
    }
    let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let last: i64 = sqlx::query("UPDATE revision SET value = value + $1 WHERE only_row = 1 RETURNING value")
        .bind(count)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let statement = format!("INSERT INTO changes (revision, kind, name) VALUES {}", rows(names.len(), 3));
    let revisions = last - count + 1..;
    let query = names
        .iter()
        .zip(revisions)
        .fold(sqlx::query(sqlx::AssertSqlSafe(statement)), |query, (name, revision)| {
            query.bind(revision).bind(what).bind(*name)
        });
    query.execute(connection).await?;
    Ok(())
}

/// Allocates the number of a change. Other writers wait until this transaction has ended.
async fn next_revision(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    let row = sqlx::query("UPDATE revision SET value = value + 1 WHERE only_row = 1 RETURNING value")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

async fn note_change(
    connection: &mut AnyConnection,
    revision: i64,
    what: &'static str,
    name: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO changes (revision, kind, name) VALUES ($1, $2, $3)")
        .bind(revision)
        .bind(what)
        .bind(name)
        .execute(connection)
        .await?;
    Ok(())
}

fn read<A: Account>(row: &AnyRow) -> Result<Result<Stored<A>, Unreadable>, StoreError> {
    let (name, document): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let (created, changed) = (time(row.try_get(2)?), time(row.try_get(3)?));
    Ok(Unreadable::or_read(&name, &document).map(|account| Stored { account, created, changed }))
}

/// A pattern for `LIKE … ESCAPE '\\'` that finds a text anywhere, whatever its case.
pub(crate) fn pattern(text: &str) -> String {
    let text = text.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{text}%")
}
