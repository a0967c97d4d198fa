//! The first API key, for those who start with nothing: made in a store that nobody has used yet, and shown once.

use serde_json::json;
use store::{Actor, Registry, RegistryError, Store, StoreError};
use tracing::warn;

use crate::{config::Config, output};

/// The key's name, and its consumer's.
const NAME: &str = "first";

/// Makes the first key if the configuration asks for it and there has never been an account: not in the file, and not in the store.
///
/// # Errors
/// The store does not answer.
pub(super) async fn make_if_wanted(
    config: &Config,
    registry: &Registry,
    store: &Store,
) -> Result<(), StoreError> {
    let declared = &config.accounts.declared;
    if !config.store.first_key || !declared.keys.is_empty() || !store.is_untouched().await? {
        return Ok(());
    }
    let made =
        registry.create_key(&json!({ "name": NAME, "consumer": NAME }), &Actor::from("first start")).await;
    match made {
        Ok((_, Some(key))) => {
            show(key.reveal());
            Ok(())
        }
        Err(RegistryError::Store(error @ StoreError::Unavailable(_))) => Err(error),
        // Another Modelgate has just done it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Prints the key once, and not to the log: logs may be kept and read by others.
fn show(key: &str) {
    let shown = output::line(format_args!(
        "There is no API key yet, so a first one was made, {NAME:?}. It may use every model, and is shown this once:\n\n  {key}\n\n\
         More keys: `modelgate keys create NAME`, or on the dashboard. This one ends with `modelgate keys revoke {NAME}`.\n"
    ));
    if let Err(error) = shown {
        warn!(%error, "the first API key could not be shown: `modelgate keys rotate {NAME}` shows another one");
    }
}
