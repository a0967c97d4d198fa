//! Follows changes in the store.

use std::time::Duration;

use accounts::{Account, AccountKind};
use sqlx::{
    AnyConnection, Connection as _, Row,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::{sleep, timeout};

use crate::{Store, StoreError, StoreUrl, Unreadable};

/// How often SQLite is asked whether another process has changed it; the query reads one number from shared memory.
const LOOK: Duration = Duration::from_millis(200);
/// How often PostgreSQL is polled, in case a notification was lost.
const RELISTEN: Duration = Duration::from_millis(900);
/// Beyond this number of changes a full reload is required.
pub(crate) const MAX_CHANGES: i64 = 2_000;

/// What is noted beside the kinds of accounts: the name of a consumer was erased. An older Modelgate reloads everything then.
pub(crate) const ERASED_CONSUMER: &str = "erased consumer";

/// A stream of changes, whoever makes them.
pub struct Following {
    store: Store,
    revision: i64,
    wake: Wake,
}

/// How the stream notices a change before it queries.
enum Wake {
    /// SQLite's `data_version`, which differs after another connection has written
    /// (<https://www.sqlite.org/pragma.html#pragma_data_version>).
    DataVersion {
        connection: AnyConnection,
        seen: i64,
    },
    Notified(Box<PgListener>),
}

/// A change in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Some things have changed.
    Some {
        /// These accounts were written or deleted, or a key's name was erased.
        accounts: Vec<(AccountKind, String)>,
        /// The names of these consumers were erased.
        erased: Vec<String>,
    },
    /// There were too many changes; a full reload is required.
    All,
}

impl Store {
    /// Follows all changes from now on.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn follow(&self) -> Result<Following, StoreError> {
        let wake = match &self.url {
            StoreUrl::Sqlite(_) => {
                let mut connection = self.pool.acquire().await?.detach();
                let seen = data_version(&mut connection).await?;
                Wake::DataVersion { connection, seen }
            }
            StoreUrl::Postgres(url) => {
                // The listener occupies its connection permanently, so it has a pool of its own.
                let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(3));
                let mut listener = PgListener::connect_with(&pool.connect(url).await?).await?;
                listener.listen("modelgate").await?;
                Wake::Notified(Box::new(listener))
            }
        };
        Ok(Following { store: self.clone(), revision: self.revision().await?, wake })
    }

    /// Whether no account has ever been written.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn is_untouched(&self) -> Result<bool, StoreError> {
        Ok(self.revision().await? == 0)
    }

    async fn revision(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT value FROM revision WHERE only_row = 1").fetch_one(&self.pool).await?;
        Ok(row.try_get(0)?)
    }

    /// Deletes old records of changes: a follower that is so far behind does a full reload anyway.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_old_changes(&self) -> Result<u64, StoreError> {
        let oldest =
            "DELETE FROM changes WHERE revision <= (SELECT value FROM revision WHERE only_row = 1) - $1";
        Ok(sqlx::query(oldest).bind(MAX_CHANGES).execute(&self.pool).await?.rows_affected())
    }

    /// All plans or all consumers; unreadable ones are left out and returned by name.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn all<A: Account>(&self) -> Result<(Vec<A>, Vec<Unreadable>), StoreError> {
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        let mut after = String::new();
        while let Some(documents) = self.documents(A::KIND, &after).await? {
            after.clone_from(&documents.last);
            let (accounts, bad) = documents.read();
            all.extend(accounts);
            unreadable.extend(bad);
        }
        Ok((all, unreadable))
    }

    /// The next few thousand accounts of a kind, by name; `None` after the last one. Reading in parts bounds the memory, and lets
    /// other tasks run in between.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn documents(&self, kind: AccountKind, after: &str) -> Result<Option<Documents>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, document FROM accounts WHERE kind = $1 AND name > $2 ORDER BY name LIMIT 5000",
        )
        .bind(kind.as_str())
        .bind(after)
        .fetch_all(&self.pool)
        .await?;
        let mut documents = Vec::with_capacity(rows.len());
        for row in rows {
            documents.push((row.try_get(0)?, row.try_get(1)?));
        }
        let last = documents.last().map(|(name, _): &(String, String)| name.clone());
        Ok(last.map(|last| Documents { last, documents }))
    }
}

/// Stored documents of one kind, not parsed yet.
#[derive(Debug)]
pub struct Documents {
    /// The name of the last account.
    pub last: String,
    documents: Vec<(String, String)>,
}

impl Documents {
    /// Parses the documents; unreadable accounts are left out and returned by name.
    pub fn read<A: Account>(self) -> (Vec<A>, Vec<Unreadable>) {
        let (mut accounts, mut unreadable) = (Vec::with_capacity(self.documents.len()), Vec::new());
        for (name, document) in self.documents {
            match Unreadable::or_read(&name, &document) {
                Ok(account) => accounts.push(account),
                Err(bad) => unreadable.push(bad),
            }
        }
        (accounts, unreadable)
    }
}

impl Following {
    /// Waits for a change, at most for `at_most`.
    ///
    /// # Errors
    /// The store does not answer. Then follow again, and do a full reload.
    pub async fn changed(&mut self, at_most: Duration) -> Result<Option<Change>, StoreError> {
        let waited = timeout(at_most, self.wake.woken()).await;
        match waited {
            Ok(woken) => woken?,
            Err(_) => return self.since().await,
        }
        self.since().await
    }

    /// What has changed since the last query.
    async fn since(&mut self) -> Result<Option<Change>, StoreError> {
        let revision = self.store.revision().await?;
        if revision == self.revision {
            return Ok(None);
        }
        let before = self.revision;
        // A lower number means that the database was restored to an earlier state.
        if revision < before || revision - before > MAX_CHANGES {
            self.revision = revision;
            return Ok(Some(Change::All));
        }
        let rows =
            sqlx::query("SELECT DISTINCT kind, name FROM changes WHERE revision > $1 AND revision <= $2")
                .bind(before)
                .bind(revision)
                .fetch_all(&self.store.pool)
                .await?;
        self.revision = revision;
        let (mut accounts, mut erased) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let (what, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            match AccountKind::of(&what) {
                Some(kind) => accounts.push((kind, name)),
                None if what == ERASED_CONSUMER => erased.push(name),
                None => return Ok(Some(Change::All)),
            }
        }
        Ok(Some(Change::Some { accounts, erased }))
    }

    /// Closes the connections that it waits with.
    pub async fn close(self) {
        match self.wake {
            Wake::DataVersion { connection, .. } => drop(connection.close().await),
            Wake::Notified(mut listener) => drop(listener.unlisten_all().await),
        }
    }
}

impl Wake {
    async fn woken(&mut self) -> Result<(), StoreError> {
        match self {
            Self::DataVersion { connection, seen } => loop {
                sleep(LOOK).await;
                let now = data_version(connection).await?;
                if now != *seen {
                    *seen = now;
                    return Ok(());
                }
            },
            Self::Notified(listener) => match timeout(RELISTEN, listener.recv()).await {
                Ok(notified) => Ok(notified.map(|_| ())?),
                Err(_) => Ok(()),
            },
        }
    }
}

async fn data_version(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query("PRAGMA data_version").fetch_one(connection).await?.try_get(0)?)
}
