//! `modelgate backup` and `modelgate restore`.

use std::{path::Path, time::Duration};

use store::{Audit, Copied, Present, Registry, StoreError};
use tokio::time::{error::Elapsed, timeout};

use super::{
    progress::Progress,
    registry::{ACTOR, CommandFailure},
};
use crate::output::tell;

/// Years of usage and audit entries take minutes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// `modelgate backup FILE`
pub(crate) async fn backup(registry: &Registry, file: &Path) -> Result<(), CommandFailure> {
    let store = registry.store()?;
    let progress = Progress::of("writing the backup");
    let copied = timeout(PATIENCE, store.back_up(file)).await.map_err(late)??;
    drop(progress);
    tell!("written to {}: {}", file.display(), in_words(&copied));
    Ok(())
}

/// `modelgate restore FILE`
pub(crate) async fn restore(registry: &Registry, file: &Path, replace: bool) -> Result<(), CommandFailure> {
    let store = registry.store()?;
    let present = if replace { Present::Replaced } else { Present::Refused };
    let audit = Audit::new(&*ACTOR, "store restored").about("all accounts, usage and counts");
    let progress = Progress::of("restoring all in one transaction");
    let restored = timeout(PATIENCE, store.restore(file, present, audit)).await.map_err(late)?;
    drop(progress);
    match restored {
        Err(error @ StoreError::NotEmpty(_)) => Err(CommandFailure::Failed(format!(
            "{error}; nothing was changed. `--replace` replaces all of it: keep it first with `modelgate backup FILE`"
        ))),
        restored => {
            tell!("restored: {}", in_words(&restored?));
            Ok(())
        }
    }
}

fn late(_: Elapsed) -> StoreError {
    StoreError::Unavailable(format!("it took longer than {PATIENCE:?}"))
}

fn in_words(Copied(tables): &Copied) -> String {
    let name = |table: &str| table.replace('_', " ");
    tables.iter().map(|(table, rows)| format!("{} {rows}", name(table))).collect::<Vec<_>>().join(", ")
}
