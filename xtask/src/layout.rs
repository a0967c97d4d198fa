//! Paths: the repository, Cargo's output, and the installed tools.

use std::cmp::Reverse;
use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The folders of the crates: those in `crates`, and the two beside them.
pub(crate) fn crates() -> std::io::Result<Vec<PathBuf>> {
    let mut crates = vec![root().join("fuzz"), root().join("xtask")];
    for entry in std::fs::read_dir(root().join("crates"))? {
        crates.push(entry?.path());
    }
    crates.sort();
    Ok(crates)
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
/// The `sbin` folders are searched too: daemons live there, and not every `PATH` has them. So are the folders where
/// Debian keeps PostgreSQL's own programs, one for each release.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(sbin).chain(postgresql());
    folders.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// `/usr/lib/postgresql/<release>/bin`, the newest first.
fn postgresql() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let release = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.sort_by_key(|folder| Reverse(release(folder)));
    folders.into_iter().map(|folder| folder.join("bin")).collect()
}
