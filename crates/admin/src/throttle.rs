//! Throttles failed sign-ins by source address, in bounded memory.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use limits::network_of;

use crate::client::Client;

/// How many failures at once are allowed; people mistype.
const BURST: u32 = 10;
/// How often one further failure is allowed.
const REFILL_INTERVAL: Duration = Duration::from_secs(6);
/// The allowance of a peer that forwards requests is this many times larger than a client's. It is limited because the peer may
/// invent the clients' addresses.
const FORWARDED: u32 = 10;
/// How many addresses are tracked separately. All others share one allowance.
const MAX_ADDRESSES: usize = 4096;

/// Failures of clients, and of peers that forward requests.
#[derive(Debug)]
pub(crate) struct Throttle {
    clients: Failures,
    forwarders: Failures,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            clients: Failures::new(BURST, REFILL_INTERVAL),
            forwarders: Failures::new(BURST * FORWARDED, REFILL_INTERVAL / FORWARDED),
        }
    }
}

impl Throttle {
    /// Whether this client may try now; if not, how long it must wait. To be called before the token is looked at, so that a
    /// right guess cannot be told from a wrong one.
    pub(crate) fn check(&self, client: Client, now: Instant) -> Result<(), Duration> {
        self.clients.check(client.address, now)?;
        client.forwarded_by.map_or(Ok(()), |peer| self.forwarders.check(peer, now))
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, client: Client, now: Instant) {
        self.clients.add(client.address, now);
        if let Some(peer) = client.forwarded_by {
            self.forwarders.add(peer, now);
        }
    }
}

/// Failures by address: when its allowance will be whole again (a GCRA's theoretical arrival time).
#[derive(Debug)]
struct Failures {
    burst: u32,
    every: Duration,
    whole: Mutex<HashMap<IpAddr, Instant>>,
}

impl Failures {
    fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, whole: Mutex::default() }
    }

    fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let failures = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let address = Self::place(&failures, address);
        let whole = failures.get(&address).copied().unwrap_or(now);
        match whole.saturating_duration_since(now).checked_sub(self.every * (self.burst - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    fn add(&self, address: IpAddr, now: Instant) {
        let mut failures = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, whole| *whole > now);
        }
        let address = Self::place(&failures, address);
        let whole = failures.entry(address).or_insert(now);
        *whole = (*whole).max(now) + self.every;
    }

    /// Where an address is counted: with its network, and once the table is full, together with all other new ones.
    fn place(failures: &HashMap<IpAddr, Instant>, address: IpAddr) -> IpAddr {
        let address = network_of(address);
        match failures.contains_key(&address) || failures.len() < MAX_ADDRESSES {
            true => address,
            false => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Client {
        IpAddr::V4(n.into()).into()
    }

    fn v6(text: &str) -> Client {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn ten_failures_are_forgiven_and_then_one_every_six_seconds() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(throttle.check(address(1), now), Ok(()));
            throttle.failed(address(1), now);
        }
        assert_eq!(throttle.check(address(1), now), Err(REFILL_INTERVAL));
        assert_eq!(throttle.check(address(2), now), Ok(()), "others are not held up");
        assert_eq!(throttle.check(address(1), now + REFILL_INTERVAL), Ok(()));
        throttle.failed(address(1), now + REFILL_INTERVAL);
        assert_eq!(throttle.check(address(1), now + REFILL_INTERVAL), Err(REFILL_INTERVAL));
        assert_eq!(throttle.check(address(1), now + REFILL_INTERVAL * 12), Ok(()));
    }

    /// Anybody on this machine may claim to forward requests, each time for another client.
    #[test]
    fn who_makes_addresses_up_is_slowed_as_well() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let [traefik, other] = [1, 2].map(|n| Some(IpAddr::V4(n.into())));
        for n in 0..BURST * FORWARDED {
            let client = Client { forwarded_by: traefik, ..address(1_000 + n) };
            assert_eq!(throttle.check(client, now), Ok(()));
            throttle.failed(client, now);
        }
        let next = Client { forwarded_by: traefik, ..address(9_999) };
        assert_eq!(throttle.check(next, now), Err(REFILL_INTERVAL / FORWARDED));
        assert_eq!(throttle.check(next, now + REFILL_INTERVAL / FORWARDED), Ok(()));
        assert_eq!(throttle.check(Client { forwarded_by: other, ..next }, now), Ok(()), "another Traefik");
        assert_eq!(throttle.check(address(9_999), now), Ok(()), "directly");
    }

    #[test]
    fn an_ipv6_host_cannot_choose_another_address_of_its_network() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..BURST {
            throttle.failed(v6(&format!("2001:db8::{n:x}")), now);
        }
        assert!(throttle.check(v6("2001:db8::ffff"), now).is_err());
        assert!(throttle.check(v6("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_an_overflow_does_not_open_the_door() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..2 * u32::try_from(MAX_ADDRESSES).expect("small") {
            throttle.failed(address(n), now);
        }
        assert!(throttle.clients.whole.lock().expect("a lock").len() <= MAX_ADDRESSES + 1);
        assert!(throttle.check(address(u32::MAX), now).is_err(), "who comes late shares what is used up");
        throttle.failed(address(7), now + REFILL_INTERVAL * 20_000);
        assert_eq!(throttle.clients.whole.lock().expect("a lock").len(), 1, "what is over is forgotten");
    }
}
