//! The reconcile loop: it takes in news and publishes catalogues.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use catalogue::{Catalogue, Configured, Cordons, Publisher, ServerSpec};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinError, JoinSet},
};
use tracing::{info, warn};

use crate::{
    DockerOptions, Kept,
    docker::{self, DockerUpdate, HostName},
    inventory::Inventory,
    kept::Keeper,
    probe::{self, Answers},
    told::Told,
};

/// The maximum number of concurrent probes.
const PARALLEL_PROBES: usize = 32;
/// How long the first catalogue waits for a Docker host that does not answer.
const FIRST_SURVEY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for a host that refuses or cannot be reached: it may be starting, and has been retried several times by
/// then.
const SHORT_PATIENCE: Duration = Duration::from_secs(4);

/// The sources of servers.
#[derive(Debug)]
pub struct Sources {
    /// The Docker hosts; their names are unique.
    pub docker: Vec<DockerOptions>,
    /// The configuration file's servers and models; changes when the file is reloaded.
    pub configured: watch::Receiver<Configured>,
    /// The servers that operators have cordoned.
    pub cordons: watch::Receiver<Cordons>,
    /// The names of models that were there before Modelgate's start.
    pub remembered: watch::Receiver<Arc<BTreeSet<String>>>,
    /// The addresses from which Traefik polls, which tell its networks.
    pub traefik_peers: watch::Receiver<BTreeSet<IpAddr>>,
    /// Where what is known is kept over a restart; `None`: nowhere.
    pub kept: Option<Kept>,
}

/// The Docker hosts and their progress.
#[derive(Debug)]
struct Hosts {
    all: BTreeMap<HostName, Host>,
    /// When they were first asked.
    since: Instant,
}

#[derive(Debug)]
struct Host {
    endpoint: String,
    progress: Progress,
}

/// A host's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has not answered yet.
    Silent,
    /// It has been asked without success.
    Failing,
    /// It has been surveyed at least once.
    Surveyed,
}

impl Hosts {
    fn new(options: &[DockerOptions], now: Instant) -> Self {
        let host = |o: &DockerOptions| {
            (o.name.as_str().into(), Host { endpoint: o.endpoint.to_string(), progress: Progress::Silent })
        };
        Self { all: options.iter().map(host).collect(), since: now }
    }

    fn surveyed(&mut self, host: &HostName) {
        if let Some(host) = self.all.get_mut(host) {
            host.progress = Progress::Surveyed;
        }
    }

    fn failed(&mut self, host: &HostName) {
        if let Some(host) = self.all.get_mut(host).filter(|host| host.progress == Progress::Silent) {
            host.progress = Progress::Failing;
        }
    }

    fn endpoint(&self, host: &HostName) -> &str {
        self.all.get(host).map_or("", |host| &host.endpoint)
    }

    fn all_surveyed(&self) -> bool {
        self.all.values().all(|host| host.progress == Progress::Surveyed)
    }

    /// How long the first catalogue waits for hosts that have not been surveyed.
    fn wait_until(&self) -> Option<Instant> {
        let until = |host: &Host| match host.progress {
            Progress::Silent => Some(self.since + FIRST_SURVEY_TIMEOUT),
            Progress::Failing => Some(self.since + SHORT_PATIENCE),
            Progress::Surveyed => None,
        };
        self.all.values().filter_map(until).max()
    }

    /// Whether enough is known to publish: all hosts have been surveyed, or the others' time is over and there is a model to
    /// serve. A document without models would remove Traefik's existing routes.
    fn suffice(&self, now: Instant, serves_something: impl FnOnce() -> bool) -> bool {
        match self.wait_until() {
            None => self.all_surveyed(),
            Some(until) => now >= until && serves_something(),
        }
    }
}

/// Discovers servers and publishes catalogues, until it is dropped, or until `stop`: then what is known is kept, and it returns.
///
/// If what was known before a restart is kept, that is published at once, and each part of it stays until its source has been
/// surveyed, or for ten minutes. Otherwise the first catalogue is published when every source has been surveyed and every server that can be probed has been probed: an
/// incomplete catalogue would remove routes that Traefik still has from before Modelgate's restart. The servers of other
/// sources wait 4 s for a Docker host that cannot be reached, and 10 s for one that does not answer; while no server is ready,
/// nothing is published, and the publisher's readers are told what it waits for.
///
/// # Errors
/// If the HTTP client for probes cannot be made.
pub async fn run(
    mut sources: Sources,
    mut publisher: Publisher,
    stop: impl Future<Output = ()>,
) -> Result<(), reqwest::Error> {
    let mut stop = pin!(stop);
    let client = probe::client()?;
    let permits = Arc::new(Semaphore::new(PARALLEL_PROBES));
    let mut hosts = Hosts::new(&sources.docker, Instant::now());
    let (docker_tx, mut docker_rx) = mpsc::channel(256);
    // A JoinSet ends its tasks when it is dropped, so nothing outlives this function.
    let mut watchers = JoinSet::new();
    let mut inventory = Inventory::default();
    inventory.configured(&sources.configured.borrow_and_update(), Instant::now());
    inventory.cordon(sources.cordons.borrow_and_update().clone());
    inventory.remember(sources.remembered.borrow_and_update().clone());
    let mut keeper = sources
        .kept
        .take()
        .map(|kept| Keeper::new(kept, &sources.docker, &sources.configured.borrow(), &mut inventory));
    for options in sources.docker.drain(..) {
        watchers.spawn(docker::watch(options, sources.traefik_peers.clone(), docker_tx.clone()));
    }
    drop(docker_tx);
    let mut probes = JoinSet::new();
    let mut published = false;
    let mut told = Told::default();
    loop {
        let now = Instant::now();
        inventory.expire(now);
        for spec in inventory.take_due(now) {
            let (client, permits) = (client.clone(), Arc::clone(&permits));
            probes.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let answers = probe::ask(&client, &spec).await;
                (spec, answers)
            });
        }
        let suffices = || inventory.all_asked() && hosts.suffice(now, || inventory.serves_something());
        if published && inventory.has_news() || !published && (inventory.has_adopted() || suffices()) {
            if publish(&mut publisher, inventory.catalogue(), &mut told) {
                keeper.iter_mut().for_each(|keeper| keeper.changed(now));
            }
            published = true;
        } else if !published {
            publisher.waits_for(inventory.unreachable_hosts());
        }
        if published && let Some(keeper) = &mut keeper {
            let (configured, peers) = (sources.configured.borrow(), sources.traefik_peers.borrow());
            keeper.keep(&inventory, &configured, &peers, now);
        }
        let waiting = hosts.wait_until().filter(|until| !published && now < *until);
        let next_due = inventory
            .next_due()
            .into_iter()
            .chain(waiting)
            .chain(keeper.iter().filter(|_| published).map(Keeper::due))
            .min();
        tokio::select! {
            Some((host, update)) = docker_rx.recv() => hear(&mut inventory, &mut hosts, &host, update),
            Some(ended) = watchers.join_next() => warn!(?ended, "a Docker watcher has ended"),
            Some(done) = probes.join_next() => answered(&mut inventory, done),
            Ok(()) = sources.configured.changed() => {
                inventory.configured(&sources.configured.borrow_and_update(), Instant::now());
            }
            Ok(()) = sources.cordons.changed() => inventory.cordon(sources.cordons.borrow_and_update().clone()),
            Ok(()) = sources.remembered.changed() => inventory.remember(sources.remembered.borrow_and_update().clone()),
            () = &mut stop => {
                if let (true, Some(keeper)) = (published, keeper) {
                    let configured = sources.configured.borrow().clone();
                    let peers = sources.traefik_peers.borrow().clone();
                    keeper.close(&inventory, &configured, &peers).await;
                }
                return Ok(());
            }
            () = tokio::time::sleep_until(next_due.unwrap_or_else(Instant::now).into()), if next_due.is_some() => {}
            // Nothing more can happen; wait to be dropped.
            else => std::future::pending().await,
        }
        // Pending updates are applied together: a burst of events gives one catalogue.
        while let Ok((host, update)) = docker_rx.try_recv() {
            hear(&mut inventory, &mut hosts, &host, update);
        }
        while let Some(done) = probes.try_join_next() {
            answered(&mut inventory, done);
        }
    }
}

fn hear(inventory: &mut Inventory, hosts: &mut Hosts, host: &HostName, update: DockerUpdate) {
    match update {
        DockerUpdate::Withdrawn(withdrawal) => inventory.withdraw(withdrawal),
        DockerUpdate::Started(id) => inventory.started(&id, Instant::now()),
        DockerUpdate::Surveyed(survey, meanwhile) => {
            hosts.surveyed(host);
            inventory.surveyed(host, *survey, meanwhile, Instant::now());
        }
        DockerUpdate::Unreachable(error) => {
            hosts.failed(host);
            inventory.unreachable(host, hosts.endpoint(host), &error);
        }
    }
}

fn answered(inventory: &mut Inventory, done: Result<(ServerSpec, Answers), JoinError>) {
    match done {
        Ok((spec, answers)) => inventory.answered(&spec, answers, Instant::now()),
        Err(error) => warn!(%error, "a probe has failed"),
    }
}

/// Returns whether it was published.
fn publish(publisher: &mut Publisher, catalogue: Catalogue, told: &mut Told) -> bool {
    let (servers, models) = (catalogue.servers().count(), catalogue.pools().count());
    let problems = catalogue.problems().len();
    told.tell(&catalogue);
    let is_new = publisher.publish(catalogue);
    if is_new {
        info!(servers, models, problems, "catalogue published");
    }
    is_new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DockerEndpoint;

    fn hosts(names: &[&str], now: Instant) -> Hosts {
        let options = names
            .iter()
            .map(|name| DockerOptions::new(name, DockerEndpoint::Tcp(format!("tcp://{name}:2375"))));
        Hosts::new(&options.collect::<Vec<_>>(), now)
    }

    #[test]
    fn the_first_catalogue_waits_for_every_host_but_not_for_ever() {
        let now = Instant::now();
        let (something, nothing) = (|| true, || false);
        assert!(hosts(&[], now).suffice(now, nothing), "servers of the configuration alone");
        let mut two = hosts(&["a", "b"], now);
        two.surveyed(&"a".into());
        assert!(!two.suffice(now + Duration::from_secs(9), something));
        assert!(two.suffice(now + FIRST_SURVEY_TIMEOUT, something), "what the others have");
        two.failed(&"b".into());
        assert!(!two.suffice(now + Duration::from_secs(3), something), "it may be starting");
        assert!(two.suffice(now + SHORT_PATIENCE, something));
        assert!(
            !two.suffice(now + FIRST_SURVEY_TIMEOUT * 100, nothing),
            "no document is better than one without a model"
        );
        two.surveyed(&"b".into());
        assert!(two.suffice(now, nothing), "that is all there is");
        two.failed(&"b".into());
        assert!(two.suffice(now, nothing), "what it was known by stays");
        assert_eq!(two.endpoint(&"b".into()), "tcp://b:2375");
    }

    #[test]
    fn one_host_that_is_down_keeps_nothing_else_from_being_served() {
        let now = Instant::now();
        let mut one = hosts(&["a"], now);
        assert!(!one.suffice(now, || true));
        one.failed(&"a".into());
        assert!(one.suffice(now + SHORT_PATIENCE, || true), "the configuration's servers");
        assert!(!one.suffice(now + FIRST_SURVEY_TIMEOUT, || false));
    }
}
