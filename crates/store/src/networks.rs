//! The networks from which keys were used, for alerts about new ones. All Modelgates of a store know the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use crate::{
    Store, StoreError, StoreUrl,
    database::{AT_ONCE, millis, parameters, rows, time},
};

/// How many networks of each key are kept: those that were used last, as far as `note_keys_used` has told.
const MOST_NETWORKS: usize = 64;
/// How many keys are kept: those that were used last. They take some 10 MB at most.
const MOST_KEYS: usize = 10_000;

/// A network from which a key was used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNetwork {
    /// The key's name.
    pub key: String,
    /// The network, as text without spaces.
    pub network: String,
}

/// What was known of a key before a network was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBefore {
    /// Since when the key was used.
    pub first: SystemTime,
    /// Whether it was used from this network.
    pub has_network: bool,
}

/// What became of a network that was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotedNetwork {
    /// What was known of the key; `None` if nothing.
    pub before: Option<KnownBefore>,
    /// Whether operators are to be told.
    pub is_new: bool,
}

/// What is stored of a key.
#[derive(Debug, Clone)]
struct Networks {
    first: i64,
    /// The one that was used last is last.
    all: Vec<String>,
}

impl Networks {
    /// Moves a network to the end. Of too many, the one that was not used for longest is forgotten.
    fn used_from(&mut self, network: &str) {
        if self.all.last().is_some_and(|last| last == network) {
            return;
        }
        self.all.retain(|other| other != network);
        if self.all.len() >= MOST_NETWORKS {
            self.all.remove(0);
        }
        self.all.push(network.to_owned());
    }
}

impl Store {
    /// Notes networks from which keys were used, and returns for each what was known of the key before. Of a known key and a network
    /// from which it was not used before, `is_new` says whether operators are to be told; that is noted together with the network, or
    /// neither is.
    ///
    /// # Errors
    /// The store does not answer. Then nothing was noted, unless only its answer to the last step was lost.
    pub async fn note_networks(
        &self,
        seen: &[KeyNetwork],
        at: SystemTime,
        mut is_new: impl FnMut(&KnownBefore) -> bool,
    ) -> Result<Vec<NotedNetwork>, StoreError> {
        let mut transaction = self.begin().await?;
        self.lock_networks(&mut transaction).await?;
        let mut known = HashMap::new();
        for some in seen.chunks(AT_ONCE) {
            known.extend(read(&mut transaction, some).await?);
        }
        let mut changed: BTreeMap<&str, Networks> = BTreeMap::new();
        let (mut noted, mut new) = (Vec::with_capacity(seen.len()), BTreeSet::new());
        for seen in seen {
            let KeyNetwork { key, network } = seen;
            let of_key = known.get(key);
            let before =
                of_key.map(|of| KnownBefore { first: time(of.first), has_network: of.all.contains(network) });
            let is_new = before.as_ref().is_some_and(|before| !before.has_network && is_new(before));
            new.extend(is_new.then_some(seen));
            noted.push(NotedNetwork { before, is_new });
            let first = || Networks { first: millis(at), all: Vec::new() };
            let of = changed.entry(key).or_insert_with(|| of_key.cloned().unwrap_or_else(first));
            of.used_from(network);
        }
        let is_changed =
            |(key, of): &(&str, Networks)| known.get(*key).is_none_or(|before| before.all != of.all);
        let changed: Vec<(&str, Networks)> = changed.into_iter().filter(is_changed).collect();
        for some in changed.chunks(AT_ONCE) {
            write(&mut transaction, some, at).await?;
        }
        for some in Vec::from_iter(new).chunks(AT_ONCE) {
            write_new(&mut transaction, some, at).await?;
        }
        transaction.commit().await?;
        Ok(noted)
    }

    /// Notes from which networks keys are used, in this order: so the networks that are kept are those that were used last. A key
    /// that is not known stays so.
    ///
    /// # Errors
    /// The store does not answer; then some may be noted, and all can be noted again.
    pub async fn note_keys_used(&self, used: &[KeyNetwork], at: SystemTime) -> Result<(), StoreError> {
        for some in used.chunks(AT_ONCE) {
            let mut transaction = self.begin().await?;
            self.lock_networks(&mut transaction).await?;
            let mut known: BTreeMap<String, Networks> =
                read(&mut transaction, some).await?.into_iter().collect();
            for KeyNetwork { key, network } in some {
                known.get_mut(key).into_iter().for_each(|of| of.used_from(network));
            }
            let used: Vec<(&str, Networks)> =
                known.iter().map(|(key, of)| (key.as_str(), of.clone())).collect();
            if !used.is_empty() {
                write(&mut transaction, &used, at).await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Two Modelgates may note networks of one key at the same time.
    async fn lock_networks(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        if let StoreUrl::Postgres(_) = self.url {
            sqlx::query("LOCK TABLE key_networks IN SHARE ROW EXCLUSIVE MODE").execute(connection).await?;
        }
        Ok(())
    }

    /// Until when some Modelgate has watched the networks of keys; `None` if none ever has.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn networks_watched(&self) -> Result<Option<SystemTime>, StoreError> {
        let row =
            sqlx::query("SELECT watched_until FROM networks_watched").fetch_optional(&self.pool).await?;
        row.map(|row| Ok(time(row.try_get(0)?))).transpose()
    }

    /// The networks of which operators are to be told, seen since a time, the last ones first; older ones are forgotten.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn new_networks(
        &self,
        since: SystemTime,
        most: usize,
    ) -> Result<Vec<(KeyNetwork, SystemTime)>, StoreError> {
        let forget = sqlx::query("DELETE FROM new_networks WHERE seen_at <= $1");
        forget.bind(millis(since)).execute(&self.pool).await?;
        let found = sqlx::query(
            "SELECT key_name, network, seen_at FROM new_networks ORDER BY seen_at DESC, key_name, network LIMIT $1",
        );
        let found = found.bind(i64::try_from(most).unwrap_or(i64::MAX)).fetch_all(&self.pool).await?;
        let read = |row: &sqlx::any::AnyRow| {
            let new = KeyNetwork { key: row.try_get(0)?, network: row.try_get(1)? };
            Ok((new, time(row.try_get(2)?)))
        };
        found.iter().map(read).collect()
    }

    /// Notes that they are watched, and forgets keys that were not used since `oldest`, and those that were idle longest if there
    /// are too many.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn note_networks_watched(&self, at: SystemTime, oldest: SystemTime) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO networks_watched (only_row, watched_until) VALUES (1, $1)
             ON CONFLICT (only_row) DO UPDATE SET watched_until = excluded.watched_until",
        )
        .bind(millis(at))
        .execute(&self.pool)
        .await?;
        sqlx::query("DELETE FROM key_networks WHERE last_used < $1")
            .bind(millis(oldest))
            .execute(&self.pool)
            .await?;
        sqlx::query(
            "DELETE FROM key_networks WHERE key_name NOT IN
             (SELECT key_name FROM key_networks ORDER BY last_used DESC, key_name LIMIT $1)",
        )
        .bind(i64::try_from(MOST_KEYS).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Forgets what is known of at most [`AT_ONCE`] keys.
pub(crate) async fn forget_networks(
    connection: &mut AnyConnection,
    keys: &[String],
) -> Result<(), StoreError> {
    for table in ["key_networks", "new_networks"] {
        let statement = format!("DELETE FROM {table} WHERE key_name IN ({})", parameters(1, keys.len()));
        let query =
            keys.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, key| query.bind(key.clone()));
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn read(
    connection: &mut AnyConnection,
    seen: &[KeyNetwork],
) -> Result<Vec<(String, Networks)>, StoreError> {
    let statement = format!(
        "SELECT key_name, networks, first_used FROM key_networks WHERE key_name IN ({})",
        parameters(1, seen.len())
    );
    let query = sqlx::query(AssertSqlSafe(statement));
    let query = seen.iter().fold(query, |query, seen| query.bind(seen.key.clone()));
    let mut known = Vec::new();
    for row in query.fetch_all(connection).await? {
        let networks: String = row.try_get(1)?;
        let all = networks.split_whitespace().map(str::to_owned).collect();
        known.push((row.try_get(0)?, Networks { first: row.try_get(2)?, all }));
    }
    Ok(known)
}

async fn write(
    connection: &mut AnyConnection,
    changed: &[(&str, Networks)],
    at: SystemTime,
) -> Result<(), StoreError> {
    let statement = format!(
        "INSERT INTO key_networks (key_name, networks, first_used, last_used) VALUES {}
         ON CONFLICT (key_name) DO UPDATE SET networks = excluded.networks, last_used =
         CASE WHEN excluded.last_used > key_networks.last_used THEN excluded.last_used ELSE key_networks.last_used END",
        rows(changed.len(), 4)
    );
    let query = sqlx::query(AssertSqlSafe(statement));
    let query = changed.iter().fold(query, |query, (key, of)| {
        query.bind((*key).to_owned()).bind(of.all.join(" ")).bind(of.first).bind(millis(at))
    });
    query.execute(connection).await?;
    Ok(())
}

async fn write_new(
    connection: &mut AnyConnection,
    new: &[&KeyNetwork],
    at: SystemTime,
) -> Result<(), StoreError> {
    let statement = format!(
        "INSERT INTO new_networks (key_name, network, seen_at) VALUES {}
         ON CONFLICT (key_name, network) DO UPDATE SET seen_at = excluded.seen_at",
        rows(new.len(), 3)
    );
    let query = sqlx::query(AssertSqlSafe(statement));
    let query = new
        .iter()
        .fold(query, |query, new| query.bind(new.key.clone()).bind(new.network.clone()).bind(millis(at)));
    query.execute(connection).await?;
    Ok(())
}
