//! How the process ends: exit statuses and the final error message.

use std::{fmt::Display, io, process::ExitCode};

use config_reader::ConfigErrors;

/// `EX_USAGE` of sysexits.h: the configuration is wrong.
pub(crate) const BAD_CONFIGURATION: u8 = 64;

/// The exit status of a command; if it failed, the error is printed.
pub(crate) fn of(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

/// Prints what is wrong with the configuration.
pub(crate) fn refuse(errors: &ConfigErrors) -> ExitCode {
    failed(errors, ExitCode::from(BAD_CONFIGURATION))
}

/// Prints why the process failed, and returns its exit status.
#[expect(clippy::print_stderr, reason = "the last word of a command that failed, and no log need be set up")]
pub(crate) fn failed(error: &dyn Display, code: ExitCode) -> ExitCode {
    eprintln!("error: {error}");
    code
}
