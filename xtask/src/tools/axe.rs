//! axe-core, which finds accessibility barriers in a page: one script of the npm package.
//!
//! <https://github.com/dequelabs/axe-core>

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Tool, debian, python};
use crate::{Result, layout, run};

const PACKAGE: &str = "axe-core@4.14.1";

/// Downloads the package and keeps the script.
pub(super) fn install(_tool: &Tool, path: &Path) -> Result {
    if layout::find_program("npm").is_none() {
        debian::install(["npm"].into())?;
    }
    let work = layout::tools().join("axe-core.partial");
    let _ = fs::remove_dir_all(&work);
    let (download, source) = (work.join("download"), work.join("source"));
    fs::create_dir_all(&download)?;
    fs::create_dir_all(&source)?;
    let mut pack = Command::new("npm");
    // `pack` downloads one package unchanged: it runs no code of the package, and fetches no dependencies.
    run::logged("axe-core", pack.args(["pack", PACKAGE, "--pack-destination"]).arg(&download))?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(python::only_file(&download)?).arg("-C").arg(&source);
    run::logged("axe-core", unpack.args(["--strip-components=1", "package/axe.min.js"]))?;
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    fs::rename(source.join("axe.min.js"), path)?;
    Ok(fs::remove_dir_all(work)?)
}
