//! Where things are: the repository, what Cargo built, and the tools that were installed for it.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where Cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where installed tools are kept. Always in the repository's `target`, which is where the tests look.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A program that Cargo built.
pub(crate) fn built(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Where the output of long or noisy commands goes.
pub(crate) fn log(name: &str) -> PathBuf {
    tools().join("log").join(format!("{name}.log"))
}

/// The full path of a program, if it is installed.
///
/// The `sbin` folders are searched too: daemons live there, and not every `PATH` has them.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| file.is_file())
}
