//! A file from the other gateway.

use std::time::SystemTime;

/// A file as it was read.
pub(super) struct InputFile {
    /// Its name, if there are several files.
    pub(super) name: String,
    pub(super) text: String,
    /// When it was written.
    pub(super) written: SystemTime,
}
