//! Programs in Go, compiled with Debian's compiler and libraries: nothing is downloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Tool;
use crate::{Result, layout, run};

/// The package of the library with which llama-swap reads JSON.
pub(super) const GJSON: &str = "golang-github-tidwall-gjson-dev";
/// A file of it.
pub(super) const GJSON_SOURCE: &str = "/usr/share/gocode/src/github.com/tidwall/gjson/gjson.go";

/// The source of the readers with which fuzz targets compare.
pub(super) fn source() -> PathBuf {
    layout::root().join("fuzz/readers/readers.go")
}

/// Compiles them.
pub(super) fn readers(_tool: &Tool, path: &Path) -> Result {
    let folder = path.parent().ok_or("no folder")?;
    fs::create_dir_all(folder)?;
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(path).arg(source());
    // Debian's libraries are in a folder of the old form, without modules.
    build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", folder.join("cache"));
    run::logged("fuzz-go", &mut build)?;
    fs::copy(source(), folder.join("readers.go"))?;
    Ok(())
}
