//! Keys that are used from a network from which they were not used before (`alerts.new_networks`).
//!
//! What was seen in a key's first hour is how it is used. A network after that is told for an hour, and then known. The store knows the
//! networks, so that a restart neither tells known ones nor misses new ones, and so that all Modelgates of a store know the same. If
//! nobody has watched for a day, what has come meanwhile would all be new: so an hour is learned again, silently. Without a store the
//! memory knows them, and every restart begins with that hour.
//!
//! Memory is bounded: keys that were idle longest are forgotten, and of each key the networks. The store is asked only about a network
//! of which this Modelgate does not know that the store has it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use access::Policy;
use alerts::{Condition, ConditionId};
use store::{KeyNetwork, KnownBefore, NotedNetwork, Registry, RegistryError, Store, StoreError};
use telemetry::{Batch, Network};
use tokio::time::timeout;
use tracing::debug;

/// Networks that are used within so long of a key's first use are its own.
const LEARN: Duration = Duration::from_secs(3_600);
/// The condition lasts for so long after the network was seen first.
const LASTS: Duration = Duration::from_secs(3_600);
/// If nobody has watched for so long, networks are learned anew.
const GAP: Duration = Duration::from_secs(24 * 3_600);
/// How often the store is told that somebody watches.
const WATCHED: Duration = Duration::from_secs(600);
/// How often the store is told which keys were used, and from where.
const USED: Duration = Duration::from_secs(3_600);
/// A key that was not used for so long is forgotten.
const KEEP: Duration = Duration::from_secs(90 * 24 * 3_600);
/// How many keys are known, and networks of each: 32 MB at most, if somebody has so many.
const MOST_KEYS: usize = 10_000;
const MOST_NETWORKS: usize = 64;
/// How many keys are told of at a time.
const MOST_TOLD: usize = 100;
/// How many networks of keys wait for the store's answer, and are asked about at once.
const MOST_WAITING: usize = 10_000;
const AT_ONCE: usize = 500;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// From where each key was used.
#[derive(Debug, Default)]
pub(super) struct KnownNetworks {
    keys: HashMap<String, KeyNetworks>,
    told: Vec<NewNetwork>,
    /// What has been seen, and may be new.
    waiting: BTreeSet<KeyNetwork>,
    /// Those about which the store was asked, and whose answer has not come: it may have noted them all the same.
    asked: BTreeSet<KeyNetwork>,
    /// The keys that were in force at the last look.
    policy: Option<Arc<Policy>>,
    /// Until then what is new is learned, and not told.
    learns_until: Option<SystemTime>,
    /// When the store was last told that somebody watches, and which keys were used.
    watched: Option<SystemTime>,
    used: Option<SystemTime>,
}

#[derive(Debug)]
struct KeyNetworks {
    first: SystemTime,
    last: SystemTime,
    /// The one that was used last is last.
    networks: Vec<Network>,
    /// How many of the last ones were used since the store was told.
    used: usize,
}

impl KeyNetworks {
    /// Moves a network to the end. Of too many, the one that was not used for longest is forgotten.
    fn used_from(&mut self, network: Network) {
        if self.used > 0 && self.networks.last() == Some(&network) {
            return;
        }
        let place = self.networks.iter().position(|other| *other == network);
        if let Some(place) = place {
            self.networks.remove(place);
        } else if self.networks.len() >= MOST_NETWORKS {
            self.networks.remove(0);
        }
        let was_used = place.is_some_and(|place| place + self.used > self.networks.len());
        self.used = (self.used + usize::from(!was_used)).min(MOST_NETWORKS);
        self.networks.push(network);
    }
}

#[derive(Debug)]
struct NewNetwork {
    seen: KeyNetwork,
    at: SystemTime,
}

impl KnownNetworks {
    /// Notes what was admitted.
    pub(super) fn note(&mut self, batch: &Batch, now: SystemTime) {
        for record in batch.iter().filter(|record| record.refused.is_none()) {
            if let (Some(key), Some(network)) = (record.key(), record.network)
                && !self.is_known(key, network, now)
                && self.waiting.len() < MOST_WAITING
            {
                self.waiting.insert(KeyNetwork { key: key.to_owned(), network: network.to_string() });
            }
        }
    }

    fn is_known(&mut self, key: &str, network: Network, now: SystemTime) -> bool {
        let Some(known) = self.keys.get_mut(key) else { return false };
        known.last = now;
        let is_known = known.networks.contains(&network);
        if is_known {
            known.used_from(network);
        }
        is_known
    }

    /// Forgets keys that are in force no more; they are deleted, or their names were changed.
    pub(super) fn follow(&mut self, policy: &Arc<Policy>) {
        if policy.is_incomplete() || self.policy.as_ref().is_some_and(|before| Arc::ptr_eq(before, policy)) {
            return;
        }
        if let Some(before) = self.policy.replace(Arc::clone(policy)) {
            // Those of tokens are in no policy.
            let mut gone: HashSet<&str> = before.keys().map(|key| key.name.as_str()).collect();
            policy.keys().for_each(|key| {
                gone.remove(key.name.as_str());
            });
            self.keys.retain(|key, _| !gone.contains(key.as_str()));
            self.told.retain(|new| !gone.contains(new.seen.key.as_str()));
            self.waiting.retain(|seen| !gone.contains(seen.key.as_str()));
            self.asked.retain(|seen| !gone.contains(seen.key.as_str()));
        }
    }

    /// Finds out which of the networks that were seen are new. While the store does not answer they wait.
    pub(super) async fn decide(&mut self, registry: &Registry, now: SystemTime) {
        match registry.store() {
            Ok(store) => {
                let asked = timeout(PATIENCE, self.ask(&store, now)).await;
                let asked =
                    asked.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
                if let Err(error) = asked {
                    debug!(%error, "the networks of keys could not be looked up in the store");
                }
            }
            Err(RegistryError::NoStore) => {
                for seen in std::mem::take(&mut self.waiting) {
                    let known = self.keys.get(&seen.key);
                    let before = known.map(|known| KnownBefore { first: known.first, has_network: false });
                    let is_new = self.told.len() < MOST_TOLD
                        && before.is_some_and(|before| !self.is_learned(before.first, now));
                    self.settle(seen, NotedNetwork { before, is_new }, now);
                }
            }
            Err(_) => {}
        }
    }

    async fn ask(&mut self, store: &Store, now: SystemTime) -> Result<(), StoreError> {
        let is_due = |at: Option<SystemTime>, every| {
            at.is_none_or(|at| now.duration_since(at).unwrap_or(every) >= every)
        };
        if is_due(self.watched, WATCHED) {
            self.watch(store, now).await?;
        }
        while !self.waiting.is_empty() {
            self.ask_about_some(store, now).await?;
        }
        if is_due(self.used, USED) {
            for some in self.used().chunks(AT_ONCE) {
                store.note_keys_used(some, now).await?;
                // What is noted is not sent again if the rest takes too long.
                for KeyNetwork { key, .. } in some {
                    let known = self.keys.get_mut(key);
                    known.into_iter().for_each(|known| known.used = known.used.saturating_sub(1));
                }
            }
            self.used = Some(now);
        }
        Ok(())
    }

    /// This may end at any await, be it that the store is slow or that the configuration has changed: what was asked about is asked
    /// about again, and is told if the store has noted by the first question that it is new.
    async fn ask_about_some(&mut self, store: &Store, now: SystemTime) -> Result<(), StoreError> {
        let some: Vec<KeyNetwork> = self.waiting.iter().take(AT_ONCE).cloned().collect();
        let were_asked: Vec<bool> = some.iter().map(|seen| self.asked.contains(seen)).collect();
        self.asked.extend(some.iter().cloned());
        let mut room = MOST_TOLD.saturating_sub(self.told.len());
        let is_new = |before: &KnownBefore| {
            let is_new = room > 0 && !self.is_learned(before.first, now);
            room -= usize::from(is_new);
            is_new
        };
        let noted = store.note_networks(&some, now, is_new).await?;
        let listed = match were_asked.contains(&true) {
            true => store.new_networks(ago(now, LASTS), MOST_TOLD).await?,
            false => Vec::new(),
        };
        // From here on nothing is awaited.
        for ((seen, mut noted), was_asked) in some.into_iter().zip(noted).zip(were_asked) {
            self.waiting.remove(&seen);
            self.asked.remove(&seen);
            noted.is_new |= was_asked
                && listed.iter().any(|(new, _)| *new == seen)
                && !self.told.iter().any(|told| told.seen == seen);
            self.settle(seen, noted, now);
        }
        Ok(())
    }

    /// From where which keys were used since the store was told, in the order of their use.
    fn used(&self) -> Vec<KeyNetwork> {
        let of = |(key, known): (&String, &KeyNetworks)| {
            let from = known.networks.len().saturating_sub(known.used);
            let networks = known.networks.iter().skip(from);
            let of_key = |network: &Network| KeyNetwork { key: key.clone(), network: network.to_string() };
            networks.map(of_key).collect::<Vec<_>>()
        };
        self.keys.iter().flat_map(of).collect()
    }

    /// Tells the store that somebody watches. Before the first time it reads until when somebody has, and which networks were new lately.
    async fn watch(&mut self, store: &Store, now: SystemTime) -> Result<(), StoreError> {
        if self.watched.is_none() {
            let before = store.networks_watched().await?;
            // What a Modelgate before has seen, and perhaps not told yet.
            let seen = store.new_networks(ago(now, LASTS), MOST_TOLD).await?;
            self.told = seen.into_iter().map(|(seen, at)| NewNetwork { seen, at }).collect();
            let has_gap = before.is_none_or(|at| now.duration_since(at).unwrap_or_default() >= GAP);
            self.learns_until = has_gap.then_some(now + LEARN);
        }
        store.note_networks_watched(now, ago(now, KEEP)).await?;
        self.watched = Some(now);
        Ok(())
    }

    /// Whether networks of a key are still learned, and not told.
    fn is_learned(&self, first: SystemTime, now: SystemTime) -> bool {
        now.duration_since(first).unwrap_or_default() < LEARN
            || self.learns_until.is_some_and(|until| now < until)
    }

    /// Tells of a network if it is new, and knows it from now on.
    fn settle(&mut self, seen: KeyNetwork, noted: NotedNetwork, now: SystemTime) {
        let first = noted.before.map_or(now, |before| before.first);
        if let Ok(network) = seen.network.parse() {
            self.learn(&seen.key, network, (first, now));
        }
        if noted.is_new {
            self.told.push(NewNetwork { seen, at: now });
        }
    }

    fn learn(&mut self, key: &str, network: Network, (first, now): (SystemTime, SystemTime)) {
        if !self.keys.contains_key(key) && self.keys.len() >= MOST_KEYS {
            self.forget_idle();
        }
        let fresh = || KeyNetworks { first, last: now, networks: Vec::new(), used: 0 };
        self.keys.entry(key.to_owned()).or_insert_with(fresh).used_from(network);
    }

    /// Forgets a quarter of the keys, those that were idle longest: so that many new keys do not cost a search each.
    fn forget_idle(&mut self) {
        let mut times: Vec<SystemTime> = self.keys.values().map(|known| known.last).collect();
        let (_, oldest, _) = times.select_nth_unstable(MOST_KEYS / 4);
        let oldest = *oldest;
        let mut left = MOST_KEYS / 4;
        self.keys.retain(|_, known| {
            let is_idle = known.last <= oldest && left > 0;
            left -= usize::from(is_idle);
            !is_idle
        });
    }

    /// What to tell about them.
    pub(super) fn conditions(&mut self, now: SystemTime) -> Vec<Condition> {
        self.told.retain(|new| now.duration_since(new.at).unwrap_or_default() < LASTS);
        let condition = |NewNetwork { seen: KeyNetwork { key, network }, .. }: &NewNetwork| Condition {
            id: ConditionId { code: "key_from_new_network", about: format!("key {key} from {network}") },
            is_bad: true,
            what: "the key was used from a network from which it was not used before".into(),
            advice: Some(
                "Does its owner know? If not, disable the key; allowed_ips says from where it may be used."
                    .into(),
            ),
            page: Some("/requests".into()),
            owner: None,
            higher: Vec::new(),
        };
        self.told.iter().map(condition).collect()
    }
}

fn ago(now: SystemTime, time: Duration) -> SystemTime {
    now.checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::LazyLock, task::Poll};

    use access::{Consumer, Key, KeyDigest};

    use accounts::Accounts;
    use store::StoreUrl;
    use telemetry::{Decided, Record, Refused, Telemetry};

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn record(key: &str, from: [u8; 4], refused: bool) -> Arc<Record> {
        static TELEMETRY: LazyLock<Telemetry> = LazyLock::new(Telemetry::new);
        let mut record = TELEMETRY.count(&Decided {
            at: SystemTime::UNIX_EPOCH,
            request_id: "req_1",
            client_request_id: None,
            consumer: Some("team"),
            key: Some(key),
            model: None,
            from: None,
            method: "POST",
            uri: "/",
            refused: refused.then_some(Refused { code: "quota_exceeded", words: &"no" }),
            tokens: None,
            latency: None,
        });
        record.network = Some(Network::of(from.into()));
        Arc::new(record)
    }

    fn hours(hours: u32) -> SystemTime {
        // Long after 1970, so that nothing is too old.
        START + 10_000 * LEARN + hours * LEARN
    }

    async fn see(
        known: &mut KnownNetworks,
        registry: &Registry,
        (key, from): (&str, [u8; 4]),
        at: SystemTime,
    ) -> Vec<String> {
        known.note(&vec![record(key, from, false)].into(), at);
        known.decide(registry, at).await;
        known.conditions(at).into_iter().map(|condition| condition.id.about).collect()
    }

    async fn with_store(url: &StoreUrl) -> Registry {
        let registry = Registry::new(Accounts::default());
        registry.set_store(Store::open(url.clone()).await.expect("a store"));
        registry.set_state(store::State::Up);
        registry
    }

    const NONE: [&str; 0] = [];

    #[tokio::test]
    async fn a_network_is_new_after_the_first_hour_and_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let stored = with_store(&StoreUrl::in_folder(folder.path())).await;
        for registry in [Registry::new(Accounts::default()), stored] {
            let mut known = KnownNetworks::default();
            let mut see = async |key: &str, from: [u8; 4], at: SystemTime| {
                see(&mut known, &registry, (key, from), at).await
            };
            assert_eq!(see("alice", [192, 0, 2, 1], hours(0)).await, NONE);
            assert_eq!(see("alice", [198, 51, 100, 1], hours(0)).await, NONE, "it is still being learned");
            assert_eq!(see("alice", [192, 0, 2, 200], hours(1)).await, NONE, "a neighbour");
            let told = ["key alice from 203.0.113.0/24"];
            assert_eq!(see("alice", [203, 0, 113, 9], hours(1)).await, told);
            assert_eq!(see("alice", [203, 0, 113, 8], hours(1)).await, told, "once");
            assert_eq!(see("bob", [203, 0, 113, 9], hours(1)).await, told, "a new key");
            assert_eq!(see("alice", [203, 0, 113, 9], hours(2)).await, NONE, "by now it is known");
        }
        let mut known = KnownNetworks::default();
        known.note(&vec![record("alice", [203, 0, 113, 9], true)].into(), hours(1));
        assert!(known.waiting.is_empty(), "it was refused");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let (mut known, registry) = (KnownNetworks::default(), Registry::new(Accounts::default()));
        for i in 0..2 * MOST_KEYS {
            known.note(&vec![record(&format!("key-{i}"), [192, 0, 2, 1], false)].into(), hours(3));
            if i % 1_000 == 0 {
                known.decide(&registry, hours(3)).await;
            }
        }
        known.decide(&registry, hours(3)).await;
        for i in 0..200 {
            see(&mut known, &registry, ("key-19999", [10, 0, i, 1]), hours(3)).await;
        }
        assert!((MOST_KEYS * 3 / 4..=MOST_KEYS).contains(&known.keys.len()), "{}", known.keys.len());
        assert_eq!(known.keys["key-19999"].networks.len(), MOST_NETWORKS);
        registry.set_state(store::State::Down { since: hours(3), why: String::new() });
        for i in 0..2 * MOST_WAITING {
            known.note(&vec![record(&format!("new-{i}"), [192, 0, 2, 1], false)].into(), hours(3));
        }
        assert_eq!(known.waiting.len(), MOST_WAITING);
    }

    /// What a future gives within some polls; after them it is dropped.
    async fn cut_off<F: Future>(future: F, polls: u32) -> Option<F::Output> {
        let (mut future, mut left) = (pin!(future), polls);
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            future.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// A reload and a slow store end a question at any point. What the store had noted by then was never told.
    #[tokio::test]
    async fn a_question_that_is_cut_off_anywhere_hides_nothing_and_tells_nothing_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = with_store(&StoreUrl::in_folder(folder.path())).await;
        let mut known = KnownNetworks::default();
        assert_eq!(see(&mut known, &registry, ("alice", [192, 0, 2, 1]), hours(0)).await, NONE);
        let mut cut = 0;
        for step in 1..=60_u32 {
            // What was told an hour ago is over.
            let (at, polls) = (hours(step), 1 + step % 20);
            for second in [1, 2] {
                let [.., high, low] = step.to_be_bytes();
                known.note(&vec![record("alice", [10 + second, high, low, 1], false)].into(), at);
            }
            cut += u32::from(cut_off(known.decide(&registry, at), polls).await.is_none());
            // The first question may still be ending in the store; then the next one fails, too, and is repeated.
            for _ in 0..20 {
                known.decide(&registry, at).await;
                if known.waiting.is_empty() {
                    break;
                }
            }
            let told: HashSet<String> =
                known.conditions(at).into_iter().map(|condition| condition.id.about).collect();
            assert_eq!((told.len(), known.told.len()), (2, 2), "{polls} polls: {told:?}");
        }
        // How often the store is waited for depends on how fast it is.
        assert!(cut >= 3, "it was cut off {cut} times");
    }

    #[test]
    fn a_key_that_is_deleted_is_forgotten() {
        let mut known = KnownNetworks::default();
        let policy = |names: &[&str]| {
            let key = |name: &&str| Key::new(*name, Arc::new(Consumer::new("team")), KeyDigest::of(name));
            Arc::new(Policy::new(names.iter().map(key).collect(), Vec::new()))
        };
        known.follow(&policy(&["alice", "bob"]));
        for (key, from) in [("alice", 1), ("bob", 2), ("jwt:carol", 3)] {
            let seen = KeyNetwork { key: key.into(), network: format!("10.0.{from}.0/24") };
            known.waiting.insert(seen.clone());
            known.settle(seen, NotedNetwork { before: None, is_new: true }, hours(1));
        }
        known.follow(&policy(&["bob"]));
        let told: Vec<_> = known.told.iter().map(|told| told.seen.key.as_str()).collect();
        assert_eq!(told, ["bob", "jwt:carol"]);
        assert!(known.keys.len() == 2 && known.waiting.len() == 2 && !known.keys.contains_key("alice"));
    }

    /// A restart is neither a flood of alerts nor an hour of silence, unless nobody has watched for a day. Another Modelgate knows
    /// what the first does.
    #[tokio::test]
    async fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = StoreUrl::in_folder(folder.path());
        let registry = with_store(&url).await;
        let (home, office, new) = ([192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 9]);
        let mut first = KnownNetworks::default();
        for (from, at) in [(home, 0), (office, 0), (home, 20)] {
            assert_eq!(see(&mut first, &registry, ("alice", from), hours(at)).await, NONE);
        }
        let registry = with_store(&url).await;
        let mut second = KnownNetworks::default();
        for from in [home, office] {
            assert_eq!(see(&mut second, &registry, ("alice", from), hours(21)).await, NONE, "no flood");
        }
        let told = ["key alice from 203.0.113.0/24"];
        assert_eq!(see(&mut second, &registry, ("alice", new), hours(21)).await, told, "no silence");
        assert_eq!(
            see(&mut first, &registry, ("alice", new), hours(21)).await,
            NONE,
            "the other has told it"
        );

        // Nobody has watched for a day.
        // What was seen shortly before a restart is told after it, since it may not have been told before.
        let soon_after = hours(21) + LASTS / 2;
        let mut restarted = KnownNetworks::default();
        assert_eq!(see(&mut restarted, &registry, ("alice", home), soon_after).await, told);
        assert_eq!(see(&mut restarted, &registry, ("alice", new), soon_after).await, told, "once");

        let mut third = KnownNetworks::default();
        let (later, soon) = (hours(46), hours(47));
        assert_eq!(see(&mut third, &registry, ("alice", [10, 0, 0, 1]), later).await, NONE, "it is learned");
        assert_eq!(
            see(&mut third, &registry, ("alice", [10, 0, 1, 1]), soon).await,
            ["key alice from 10.0.1.0/24"]
        );
        // Known keys that are used go on being known, others are forgotten after a while.
        let mut fourth = KnownNetworks::default();
        let much_later = soon + KEEP - LEARN;
        assert_eq!(see(&mut fourth, &registry, ("alice", home), much_later).await, NONE);
        assert_eq!(see(&mut fourth, &registry, ("alice", home), much_later + USED).await, NONE);
        let mut fifth = KnownNetworks::default();
        assert_eq!(see(&mut fifth, &registry, ("bob", home), much_later + 2 * USED).await, NONE);
        assert_eq!(
            see(&mut fifth, &registry, ("alice", [10, 0, 2, 1]), much_later + 2 * USED).await,
            ["key alice from 10.0.2.0/24"]
        );
        let forgotten = much_later + 2 * USED + KEEP;
        let mut sixth = KnownNetworks::default();
        see(&mut sixth, &registry, ("bob", home), forgotten + 2 * USED).await;
        assert_eq!(
            see(&mut sixth, &registry, ("alice", [10, 0, 3, 1]), forgotten + 4 * USED).await,
            NONE,
            "like a new key"
        );
    }
}
