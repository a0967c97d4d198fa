//! The loop: news in, catalogue out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Configured, Holds, Publisher};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    DockerOptions,
    docker::{self, DockerUpdate, HostName},
    probe,
    roster::Roster,
};

/// Questions to servers under way at once.
const PARALLEL_PROBES: usize = 32;
/// How long the first catalogue waits for a Docker host while others have answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where servers come from.
#[derive(Debug)]
pub struct Sources {
    /// The Docker hosts; each has a name of its own.
    pub docker: Vec<DockerOptions>,
    /// What the configuration file says of servers and models; changes with it.
    pub configured: watch::Receiver<Configured>,
    /// The servers that operators have withdrawn by hand.
    pub holds: watch::Receiver<Holds>,
    /// The addresses from which Traefik polls, by which its networks are known.
    pub traefik_peers: watch::Receiver<BTreeSet<IpAddr>>,
}

/// The Docker hosts, and how far they have come.
#[derive(Debug)]
struct Hosts {
    /// Where each listens, and whether it has been looked at.
    all: BTreeMap<HostName, (String, bool)>,
    /// Those that have not been looked at by then are no longer waited for.
    wait_until: Instant,
}

impl Hosts {
    fn new(options: &[DockerOptions], now: Instant) -> Self {
        let host = |o: &DockerOptions| (o.name.as_str().into(), (o.endpoint.to_string(), false));
        Self { all: options.iter().map(host).collect(), wait_until: now + PATIENCE }
    }

    fn surveyed(&mut self, host: &HostName) {
        if let Some((_, surveyed)) = self.all.get_mut(host) {
            *surveyed = true;
        }
    }

    fn endpoint(&self, host: &HostName) -> &str {
        self.all.get(host).map_or("", |(endpoint, _)| endpoint)
    }

    /// Whether enough is known to publish: all hosts have been looked at, or some have and the
    /// others have had their time.
    fn suffice(&self, now: Instant) -> bool {
        let mut surveyed = self.all.values().map(|(_, surveyed)| *surveyed);
        surveyed.clone().all(|s| s) || (surveyed.any(|s| s) && now >= self.wait_until)
    }
}

/// Discovers servers and publishes what is known, until it is dropped.
///
/// The first catalogue is published when every source has been looked at and every server that
/// can be asked has been asked: a catalogue that lacks half of what runs would take away routes
/// that Traefik still has from before our restart. A Docker host that does not answer keeps the
/// others waiting for 10 s; if none answers, nothing is published.
///
/// # Errors
/// If the HTTP client for probes cannot be made.
pub async fn run(mut sources: Sources, mut publisher: Publisher) -> Result<(), reqwest::Error> {
    let client = probe::client()?;
    let permits = Arc::new(Semaphore::new(PARALLEL_PROBES));
    let mut hosts = Hosts::new(&sources.docker, Instant::now());
    let (docker_tx, mut docker_rx) = mpsc::channel(256);
    // Tasks of a JoinSet end with it, so nothing outlives this function.
    let mut watchers = JoinSet::new();
    for options in sources.docker.drain(..) {
        watchers.spawn(docker::watch(options, sources.traefik_peers.clone(), docker_tx.clone()));
    }
    drop(docker_tx);
    let mut probes = JoinSet::new();
    let mut roster = Roster::default();
    roster.configured(&sources.configured.borrow_and_update(), Instant::now());
    let mut published = false;
    loop {
        let now = Instant::now();
        roster.expire(now);
        for spec in roster.take_due(now) {
            let (client, permits) = (client.clone(), Arc::clone(&permits));
            probes.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let findings = probe::ask(&client, &spec).await;
                (spec, findings)
            });
        }
        if published || (hosts.suffice(now) && roster.all_asked()) {
            publish(&mut publisher, &roster, &mut published);
        }
        let waiting = (!published && now < hosts.wait_until).then_some(hosts.wait_until);
        let next_due = roster.next_due().into_iter().chain(waiting).min();
        tokio::select! {
            Some((host, update)) = docker_rx.recv() => match update {
                DockerUpdate::Withdrawn(withdrawal) => roster.withdraw(withdrawal),
                DockerUpdate::Started(id) => roster.started(&id, Instant::now()),
                DockerUpdate::Surveyed(survey, meanwhile) => {
                    hosts.surveyed(&host);
                    roster.surveyed(&host, *survey, meanwhile, Instant::now());
                }
                DockerUpdate::Unreachable(error) => roster.unreachable(&host, hosts.endpoint(&host), &error),
            },
            Some(ended) = watchers.join_next() => warn!(?ended, "a Docker watcher has ended"),
            Some(done) = probes.join_next() => match done {
                Ok((spec, findings)) => roster.answered(&spec, findings, Instant::now()),
                Err(error) => warn!(%error, "a probe has failed"),
            },
            Ok(()) = sources.configured.changed() => {
                roster.configured(&sources.configured.borrow_and_update(), Instant::now());
            }
            Ok(()) = sources.holds.changed() => roster.hold(sources.holds.borrow_and_update().clone()),
            () = tokio::time::sleep_until(next_due.unwrap_or_else(Instant::now).into()), if next_due.is_some() => {}
            // Nothing can happen any more; wait to be dropped.
            else => std::future::pending().await,
        }
    }
}

fn publish(publisher: &mut Publisher, roster: &Roster, published: &mut bool) {
    let catalogue = roster.catalogue();
    let counts = (catalogue.servers().count(), catalogue.pools().count(), catalogue.problems().len());
    let problems = catalogue.problems().to_vec();
    if publisher.publish(catalogue) {
        let (servers, models, _) = counts;
        info!(servers, models, problems = problems.len(), "catalogue published");
        for problem in problems {
            tracing::debug!(%problem, "problem");
        }
        *published = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DockerEndpoint;

    fn hosts(names: &[&str], now: Instant) -> Hosts {
        let options = names.iter().map(|name| DockerOptions {
            name: (*name).into(),
            endpoint: DockerEndpoint::Tcp(format!("tcp://{name}:2375")),
            network: None,
            host_address: None,
            published: false,
            swarm: false,
        });
        Hosts::new(&options.collect::<Vec<_>>(), now)
    }

    #[test]
    fn the_first_catalogue_waits_for_every_host_but_not_for_ever() {
        let now = Instant::now();
        assert!(hosts(&[], now).suffice(now));
        let mut two = hosts(&["a", "b"], now);
        two.surveyed(&"a".into());
        assert!(!two.suffice(now + Duration::from_secs(9)));
        assert!(two.suffice(now + PATIENCE), "what the others have");
        two.surveyed(&"b".into());
        assert!(two.suffice(now));
        assert_eq!(two.endpoint(&"b".into()), "tcp://b:2375");
    }

    #[test]
    fn nothing_is_published_while_no_host_has_ever_answered() {
        let now = Instant::now();
        for names in [&["a"][..], &["a", "b"]] {
            assert!(!hosts(names, now).suffice(now + PATIENCE * 100), "{names:?}");
        }
    }
}
