//! What commands print, for people and for other programs.
//!
//! `println!` panics if nobody reads any more, as after `| head`. Here that is no fault: what a command does is done to its end, what it
//! would still print is dropped, and it ends as it would have. Any other fault, such as a full disk, makes the command fail at its end.

use std::{
    fmt,
    io::{self, Write as _},
    sync::OnceLock,
};

/// The first error in writing.
static FAULT: OnceLock<io::Error> = OnceLock::new();

/// Prints a line on standard output.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::note($crate::output::line(format_args!($($argument)*)))
    };
}

/// Prints a line on standard error.
macro_rules! tell {
    ($($argument:tt)*) => {
        $crate::output::tell_line(format_args!($($argument)*))
    };
}

pub(crate) use {say, tell};

/// Prints a line on standard output.
///
/// # Errors
/// It cannot be written, or nobody reads it.
pub(crate) fn line(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a text on standard output as it is.
pub(crate) fn text(text: impl AsRef<[u8]>) {
    let mut out = io::stdout().lock();
    note(out.write_all(text.as_ref()).and_then(|()| out.flush()));
}

/// Prints a line on standard error. If that cannot be written there is nobody to tell.
pub(crate) fn tell_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Remembers a fault for the end of the command.
pub(crate) fn note(written: io::Result<()>) {
    if let Err(error) = written {
        let _ = FAULT.set(error);
    }
}

/// Whether all was written so far. If not, a command that only prints need not read what else there is.
pub(crate) fn is_all_written() -> bool {
    FAULT.get().is_none()
}

/// What kept output from being written, if it is more than a reader that has gone.
pub(crate) fn fault() -> Option<&'static io::Error> {
    FAULT.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}
