//! Servers that operators have withdrawn by hand, in the store: so they are withdrawn in every Modelgate, and after a restart.
//!
//! Without a store, and while it does not answer, they hold in this Modelgate alone. What was changed here meanwhile is written once
//! the store is back.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use catalogue::{Cordon, CordonKind, Cordons, ServerId};
use store::{Registry, Store, StoreError, StoredCordon};
use tokio::{sync::watch, time::timeout};
use tracing::debug;

use super::reading::late;

/// How often the store is asked what others have changed.
const LOOK: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the cordons of this Modelgate and of the store the same.
pub(crate) struct SharedCordons {
    registry: Arc<Registry>,
    here: watch::Sender<Cordons>,
    /// What the store had when it was last the same.
    in_store: BTreeMap<ServerId, Cordon>,
}

impl SharedCordons {
    /// Reads those that held before. If the store does not answer, [`keep`](Self::keep) reads them later.
    pub(crate) async fn read(registry: Arc<Registry>) -> (Self, watch::Sender<Cordons>) {
        let here = watch::Sender::default();
        let mut cordons = Self { registry, here: here.clone(), in_store: BTreeMap::new() };
        cordons.synchronise().await;
        (cordons, here)
    }

    /// Keeps them the same; never returns.
    pub(crate) async fn keep(&mut self) {
        let mut changes = self.here.subscribe();
        loop {
            // Both ways lead to the same: a change here is written at once, one of another Modelgate is found soon.
            let _ = timeout(LOOK, changes.changed()).await;
            self.synchronise().await;
        }
    }

    /// Writes what was changed here, and takes over what others have changed.
    pub(crate) async fn synchronise(&mut self) {
        let Ok(store) = self.registry.store() else { return };
        match timeout(PATIENCE, self.exchange(&store)).await.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {}
            Err(error) => debug!(%error, "the cordons of servers could not be kept in the store"),
        }
    }

    /// Writes what was changed here, then takes over what the store has.
    async fn exchange(&mut self, store: &Store) -> Result<(), StoreError> {
        let now = self.here.borrow().clone();
        let mine: BTreeMap<ServerId, Cordon> =
            now.iter().map(|(id, cordon)| (id.clone(), cordon.clone())).collect();
        for (id, cordon) in mine.iter().filter(|(id, cordon)| self.in_store.get(id) != Some(cordon)) {
            store.cordon(&stored(id, cordon), SystemTime::now()).await?;
        }
        for id in self.in_store.keys().filter(|id| !mine.contains_key(id)) {
            store.resume(id.as_str()).await?;
        }
        self.in_store = mine;
        let found: BTreeMap<ServerId, Cordon> = store.cordons().await?.into_iter().map(cordon).collect();
        if found == self.in_store {
            return Ok(());
        }
        let theirs: Cordons = found.clone().into_iter().collect();
        let is_taken = self.here.send_if_modified(|here| {
            // What was changed here just now is written first.
            let is_same = *here == now;
            if is_same {
                *here = theirs;
            }
            is_same
        });
        if is_taken {
            self.in_store = found;
        }
        Ok(())
    }
}

fn stored(id: &ServerId, cordon: &Cordon) -> StoredCordon {
    let drained_run = match &cordon.kind {
        CordonKind::Drain { incarnation } => Some(incarnation.clone()),
        CordonKind::Pause => None,
    };
    StoredCordon { server: id.as_str().to_owned(), drained_run, by: cordon.by.as_ref().to_owned() }
}

fn cordon(stored: StoredCordon) -> (ServerId, Cordon) {
    let kind = match stored.drained_run {
        Some(incarnation) => CordonKind::Drain { incarnation },
        None => CordonKind::Pause,
    };
    (ServerId::from_text(&stored.server), Cordon { kind, by: stored.by.into() })
}

#[cfg(test)]
mod tests {
    use ::store::StoreUrl;

    use super::*;

    async fn on(url: &StoreUrl) -> (SharedCordons, watch::Sender<Cordons>) {
        let registry = Arc::new(Registry::new(accounts::Accounts::default()));
        registry.set_store(Store::open(url.clone()).await.expect("a store"));
        registry.set_state(::store::State::Up);
        SharedCordons::read(registry).await
    }

    fn names(cordons: &watch::Sender<Cordons>) -> Vec<String> {
        cordons.borrow().iter().map(|(id, cordon)| format!("{id} {}", cordon.by)).collect()
    }

    /// Two Modelgates change different servers at the same time, and one of them the same server later; a third starts then.
    #[tokio::test]
    async fn what_one_modelgate_withdraws_is_withdrawn_in_all_and_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = StoreUrl::in_folder(folder.path());
        let ((mut a, in_a), (mut b, in_b)) = (on(&url).await, on(&url).await);
        let pause = |by: &str| Cordon { kind: CordonKind::Pause, by: by.into() };
        let drain = Cordon { kind: CordonKind::Drain { incarnation: "1".into() }, by: "bob".into() };
        in_a.send_modify(|cordons| cordons.cordon(ServerId::file("one"), pause("alice")));
        in_b.send_modify(|cordons| cordons.cordon(ServerId::docker("two"), drain.clone()));
        for _ in 0..2 {
            a.synchronise().await;
            b.synchronise().await;
        }
        let both = ["docker:two bob", "file:one alice"];
        assert_eq!((names(&in_a), names(&in_b)), (both.map(str::to_owned).to_vec(), names(&in_a)));
        assert_eq!(*in_a.borrow(), *in_b.borrow(), "the run that is drained, too");

        in_b.send_modify(|cordons| assert!(cordons.resume(&ServerId::file("one"))));
        b.synchronise().await;
        a.synchronise().await;
        assert_eq!(names(&in_a), ["docker:two bob"]);
        let (_, in_c) = on(&url).await;
        assert_eq!(*in_c.borrow(), *in_a.borrow(), "a start has them at once");
    }
}
