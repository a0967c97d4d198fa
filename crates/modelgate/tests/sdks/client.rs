//! What a client is: its script, its page, what its user sees, and whether it is installed.

use std::{env, path::PathBuf, process::Command};

use serde_json::Value;
use testkit::{need, skip_or_fail};

/// What a user sees in a case.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// The answer contains this.
    Says(&'static str),
    /// An error of this class, with this status where the class has one, whose text contains this.
    Fails(&'static str, Option<u64>, &'static str),
}

impl Seen {
    pub(crate) fn fits(self, line: &Value) -> bool {
        // Anthropic's SDKs show the answer as the JSON that it is.
        let has = |name: &str, part: &str| {
            line[name].as_str().is_some_and(|text| text.replace("\\\"", "\"").contains(part))
        };
        match self {
            Self::Says(text) => has("said", text),
            Self::Fails(class, status, text) => {
                line["error"] == class && line["status"].as_u64() == status && has("text", text)
            }
        }
    }
}

pub(crate) struct Client {
    pub(crate) name: &'static str,
    /// In `docs/clients`.
    pub(crate) page: &'static str,
    pub(crate) script: &'static str,
    /// The packages without which it is not there.
    pub(crate) packages: &'static [&'static str],
    pub(crate) cases: &'static [(&'static str, Seen)],
    /// How many refusals of a status each of its keys gets, over all cases: whether it asks again where that is no use.
    pub(crate) requests: &'static [(&'static str, u64, usize)],
}

impl Client {
    /// What runs its script.
    pub(crate) fn interpreter(&self) -> Option<PathBuf> {
        if self.script.ends_with(".mjs") { Some("node".into()) } else { python() }
    }

    /// Whether it is installed; if it must be, the test fails here.
    pub(crate) fn is_there(&self) -> bool {
        let missing = match self.interpreter() {
            Some(_) => self.packages.iter().copied().find(|package| !is_installed(package)),
            None => Some("Python with the clients"),
        };
        if let Some(missing) = missing {
            skip_or_fail(self.name, &format!("{missing} is not installed: `cargo xtask test --install`"));
        }
        missing.is_none()
    }
}

fn is_installed(package: &str) -> bool {
    match package.strip_prefix("npm:") {
        Some(name) => node_packages().is_some_and(|folder| folder.join(name).is_dir()),
        None => python().is_some_and(|python| {
            let code = format!("import importlib.util as u, sys; sys.exit(u.find_spec({package:?}) is None)");
            Command::new(python).args(["-c", &code]).status().is_ok_and(|status| status.success())
        }),
    }
}

/// A program or file that `cargo xtask` keeps in `target/tools`.
pub(crate) fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    need(kept(variable, name), name)
}

fn kept(variable: &str, name: &str) -> Option<PathBuf> {
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools")).join(name);
    let path = env::var_os(variable).map_or(installed, PathBuf::from);
    path.is_file().then_some(path)
}

fn python() -> Option<PathBuf> {
    kept("MODELGATE_TEST_PYTHON", "sdk/bin/python")
}

/// The folder `node_modules` beside the lock file of the clients in Node.js.
pub(crate) fn node_packages() -> Option<PathBuf> {
    let lock = kept("MODELGATE_TEST_NODE_CLIENTS", "clients/package-lock.json")?;
    Some(lock.parent()?.join("node_modules"))
}
