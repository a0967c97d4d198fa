//! Which Traefiks poll: when each was last heard of, how often it polls and what it was given.
//!
//! A Traefik is identified by the address from which it polls; several behind one address look like one that polls more often.
//! Traefik does not report its version.

mod finding;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use traefik_config::TraefikVersion;

pub use finding::PollFinding;

/// More Traefiks than anybody runs; bounds the memory in case anybody else finds the port.
const MAX_INSTANCES: usize = 64;
/// The longest user agent that is kept, in bytes.
const MAX_USER_AGENT: usize = 128;
/// The time without a poll after which a Traefik counts as silent.
const SILENT: Duration = Duration::from_secs(60);
/// The time without a poll after which a Traefik is forgotten, unless no other was heard of later.
const GONE: Duration = Duration::from_secs(600);
/// Traefik's user agent unless `providers.http.headers` sets another one: it is Go's own.
const USER_AGENT: &str = "Go-http-client/";
/// Whoever has polled this often, never long after its last answer, is a Traefik, whatever its user agent.
const STEADY: u64 = 20;
/// Traefik's default `pollInterval`, and the longest acceptable one.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);
/// Allowance for late timers and the time that requests take.
const TOLERANCE: Duration = Duration::from_millis(250);

/// Everybody who has polled.
#[derive(Debug)]
pub struct Polls {
    since: Instant,
    instances: Mutex<BTreeMap<IpAddr, Entry>>,
}

/// A Traefik, as known from its polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The address from which it polls.
    pub address: IpAddr,
    /// Its user agent.
    pub user_agent: String,
    /// The Traefik version that its document is rendered for: its poll's `?version=`, or the configured one. Traefik does not
    /// report its real version.
    pub rendered_for: TraefikVersion,
    /// The time since it was last heard of: zero while a poll is under way.
    pub silent_for: Duration,
    /// Whether a poll is under way, so that a change would reach it at once.
    pub waiting: bool,
    /// The time between its last two polls, from start to start. Holding a poll makes it longer.
    pub interval: Option<Duration>,
    /// The time between its last answer and its last poll: a change may be this late.
    pub gap: Option<Duration>,
    /// The number of its polls.
    pub polls: u64,
    /// The last document that it was given.
    pub given: Option<Given>,
}

/// A document that a Traefik was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Its number in the [`History`](crate::History).
    pub revision: u64,
    /// The time since it last got the document.
    pub ago: Duration,
}

#[derive(Debug)]
struct Entry {
    user_agent: String,
    rendered_for: TraefikVersion,
    started: Instant,
    /// When a poll was last answered or aborted.
    ended: Option<Instant>,
    under_way: usize,
    interval: Option<Duration>,
    gap: Option<Duration>,
    polls: u64,
    given: Option<(u64, Instant)>,
}

/// A poll under way; it ends when this is dropped, even if Traefik aborts it.
#[derive(Debug)]
pub(crate) struct Poll<'p> {
    polls: &'p Polls,
    address: IpAddr,
}

impl Default for Polls {
    fn default() -> Self {
        Self { since: Instant::now(), instances: Mutex::default() }
    }
}

impl Polls {
    /// Records the start of a poll.
    pub(crate) fn begin(&self, address: IpAddr, user_agent: &str, rendered_for: TraefikVersion) -> Poll<'_> {
        self.started(address, user_agent, rendered_for, Instant::now());
        Poll { polls: self, address }
    }

    /// All Traefiks that have polled recently, by address.
    pub fn instances(&self) -> Vec<Instance> {
        self.instances_at(Instant::now())
    }

    /// Problems of the polls. A Traefik that is silent while another polls is not a problem but one of the
    /// [`notes`](Self::notes). Polls do not show whether Traefik's `providersThrottleDuration` has its default of 2 s, which
    /// delays changes.
    pub fn warnings(&self) -> Vec<PollFinding> {
        self.warnings_at(Instant::now())
    }

    /// The Traefiks that are silent while another polls: one that was replaced, or one of several that has failed. They are
    /// listed until they are forgotten.
    pub fn notes(&self) -> Vec<PollFinding> {
        self.notes_at(Instant::now())
    }

    fn started(&self, address: IpAddr, user_agent: &str, rendered_for: TraefikVersion, now: Instant) {
        let mut instances = self.lock();
        if !instances.contains_key(&address) && instances.len() >= MAX_INSTANCES {
            // The one that has been silent longest makes room.
            let silent = instances.iter().min_by_key(|(_, entry)| (entry.under_way, entry.started));
            if let Some(silent) = silent.map(|(address, _)| *address) {
                instances.remove(&silent);
            }
        }
        let entry = instances.entry(address).or_insert_with(|| Entry {
            user_agent: String::new(),
            rendered_for,
            started: now,
            ended: None,
            under_way: 0,
            interval: None,
            gap: None,
            polls: 0,
            given: None,
        });
        if entry.polls > 0 {
            entry.interval = Some(now.saturating_duration_since(entry.started));
        }
        entry.gap = match (entry.under_way, entry.ended) {
            (0, Some(ended)) => Some(now.saturating_duration_since(ended)),
            _ => None,
        };
        let cut =
            (0..=MAX_USER_AGENT.min(user_agent.len())).rev().find(|at| user_agent.is_char_boundary(*at));
        // A request for the document from Traefik's own machine does not take the Traefik's place.
        if user_agent.starts_with(USER_AGENT) || !entry.user_agent.starts_with(USER_AGENT) {
            user_agent[..cut.unwrap_or(0)].clone_into(&mut entry.user_agent);
        }
        entry.rendered_for = rendered_for;
        entry.started = now;
        entry.under_way += 1;
        entry.polls += 1;
    }

    fn ended(&self, address: IpAddr, now: Instant) {
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.under_way = entry.under_way.saturating_sub(1);
            entry.ended = Some(now);
        }
    }

    fn given(&self, address: IpAddr, revision: u64, now: Instant) {
        if let Some(entry) = self.lock().get_mut(&address) {
            entry.given = Some((revision, now));
        }
    }

    fn instances_at(&self, now: Instant) -> Vec<Instance> {
        let mut all: Vec<_> = self.lock().iter().map(|(address, entry)| entry.at(*address, now)).collect();
        let latest = all.iter().filter(|i| i.is_traefik()).map(|i| i.silent_for).min().unwrap_or_default();
        all.retain(|i| i.silent_for < GONE || i.is_traefik() && i.silent_for == latest);
        all
    }

    /// Why no Traefik has the present routes: none has polled, or all have stopped. Unlike [`warnings`](Self::warnings), this does not
    /// wait for a Traefik that starts with Modelgate.
    pub fn unheard(&self) -> Vec<PollFinding> {
        let now = Instant::now();
        if self.traefiks_at(now).0.is_empty() {
            return vec![PollFinding::NoTraefik];
        }
        let mut found = self.warnings_at(now);
        found.retain(|finding| matches!(finding, PollFinding::Silent { .. }));
        found
    }

    fn warnings_at(&self, now: Instant) -> Vec<PollFinding> {
        let (traefiks, is_live) = self.traefiks_at(now);
        if traefiks.is_empty() {
            let waited = now.saturating_duration_since(self.since);
            return if waited > SILENT { vec![PollFinding::NoTraefik] } else { Vec::new() };
        }
        let alarms = traefiks.iter().filter(|traefik| !(is_live && traefik.is_silent()));
        alarms.filter_map(Instance::warning).collect()
    }

    fn notes_at(&self, now: Instant) -> Vec<PollFinding> {
        let (traefiks, is_live) = self.traefiks_at(now);
        let silent = traefiks.iter().filter(|traefik| is_live && traefik.is_silent());
        silent.map(Instance::note).collect()
    }

    /// The Traefiks among the pollers, and whether one of them still polls.
    fn traefiks_at(&self, now: Instant) -> (Vec<Instance>, bool) {
        let mut all = self.instances_at(now);
        all.retain(Instance::is_traefik);
        let is_live = all.iter().any(|traefik| !traefik.is_silent());
        (all, is_live)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Entry>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn at(&self, address: IpAddr, now: Instant) -> Instance {
        let waiting = self.under_way > 0;
        let heard = self.ended.map_or(self.started, |ended| ended.max(self.started));
        Instance {
            address,
            user_agent: self.user_agent.clone(),
            rendered_for: self.rendered_for,
            silent_for: if waiting { Duration::ZERO } else { now.saturating_duration_since(heard) },
            waiting,
            interval: self.interval,
            gap: self.gap,
            polls: self.polls,
            given: self
                .given
                .map(|(revision, at)| Given { revision, ago: now.saturating_duration_since(at) }),
        }
    }
}

impl Instance {
    /// Whether it is a Traefik, rather than somebody who wants to see the document.
    pub fn is_traefik(&self) -> bool {
        let is_steady = || self.polls >= STEADY && self.gap.is_none_or(|gap| gap <= LONGEST_INTERVAL);
        self.user_agent.starts_with(USER_AGENT) || is_steady()
    }

    /// Whether it has not polled for a minute.
    pub fn is_silent(&self) -> bool {
        self.silent_for > SILENT
    }

    fn note(&self) -> PollFinding {
        PollFinding::SilentBesideAnother { address: self.address, silent_for: self.silent_for }
    }

    /// Polls are held on purpose, so a long interval alone is not a fault; Traefik must also have waited.
    fn warning(&self) -> Option<PollFinding> {
        let Self { address, silent_for, .. } = *self;
        if self.is_silent() {
            return Some(PollFinding::Silent { address, silent_for });
        }
        let interval = self.interval.filter(|interval| *interval > LONGEST_INTERVAL + TOLERANCE)?;
        self.gap.filter(|gap| *gap > TOLERANCE)?;
        Some(PollFinding::Slow { address, interval })
    }
}

impl Poll<'_> {
    /// Records the document with which it is answered.
    pub(crate) fn given(&self, revision: u64) {
        self.polls.given(self.address, revision, Instant::now());
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.polls.ended(self.address, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 2));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 9));
    const TRAEFIK: &str = "Go-http-client/1.1";

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Polls that start at those times, in seconds, each held for `held` seconds.
    fn polled(starts: &[f64], held: f64) -> Polls {
        let polls = Polls::default();
        for start in starts {
            polls.started(HERE, TRAEFIK, TraefikVersion::LAYERED, polls.since + secs(*start));
            polls.ended(HERE, polls.since + secs(start + held));
        }
        polls
    }

    fn warnings(polls: &Polls, at: f64) -> Vec<String> {
        polls.warnings_at(polls.since + secs(at)).iter().map(ToString::to_string).collect()
    }

    fn notes(polls: &Polls, at: f64) -> Vec<String> {
        polls.notes_at(polls.since + secs(at)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nobody_polls() {
        let polls = Polls::default();
        assert!(warnings(&polls, 59.0).is_empty());
        assert!(warnings(&polls, 61.0)[0].contains("--providers.http.endpoint"), "what to do");
    }

    #[test]
    fn what_is_known_of_a_traefik() {
        let polls = polled(&[0.0, 4.6], 4.5);
        polls.given(HERE, 7, polls.since + secs(9.0));
        let [instance] = &polls.instances_at(polls.since + secs(10.0))[..] else { panic!("one") };
        let expected = Instance {
            address: HERE,
            user_agent: "Go-http-client/1.1".into(),
            rendered_for: TraefikVersion::LAYERED,
            silent_for: secs(0.9),
            waiting: false,
            interval: Some(secs(4.6)),
            gap: Some(secs(0.1)),
            polls: 2,
            given: Some(Given { revision: 7, ago: secs(1.0) }),
        };
        let close = |a: Option<Duration>, b: Option<Duration>| {
            a.zip(b).is_some_and(|(a, b)| a.abs_diff(b) < Duration::from_micros(1))
        };
        assert!(close(instance.gap, expected.gap) && close(instance.interval, expected.interval));
        let exact = |instance: &Instance| Instance {
            gap: None,
            interval: None,
            silent_for: secs(0.0),
            ..instance.clone()
        };
        assert_eq!(exact(instance), exact(&expected));
        assert!(close(Some(instance.silent_for), Some(expected.silent_for)));
    }

    #[test]
    fn an_interval_that_is_too_long_is_told_from_polls_that_are_held() {
        for (starts, held, warned) in [
            // pollInterval=100ms, held for 4.5 s.
            (&[0.0, 4.5, 9.0][..], 4.5, false),
            // The default of 5 s.
            (&[0.0, 5.0, 10.0], 4.5, false),
            // pollTimeout=60s: held for long, polled again at once.
            (&[0.0, 59.6, 119.2], 59.5, false),
            (&[0.0, 10.0], 4.5, true),
            (&[0.0, 30.0], 4.5, true),
            // One late poll, then all is well again.
            (&[0.0, 30.0, 35.0], 4.5, false),
        ] {
            let polls = polled(starts, held);
            let warnings = warnings(&polls, starts[starts.len() - 1] + held);
            assert_eq!(warnings.len(), usize::from(warned), "{starts:?}: {warnings:?}");
            assert!(warnings.iter().all(|w| w.contains("pollInterval")), "{warnings:?}");
        }
    }

    #[test]
    fn a_traefik_that_polls_no_more_is_named_as_long_as_it_is_the_last_one() {
        let polls = polled(&[0.0], 1.0);
        assert!(warnings(&polls, 61.0).is_empty());
        assert!(warnings(&polls, 62.0)[0].contains("172.18.0.2 has not polled for 61 s"));
        assert!(!warnings(&polls, 10_000.0).is_empty(), "it is the only one");
        assert!(notes(&polls, 10_000.0).is_empty(), "that is told once");
    }

    #[test]
    fn a_traefik_that_falls_silent_while_another_polls_is_told_without_alarm_and_forgotten() {
        let polls = polled(&[0.0], 1.0);
        polls.started(OTHER, TRAEFIK, TraefikVersion::LAYERED, polls.since + secs(30.0));
        let seen = |at| polls.instances_at(polls.since + secs(at)).len();
        assert!(notes(&polls, 61.0).is_empty() && warnings(&polls, 61.0).is_empty());
        // The silent one may be a standby, or have come back at a new address: nobody can tell.
        assert!(warnings(&polls, 62.0).is_empty(), "the other one polls");
        assert!(notes(&polls, 62.0)[0].contains("172.18.0.2 has not polled for 61 s, while another does"));
        assert_eq!((seen(600.0), notes(&polls, 600.0).len()), (2, 1));
        assert_eq!((seen(601.0), notes(&polls, 601.0).len()), (1, 0));
        // Then the other one dies as well.
        polls.ended(OTHER, polls.since + secs(601.0));
        assert!(warnings(&polls, 662.0)[0].contains("172.18.0.9 has not polled for 61 s"));
        assert!(notes(&polls, 662.0).is_empty());
        assert_eq!((seen(10_000.0), warnings(&polls, 10_000.0).len()), (1, 1), "the last one is remembered");
    }

    #[test]
    fn when_all_are_silent_each_is_an_alarm() {
        let polls = polled(&[0.0], 1.0);
        polls.started(OTHER, TRAEFIK, TraefikVersion::LAYERED, polls.since);
        polls.ended(OTHER, polls.since + secs(100.0));
        assert_eq!((warnings(&polls, 161.0).len(), notes(&polls, 161.0).len()), (2, 0));
    }

    #[test]
    fn somebody_who_looks_at_the_document_is_no_traefik() {
        let polls = Polls::default();
        let look = |agent, at| {
            polls.started(OTHER, agent, TraefikVersion::LAYERED, polls.since + secs(at));
            polls.ended(OTHER, polls.since + secs(at + 0.1));
        };
        look("curl/8.5.0", 0.0);
        look("curl/8.5.0", 50.0);
        assert!(warnings(&polls, 60.0).is_empty(), "neither silent nor slow");
        assert!(warnings(&polls, 61.0)[0].contains("no Traefik has polled yet"));
        polls.started(HERE, TRAEFIK, TraefikVersion::LAYERED, polls.since + secs(61.0));
        assert!(warnings(&polls, 300.0).is_empty() && notes(&polls, 300.0).is_empty());
        // Nor does it hide a silent Traefik, or cause it to be forgotten.
        polls.started(HERE, "curl/8.5.0", TraefikVersion::LAYERED, polls.since + secs(299.0));
        polls.ended(HERE, polls.since + secs(299.5));
        polls.ended(HERE, polls.since + secs(300.0));
        look("curl/8.5.0", 1000.0);
        assert!(warnings(&polls, 1001.0)[0].contains("172.18.0.2 has not polled for 701 s"));
    }

    #[test]
    fn a_traefik_with_a_user_agent_of_its_own_is_known_by_its_polls() {
        let every = |interval: f64| {
            let polls = Polls::default();
            for poll in 0..20 {
                let start = polls.since + secs(f64::from(poll) * interval);
                polls.started(OTHER, "our-gateway", TraefikVersion::LAYERED, start);
                polls.ended(OTHER, start + secs(0.9));
            }
            polls
        };
        assert!(warnings(&every(1.0), 61.0).is_empty());
        assert!(warnings(&every(1.0), 100.0)[0].contains("172.18.0.9 has not polled for"));
        assert!(warnings(&every(30.0), 600.0)[0].contains("no Traefik"), "a monitor");
    }

    #[test]
    fn memory_is_bounded() {
        let polls = polled(&[0.0], 1.0);
        let agent = "ä".repeat(1_000);
        for i in 0..200 {
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, i));
            polls.started(address, &agent, TraefikVersion::LAYERED, polls.since + secs(f64::from(i) + 10.0));
            polls.ended(address, polls.since + secs(f64::from(i) + 11.0));
        }
        let instances = polls.instances_at(polls.since + secs(300.0));
        assert_eq!(instances.len(), MAX_INSTANCES);
        assert!(instances.iter().all(|i| i.user_agent.len() == MAX_USER_AGENT));
        assert!(
            instances.iter().any(|i| i.address == IpAddr::V4(Ipv4Addr::new(10, 0, 0, 199))),
            "the newest stay"
        );
    }

    #[test]
    fn a_poll_that_traefik_breaks_off_has_ended() {
        let polls = Polls::default();
        let poll = polls.begin(HERE, "", TraefikVersion::LAYERED);
        poll.given(3);
        assert!(polls.instances()[0].waiting);
        drop(poll);
        let instance = &polls.instances()[0];
        assert_eq!((instance.waiting, instance.given.expect("given").revision), (false, 3));
    }
}
