//! Erases the name of a key or a consumer from usage and from the audit log. Sums stay: what was used under the name is then
//! that of nobody in particular.

use std::collections::BTreeSet;

use accounts::AccountKind;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Row as _, query::Query};

use crate::{
    Audit, Store, StoreError, StoreUrl,
    account::note_changes,
    database::{AT_ONCE, parameters},
    follow::ERASED_CONSUMER,
    networks::forget_networks,
    told::forget_told_alerts,
    usage::{ERASED, UsageTable, sums},
};

/// Whose name is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// The key of this name, and its consumer if that has the same name.
    Key(String),
    /// The consumer of this name, and all of its keys.
    Consumer(String),
}

/// What was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Rows of usage that had the name.
    pub usage: u64,
    /// Entries of the audit log that had it.
    pub audit: u64,
}

impl Person {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Key(name) | Self::Consumer(name) => name,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Consumer(_) => "consumer",
        }
    }

    /// Whether the details of an entry name another consumer than this one.
    fn is_another(&self, details: &str) -> bool {
        let Self::Consumer(name) = self else { return false };
        let Ok(details) = serde_json::from_str::<Value>(details) else { return false };
        let consumer = &details["consumer"];
        let named = [consumer, &consumer["before"], &consumer["after"]];
        named.into_iter().filter_map(Value::as_str).any(|other| other != name)
    }

    /// The column of usage that has the name.
    fn column(&self) -> &'static str {
        match self {
            Self::Key(_) => "key_name",
            Self::Consumer(_) => "consumer",
        }
    }
}

impl Store {
    /// Replaces the name of a key or a consumer in usage and in the audit log. `audit` says who does it. If it fails in the
    /// middle, it can be done again: sums are right at any time.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn erase(&self, person: &Person, audit: Audit) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        if person.name() == ERASED {
            return Ok(erased);
        }
        // The log first: which keys were a consumer's is read from usage, too, and must be there if this is done again.
        erased.audit = self.erase_from_log(person).await?;
        self.erase_keys(person).await?;
        for table in UsageTable::NAMED {
            for day in self.days_of(table, person).await? {
                let rows = self.fold(table, person, &day).await?;
                // Sums are of the same rows.
                erased.usage += if table == UsageTable::Months { 0 } else { rows };
            }
        }
        let mut transaction = self.begin().await?;
        forget_told_alerts(&mut transaction, &[format!("{} {}", person.kind(), person.name())]).await?;
        let details = json!({ "entries": erased.audit, "rows_of_usage": erased.usage });
        let audit = audit.about(format!("{} {ERASED}", person.kind())).with(details);
        audit.insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(erased)
    }

    /// Forgets the networks of a person's keys, what was told of the keys, and those that were revoked. Modelgates hear of it like of a
    /// change of these keys.
    async fn erase_keys(&self, person: &Person) -> Result<(), StoreError> {
        let mut keys: BTreeSet<String> = self.keys_of(person).await?.into_iter().collect();
        let mut transaction = self.begin().await?;
        // Its number is taken first: all writers wait for that.
        let (what, revoked) = match person {
            Person::Key(name) => {
                keys.insert(name.clone());
                (AccountKind::Key.as_str(), "DELETE FROM revoked_keys WHERE name = $1 RETURNING name")
            }
            // Of keys that were only ever in a file, the store does not know.
            Person::Consumer(_) => {
                (ERASED_CONSUMER, "DELETE FROM revoked_keys WHERE consumer = $1 RETURNING name")
            }
        };
        note_changes(&mut transaction, what, &[person.name()]).await?;
        for row in sqlx::query(revoked).bind(person.name()).fetch_all(&mut *transaction).await? {
            keys.insert(row.try_get(0)?);
        }
        for some in Vec::from_iter(keys).chunks(AT_ONCE) {
            forget_networks(&mut transaction, some).await?;
            let owners: Vec<String> = some.iter().map(|key| format!("key {key}")).collect();
            forget_told_alerts(&mut transaction, &owners).await?;
            let is_noted = |key: &&str| matches!(person, Person::Key(name) if name == key);
            let others: Vec<&str> = some.iter().map(String::as_str).filter(|key| !is_noted(key)).collect();
            note_changes(&mut transaction, AccountKind::Key.as_str(), &others).await?;
        }
        self.commit(transaction).await
    }

    /// Returns the number of entries.
    async fn erase_from_log(&self, person: &Person) -> Result<u64, StoreError> {
        let mentions = self.mentions(person).await?;
        let of_mentions = mentions.iter().map(|(_, subject)| subject.clone());
        let of_usage = self.keys_of(person).await?.into_iter().map(|key| format!("key {key}"));
        let keys: BTreeSet<String> =
            of_mentions.chain(of_usage).filter(|subject| subject.starts_with("key ")).collect();
        let mut entries: BTreeSet<String> = mentions.into_iter().map(|(id, _)| id).collect();
        let mut transaction = self.begin().await?;
        let own = format!("{} {}", person.kind(), person.name());
        for subject in keys.iter().chain([&own]) {
            let about = sqlx::query("SELECT id, details FROM audit WHERE subject = $1").bind(subject);
            let rows = about.fetch_all(&mut *transaction).await?;
            let mut ids = Vec::with_capacity(rows.len());
            let mut is_of_another = false;
            for row in rows {
                ids.push(row.try_get(0)?);
                let details: String = row.try_get(1)?;
                is_of_another |= person.is_another(&details);
            }
            // What others have done with a key that was theirs, too, stays.
            if *subject == own || !is_of_another {
                entries.extend(ids);
            }
        }
        let (entries, mut erased) = (Vec::from_iter(entries), 0);
        for some in entries.chunks(AT_ONCE) {
            erased += erase_entries(&mut transaction, some).await?;
        }
        transaction.commit().await?;
        Ok(erased)
    }

    /// The names of a consumer's keys, if nobody else has used them.
    async fn keys_of(&self, person: &Person) -> Result<Vec<String>, StoreError> {
        let Person::Consumer(name) = person else { return Ok(Vec::new()) };
        let rows = sqlx::query(
            "SELECT name FROM (SELECT key_name AS name FROM usage WHERE consumer = $1
             UNION SELECT name FROM accounts WHERE kind = 'key' AND consumer = $1) AS theirs
             WHERE name <> $2 AND name NOT IN (SELECT key_name FROM usage WHERE consumer <> $1)",
        )
        .bind(name)
        .bind(ERASED)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn days_of(&self, table: UsageTable, person: &Person) -> Result<Vec<String>, StoreError> {
        let (name, column, period) = (table.name(), person.column(), table.period());
        let statement = format!("SELECT DISTINCT {period} FROM {name} WHERE {column} = $1 ORDER BY {period}");
        let rows = sqlx::query(AssertSqlSafe(statement)).bind(person.name()).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Adds the usage of a day, or of a month, to that of nobody, and deletes it under its name. Returns how many rows that were.
    async fn fold(&self, table: UsageTable, person: &Person, day: &str) -> Result<u64, StoreError> {
        let (name, column, period) = (table.name(), person.column(), table.period());
        let times = table.times().join(", ");
        let mut transaction = self.begin().await?;
        if let StoreUrl::Postgres(_) = self.url {
            // Nothing may be added to a row between its reading and its deletion; what is counted meanwhile waits.
            let lock = format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE");
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
        }
        // A key of the same name as its consumer is the same person's.
        let add = format!(
            "{} SELECT {times}, '{ERASED}', nobody, model, {} FROM (SELECT *, CASE WHEN consumer = $1 THEN '{ERASED}'
             ELSE consumer END AS nobody FROM {name} WHERE {column} = $1 AND {period} = $2) AS theirs
             WHERE true GROUP BY {times}, nobody, model{}",
            table.insert(),
            sums(),
            table.or_add()
        );
        sqlx::query(AssertSqlSafe(add)).bind(person.name()).bind(day).execute(&mut *transaction).await?;
        let delete = format!("DELETE FROM {name} WHERE {column} = $1 AND {period} = $2");
        let deleted = sqlx::query(AssertSqlSafe(delete))
            .bind(person.name())
            .bind(day)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(deleted.rows_affected())
    }

    /// The entries of the audit log whose details name a consumer: their ids and subjects.
    async fn mentions(&self, person: &Person) -> Result<Vec<(String, String)>, StoreError> {
        let Person::Consumer(name) = person else { return Ok(Vec::new()) };
        let quoted = Value::from(name.as_str()).to_string();
        let pattern: String = quoted
            .chars()
            .flat_map(|c| [Some('!').filter(|_| "!%_".contains(c)), Some(c)].into_iter().flatten())
            .collect();
        let rows = sqlx::query("SELECT id, subject, details FROM audit WHERE details LIKE $1 ESCAPE '!'")
            .bind(format!("%{pattern}%"))
            .fetch_all(&self.pool)
            .await?;
        let mut mentions = Vec::new();
        for row in rows {
            let details: String = row.try_get(2)?;
            // LIKE takes upper case for lower case in SQLite.
            if serde_json::from_str(&details)
                .is_ok_and(|details: Value| is_consumer(&details["consumer"], name))
            {
                mentions.push((row.try_get(0)?, row.try_get(1)?));
            }
        }
        Ok(mentions)
    }
}

/// Takes the names and details out of entries of the audit log. Who did what and when stays.
async fn erase_entries(connection: &mut AnyConnection, ids: &[String]) -> Result<u64, StoreError> {
    // The address of a sampled refusal is the client's; any other is that of an operator.
    let statement = format!(
        "UPDATE audit SET details = '{{}}', address = CASE WHEN actor = '/auth' THEN NULL ELSE address END,
         subject = CASE WHEN subject LIKE 'consumer %' THEN 'consumer {ERASED}'
         WHEN subject LIKE 'key %' THEN 'key {ERASED}' ELSE subject END
         WHERE id IN ({})",
        parameters(1, ids.len())
    );
    let query = ids.iter().fold(sqlx::query(AssertSqlSafe(statement)), Query::bind);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Whether this is the name, or was before or after a change.
fn is_consumer(value: &Value, name: &str) -> bool {
    value == name || value["before"] == name || value["after"] == name
}
