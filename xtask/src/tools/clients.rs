//! The clients that people use, in Python and Node.js, in the releases that the tests were written against.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Tool, debian, python};
use crate::{Result, layout, run};

/// Where the lists of packages are, beside the scripts that use them.
const LISTS: &str = "crates/modelgate/tests/sdks";

/// pip takes 85 s for these 60 packages, and uv 10.
const UV: &str = "uv==0.13.9";

/// The clients in Python.
pub(super) fn in_python() -> Tool {
    let used_for = "tests with the clients that people use";
    Tool::kept("clients in Python", "sdk/bin/python", used_for, |_, _| {
        let list = layout::root().join(LISTS).join("requirements.txt");
        let (partial, whole) = python::partial_venv("sdk", &[UV])?;
        let mut install = Command::new(partial.join("bin/uv"));
        install.args(["pip", "install", "--python"]).arg(partial.join("bin/python"));
        run::logged("sdk", install.arg("--requirements").arg(&list))?;
        fs::copy(list, partial.join("requirements.txt"))?;
        python::finish_venv(&partial, &whole)
    })
    .as_listed_in(layout::root().join(LISTS).join("requirements.txt"), "sdk/requirements.txt")
    .told_by("MODELGATE_TEST_PYTHON")
}

/// The clients in Node.js. The tests find the folder `node_modules` beside the lock file.
pub(super) fn in_node() -> Tool {
    let used_for = "tests with the clients that people use";
    Tool::kept("clients in Node.js", "clients/package-lock.json", used_for, install_in_node)
        .as_listed_in(layout::root().join(LISTS).join("package-lock.json"), "clients/package-lock.json")
        .told_by("MODELGATE_TEST_NODE_CLIENTS")
}

fn install_in_node(_tool: &Tool, path: &Path) -> Result {
    if layout::find_program("npm").is_none() {
        debian::install(["npm"].into())?;
    }
    let whole = path.parent().ok_or("no folder")?;
    let partial = layout::tools().join("clients.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(layout::root().join(LISTS).join(file), partial.join(file))?;
    }
    let mut install = Command::new("npm");
    // Installing runs no code of a package.
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&partial);
    run::logged("clients", &mut install)?;
    let _ = fs::remove_dir_all(whole);
    Ok(fs::rename(partial, whole)?)
}
