//! The names of models in the store: after a restart of everything, requests for a model whose server is not there yet are told
//! to come back, and not that there is no such model.
//!
//! Without a store nothing survives a restart: then only a server that is there and loads is known to be on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use catalogue::{Catalogue, Reader, Readiness};
use store::{Registry, State, StoreError};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::reading::late;

/// Names that were not seen for this long are forgotten.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// The maximum number of names.
const MOST: usize = 10_000;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a store that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(500);
/// How often names are written that have not changed.
const AGAIN: Duration = Duration::from_secs(3600);

/// Names of models, in the set that discovery gets.
type Names = Arc<BTreeSet<String>>;

/// Keeps the names of models in the store.
pub(crate) struct KnownNames {
    registry: Arc<Registry>,
    remembered: watch::Sender<Names>,
    is_read: bool,
}

impl KnownNames {
    /// Reads the names that were there before. If the store does not answer, [`keep`](Self::keep) reads them later.
    pub(crate) async fn read(registry: Arc<Registry>) -> (Self, watch::Receiver<Names>) {
        let (remembered, receiver) = watch::channel(Names::default());
        let mut names = Self { registry, remembered, is_read: false };
        names.read_once().await;
        (names, receiver)
    }

    async fn read_once(&mut self) {
        let Ok(store) = self.registry.store() else { return };
        let since = SystemTime::now().checked_sub(KEEP).unwrap_or(SystemTime::UNIX_EPOCH);
        match timeout(PATIENCE, store.model_names(since, MOST)).await.unwrap_or_else(|_| Err(late())) {
            Ok(names) => {
                self.is_read = true;
                self.remembered.send_replace(Arc::new(names.into_iter().collect()));
            }
            Err(error) => debug!(%error, "the names of models could not be read from the store"),
        }
    }

    /// Keeps the names of the models that are ready; never returns.
    pub(crate) async fn keep(&mut self, catalogues: &Reader) {
        let (mut written, mut at) = (BTreeMap::new(), Instant::now());
        let mut generation = 0;
        loop {
            let changed = timeout(AGAIN, catalogues.changed_since(generation)).await;
            sleep(GATHER).await;
            if !self.is_read {
                self.read_once().await;
            }
            let Some(catalogue) = catalogues.load().clone() else { continue };
            let names = ready_names(&catalogue);
            let is_due = names != written || at.elapsed() >= AGAIN;
            match if is_due { self.write(&names).await } else { Ok(()) } {
                Ok(()) => {
                    generation = changed.map_or(generation, |_| catalogue.generation());
                    (written, at) = if is_due { (names, Instant::now()) } else { (written, at) };
                }
                Err(error) => {
                    debug!(%error, "the names of models could not be written to the store");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Writes those that are ready now, before the process ends.
    pub(crate) async fn last(&self, catalogues: &Reader) {
        if let Some(catalogue) = catalogues.load().clone()
            && let Err(error) = self.write(&ready_names(&catalogue)).await
        {
            debug!(%error, "the names of models could not be written to the store");
        }
    }

    async fn write(&self, names: &BTreeMap<String, String>) -> Result<(), StoreError> {
        let store = match self.registry.store() {
            Ok(store) => store,
            Err(_) if matches!(*self.registry.state(), State::Down { .. }) => return Err(late()),
            // Without a store there is nothing to do.
            Err(_) => return Ok(()),
        };
        let names: Vec<(&str, &str)> = names.iter().take(MOST).map(|(name, own)| (&**name, &**own)).collect();
        let write = store.note_model_names(&names, SystemTime::now(), KEEP, MOST);
        timeout(PATIENCE, write).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The names under which ready servers take requests, each with the model's own name.
fn ready_names(catalogue: &Catalogue) -> BTreeMap<String, String> {
    let ready = catalogue.pools().filter(|pool| pool.readiness() == Readiness::Ready);
    ready.map(|pool| (pool.model.as_str().to_owned(), pool.canonical.as_str().to_owned())).collect()
}
