//! Copies a store to a file while it is in use, and back into a store of either kind. The file is an SQLite database with the same
//! tables, so a backup also moves a store from SQLite to PostgreSQL and back.
//!
//! Tables and columns are found out from the database itself, so that none is forgotten.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row, any::AnyRow};

use crate::{
    Audit, Store, StoreError, StoreUrl,
    database::{Copies, private, rows},
    follow::MAX_CHANGES,
};

/// Rows that belong to one database and not to what it holds: which Modelgate has written which batch, what followers have still to
/// hear, the numbers of changes and batches.
const OF_THE_DATABASE: [&str; 4] = ["writers", "changes", "revision", "counting"];
/// How many rows are written in one statement.
const AT_ONCE: usize = 500;

/// How many rows were copied, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied(pub BTreeMap<String, u64>);

/// What may become of what a store holds when another one is restored into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// It must be empty.
    Refused,
    /// It is replaced.
    Replaced,
}

/// A table, with the names and types of its columns.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<(String, ColumnType)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnType {
    Text,
    Number,
}

impl Store {
    /// Writes everything to a new file, as of one moment. Others go on reading and writing. Only the owner may read the file.
    ///
    /// # Errors
    /// The file exists or cannot be written, or the store does not answer.
    pub async fn back_up(&self, file: &Path) -> Result<Copied, StoreError> {
        if file.exists() {
            return Err(of_file(file, &"it exists already, and a backup overwrites nothing"));
        }
        // Until it is whole it has another name.
        let partial = PathBuf::from(format!("{}.partial", file.display()));
        private(&partial).map_err(|error| {
            of_file(&partial, &format!("{error} (if another backup has broken off, remove it)"))
        })?;
        let copied = match &self.url {
            StoreUrl::Sqlite(_) => self.vacuum_into(&partial).await,
            StoreUrl::Postgres(_) => self.copy_into(&partial).await,
        };
        let done = match copied {
            Ok(copied) => fs::rename(&partial, file).map(|()| copied).map_err(|error| of_file(file, &error)),
            Err(error) => Err(error),
        };
        if done.is_err() {
            let _ = fs::remove_file(&partial);
        }
        done
    }

    /// SQLite makes the copy itself (<https://www.sqlite.org/lang_vacuum.html#vacuum_with_an_into_clause>).
    async fn vacuum_into(&self, file: &Path) -> Result<Copied, StoreError> {
        let path = file.display().to_string();
        sqlx::query("VACUUM INTO $1").bind(path).execute(&self.pool).await?;
        let copy = Self::open_as(StoreUrl::Sqlite(file.into()), Copies::None).await?;
        let counted = copy.count_rows().await;
        copy.close_as_one_file().await?;
        counted
    }

    async fn copy_into(&self, file: &Path) -> Result<Copied, StoreError> {
        let copy = Self::open_as(StoreUrl::Sqlite(file.into()), Copies::None).await?;
        let tables = copy.tables().await?;
        let mut from = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let mut to = copy.begin().await?;
        let mut copied = Copied::default();
        for table in &tables {
            let count = copy_table(&mut from, &mut to, &copy.url, table).await?;
            copied.0.insert(table.name.clone(), count);
        }
        to.commit().await?;
        from.rollback().await?;
        copy.close_as_one_file().await?;
        Ok(copied)
    }

    /// Takes over everything from a backup, in one transaction. A backup of an older Modelgate is migrated first; the file stays as
    /// it is. Modelgates that use the store hear of it within a second.
    ///
    /// # Errors
    /// The file is not a backup, or one of a newer Modelgate; the store holds something that may not be replaced; or it does not
    /// answer. Then nothing was changed.
    pub async fn restore(&self, file: &Path, present: Present, audit: Audit) -> Result<Copied, StoreError> {
        let folder = self.work_folder(file)?;
        let restored = self.restore_from(file, &folder.join("backup.db"), present, audit).await;
        let _ = fs::remove_dir_all(&folder);
        restored
    }

    async fn restore_from(
        &self,
        file: &Path,
        copy: &Path,
        present: Present,
        audit: Audit,
    ) -> Result<Copied, StoreError> {
        fs::copy(file, copy).map_err(|error| of_file(file, &error))?;
        check_is_backup(file, copy).await?;
        let backup =
            Self::open_as(StoreUrl::Sqlite(copy.into()), Copies::None).await.map_err(
                |error| match error {
                    StoreError::Migration(why) => of_file(file, &why),
                    error => error,
                },
            )?;
        let copied = self.take_from(&backup, present, audit).await;
        backup.close().await;
        copied
    }

    async fn take_from(&self, backup: &Self, present: Present, audit: Audit) -> Result<Copied, StoreError> {
        let tables: Vec<Table> = backup.tables().await?;
        let mut from = backup.pool.acquire().await?;
        let mut to = self.begin().await?;
        // All writers of accounts wait for this row, and all of counts for the other.
        advance(&mut to, "revision", "value", &mut from, MAX_CHANGES + 1).await?;
        if present == Present::Refused {
            refuse_if_used(&mut to).await?;
        }
        for table in &tables {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {}", table.name))).execute(&mut *to).await?;
        }
        sqlx::query("DELETE FROM changes").execute(&mut *to).await?;
        let mut copied = Copied::default();
        for table in &tables {
            let count = copy_table(&mut from, &mut to, &self.url, table).await?;
            copied.0.insert(table.name.clone(), count);
        }
        let batch = advance(&mut to, "counting", "batch", &mut from, 1).await?;
        sqlx::query("UPDATE quota_counts SET batch = $1").bind(batch).execute(&mut *to).await?;
        audit.insert(&mut to).await?;
        self.commit(to).await?;
        Ok(copied)
    }

    /// The tables that are copied, with their columns; only of SQLite.
    async fn tables(&self) -> Result<Vec<Table>, StoreError> {
        const NAMES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'
             AND name NOT LIKE '\\_sqlx%' ESCAPE '\\' ORDER BY name";
        let mut tables = Vec::new();
        for row in sqlx::query(NAMES).fetch_all(&self.pool).await? {
            let name: String = row.try_get(0)?;
            if OF_THE_DATABASE.contains(&name.as_str()) {
                continue;
            }
            let columns = sqlx::query("SELECT name, type FROM pragma_table_info($1)").bind(name.clone());
            let columns = columns.fetch_all(&self.pool).await?;
            let columns = columns.iter().map(|row| column(&name, row)).collect::<Result<_, _>>()?;
            tables.push(Table { name, columns });
        }
        Ok(tables)
    }

    async fn count_rows(&self) -> Result<Copied, StoreError> {
        let mut counted = Copied::default();
        for Table { name, .. } in self.tables().await? {
            let count =
                sqlx::query(AssertSqlSafe(format!("SELECT count(*) FROM {name}"))).fetch_one(&self.pool);
            let count: i64 = count.await?.try_get(0)?;
            counted.0.insert(name, u64::try_from(count).unwrap_or(0));
        }
        Ok(counted)
    }

    /// Without a log beside it, so that the file alone can be taken elsewhere.
    async fn close_as_one_file(&self) -> Result<(), StoreError> {
        self.close().await;
        let url = self.url.as_url();
        let mut connection = AnyConnection::connect(&url).await?;
        sqlx::query("PRAGMA journal_mode = DELETE").execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// A folder of our own to migrate a copy of a backup in: beside the store or the backup, or where temporary files are. A container
    /// may only be able to write in some of them.
    fn work_folder(&self, backup: &Path) -> Result<PathBuf, StoreError> {
        let beside = |path: &Path| path.parent().map(Path::to_owned);
        let of_store = match &self.url {
            StoreUrl::Sqlite(path) => beside(path),
            StoreUrl::Postgres(_) => None,
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for folder in [of_store, beside(backup), Some(std::env::temp_dir())].into_iter().flatten() {
            let mut random = [0; 8];
            let _ = getrandom::fill(&mut random);
            let own = folder.join(format!(".modelgate-restore-{}", hex::encode(random)));
            match DirBuilder::new().mode(0o700).create(&own) {
                Ok(()) => return Ok(own),
                Err(error) => last = error,
            }
        }
        Err(of_file(backup, &format!("no copy of it can be made to read it: {last}")))
    }
}

/// Something is wrong with a backup's file.
fn of_file(file: &Path, why: &dyn Display) -> StoreError {
    StoreError::Backup { file: file.to_owned(), why: why.to_string() }
}

/// Anything else would become an empty store by its migrations.
async fn check_is_backup(file: &Path, copy: &Path) -> Result<(), StoreError> {
    let url = StoreUrl::Sqlite(copy.into()).as_url();
    let count = async {
        let mut connection = AnyConnection::connect(&url).await?;
        let known =
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('accounts', 'revision', '_sqlx_migrations')";
        let count: i64 = sqlx::query(known).fetch_one(&mut connection).await?.try_get(0)?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(count)
    };
    match count.await {
        Ok(3) => Ok(()),
        Ok(_) => {
            Err(of_file(file, &"it is not a backup that `modelgate backup` has made: it has other tables"))
        }
        Err(error) => {
            let why = StoreError::from(error).to_string();
            Err(of_file(file, &format!("it is not a backup that `modelgate backup` has made ({why})")))
        }
    }
}

async fn refuse_if_used(connection: &mut AnyConnection) -> Result<(), StoreError> {
    let mut present = Vec::new();
    for (table, what) in
        [("accounts", "accounts"), ("usage", "rows of usage"), ("quota_counts", "counts of quotas")]
    {
        let count =
            sqlx::query(AssertSqlSafe(format!("SELECT count(*) FROM {table}"))).fetch_one(&mut *connection);
        let count: i64 = count.await?.try_get(0)?;
        if count > 0 {
            present.push(format!("{count} {what}"));
        }
    }
    if present.is_empty() { Ok(()) } else { Err(StoreError::NotEmpty(present.join(", "))) }
}

/// Raises the number of changes or batches beyond both databases', so that whoever follows reads everything again.
async fn advance(
    to: &mut AnyConnection,
    table: &str,
    column: &str,
    from: &mut AnyConnection,
    by: i64,
) -> Result<i64, StoreError> {
    let there = format!("SELECT {column} FROM {table} WHERE only_row = 1");
    let there: i64 = sqlx::query(AssertSqlSafe(there)).fetch_one(from).await?.try_get(0)?;
    let raise = format!(
        "UPDATE {table} SET {column} = CASE WHEN {column} > $1 THEN {column} ELSE $1 END + $2 WHERE only_row = 1 RETURNING {column}"
    );
    Ok(sqlx::query(AssertSqlSafe(raise)).bind(there).bind(by).fetch_one(to).await?.try_get(0)?)
}

fn column(table: &str, row: &AnyRow) -> Result<(String, ColumnType), StoreError> {
    let (name, kind): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    match kind.as_str() {
        "TEXT" => Ok((name, ColumnType::Text)),
        "BIGINT" => Ok((name, ColumnType::Number)),
        _ => Err(StoreError::Migration(format!(
            "{table}.{name} is of the type {kind}, which cannot be copied"
        ))),
    }
}

/// Copies all rows of a table; returns how many.
async fn copy_table(
    from: &mut AnyConnection,
    to: &mut AnyConnection,
    kind: &StoreUrl,
    table: &Table,
) -> Result<u64, StoreError> {
    let statement = format!("SELECT {} FROM {}", table.column_names(), table.name);
    let mut all = sqlx::query(AssertSqlSafe(statement)).fetch(from);
    let (mut some, mut count) = (Vec::with_capacity(AT_ONCE), 0);
    while let Some(row) = all.try_next().await? {
        some.push(table.read(&row)?);
        count += 1;
        if some.len() == AT_ONCE {
            table.insert(to, kind, &std::mem::take(&mut some)).await?;
        }
    }
    if !some.is_empty() {
        table.insert(to, kind, &some).await?;
    }
    Ok(count)
}

impl Table {
    fn column_names(&self) -> String {
        self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    }

    fn read(&self, row: &AnyRow) -> Result<Vec<Value>, StoreError> {
        let cell = |(index, (_, kind)): (usize, &(String, ColumnType))| {
            Ok(match kind {
                ColumnType::Text => row.try_get::<Option<String>, _>(index)?.map(Value::from),
                ColumnType::Number => row.try_get::<Option<i64>, _>(index)?.map(Value::from),
            }
            .unwrap_or_default())
        };
        self.columns.iter().enumerate().map(cell).collect()
    }

    async fn insert(
        &self,
        to: &mut AnyConnection,
        kind: &StoreUrl,
        cells: &[Vec<Value>],
    ) -> Result<(), StoreError> {
        let names = self.column_names();
        match kind {
            StoreUrl::Sqlite(_) => {
                let values = rows(cells.len(), self.columns.len());
                let statement = format!("INSERT INTO {} ({names}) VALUES {values}", self.name);
                let query = sqlx::query(AssertSqlSafe(statement));
                let query = cells.iter().flatten().zip(self.columns.iter().cycle()).fold(
                    query,
                    |query, (cell, (_, kind))| match kind {
                        ColumnType::Text => query.bind(cell.as_str().map(str::to_owned)),
                        ColumnType::Number => query.bind(cell.as_i64()),
                    },
                );
                query.execute(to).await?;
            }
            // One parameter: PostgreSQL takes long to prepare a statement with thousands.
            StoreUrl::Postgres(_) => {
                let cell = |(index, (name, kind)): (usize, &(String, ColumnType))| match kind {
                    ColumnType::Text => format!("r.row ->> {index} AS \"{name}\""),
                    ColumnType::Number => format!("CAST(r.row ->> {index} AS BIGINT) AS \"{name}\""),
                };
                let cells_of = self.columns.iter().enumerate().map(cell).collect::<Vec<_>>().join(", ");
                let statement = format!(
                    "INSERT INTO {} ({names}) SELECT {cells_of} FROM json_array_elements(CAST($1 AS JSON)) AS r(row)",
                    self.name
                );
                let json = serde_json::to_string(cells).unwrap_or_default();
                sqlx::query(AssertSqlSafe(statement)).bind(json).execute(to).await?;
            }
        }
        Ok(())
    }
}
