//! A small reader over YAML: the configuration file, and whatever else is written in its words.
//!
//! serde's derive stops at the first error and cannot say what would be allowed. A [`Section`]
//! reads one mapping, key by key; what is wrong goes to a shared [`Report`] and reading goes on.

mod error;
mod origins;
mod section;

pub use error::{ConfigError, ConfigErrors};
pub use origins::Origins;
pub use section::{NETWORK, Report, Section, network, size};
