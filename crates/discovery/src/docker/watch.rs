//! Watching a Docker host: its events, and a fresh look after each and every 30 s.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    net::IpAddr,
    pin::Pin,
    time::Duration,
};

use bollard::{Docker, errors::Error, models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    DockerOptions, Survey, Withdrawal,
    event::{self, Meaning},
    survey::survey,
};

/// A full look is taken this often, even if no event came.
const RESYNC: Duration = Duration::from_secs(30);
/// Pauses between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// News of a Docker host.
#[derive(Debug)]
pub(crate) enum DockerUpdate {
    /// A server is to get no more requests.
    Withdrawn(Withdrawal),
    /// A container has been started anew.
    Started(String),
    /// A full look, and the withdrawals that came while it was taken: it may be older than they are.
    Surveyed(Survey, Vec<Withdrawal>),
    /// The host does not answer. What is known stays.
    Unreachable(String),
}

/// A look that is being taken.
type Look<'a> = Pin<Box<dyn Future<Output = Result<Survey, Error>> + Send + 'a>>;

/// Watches until the receiver is gone.
pub(crate) async fn watch(
    options: DockerOptions,
    mut traefik_peers: watch::Receiver<BTreeSet<IpAddr>>,
    updates: mpsc::Sender<DockerUpdate>,
) {
    let mut pause = RECONNECT.0;
    loop {
        match connect(&options).await {
            Ok(docker) => {
                info!(endpoint = %options.endpoint, "connected to Docker");
                let connected_at = Instant::now();
                let error = follow(&docker, &options, &mut traefik_peers, &updates).await;
                warn!(endpoint = %options.endpoint, %error, "connection to Docker lost; what is known stays");
                let _ = updates.send(DockerUpdate::Unreachable(error)).await;
                if connected_at.elapsed() > RECONNECT.1 {
                    pause = RECONNECT.0;
                }
            }
            Err(error) => {
                warn!(endpoint = %options.endpoint, %error, "cannot connect to Docker");
                let _ = updates.send(DockerUpdate::Unreachable(error.to_string())).await;
            }
        }
        if updates.is_closed() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

async fn connect(options: &DockerOptions) -> Result<Docker, Error> {
    options.endpoint.connect()?.negotiate_version().await
}

/// Follows the events of a connection until it breaks; returns why it did.
async fn follow(
    docker: &Docker,
    options: &DockerOptions,
    traefik_peers: &mut watch::Receiver<BTreeSet<IpAddr>>,
    updates: &mpsc::Sender<DockerUpdate>,
) -> String {
    // The events first, then the look: what happens in between is not missed.
    let mut events = events(docker);
    let mut stop_signals = HashMap::new();
    let mut look: Option<Look<'_>> = None;
    let mut look_again = true;
    let mut withdrawn_meanwhile = Vec::new();
    let mut resync_at = Instant::now() + RESYNC;
    loop {
        if look_again && look.is_none() {
            look_again = false;
            withdrawn_meanwhile.clear();
            let peers = traefik_peers.borrow_and_update().clone();
            look = Some(Box::pin(async move { survey(docker, options, &peers).await }));
        }
        tokio::select! {
            // Events before the look's result, so that a withdrawal is never late.
            biased;
            () = updates.closed() => return "shutting down".into(),
            event = events.next() => match event {
                Some(Ok(event)) => {
                    debug!(action = ?event.action, id = ?event.actor.as_ref().and_then(|a| a.id.as_deref()), "Docker event");
                    look_again = true;
                    let update = match event::read(&event, &stop_signals) {
                        Meaning::Withdraw(withdrawal) => {
                            withdrawn_meanwhile.push(withdrawal.clone());
                            DockerUpdate::Withdrawn(withdrawal)
                        }
                        Meaning::Started(id) => DockerUpdate::Started(id),
                        Meaning::Look => continue,
                    };
                    let _ = updates.send(update).await;
                }
                Some(Err(error)) => return error.to_string(),
                None => return "the event stream has ended".into(),
            },
            result = async { look.as_mut().expect("guarded by the condition").await }, if look.is_some() => {
                look = None;
                match result {
                    Ok(survey) => {
                        stop_signals.clone_from(&survey.stop_signals);
                        resync_at = Instant::now() + RESYNC;
                        let meanwhile = std::mem::take(&mut withdrawn_meanwhile);
                        let _ = updates.send(DockerUpdate::Surveyed(survey, meanwhile)).await;
                    }
                    Err(error) => return error.to_string(),
                }
            }
            changed = traefik_peers.changed() => {
                look_again = true;
                if changed.is_err() {
                    return "shutting down".into();
                }
            }
            () = sleep_until(resync_at) => {
                look_again = true;
                resync_at = Instant::now() + RESYNC;
            }
        }
    }
}

fn events(docker: &Docker) -> Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send + '_>> {
    let filters = HashMap::from([("type", vec!["container", "network"]), ("event", event::ACTIONS.to_vec())]);
    Box::pin(docker.events(Some(EventsOptionsBuilder::default().filters(&filters).build())))
}
