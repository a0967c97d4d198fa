//! `modelgate healthcheck`: asks the running Modelgate whether it is ready, for a container's HEALTHCHECK.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use crate::{config::Config, exit};

/// Asks the admin listener of this configuration.
pub(crate) fn healthcheck(config: &Config) -> ExitCode {
    let mut admin = config.listen.admin;
    if admin.ip().is_unspecified() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    exit::of(ask_ready(admin))
}

fn ask_ready(admin: SocketAddr) -> io::Result<()> {
    const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&admin, HEALTHCHECK_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTHCHECK_TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    match status.ends_with(b" 200") {
        true => Ok(()),
        false => Err(io::Error::other("it is not ready")),
    }
}
