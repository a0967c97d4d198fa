//! `modelgate keys import`: imports the keys of another gateway as lines for the configuration file, or into the store.
//!
//! Clients' keys go on working: only their digests are written. An importer is a list of what it understands. Every field that is
//! not understood is reported on stderr, by its place and name and never by its value. A restriction that the other gateway
//! enforces and Modelgate cannot enforce disables the keys that it restricts. Everything else is imported.
//!
//! ```text
//! found.rs      what was found: accounts, messages about them, and the restrictions that hold them
//! names.rs      names that the configuration accepts
//! fields.rs     classifies fields: understood, harmless, or a restriction
//! kong.rs       Kong's declarative configuration
//! litellm.rs    LiteLLM's lists
//! source.rs     a file as it was read
//! reading.rs    reads the files with the importer of their gateway
//! into_store.rs writes what was found into the store
//! ```

mod fields;
mod found;
mod into_store;
mod kong;
mod litellm;
mod names;
mod reading;
mod source;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, process::ExitCode, time::SystemTime};

use crate::{
    arguments::import::{Gateway, Import},
    exit,
    output::{self, tell},
};
use found::WITHOUT;
use source::InputFile;

pub(crate) use into_store::into_store;

/// Imports from one file's text: lines for the configuration file, and the messages about the rest.
///
/// # Errors
/// Why nothing can be imported.
pub(crate) fn of_text(
    gateway: Gateway,
    text: &str,
    written: SystemTime,
) -> Result<(String, Vec<String>), ImportRefused> {
    let file = InputFile { name: String::new(), text: text.to_owned(), written };
    let refused = |why: String| ImportRefused(why);
    let mut imported = reading::read_files(gateway, &[file]).map_err(refused)?;
    let without = BTreeSet::new();
    imported.disable_held(&without);
    let messages = imported.said.iter().map(|said| said.line(&without)).collect();
    Ok((serde_yaml::to_string(&imported).map_err(|e| refused(e.to_string()))?, messages))
}

/// Why nothing can be imported from a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportRefused(String);

/// Prints what can be imported as lines for the configuration file.
pub(crate) fn print(wanted: &Import) -> ExitCode {
    let written = reading::read(wanted).and_then(|imported| {
        tell!("keys: {}; append the lines below to the configuration file", imported.keys.len());
        let of_keys = imported.keys.iter().map(|key| ("key", &key.name, &key.limit));
        let of_consumers = imported.consumers.iter().map(|one| ("consumer", &one.name, &one.limit));
        for (kind, name, limit) in of_keys.chain(of_consumers) {
            for (_, spent) in limit.spent() {
                let amount = limits::write_money(spent.amount);
                tell!(
                    "{WITHOUT}: {kind} {name}: {amount} of its budget is spent; only --store takes that over"
                );
            }
        }
        serde_yaml::to_string(&imported).map_err(|e| e.to_string())
    });
    match written {
        Ok(yaml) => {
            output::text(yaml);
            ExitCode::SUCCESS
        }
        Err(error) => exit::failed(&error, ExitCode::FAILURE),
    }
}
