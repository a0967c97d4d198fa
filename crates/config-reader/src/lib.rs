//! A small reader for YAML: for the configuration file, and for other documents with its keys.
//!
//! serde's derive stops at the first error and cannot say what would be allowed. A [`Section`] reads one mapping, key by key;
//! errors are added to a shared [`Report`], and reading goes on.

mod error;
mod origins;
mod outline;
mod section;

pub use error::{ConfigError, ConfigErrors};
pub use origins::Origins;
pub use section::{NETWORK, Report, Section, network, size};
