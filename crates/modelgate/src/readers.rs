//! The readers of files that other people write, without files and output: for fuzzing (`docs/fuzzing.md`).

use std::time::SystemTime;

use config_reader::ConfigErrors;

pub use crate::{arguments::import::Gateway, commands::import::ImportRefused};
use crate::{
    commands::import,
    config::{Config, Env},
};

/// Reads a configuration file's text, without environment variables. Returns all that it sets, with secrets hidden.
///
/// # Errors
/// Every error of the file.
pub fn configuration(text: &str) -> Result<String, ConfigErrors> {
    Config::of_text(text, &Env::default()).map(|config| config.shown)
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFile {
    /// Lines for the configuration file.
    pub yaml: String,
    /// What was left out and why, one message each.
    pub messages: Vec<String>,
}

/// Imports keys from a file's text, as `modelgate keys import` does. `written` is when the file was written.
///
/// # Errors
/// Why nothing can be imported.
pub fn keys_of(gateway: Gateway, text: &str, written: SystemTime) -> Result<ImportedFile, ImportRefused> {
    let (yaml, messages) = import::of_text(gateway, text, written)?;
    Ok(ImportedFile { yaml, messages })
}
