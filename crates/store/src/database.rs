//! The connection to the database.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Once,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    AnyConnection, AnyPool, Connection as _, Executor as _, Row as _,
    any::{AnyPoolOptions, install_default_drivers},
    migrate::MigrateError,
};
use tokio::time::timeout;

use tracing::info;

use crate::{InvalidUrl, StoreError};

/// How long opening a connection may take.
const ACQUIRE: Duration = Duration::from_secs(3);
/// How long SQLite waits for another process that is writing, in milliseconds.
const BUSY_MS: u32 = 5_000;

/// How long a transaction in PostgreSQL may be idle before it is rolled back, in milliseconds.
const IDLE_MS: u32 = 5_000;

/// The URL of a store.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// The URL of a PostgreSQL database. It may contain a password.
    Postgres(String),
}

/// The kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    Sqlite,
    PostgreSql,
}

/// An open store. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: AnyPool,
    pub(crate) url: StoreUrl,
}

impl StoreUrl {
    /// The SQLite file in the folder with the other state.
    pub fn in_folder(folder: &Path) -> Self {
        Self::Sqlite(folder.join("modelgate.db"))
    }

    /// The kind of database, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    pub(crate) fn as_url(&self) -> String {
        match self {
            // `?` and `#` would end the path.
            Self::Sqlite(path) => {
                let path =
                    path.display().to_string().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
                format!("sqlite://{path}?mode=rwc")
            }
            Self::Postgres(url) => url.clone(),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return (!path.is_empty() && !path.contains('?'))
                .then(|| Self::Sqlite(path.into()))
                .ok_or(InvalidUrl);
        }
        let is_postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let is_good = is_postgres && text.parse::<sqlx::postgres::PgConnectOptions>().is_ok();
        is_good.then(|| Self::Postgres(text.to_owned())).ok_or(InvalidUrl)
    }
}

/// Omits the URL, which may contain a password.
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "Sqlite({})", path.display()),
            Self::Postgres(_) => f.write_str("Postgres(…)"),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store and migrates its tables. A missing SQLite file is created. Of one whose tables are older a copy is kept beside
    /// it, `modelgate.db.before-8` for the migration 8.
    ///
    /// # Errors
    /// The database does not answer, or its tables are those of a newer Modelgate.
    pub async fn open(url: StoreUrl) -> Result<Self, StoreError> {
        Self::open_as(url, Copies::BeforeMigration).await
    }

    pub(crate) async fn open_as(url: StoreUrl, copies: Copies) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(install_default_drivers);
        if let StoreUrl::Sqlite(path) = &url {
            make_private(path)
                .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
        }
        let (database, at_once) = match url {
            // SQLite allows one writer at a time; more connections would only wait for each other.
            StoreUrl::Sqlite(_) => (Database::Sqlite, 2),
            StoreUrl::Postgres(_) => (Database::PostgreSql, 4),
        };
        // A pool that gets no connection keeps trying until its timeout, and then does not say why. So one connection is opened
        // directly first.
        let first = timeout(ACQUIRE, async {
            let mut connection = AnyConnection::connect(&url.as_url()).await?;
            prepare(&mut connection, database).await?;
            connection.close().await
        });
        let first = first.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(StoreError::from);
        first.map_err(|error| match (error, &url) {
            (StoreError::Unavailable(why), StoreUrl::Sqlite(path)) => {
                StoreError::Unavailable(format!("{}: {why}", path.display()))
            }
            (error, _) => error,
        })?;
        let options = AnyPoolOptions::new().max_connections(at_once).acquire_timeout(ACQUIRE);
        let options = options.after_connect(move |connection, _| Box::pin(prepare(connection, database)));
        let pool = options.connect(&url.as_url()).await?;
        let migrations = sqlx::migrate!();
        if let (StoreUrl::Sqlite(path), Copies::BeforeMigration) = (&url, copies) {
            keep_copy(&pool, path, migrations.iter().map(|m| m.version).max().unwrap_or_default()).await?;
        }
        migrations.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(number) => {
                StoreError::Migration(format!("a newer one has made them, by its migration {number}"))
            }
            other => StoreError::Migration(other.to_string()),
        })?;
        Ok(Self { pool, url })
    }

    /// The URL of the store.
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Closes the connections; everything that was written is kept.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether a copy of a file with older tables is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    BeforeMigration,
    /// The file is a copy itself.
    None,
}

/// Keeps a copy of a file that an older Modelgate has made, before its tables are changed. A copy that is there already is older still.
async fn keep_copy(pool: &AnyPool, path: &Path, newest: i64) -> Result<(), StoreError> {
    let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let is_there: i64 = sqlx::query(is_there).fetch_one(pool).await?.try_get(0)?;
    if is_there == 0 {
        return Ok(());
    }
    let last = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success";
    let last: i64 = sqlx::query(last).fetch_one(pool).await?.try_get(0)?;
    let copy = PathBuf::from(format!("{}.before-{newest}", path.display()));
    if last == 0 || last >= newest || copy.exists() {
        return Ok(());
    }
    let kept = match private(&copy) {
        Ok(()) => {
            let text = copy.display().to_string();
            sqlx::query("VACUUM INTO $1").bind(text).execute(pool).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(_) => {
            info!(copy = %copy.display(), "the store is of an older Modelgate and is migrated; a copy is kept");
            Ok(())
        }
        Err(why) => {
            let _ = std::fs::remove_file(&copy);
            Err(StoreError::Migration(format!(
                "they are older, and are not changed because no copy of them can be kept at {}: {why}",
                copy.display()
            )))
        }
    }
}

/// Sets the options of a new connection.
async fn prepare(connection: &mut AnyConnection, database: Database) -> Result<(), sqlx::Error> {
    let settings = match database {
        // With WAL, NORMAL never corrupts the file. A power failure may lose the last transactions; a crash of the process does
        // not (https://www.sqlite.org/pragma.html#pragma_synchronous).
        Database::Sqlite => format!(
            "PRAGMA busy_timeout = {BUSY_MS}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        ),
        // If a replica's machine disappears in the middle of a change, other writers wait no longer than this.
        Database::PostgreSql => format!("SET idle_in_transaction_session_timeout = {IDLE_MS}"),
    };
    connection.execute(sqlx::AssertSqlSafe(settings)).await?;
    Ok(())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(match error {
            // Their messages may contain parts of the URL.
            sqlx::Error::Configuration(_) => "its URL or options are not understood".to_owned(),
            sqlx::Error::PoolTimedOut => {
                format!("no connection came about within {ACQUIRE:?}; see whether it runs and can be reached")
            }
            // Without the position in PostgreSQL's own source, which it adds.
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        })
    }
}

/// A new file that only its owner may read.
pub(crate) fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(|_| ())
}

/// Only the owner may read digests of keys. SQLite gives its other files the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(|_| ())
}

/// How many items a statement has; both databases allow more.
pub(crate) const AT_ONCE: usize = 500;

/// The parameters of a statement, from a number on: `$2, $3`.
pub(crate) fn parameters(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time given in milliseconds since 1970.
pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The rows of a `VALUES` clause: `($1, $2), ($3, $4)`.
pub(crate) fn rows(count: usize, columns: usize) -> String {
    let row = |i: usize| format!("({})", parameters(1 + i * columns, columns));
    (0..count).map(row).collect::<Vec<_>>().join(", ")
}
