//! Consumers that only keys name: they have no settings, and so no account of their own.

use std::collections::BTreeSet;

use accounts::{Account, AccountKind, ConsumerSpec};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _, query::Query};

use crate::{
    AccountSource, Filter, Item, Listed, Registry, RegistryError, Store, StoreError, StoreUrl,
    database::{AT_ONCE, parameters},
};

/// Keys of the store whose consumer has no account there. `$1` is a pattern, or NULL.
const NAMED: &str = "FROM accounts WHERE kind = 'key' AND consumer IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM accounts AS known WHERE known.kind = 'consumer' AND known.name = accounts.consumer)
     AND (CAST($1 AS TEXT) IS NULL OR lower(consumer) LIKE $1 ESCAPE '\\')";

impl Registry {
    /// Like [`Registry::list`]; consumers together with those that only keys name.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn list_with_named<A: Account>(&self, filter: &Filter) -> Result<Listed<A>, RegistryError> {
        let mut listed = self.list::<A>(filter).await?;
        if A::KIND != AccountKind::Consumer || filter.plan.is_some() || filter.consumer.is_some() {
            return Ok(listed);
        }
        let (names, total) = self.named_by_keys(filter).await?;
        listed.total += total;
        listed.items.extend(names.iter().filter_map(|name| named(name)));
        listed.items.sort_by(|a, b| a.account.name().cmp(b.account.name()));
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        // Accounts beyond those of this page come after its last one, whatever else is named.
        if let Some(next) = &listed.next {
            listed.items.retain(|item| item.account.name() <= next.as_str());
        }
        if listed.items.len() > limit {
            listed.items.truncate(limit);
            listed.next = listed.items.last().map(|last| last.account.name().to_owned());
            let is_on_page = |name: &String| listed.next.as_ref().is_none_or(|next| name <= next);
            listed.unreadable.retain(|unreadable| is_on_page(&unreadable.name));
        }
        Ok(listed)
    }

    /// Like [`Registry::get`]; a consumer is also found if only keys name it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn get_or_named<A: Account>(&self, name: &str) -> Result<Option<Item<A>>, RegistryError> {
        let found = self.get::<A>(name).await?;
        if found.is_some() || A::KIND != AccountKind::Consumer {
            return Ok(found);
        }
        let of_file = self.declared().keys.iter().any(|key| key.consumer == name);
        let is_named = of_file
            || match self.store() {
                Ok(store) => store.count_of_named(None, &[name.to_owned()]).await? > 0,
                Err(RegistryError::NoStore) => false,
                Err(error) => return Err(error),
            };
        Ok(if is_named { named(name) } else { None })
    }

    /// The names on a page and one more, and how many there are in all.
    async fn named_by_keys(&self, filter: &Filter) -> Result<(BTreeSet<String>, u64), RegistryError> {
        let declared = self.declared();
        let search = filter.search.as_ref().map(|search| search.to_lowercase());
        let of_accounts: BTreeSet<&str> =
            declared.consumers.iter().map(|consumer| consumer.name.as_str()).collect();
        let fits = |name: &&String| {
            !of_accounts.contains(name.as_str())
                && search.as_ref().is_none_or(|search| name.to_lowercase().contains(search))
        };
        let mut of_file: BTreeSet<String> =
            declared.keys.iter().map(|key| &key.consumer).filter(fits).cloned().collect();
        let (mut names, mut total) = (BTreeSet::new(), 0);
        match self.store() {
            Ok(store) => {
                let asked: Vec<String> = of_file.iter().cloned().collect();
                for known in store.get_all::<ConsumerSpec>(&asked).await? {
                    match known {
                        Ok(stored) => of_file.remove(stored.account.name()),
                        Err(unreadable) => of_file.remove(&unreadable.name),
                    };
                }
                let pattern = search.as_deref().map(crate::account::pattern);
                let more = u32::try_from(of_accounts.len()).unwrap_or(u32::MAX).saturating_add(1);
                let limit = filter.limit.saturating_add(more);
                names.extend(store.named(pattern.as_deref(), filter.after.as_deref(), limit).await?);
                names.retain(|name| !of_accounts.contains(name.as_str()));
                let of_both: Vec<String> =
                    of_accounts.iter().map(ToString::to_string).chain(of_file.iter().cloned()).collect();
                total = store.count_of_named(pattern.as_deref(), &[]).await?;
                if !of_both.is_empty() {
                    total -= store.count_of_named(pattern.as_deref(), &of_both).await?;
                }
            }
            Err(RegistryError::NoStore) => {}
            Err(error) => return Err(error),
        }
        total += of_file.len() as u64;
        of_file.retain(|name| filter.after.as_ref().is_none_or(|after| name > after));
        names.extend(of_file);
        Ok((names, total))
    }
}

/// A consumer without settings.
fn named<A: Account>(name: &str) -> Option<Item<A>> {
    let account = accounts::parse(&json!({ "name": name }), None).ok()?;
    Some(Item { account, source: AccountSource::Keys })
}

impl Store {
    /// Names of consumers that only keys name, sorted by bytes.
    async fn named(
        &self,
        pattern: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let name = match self.url {
            StoreUrl::Sqlite(_) => "consumer",
            StoreUrl::Postgres(_) => "consumer COLLATE \"C\"",
        };
        let statement = format!(
            "SELECT consumer {NAMED} AND (CAST($2 AS TEXT) IS NULL OR {name} > $2) GROUP BY consumer ORDER BY {name} LIMIT $3"
        );
        let query = sqlx::query(AssertSqlSafe(statement)).bind(pattern).bind(after).bind(i64::from(limit));
        query.fetch_all(&self.pool).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// How many there are among these; of all if none are given.
    async fn count_of_named(&self, pattern: Option<&str>, among: &[String]) -> Result<u64, StoreError> {
        let count = async |statement: String, some: &[String]| -> Result<u64, StoreError> {
            let query = sqlx::query(AssertSqlSafe(statement)).bind(pattern);
            let query = some.iter().fold(query, Query::bind);
            let count: i64 = query.fetch_one(&self.pool).await?.try_get(0)?;
            Ok(u64::try_from(count).unwrap_or(0))
        };
        if among.is_empty() {
            return count(format!("SELECT count(DISTINCT consumer) {NAMED}"), &[]).await;
        }
        let mut sum = 0;
        for some in among.chunks(AT_ONCE) {
            let names = parameters(2, some.len());
            let statement = format!("SELECT count(DISTINCT consumer) {NAMED} AND consumer IN ({names})");
            sum += count(statement, some).await?;
        }
        Ok(sum)
    }
}
