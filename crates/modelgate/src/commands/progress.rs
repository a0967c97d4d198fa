//! How far long work has come, on standard error if that is a terminal; elsewhere nothing is drawn.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::tell;

/// Work that is over sooner shows nothing.
const FRAME: Duration = Duration::from_millis(200);

/// Draws while it lives, and leaves nothing behind.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Work of which only the time can be told.
    pub(super) fn of(what: impl Into<Cow<'static, str>>) -> Self {
        Self::drawn(ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})", what)
    }

    /// Work on so many things.
    pub(super) fn of_many(what: impl Into<Cow<'static, str>>, total: usize) -> Self {
        let bar = ProgressBar::new(total.try_into().unwrap_or(u64::MAX));
        Self::drawn(bar, "{msg}: {pos} of {len} [{bar:40}] {elapsed}, {eta} left", what)
    }

    fn drawn(bar: ProgressBar, template: &str, what: impl Into<Cow<'static, str>>) -> Self {
        // A template that cannot be read would only look otherwise.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        bar.enable_steady_tick(FRAME);
        Self(bar)
    }

    /// So many more are done.
    pub(super) fn done(&self, more: usize) {
        self.0.inc(more.try_into().unwrap_or(u64::MAX));
    }

    /// Prints a line above what is drawn.
    pub(super) fn say(&self, line: &str) {
        self.0.suspend(|| tell!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
