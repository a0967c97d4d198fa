//! Running commands: prints what is being done, how long it took, and on failure why.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{Result, layout};

/// How much of a log is shown when its command failed.
const LOG_TAIL: usize = 40;

/// Does one step and prints how long it took.
pub(crate) fn step<T>(title: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {title}");
    let start = Instant::now();
    let outcome = action();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    println!("== {title}: {word} in {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// Runs a command whose output the reader wants to see.
pub(crate) fn shown(command: &mut Command) -> Result {
    println!("$ {}", written(command));
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", written(command)).into()) }
}

/// Runs a command whose output matters only when it fails; it goes to `target/tools/log`.
pub(crate) fn logged(log: &str, command: &mut Command) -> Result {
    let path = layout::log(log);
    let file = create(&path)?;
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{}: {status}; the end of {}:\n{}", written(command), path.display(), tail(&path)).into())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}: {}", written(command), output.status, error.trim()).into())
}

/// Cargo, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(layout::root());
    as_from_a_shell(&mut command);
    command
}

/// Removes the variables that Cargo has set for this program. ring's build script reads them: if they differed from those in a
/// shell, or in a test that calls Cargo, ring and everything that uses it would be compiled again.
pub(crate) fn as_from_a_shell(command: &mut Command) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        command.env_remove(name);
    }
}

/// A new, empty file, with the folders above it.
pub(crate) fn create(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(File::create(path)?)
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

fn written(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", command.get_program().to_string_lossy())
}
