//! What has changed in the store, as it comes.

use std::time::Duration;

use store::{Change, Following, StoreError};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::policy_source::names::Names;

/// How often the store is asked, even if it says nothing of itself.
const LOOK: Duration = Duration::from_millis(900);

/// Changes of the store as they come; dropped, nobody follows any more.
pub(super) struct Changes {
    changes: mpsc::Receiver<Result<Change, StoreError>>,
    follower: AbortHandle,
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// These.
    pub(super) names: Names,
    /// And more than these.
    pub(super) and_more: bool,
}

impl Changed {
    fn note(&mut self, change: Change) {
        match change {
            Change::Some(names) => self.names.extend(names),
            Change::All => self.and_more = true,
        }
    }
}

impl Changes {
    pub(super) fn of(mut following: Following) -> Self {
        let (sender, changes) = mpsc::channel(16);
        let follower = tokio::spawn(async move {
            loop {
                let change = match following.changed(LOOK).await {
                    Ok(None) => continue,
                    Ok(Some(change)) => Ok(change),
                    Err(error) => Err(error),
                };
                let is_over = change.is_err();
                if sender.send(change).await.is_err() || is_over {
                    return;
                }
            }
        });
        Self { changes, follower: follower.abort_handle() }
    }
}

impl Changes {
    /// The next ones; an error is the last.
    pub(super) async fn next(&mut self) -> Result<Changed, StoreError> {
        let ended = || Err(StoreError::Unavailable("its connection has ended".into()));
        let mut changed = Changed::default();
        changed.note(self.changes.recv().await.unwrap_or_else(ended)?);
        // What has come meanwhile is looked at together: one look shows all of it.
        while let Ok(next) = self.changes.try_recv() {
            changed.note(next?);
        }
        Ok(changed)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
