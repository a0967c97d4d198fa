//! The stream of changes in the store.

use std::{collections::HashSet, time::Duration};

use store::{Change, Following, StoreError};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::policy_source::names::AccountNames;

/// How often the store is polled for changes, even if it sends no notifications.
const LOOK: Duration = Duration::from_millis(900);

/// The stream of changes in the store; dropping it stops following.
pub(super) struct Changes {
    changes: mpsc::Receiver<Result<Change, StoreError>>,
    follower: AbortHandle,
}

/// A set of changes.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The accounts that have changed.
    pub(super) names: AccountNames,
    /// The consumers whose names were erased.
    pub(super) erased: HashSet<String>,
    /// Whether other accounts may have changed as well.
    pub(super) and_more: bool,
}

impl Changed {
    fn note(&mut self, change: Change) {
        match change {
            Change::Some { accounts, erased } => {
                self.names.extend(accounts);
                self.erased.extend(erased);
            }
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
    /// Waits for the next changes. An error ends the stream.
    pub(super) async fn next(&mut self) -> Result<Changed, StoreError> {
        let ended = || Err(StoreError::Unavailable("its connection has ended".into()));
        let mut changed = Changed::default();
        changed.note(self.changes.recv().await.unwrap_or_else(ended)?);
        // Notifications that have arrived meanwhile are handled together: one query returns all changes.
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
