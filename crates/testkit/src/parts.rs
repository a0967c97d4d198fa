//! Real parts that a machine may or may not have, and the rule for missing ones.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::Failure;

/// The rule for a missing real part: if all parts are required (`MODELGATE_TEST_REQUIRE=1`, set by `cargo xtask` and by CI once
/// it has installed them) the test fails; otherwise the part is reported as missing and the caller returns early.
///
/// # Panics
/// If the part is required.
#[expect(clippy::print_stderr, reason = "the test's reader must see what was not tested")]
#[track_caller]
pub fn skip_or_fail(part: &str, why: &str) {
    let required = env::var("MODELGATE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "{part} is required here: {why}");
    eprintln!("skipped: {part}: {why}");
}

/// Takes an `Option` or a `Result`: returns the part if it was found, else applies [`skip_or_fail`].
#[track_caller]
pub fn need<T>(found: impl Found<T>, part: &str) -> Option<T> {
    // No closure: a panic in one would not name the caller's line.
    match found.found() {
        Ok(found) => Some(found),
        Err(why) => {
            skip_or_fail(part, &why.to_string());
            None
        }
    }
}

/// The outcome of looking for a part.
pub trait Found<T> {
    /// The part, or why it is not there.
    ///
    /// # Errors
    /// The part was not found.
    fn found(self) -> Result<T, Failure>;
}

impl<T> Found<T> for Option<T> {
    fn found(self) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::missing("not found on this machine"))
    }
}

impl<T> Found<T> for Result<T, Failure> {
    fn found(self) -> Self {
        self
    }
}

/// Builds the `sim-server` program (quickly if it is built already) and returns its path. Cargo does not build the programs of a
/// dependency for a test, and passes their paths only to the tests of their own package.
///
/// # Errors
/// Cargo cannot build it.
pub fn build_sim_server() -> Result<PathBuf, Failure> {
    static BUILT: OnceLock<Result<PathBuf, Failure>> = OnceLock::new();
    BUILT.get_or_init(|| build(&profile_folder()?)).clone()
}

fn build(folder: &Path) -> Result<PathBuf, Failure> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "testkit", "--bin", "sim-server", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    command.arg("--target-dir").arg(folder.parent().unwrap_or(folder));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().map_err(|error| Failure::of("cargo", error))?;
    if output.status.success() {
        Ok(folder.join("sim-server"))
    } else {
        Err(Failure::of("cargo build", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Cargo with the environment of a call from outside. `cargo test` sets variables about the tested package, which ring's build
/// script reads, too. If they were passed on, Cargo would rebuild ring and everything that depends on it whenever a build inside
/// a test follows one outside.
fn cargo() -> Command {
    const DESCRIBING: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if DESCRIBING.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// `target/debug` or `target/release`, from the place of the running program: `target/debug/deps/<test>` for a test,
/// `target/debug/<program>` for a program.
fn profile_folder() -> Result<PathBuf, Failure> {
    let program = env::current_exe()?;
    let folder = program.parent().ok_or_else(|| Failure::unexpected("the running program has no folder"))?;
    let is_inner = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    let folder = if is_inner { folder.parent() } else { Some(folder) };
    Ok(folder.ok_or_else(|| Failure::missing("no target folder"))?.to_owned())
}

/// The workspace's `target` folder, where `cargo xtask` keeps the real parts under `tools`.
pub fn target_folder() -> Option<PathBuf> {
    profile_folder().ok()?.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_what_is_there() {
        assert_eq!(need(Some(7), "a number"), Some(7));
        assert_eq!(need(Ok(8), "a number"), Some(8));
    }

    #[test]
    fn the_sim_server_can_be_built() {
        let program = build_sim_server().expect("sim-server builds");
        assert!(program.is_file(), "{}", program.display());
    }
}
