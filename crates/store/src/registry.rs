//! Operations on accounts, for the command line, the API and the pages: validated, written, audited.
//!
//! Accounts of the configuration file are listed together with those of the store, but cannot be changed here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::{NewKey, NoRandomness};
use accounts::{Account, AccountKind, Accounts, ConsumerSpec, KeySpec, Plan, has_no_limits, parse};
use arc_swap::{ArcSwap, ArcSwapOption};
use config_reader::ConfigErrors;
use serde_json::{Map, Value, json};

use crate::{
    AccountFinding, Actor, Audit, Conflict, Erased, Filter, LeftFile, Person, RecostDays, Recosted, Store,
    StoreError, Stored, Unreadable, UsageRow,
};

/// The accounts of the configuration file and of the store.
#[derive(Debug)]
pub struct Registry {
    store: ArcSwapOption<Store>,
    declared: ArcSwap<Accounts>,
    state: ArcSwap<State>,
    problems: ArcSwap<Vec<AccountFinding>>,
    left_files: ArcSwap<Vec<LeftFile>>,
}

/// The state of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No store is configured.
    Off,
    /// The store answers.
    Up,
    /// The store does not answer. What it said last stays in force.
    Down {
        /// Since when it is down.
        since: SystemTime,
        /// The reason. Never contains a password.
        why: String,
    },
}

/// An account and its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Item<A> {
    /// The account.
    pub account: A,
    /// Its source.
    pub source: AccountSource,
}

/// The source of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountSource {
    /// The configuration file; such accounts are changed by editing it.
    File,
    /// The store.
    Store {
        /// When it was created.
        created: SystemTime,
        /// When it was last changed.
        changed: SystemTime,
    },
    /// Nothing but keys: a consumer without settings.
    Keys,
}

/// A page of accounts, sorted by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<A> {
    /// The accounts.
    pub items: Vec<Item<A>>,
    /// The store's accounts that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// The number of matching accounts on all pages.
    pub total: u64,
    /// The value of `after` for the next page; `None` on the last one.
    pub next: Option<String>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The given document is invalid; each error names its key.
    #[error("{0}")]
    Invalid(ConfigErrors),
    /// The account is in the configuration file.
    #[error("the {0} {1:?} is in the configuration file; change it there")]
    Declared(AccountKind, String),
    /// A key or a consumer has no budget of a period.
    #[error("the {0} has no {1}, neither itself nor by its plan")]
    NoBudget(String, String),
    /// No store is configured.
    #[error("there is no store; set state_dir or store.url")]
    NoStore,
    /// The store refuses the change, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No key can be generated.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// How often a change is retried that conflicts with a concurrent one.
const ATTEMPTS: u32 = 5;

impl RegistryError {
    fn is_changed(&self) -> bool {
        // Somebody may also have created or deleted it between the read and the write.
        matches!(
            self,
            Self::Store(StoreError::Conflict(
                Conflict::Changed(..) | Conflict::Exists(..) | Conflict::Missing(..)
            ))
        )
    }
}

impl From<Conflict> for RegistryError {
    fn from(conflict: Conflict) -> Self {
        Self::Store(conflict.into())
    }
}

impl Registry {
    /// A registry without a store, with the accounts of the configuration file.
    pub fn new(declared: Accounts) -> Self {
        Self {
            store: ArcSwapOption::empty(),
            declared: ArcSwap::from_pointee(declared),
            state: ArcSwap::from_pointee(State::Off),
            problems: ArcSwap::default(),
            left_files: ArcSwap::default(),
        }
    }

    /// Sets the store.
    pub fn set_store(&self, store: Store) {
        self.store.store(Some(Arc::new(store)));
    }

    /// The state of the store.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Sets the state of the store.
    pub fn set_state(&self, state: State) {
        self.state.store(Arc::new(state));
    }

    /// The accounts that are not in force, and why.
    pub fn problems(&self) -> Arc<Vec<AccountFinding>> {
        self.problems.load_full()
    }

    /// Sets the accounts that are not in force.
    pub fn set_problems(&self, problems: Vec<AccountFinding>) {
        self.problems.store(Arc::new(problems));
    }

    /// The files with counts that a stop could not write, and that are still there.
    pub fn left_files(&self) -> Arc<Vec<LeftFile>> {
        self.left_files.load_full()
    }

    /// Sets these files.
    pub fn set_left_files(&self, left: Vec<LeftFile>) {
        self.left_files.store(Arc::new(left));
    }

    /// Replaces the accounts of the configuration file.
    pub fn replace_declared(&self, declared: Accounts) {
        self.declared.store(Arc::new(declared));
    }

    /// The accounts of the configuration file.
    pub fn declared(&self) -> Arc<Accounts> {
        self.declared.load_full()
    }

    /// The store.
    ///
    /// # Errors
    /// No store is configured, or it has never answered.
    pub fn store(&self) -> Result<Arc<Store>, RegistryError> {
        self.store.load_full().ok_or_else(|| match &**self.state.load() {
            State::Down { why, .. } => StoreError::Unavailable(why.clone()).into(),
            _ => RegistryError::NoStore,
        })
    }

    /// Erases the name of a key or a consumer from usage and the audit log, and says there that this was done.
    ///
    /// # Errors
    /// The name has characters that no name may have; or there is no store, or it does not answer. Then a part may be done, and it
    /// can be done again.
    pub async fn erase(&self, person: &Person, actor: &Actor) -> Result<Erased, RegistryError> {
        const LONGEST: usize = 256;
        let name = person.name();
        if !(1..=LONGEST).contains(&name.chars().count()) || name.contains(char::is_control) {
            let message = format!("found {name:?}; allowed: 1 to {LONGEST} characters on one line");
            return Err(RegistryError::Invalid(ConfigErrors::one(person.kind(), message)));
        }
        Ok(self.store()?.erase(person, Audit::new(actor, "usage erased")).await?)
    }

    /// Computes anew what usage has cost; `cost` says it for the counts of a day or an hour, and a model.
    ///
    /// # Errors
    /// The store does not answer, or there is none.
    pub async fn recost(
        &self,
        days: &RecostDays,
        cost: impl Fn(&UsageRow) -> i64,
        actor: &Actor,
    ) -> Result<Recosted, RegistryError> {
        Ok(self.store()?.recost(days, cost, Audit::new(actor, "usage recosted")).await?)
    }

    /// Adds a plan or a consumer.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn create<A: Account>(&self, json: &Value, actor: &Actor) -> Result<Item<A>, RegistryError> {
        let account: A = self.read(json).await?;
        let audit =
            Audit::new(actor, format!("{} created", A::KIND)).with(without_digests(&account.to_json()));
        let stored = self.store()?.create(&account, audit).await?;
        Ok(stored.into())
    }

    /// Adds a key. If no digest is given, a key is generated and returned, to be shown once.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn create_key(
        &self,
        json: &Value,
        actor: &Actor,
    ) -> Result<(Item<KeySpec>, Option<NewKey>), RegistryError> {
        let has_consumer = has(json, "consumer");
        let (json, new) = with_digest(json)?;
        match self.create(&json, actor).await {
            // The consumer was filled in and not given, so errors about it are dropped.
            Err(RegistryError::Invalid(ConfigErrors(mut errors))) if !has_consumer => {
                errors.retain(|error| error.place != "consumer");
                Err(RegistryError::Invalid(ConfigErrors(errors)))
            }
            other => Ok((other?, new)),
        }
    }

    /// Replaces the account of this name, or adds it. Idempotent.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn put<A: Account>(
        &self,
        name: &str,
        json: &Value,
        actor: &Actor,
    ) -> Result<Item<A>, RegistryError> {
        for _ in 0..ATTEMPTS {
            let before = self.store()?.get::<A>(name).await?;
            match self.put_over(name, json, before, actor).await {
                Err(error) if error.is_changed() => {}
                other => return other,
            }
        }
        Err(Conflict::Changed(A::KIND, name.to_owned()).into())
    }

    /// Replaces the account that the new one was made from.
    async fn put_over<A: Account>(
        &self,
        name: &str,
        json: &Value,
        before: Option<Stored<A>>,
        actor: &Actor,
    ) -> Result<Item<A>, RegistryError> {
        let named = with_name(json, name);
        if let Some(found) = named.get("name").and_then(Value::as_str).filter(|found| *found != name) {
            let message = format!("found {found:?}; allowed: {name:?}, the name under which it is put");
            return Err(RegistryError::Invalid(ConfigErrors::one("name", message)));
        }
        let account: A = self.read(&named).await?;
        if let Some(before) = before.as_ref().filter(|before| before.account.to_json() == account.to_json()) {
            return Ok(before.clone().into());
        }
        let action = if before.is_some() { "changed" } else { "created" };
        let from = before.map(|before| before.account);
        let details = difference(from.as_ref().map(Account::to_json).as_ref(), &account.to_json());
        let audit = Audit::new(actor, format!("{} {action}", A::KIND)).with(details);
        Ok(self.store()?.change(from.as_ref(), &account, audit).await?.into())
    }

    /// Replaces the key of this name, or adds it. If there is none and no digest is given, a key is generated and returned.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn put_key(
        &self,
        name: &str,
        json: &Value,
        actor: &Actor,
    ) -> Result<(Item<KeySpec>, Option<NewKey>), RegistryError> {
        let named = with_name(json, name);
        if has(&named, "sha256") {
            return Ok((self.put(name, &named, actor).await?, None));
        }
        for _ in 0..ATTEMPTS {
            let before = self.store()?.get::<KeySpec>(name).await?;
            let (json, new) = match &before {
                // A change of other fields keeps the key's digests.
                Some(before) => (with_digests_of(&named, &before.account), None),
                None => with_digest(&named)?,
            };
            match self.put_over(name, &json, before, actor).await {
                Err(error) if error.is_changed() => {}
                other => return other.map(|item| (item, new)),
            }
        }
        Err(Conflict::Changed(AccountKind::Key, name.to_owned()).into())
    }

    /// Changes the given fields and keeps the others; `null` removes a field (RFC 7396).
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn patch<A: Account>(
        &self,
        name: &str,
        patch: &Value,
        actor: &Actor,
    ) -> Result<Item<A>, RegistryError> {
        self.refuse_declared(A::KIND, name)?;
        for _ in 0..ATTEMPTS {
            let before = self.store()?.get::<A>(name).await?;
            let before = before.ok_or_else(|| Conflict::Missing(A::KIND, name.to_owned()))?;
            let mut json = before.account.to_json();
            merge(&mut json, patch);
            // Removing the last field of a limit removes the limit.
            if let Some(object) = json.as_object_mut() {
                object.retain(|key, value| {
                    !["limit", "limit_per_model"].contains(&key.as_str()) || !has_no_limits(value)
                });
            }
            match self.put_over(name, &json, Some(before), actor).await {
                Err(error) if error.is_changed() => {}
                other => return other,
            }
        }
        Err(Conflict::Changed(A::KIND, name.to_owned()).into())
    }

    /// Removes an account. Removing one that does not exist is not an error; returns whether it existed.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn delete(&self, kind: AccountKind, name: &str, actor: &Actor) -> Result<bool, RegistryError> {
        self.refuse_declared(kind, name)?;
        let declared = self.declared();
        let user = declared.keys.iter().find(|key| kind == AccountKind::Consumer && key.consumer == name);
        if let Some(key) = user {
            let key = format!("key {:?} of the configuration file", key.name);
            return Err(Conflict::InUse(kind, name.to_owned(), key).into());
        }
        let audit = Audit::new(actor, format!("{kind} deleted"));
        Ok(self.store()?.delete(kind, name, audit).await?)
    }

    /// Replaces a key by a new one. The old key goes on working for the grace period.
    ///
    /// # Errors
    /// See [`RegistryError`]. Only one old key is kept, so during its grace period another rotation with a grace period is
    /// refused.
    pub async fn rotate(
        &self,
        name: &str,
        grace: Duration,
        actor: &Actor,
    ) -> Result<(Item<KeySpec>, NewKey), RegistryError> {
        self.refuse_declared(AccountKind::Key, name)?;
        let store = self.store()?;
        let before = store.get::<KeySpec>(name).await?;
        let before = before.ok_or_else(|| Conflict::Missing(AccountKind::Key, name.to_owned()))?.account;
        // The grace period was promised to somebody. A rotation without grace is meant to end all old keys, and does.
        let promised = before.previous.filter(|old| old.until > SystemTime::now() && !grace.is_zero());
        if let Some(previous) = promised {
            let until = humantime::format_rfc3339_seconds(previous.until).to_string();
            return Err(Conflict::Rotated(name.to_owned(), until).into());
        }
        let mut key = before.clone();
        let new = NewKey::generate()?;
        // In whole milliseconds, the precision of the store.
        let until =
            SystemTime::now() + Duration::from_millis(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        key.rotate(new.digest(), until);
        let details = json!({ "old_key_works_until": humantime::format_rfc3339_seconds(until).to_string() });
        // If two rotations run at the same time, the second is refused: the key it returns would never work.
        let stored =
            store.change(Some(&before), &key, Audit::new(actor, "key rotated").with(details)).await?;
        Ok((stored.into(), new))
    }

    /// An account by name.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn get<A: Account>(&self, name: &str) -> Result<Option<Item<A>>, RegistryError> {
        if let Some(account) = A::among(&self.declared()).iter().find(|account| account.name() == name) {
            return Ok(Some(Item { account: account.clone(), source: AccountSource::File }));
        }
        match self.store() {
            Ok(store) => Ok(store.get::<A>(name).await?.map(Into::into)),
            Err(RegistryError::NoStore) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of accounts of the file and the store, sorted by name.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn list<A: Account>(&self, filter: &Filter) -> Result<Listed<A>, RegistryError> {
        let declared = self.declared();
        let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
        let mut fitting: Vec<&A> =
            A::among(&declared).iter().filter(|account| fits(*account, filter)).collect();
        let mut total = fitting.len() as u64;
        fitting.retain(|account| filter.after.as_deref().is_none_or(|after| account.name() > after));
        fitting.sort_unstable_by_key(|account| account.name());
        // One more than fits shows whether there is another page. There may be 100,000 accounts, so no more than that are copied.
        fitting.truncate(limit.saturating_add(1));
        let of_file = |account: &A| Item { account: account.clone(), source: AccountSource::File };
        let mut entries: Vec<Result<Item<A>, Unreadable>> =
            fitting.into_iter().map(|account| Ok(of_file(account))).collect();
        match self.store() {
            Ok(store) => {
                let more = Filter { limit: filter.limit.saturating_add(1), ..filter.clone() };
                let page = store.list::<A>(&more).await?;
                total += page.total;
                entries.extend(page.items.into_iter().map(|stored| stored.map(Item::from)));
            }
            Err(RegistryError::NoStore) => {}
            Err(error) => return Err(error),
        }
        entries.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| has_more).map(|last| name_of(last).to_owned());
        let (mut items, mut unreadable) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            match entry {
                Ok(item) => items.push(item),
                Err(bad) => unreadable.push(bad),
            }
        }
        Ok(Listed { items, unreadable, total, next })
    }

    /// The names of all plans that may be referred to, sorted.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn plan_names(&self) -> Result<Vec<String>, RegistryError> {
        let all = Filter { limit: u32::MAX, ..Filter::default() };
        Ok(self.list::<Plan>(&all).await?.items.into_iter().map(|item| item.account.name).collect())
    }

    async fn read<A: Account>(&self, json: &Value) -> Result<A, RegistryError> {
        let plans = match json.get("plan") {
            Some(_) => Some(self.plan_names().await?),
            None => None,
        };
        let account: A = parse(json, plans.as_deref()).map_err(RegistryError::Invalid)?;
        self.refuse_declared(A::KIND, account.name())?;
        let digest = account.to_json().get("sha256").cloned();
        let is_same = |key: &&KeySpec| digest.as_ref().and_then(Value::as_str) == Some(&key.sha256.to_hex());
        match self.declared().keys.iter().find(is_same) {
            Some(key) => Err(Conflict::SameKey(key.name.clone()).into()),
            None => Ok(account),
        }
    }

    fn refuse_declared(&self, kind: AccountKind, name: &str) -> Result<(), RegistryError> {
        let declared = self.declared();
        let has = |mut names: Box<dyn Iterator<Item = &str> + '_>| names.any(|other| other == name);
        let is_declared = match kind {
            AccountKind::Plan => has(Box::new(declared.plans.iter().map(Plan::name))),
            AccountKind::Consumer => has(Box::new(declared.consumers.iter().map(ConsumerSpec::name))),
            AccountKind::Key => has(Box::new(declared.keys.iter().map(KeySpec::name))),
        };
        if is_declared { Err(RegistryError::Declared(kind, name.to_owned())) } else { Ok(()) }
    }
}

impl<A> From<Stored<A>> for Item<A> {
    fn from(stored: Stored<A>) -> Self {
        let Stored { account, created, changed } = stored;
        Self { account, source: AccountSource::Store { created, changed } }
    }
}

fn name_of<A: Account>(entry: &Result<Item<A>, Unreadable>) -> &str {
    match entry {
        Ok(item) => item.account.name(),
        Err(unreadable) => &unreadable.name,
    }
}

fn fits<A: Account>(account: &A, filter: &Filter) -> bool {
    let consumer = account.consumer().unwrap_or_default();
    let holds = |search: &String| {
        let search = search.to_lowercase();
        account.name().to_lowercase().contains(&search) || consumer.to_lowercase().contains(&search)
    };
    filter.search.as_ref().is_none_or(holds)
        && filter.consumer.as_ref().is_none_or(|wanted| wanted == consumer)
        && filter.plan.as_deref().is_none_or(|plan| account.plan() == Some(plan))
}

/// Whether a key is present and not `null`.
fn has(json: &Value, key: &str) -> bool {
    json.get(key).is_some_and(|value| !value.is_null())
}

/// Adds the name under which the document is put.
fn with_name(json: &Value, name: &str) -> Value {
    let mut json = json.clone();
    let has_name = has(&json, "name");
    if let Some(object) = json.as_object_mut().filter(|_| !has_name) {
        object.insert("name".into(), name.into());
    }
    json
}

/// Adds the digest of a new key, unless the document has one. If no consumer is given, the key gets one of its own name.
fn with_digest(json: &Value) -> Result<(Value, Option<NewKey>), NoRandomness> {
    let mut json = json.clone();
    let mut new = None;
    let (has_consumer, has_digest) = (has(&json, "consumer"), has(&json, "sha256"));
    if let Some(object) = json.as_object_mut() {
        if let (false, Some(name)) = (has_consumer, object.get("name").cloned()) {
            object.insert("consumer".into(), name);
        }
        if !has_digest {
            let key = NewKey::generate()?;
            object.insert("sha256".into(), key.digest().to_hex().into());
            new = Some(key);
        }
    }
    Ok((json, new))
}

/// Adds the digests of an existing key.
fn with_digests_of(json: &Value, key: &KeySpec) -> Value {
    let (mut json, key) = (json.clone(), key.to_json());
    for field in ["sha256", "previous"] {
        if let (Some(value), Some(object)) = (key.get(field), json.as_object_mut()) {
            object.insert(field.into(), value.clone());
        }
    }
    json
}

/// Merges a patch (RFC 7396), but keeps removed fields as `null`, so that the reader reports unknown ones.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, value) in patch {
        merge(object.entry(key.clone()).or_insert(Value::Null), value);
    }
}

/// The fields that were added, removed or changed, without digests.
fn difference(before: Option<&Value>, after: &Value) -> Value {
    let Some(before) = before else { return without_digests(after) };
    let mut changes = Map::new();
    let keys = before.as_object().into_iter().chain(after.as_object()).flat_map(Map::keys);
    for key in keys.filter(|key| before.get(*key) != after.get(*key)) {
        let change = match key.as_str() {
            "sha256" | "previous" => json!("changed"),
            _ => json!({ "before": before.get(key), "after": after.get(key) }),
        };
        changes.insert(key.clone(), change);
    }
    Value::Object(changes)
}

fn without_digests(json: &Value) -> Value {
    let mut json = json.clone();
    if let Some(object) = json.as_object_mut() {
        object.retain(|key, _| !["sha256", "previous"].contains(&key.as_str()));
    }
    json
}
