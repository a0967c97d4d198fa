//! Debian packages.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{Result, run};

/// Installs packages, all in one go.
pub(super) fn install(packages: BTreeSet<&str>) -> Result {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.into_iter().collect::<Vec<_>>().join(" ");
    if run::output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Err(format!("missing Debian packages; install them as root: apt-get install {names}").into());
    }
    run::step(&format!("install Debian packages: {names}"), || {
        // The package lists of a fresh machine may be empty or old: refresh them only then, it takes a while.
        apt_get(&format!("install {names}")).or_else(|_| {
            apt_get("update")?;
            apt_get(&format!("install {names}"))
        })
    })
}

fn apt_get(arguments: &str) -> Result {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-y", "--no-install-recommends"]).args(arguments.split(' '));
    run::logged("apt-get", command.env("DEBIAN_FRONTEND", "noninteractive"))
}
