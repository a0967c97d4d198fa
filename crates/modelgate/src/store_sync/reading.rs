//! Reads accounts from the store, some or all.

use std::sync::Arc;

use access::Policy;
use accounts::{Account, AccountKind, Accounts};
use store::{Store, StoreError, Unreadable};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    config::Config,
    jwks::KeySets,
    policy_source::{PolicySource, names::AccountNames, refused, update::Update},
};

/// Why a full reload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The configuration file has changed, and the new one is not in force yet.
    File,
    /// The store has changed in a way that cannot be applied account by account.
    Store,
}

/// A full reload; dropping it aborts it.
pub(super) struct Reading {
    task: JoinHandle<Result<PolicySource, StoreError>>,
    pub(super) cause: Cause,
    /// The accounts that have changed since it started.
    pub(super) meanwhile: AccountNames,
    /// It must be done once more, because too much has changed since it started.
    pub(super) again: bool,
}

impl Reading {
    pub(super) fn start(
        cause: Cause,
        read: impl Future<Output = Result<PolicySource, StoreError>> + Send + 'static,
    ) -> Self {
        Self { task: tokio::spawn(read), cause, meanwhile: AccountNames::default(), again: false }
    }

    /// Waits for the result.
    pub(super) async fn ended(&mut self) -> Result<PolicySource, StoreError> {
        (&mut self.task).await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Combines the file with everything in the store. Keys that are unchanged in `known` share their memory.
pub(super) async fn read_all(
    config: &Config,
    key_sets: &KeySets,
    store: &Store,
    known: Arc<Policy>,
) -> Result<PolicySource, StoreError> {
    let (plans, bad_plans) = store.all().await?;
    let (mut consumers, bad_consumers) = store.all().await?;
    consumers.extend(bad_consumers.iter().map(refused));
    let mut policy_source =
        PolicySource::new(config, key_sets, Accounts { plans, consumers, keys: Vec::new() });
    policy_source.leave_out(bad_plans);
    policy_source.leave_out(bad_consumers);
    let mut next = store.documents(AccountKind::Key, "").await?;
    while let Some(documents) = next {
        let last = documents.last.clone();
        let known = Arc::clone(&known);
        // 100,000 keys take a moment. Requests go on meanwhile, and the store fetches the next keys.
        let read = spawn_blocking(move || {
            let (keys, unreadable) = documents.read();
            policy_source.add_keys(keys, unreadable, &known);
            policy_source
        });
        let (read, following) = tokio::join!(read, store.documents(AccountKind::Key, &last));
        policy_source = read.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        next = following?;
    }
    // After the keys, so that one that is deleted meanwhile is in one of the two lists.
    policy_source.revoke(store.revoked_keys().await?);
    Ok(policy_source)
}

/// Reads some accounts as they are now. Accounts that refer to others are read first, so that the accounts they refer to are at
/// least as new.
pub(super) async fn read_some(store: &Store, names: &AccountNames) -> Result<Update, StoreError> {
    let mut unreadable = Vec::new();
    let keys = read_kind(store, names, &mut unreadable).await?;
    let consumers = read_kind(store, names, &mut unreadable).await?;
    let plans = read_kind(store, names, &mut unreadable).await?;
    let named: Vec<String> = names.of_kind(AccountKind::Key).cloned().collect();
    let revoked = store.revoked_keys_named(&named).await?;
    Ok(Update { names: names.clone(), now: Accounts { plans, consumers, keys }, unreadable, revoked })
}

async fn read_kind<A: Account>(
    store: &Store,
    names: &AccountNames,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Vec<A>, StoreError> {
    let names: Vec<String> = names.of_kind(A::KIND).cloned().collect();
    let mut now = Vec::with_capacity(names.len());
    for found in store.get_all(&names).await? {
        match found {
            Ok(stored) => now.push(stored.account),
            Err(bad) => unreadable.push(bad),
        }
    }
    Ok(now)
}

/// The error if the store has not answered in time.
pub(super) fn late() -> StoreError {
    StoreError::Unavailable("no answer in time".into())
}
