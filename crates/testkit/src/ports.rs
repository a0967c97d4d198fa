//! Loopback ports for programs that cannot choose a free one themselves.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that no client of a concurrent
/// test takes the port between the check and the use.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A TCP port that nobody listens on, different at each call. Concurrent test processes start at different places of the range.
///
/// # Panics
/// If every port of the range is taken.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = process::id().wrapping_mul(61).wrapping_add(step) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the range ends below 65536");
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_taken_ports_and_never_repeats() {
        let taken = TcpListener::bind(("127.0.0.1", free_port())).expect("a port said to be free");
        let taken = taken.local_addr().expect("its address").port();
        let ports: std::collections::BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        assert!(!ports.contains(&taken));
    }
}
