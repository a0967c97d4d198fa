//! Just enough HTTP to check whether a local service is running.
//!
//! HTTP/1.0 (RFC 1945), because its answers are never chunked and end when the connection does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::Result;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a GET request and returns the status and the body.
pub(crate) fn get(address: SocketAddr, path: &str, bearer: Option<&str>) -> Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, path, bearer)
}

/// Sends a GET request over an existing connection.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    path: &str,
    bearer: Option<&str>,
) -> Result<(u16, String)> {
    let authorization = bearer.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{authorization}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status =
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("not an HTTP answer")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// A free loopback address, with the wanted port if possible.
pub(crate) fn free_address(wish: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", wish)).or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?)
}
