//! Debian packages.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::service::AtExit;
use crate::{Result, run};

/// Packages' scripts run this program before they start a service, on Debian with and without systemd:
/// <https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>. Container images usually have one already.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs packages, all at once, and starts none of their services: each test starts what it needs.
pub(super) fn install(packages: BTreeSet<&str>) -> Result {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.into_iter().collect::<Vec<_>>().join(" ");
    if run::output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Err(format!("missing Debian packages; install them as root: apt-get install {names}").into());
    }
    run::step(&format!("install Debian packages: {names}"), || {
        let _policy = without_services()?;
        // The package lists of a fresh machine may be empty or old. They are refreshed only then, because it takes a while.
        apt_get(&format!("install {names}")).or_else(|_| {
            apt_get("update")?;
            apt_get(&format!("install {names}"))
        })
    })
}

fn apt_get(arguments: &str) -> Result {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=3"]);
    command.args(arguments.split(' '));
    run::logged("apt-get", command.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Prevents installed services from being started until the result is dropped. A policy that the machine has already is kept.
fn without_services() -> Result<Option<AtExit>> {
    if Path::new(POLICY).exists() {
        return Ok(None);
    }
    let remove = AtExit::new(Command::new("rm").arg(POLICY))?;
    fs::write(POLICY, "#!/bin/sh\nexit 101\n")?; // "action not allowed"
    fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
    Ok(Some(remove))
}
