//! How the process ends: exit statuses and the final error message.

use std::{fmt::Display, io, process::ExitCode};

use config_reader::ConfigErrors;

use crate::output::{self, tell};

/// `EX_USAGE` of sysexits.h: the configuration is wrong.
pub(crate) const BAD_CONFIGURATION: u8 = 64;

/// The exit status of a command; if it failed, the error is printed.
pub(crate) fn of(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

/// How a command ends that would otherwise end with `code`: it fails if what it had to say could not be written.
pub(crate) fn finish(code: ExitCode) -> ExitCode {
    match output::fault() {
        Some(error) if code == ExitCode::SUCCESS => {
            failed(&format_args!("the output cannot be written: {error}"), ExitCode::FAILURE)
        }
        _ => code,
    }
}

/// Prints what is wrong with the configuration.
pub(crate) fn refuse(errors: &ConfigErrors) -> ExitCode {
    failed(errors, ExitCode::from(BAD_CONFIGURATION))
}

/// Prints why the process failed, and returns its exit status.
pub(crate) fn failed(error: &dyn Display, code: ExitCode) -> ExitCode {
    tell!("error: {error}");
    code
}
