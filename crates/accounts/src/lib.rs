//! Plans, consumers and API keys as an operator writes them.
//!
//! ```text
//! configuration file ─┐
//! command line, API ──┼─ read ─▶ Plan, ConsumerSpec, KeySpec ─ Directory ─▶ access::Key, access::Consumer
//! store ──────────────┘          (who refers to whom by name)               (what a decision needs)
//! ```
//!
//! All of them write the same words, read by the same functions: a key of the file can be given to the API as it is, and
//! an error names the same places.

mod directory;
mod document;
mod kind;
mod limit;
mod pool;

use access::{InvalidGlob, ModelGlobs};
use config_reader::Section;

pub use access::NAME;
pub use directory::{Directory, Unfit, Unusable};
pub use document::{Accounts, ConsumerSpec, KeySpec, Patterns, Plan, PreviousKey, plan};
pub use kind::{Account, Kind, PlanNames, parse, parse_text};
pub use limit::{has_no_limits, limits, limits_to_json};

/// What is allowed where models are named.
pub const GLOB: &str = "the name of a model, or a pattern with * and ? such as \"llama*\"";

/// Checks the name of a key, a consumer or a plan; [`NAME`] says what is allowed.
pub fn name(text: &str) -> Option<String> {
    access::is_name(text).then(|| text.into())
}

/// Reads `models:`, if it is there.
pub fn models(section: &mut Section<'_>) -> Option<Patterns> {
    let models = section.try_list("models", GLOB, |text| glob(text).map(|_| text.to_owned()))?;
    section.require_some("models", &models);
    Patterns::new(models).ok()
}

/// Reads a pattern for names of models.
///
/// # Errors
/// It is none.
pub fn glob(text: &str) -> Result<ModelGlobs, NotAPattern> {
    ModelGlobs::parse(&[text.to_owned()]).map_err(NotAPattern)
}

/// A text is no pattern for names of models. It is told beside the text, which it does not repeat.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; allowed: {GLOB}", .0.reason)]
pub struct NotAPattern(InvalidGlob);
