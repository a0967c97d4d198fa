//! The first reading of the store: for a server that starts, for one whose store has come back, and for a command.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::Policy;
use accounts::Accounts;
use limits::QuotaId;
use store::{Following, Registry, State, Store, StoreError, StoreUrl};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    counts::Counted,
    first_key,
    reading::{late, read_all},
    report::report,
    unwritten,
};
use crate::{config::Config, jwks::KeySets, policy_source::PolicySource};

/// How long the start waits for the store.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a write may take.
pub(super) const WRITE: Duration = Duration::from_secs(5);
/// How long it waits for a file: a newer Modelgate changes the tables of an older one, and years of usage take a while.
const FILE_TIMEOUT: Duration = Duration::from_secs(900);

/// The keys and limits at start, with the store's if it answers in time.
pub(crate) struct Start {
    pub(crate) registry: Arc<Registry>,
    pub(crate) policy_source: PolicySource,
    pub(super) store: Reached,
}

/// The outcome of reaching for the store.
pub(super) enum Reached {
    /// No store is configured.
    None,
    /// The store does not answer yet.
    Down,
    /// The store is open, and everything was read.
    Open(Following, Counted),
}

/// What is read from an open store: the stream of further changes, all accounts, and the counts.
pub(super) type Opened = (Following, PolicySource, Counted);

impl Start {
    /// Opens the store and reads it.
    ///
    /// # Errors
    /// SQLite's file cannot be used, or the tables are those of a newer Modelgate. A PostgreSQL that does not answer is not an
    /// error, because it may become available later.
    pub(crate) async fn new(config: &Config, key_sets: &KeySets) -> io::Result<Self> {
        let registry = Arc::new(Registry::new(config.accounts.declared.clone()));
        let Some(url) = config.store.url.clone() else {
            let policy_source = PolicySource::new(config, key_sets, Accounts::default());
            return Ok(Self { registry, policy_source, store: Reached::None });
        };
        let kind = url.kind();
        let patience = if matches!(url, StoreUrl::Sqlite(_)) { FILE_TIMEOUT } else { STORE_TIMEOUT };
        let opened = match timeout(patience, open(config, key_sets, &registry, Arc::default())).await {
            Ok(opened) => opened,
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {patience:?}"))),
        };
        match opened {
            Ok((following, policy_source, counted)) => {
                info!(kind, keys = policy_source.policy.key_count(), "the store is open");
                report(&policy_source, &registry);
                Ok(Self { registry, policy_source, store: Reached::Open(following, counted) })
            }
            Err(error @ StoreError::Unavailable(_)) if kind == "PostgreSQL" => {
                warn!(kind, %error, "the store is down; until it is back only the keys, plans and consumers of the configuration are known");
                registry.set_state(State::Down { since: SystemTime::now(), why: error.to_string() });
                let policy_source = PolicySource::new(config, key_sets, Accounts::default()).incomplete();
                Ok(Self { registry, policy_source, store: Reached::Down })
            }
            Err(error) => Err(io::Error::other(format!("store: {error}"))),
        }
    }
}

/// Opens the store if it is not open yet, and reads everything. Keys that are unchanged in `known` share their memory.
pub(super) async fn open(
    config: &Config,
    key_sets: &KeySets,
    registry: &Registry,
    known: Arc<Policy>,
) -> Result<Opened, StoreError> {
    let store = match (registry.store(), &config.store.url) {
        (Ok(store), _) => Store::clone(&store),
        (Err(_), Some(url)) => {
            let store = Store::open(url.clone()).await?;
            registry.set_store(store.clone());
            store
        }
        (Err(_), None) => return Err(StoreError::Unavailable("there is none".into())),
    };
    first_key::make_if_wanted(config, registry, &store).await?;
    // Following starts first, so that changes during the reading are not missed.
    let following = store.follow().await?;
    let policy_source = read_all(config, key_sets, &store, known).await?;
    // Before the counts are read. A store that can only be read is no reason not to start: then it is tried again with each flush.
    let kept = timeout(WRITE, send_kept(config, registry, &store)).await.unwrap_or_else(|_| Err(late()));
    if let Err(error) = &kept {
        warn!(%error, "what the last stop could not write to the store cannot be written yet");
    }
    let counted = Counted { has_kept: kept.is_err(), ..Counted::of(&store, &config.time_zone).await? };
    registry.set_state(State::Up);
    Ok((following, policy_source, counted))
}

/// Writes what a stop could not write to the store.
pub(super) async fn send_kept(config: &Config, registry: &Registry, store: &Store) -> Result<(), StoreError> {
    if let Some(folder) = &config.state_dir {
        registry.set_left_files(unwritten::send(store, folder, SystemTime::now()).await?);
    }
    Ok(())
}

/// The present keys and limits of the file and the store, for a command that changes nothing.
pub(crate) async fn read_once(config: &Config, key_sets: &KeySets) -> Result<PolicySource, StoreError> {
    let read = with_store(config, async |store| read_all(config, key_sets, store, Arc::default()).await);
    Ok(read.await?.unwrap_or_else(|| PolicySource::new(config, key_sets, Accounts::default())))
}

/// What was taken of quotas, and given on top of budgets, as the store has it; nothing without a store.
pub(crate) async fn counts_once(config: &Config, ids: &[QuotaId]) -> Result<Vec<(QuotaId, u64)>, StoreError> {
    let given = ids.iter().flat_map(|id| [Some(*id), id.added(), id.forgiven()]).flatten();
    let ids: Vec<QuotaId> = given.collect();
    let read = with_store(config, async |store| store.counts_of(&ids).await);
    Ok(read.await?.unwrap_or_default())
}

/// Has something read from the store, if there is one.
async fn with_store<T>(
    config: &Config,
    read: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let is_there = match &config.store.url {
        // Opening a missing file would create it, owned by the user who runs the command.
        Some(StoreUrl::Sqlite(path)) => path.exists(),
        other => other.is_some(),
    };
    let Some(url) = config.store.url.clone().filter(|_| is_there) else { return Ok(None) };
    let all = async {
        let store = Store::open(url).await?;
        let read = read(&store).await;
        store.close().await;
        read.map(Some)
    };
    timeout(STORE_TIMEOUT, all).await.unwrap_or_else(|_| Err(late()))
}
