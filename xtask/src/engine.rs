//! The Docker Engine: uses a running one, or starts one and stops it at the end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::service::{Service, wait_for};
use crate::{Result, http, layout, run};

const SOCKET: &str = "/var/run/docker.sock";

/// Whether an engine answers.
pub(crate) fn answers() -> bool {
    let ping = || -> Result<u16> {
        let stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(http::exchange(stream, "/_ping", None)?.0)
    };
    ping().is_ok_and(|status| status == 200)
}

/// Starts an engine if none answers. Dropping the result stops it again.
pub(crate) fn ensure() -> Result<Option<Service>> {
    if answers() {
        return Ok(None);
    }
    let dockerd = layout::find_program("dockerd").ok_or("the Docker Engine (dockerd) is not installed")?;
    run::step("start the Docker Engine", || {
        // A pid file left by an engine that was killed would keep this one from starting.
        let pid_file = layout::tools().join("dockerd.pid");
        let _ = fs::remove_file(&pid_file);
        let mut command = Command::new(dockerd);
        command.arg("--live-restore").arg("--pidfile").arg(pid_file);
        let mut services = [Service::start("dockerd", &mut command, layout::log("dockerd"))?];
        wait_for("the Docker Engine", Duration::from_secs(60), &mut services, answers)?;
        let [service] = services;
        Ok(Some(service))
    })
}
