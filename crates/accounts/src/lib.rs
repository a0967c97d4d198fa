//! Plans, consumers and API keys as operators write them.
//!
//! ```text
//! configuration file ─┐
//! command line, API ──┼─ read ─▶ Plan, ConsumerSpec, KeySpec ─ Directory ─▶ access::Key, access::Consumer
//! store ──────────────┘          (references by name)                     (what a decision needs)
//! ```
//!
//! All sources use the same fields, read by the same functions: a key of the file can be sent to the API unchanged, and errors
//! name the same places.

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
pub use kind::{Account, AccountKind, PlanNames, parse, parse_text};
pub use limit::{has_no_limits, limit_to_json, limits, limits_to_json};

/// What is allowed as the name of models.
pub const GLOB: &str = "the name of a model, or a pattern with * and ? such as \"llama*\"";

/// Checks the name of a key, a consumer or a plan; [`NAME`] says what is allowed.
pub fn name(text: &str) -> Option<String> {
    access::is_name(text).then(|| text.into())
}

/// Reads `models:`, if present.
pub fn models(section: &mut Section<'_>) -> Option<Patterns> {
    let models = section.try_list("models", GLOB, |text| glob(text).map(|_| text.to_owned()))?;
    section.require_some("models", &models);
    Patterns::new(models).ok()
}

/// Reads a pattern for names of models.
///
/// # Errors
/// The text is not a pattern.
pub fn glob(text: &str) -> Result<ModelGlobs, NotAPattern> {
    ModelGlobs::parse(&[text.to_owned()]).map_err(NotAPattern)
}

/// Why a text is not a pattern for names of models. The message is shown beside the text, so it does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; allowed: {GLOB}", .0.reason)]
pub struct NotAPattern(InvalidGlob);
