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
    let answer = ready(config);
    exit::of(answer.and_then(|(status, _)| match status {
        200 => Ok(()),
        _ => Err(io::Error::other("it is not ready")),
    }))
}

/// The address of the admin listener, as seen from this machine.
pub(super) fn admin_of(config: &Config) -> SocketAddr {
    let mut admin = config.listen.admin;
    if admin.ip().is_unspecified() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    admin
}

/// The status and the body of `/readyz`.
///
/// # Errors
/// If nothing answers there, or something else does.
pub(super) fn ready(config: &Config) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&admin_of(config), HEALTHCHECK_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTHCHECK_TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let status = answer.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("its answer is not one of HTTP"))?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    Ok((status, answer.split_off(body)))
}

const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// More than a fleet's problems take, in bytes.
const MAX_ANSWER: u64 = 64 << 20;
