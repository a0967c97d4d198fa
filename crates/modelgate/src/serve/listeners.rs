//! The sockets on which Modelgate listens: bound here, or handed over by systemd
//! (<https://www.freedesktop.org/software/systemd/man/latest/systemd.socket.html>), which keeps them open while Modelgate is replaced.
//!
//! A socket that is handed over takes the place of the one in `listen.…` that has its port; each must have one.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

use listenfd::ListenFd;
use tokio::net::TcpListener;
use tracing::info;
use web::{Listener, Listeners};

use crate::config::Listen;

/// The sockets that were handed over. To be called before there is a second thread: it takes variables out of the environment.
pub(crate) fn handed_over() -> ListenFd {
    ListenFd::from_env()
}

/// Opens all listeners; the last one is for telemetry, if that is on.
///
/// # Errors
/// An address cannot be listened on, or a socket was handed over that no key of `listen` has use for.
pub(crate) async fn open(listen: &Listen, from: ListenFd) -> io::Result<(Listeners, Option<TcpListener>)> {
    let mut handed = taken(from)?;
    let listeners = Listeners {
        provider: one("provider", listen.provider, &mut handed).await?,
        requests: one("requests", listen.requests, &mut handed).await?,
        admin: one("admin", listen.admin, &mut handed).await?,
    };
    let telemetry = match listen.telemetry {
        Some(address) => Some(one("telemetry", address, &mut handed).await?.socket),
        None => None,
    };
    match handed.first() {
        Some((address, _)) => Err(io::Error::other(format!(
            "a socket on {address} was handed over (LISTEN_FDS), and no key of `listen` has port {}: set one, or take it from the \
             socket unit",
            address.port()
        ))),
        None => Ok((listeners, telemetry)),
    }
}

/// The sockets, with their addresses.
fn taken(mut from: ListenFd) -> io::Result<Vec<(SocketAddr, StdListener)>> {
    let failed =
        |e| io::Error::other(format!("a socket that was handed over (LISTEN_FDS) cannot be used: {e}"));
    let mut handed = Vec::new();
    for index in 0..from.len() {
        let Some(socket) = from.take_tcp_listener(index).map_err(failed)? else { continue };
        socket.set_nonblocking(true).map_err(failed)?;
        handed.push((socket.local_addr().map_err(failed)?, socket));
    }
    Ok(handed)
}

async fn one(
    name: &str,
    address: SocketAddr,
    handed: &mut Vec<(SocketAddr, StdListener)>,
) -> io::Result<Listener> {
    if let Some(index) = handed.iter().position(|(at, _)| at.port() == address.port()) {
        let (address, socket) = handed.swap_remove(index);
        info!(listener = name, %address, "listening on a socket that was handed over");
        return Ok(Listener { socket: TcpListener::from_std(socket)?, is_inherited: true });
    }
    let failed = |e| io::Error::other(format!("listen.{name}: cannot listen on {address}: {e}"));
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    info!(listener = name, address = %socket.local_addr()?, "listening");
    Ok(Listener { socket, is_inherited: false })
}
