//! Places for connections. One network gets only a part of them, so that nobody takes all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use limits::network_of;

/// Connections at a time. Each exporter has one or two.
const MOST: usize = 512;
/// Those of one network: a machine with many servers, or a proxy before them.
const MOST_OF_ONE: usize = 64;

/// How many places each network holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldConnection {
    network: IpAddr,
    connections: Connections,
}

impl Connections {
    /// A place for a connection from this address; `None` if its network, or all together, have too many.
    pub(crate) fn take(&self, address: IpAddr) -> Option<HeldConnection> {
        let network = network_of(address);
        let mut held = self.lock();
        let all: usize = held.values().sum();
        let own = held.get(&network).copied().unwrap_or_default();
        if all >= MOST || own >= MOST_OF_ONE {
            return None;
        }
        held.insert(network, own + 1);
        Some(HeldConnection { network, connections: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldConnection {
    fn drop(&mut self) {
        let mut held = self.connections.lock();
        if let Some(own) = held.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_leaves_places_to_others() {
        let connections = Connections::default();
        let take = |address: &str| connections.take(address.parse().expect("an address"));
        let mut places: Vec<HeldConnection> = (0..MOST_OF_ONE).map_while(|_| take("192.0.2.1")).collect();
        assert_eq!(places.len(), MOST_OF_ONE);
        assert!(take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none());
        let hosts = (0..).map_while(|host| take(&format!("2001:db8:1:2::{host:x}")));
        places.extend(hosts);
        assert_eq!(places.len(), 2 * MOST_OF_ONE, "a /64 is one network");
        places.extend((0..256).map_while(|host| take(&format!("198.51.100.{host}"))));
        assert_eq!(places.len(), 2 * MOST_OF_ONE + 256, "one of each address");
        places.extend((0..).map_while(|network| take(&format!("2001:db8:2:{network:x}::"))));
        assert_eq!(places.len(), MOST);
        assert!(take("203.0.113.1").is_none(), "no more in all");
        places.truncate(1);
        assert!(take("203.0.113.1").is_some() && take("192.0.2.1").is_some());
        drop(places);
        assert!(connections.lock().is_empty(), "nothing is kept of who has gone");
    }
}
