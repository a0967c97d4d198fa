//! The loop: news in, catalogue out.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use catalogue::{Publisher, ServerSpec};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    DockerOptions,
    docker::{self, DockerUpdate},
    probe,
    roster::Roster,
};

/// Questions to servers under way at once.
const PARALLEL_PROBES: usize = 32;

/// Where servers come from.
#[derive(Debug)]
pub struct Sources {
    /// The Docker host, if there is one.
    pub docker: Option<DockerOptions>,
    /// The servers of the configuration file; changes with it.
    pub servers: watch::Receiver<Vec<ServerSpec>>,
    /// The addresses from which Traefik polls, by which its networks are known.
    pub traefik_peers: watch::Receiver<BTreeSet<IpAddr>>,
}

/// Discovers servers and publishes what is known, until it is dropped.
///
/// The first catalogue is published when every source has been looked at and every server that
/// can be asked has been asked: a catalogue that lacks half of what runs would take away routes
/// that Traefik still has from before our restart.
///
/// # Errors
/// If the HTTP client for probes cannot be made.
pub async fn run(mut sources: Sources, mut publisher: Publisher) -> Result<(), reqwest::Error> {
    let client = probe::client()?;
    let permits = Arc::new(Semaphore::new(PARALLEL_PROBES));
    let (docker_tx, mut docker_rx) = mpsc::channel(256);
    let endpoint = sources.docker.as_ref().map(|d| d.endpoint.to_string()).unwrap_or_default();
    // Tasks of a JoinSet end with it, so nothing outlives this function.
    let mut watchers = JoinSet::new();
    let mut docker_surveyed = sources.docker.is_none();
    if let Some(docker) = sources.docker.take() {
        watchers.spawn(docker::watch(docker, sources.traefik_peers.clone(), docker_tx));
    }
    let mut probes = JoinSet::new();
    let mut roster = Roster::default();
    roster.configured(&sources.servers.borrow_and_update(), Instant::now());
    let mut published = false;
    loop {
        let now = Instant::now();
        roster.expire(now);
        for spec in roster.take_due(now) {
            let (client, permits) = (client.clone(), Arc::clone(&permits));
            probes.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let answer = probe::ask(&client, &spec).await;
                (spec, answer)
            });
        }
        if published || (docker_surveyed && roster.all_asked()) {
            publish(&mut publisher, &roster, &mut published);
        }
        let next_due = roster.next_due();
        tokio::select! {
            update = docker_rx.recv(), if !watchers.is_empty() => match update {
                Some(DockerUpdate::Withdrawn(withdrawal)) => roster.withdraw(withdrawal),
                Some(DockerUpdate::Started(id)) => roster.started(&id, Instant::now()),
                Some(DockerUpdate::Surveyed(survey, meanwhile)) => {
                    docker_surveyed = true;
                    roster.surveyed(&survey, meanwhile, Instant::now());
                }
                Some(DockerUpdate::Unreachable(error)) => roster.unreachable(&endpoint, &error),
                None => warn!("the Docker watcher has ended"),
            },
            Some(done) = probes.join_next() => match done {
                Ok((spec, answer)) => roster.answered(&spec, answer, Instant::now()),
                Err(error) => warn!(%error, "a probe has failed"),
            },
            Ok(()) = sources.servers.changed() => {
                roster.configured(&sources.servers.borrow_and_update(), Instant::now());
            }
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
