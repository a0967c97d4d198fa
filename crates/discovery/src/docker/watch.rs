//! Watches a Docker host: follows its events, and surveys it after each event and every 30 s (a Swarm: 5 s).

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    net::IpAddr,
    pin::Pin,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    DockerOptions, HostName, Survey, Withdrawal,
    api::ApiError,
    connection::Connection,
    event::{self, HeardBy, Meaning},
};

/// The interval of surveys without events.
const RESYNC: Duration = Duration::from_secs(30);
/// The interval in a Swarm, where changes of tasks on other nodes cause no event.
const SWARM_RESYNC: Duration = Duration::from_secs(5);
/// The time that a Swarm takes to act on a change; no event says when it is done.
const SWARM_SETTLES: Duration = Duration::from_secs(1);
/// The shortest and longest pause between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// News of a Docker host.
#[derive(Debug)]
pub(crate) enum DockerUpdate {
    /// A server must get no more requests.
    Withdrawn(Withdrawal),
    /// A container (in a Swarm: a task) has started.
    Started(String),
    /// A survey, and the withdrawals that came during it: it may be older than they are.
    Surveyed(Box<Survey>, Vec<Withdrawal>),
    /// The host does not answer. What is known stays.
    Unreachable(String),
}

/// The channel for the news of all hosts.
pub(crate) type Updates = mpsc::Sender<(HostName, DockerUpdate)>;

/// A survey in progress.
type Look<'a> = Pin<Box<dyn Future<Output = Result<Survey, ApiError>> + Send + 'a>>;

/// The sending end for the news of one host.
struct News {
    host: HostName,
    updates: Updates,
}

impl News {
    async fn send(&self, update: DockerUpdate) {
        let _ = self.updates.send((self.host.clone(), update)).await;
    }
}

/// Watches a host until the receiver is gone.
pub(crate) async fn watch(
    options: DockerOptions,
    mut traefik_peers: watch::Receiver<BTreeSet<IpAddr>>,
    updates: Updates,
) {
    let news = News { host: options.name.as_str().into(), updates };
    let (host, endpoint) = (&options.name, &options.endpoint);
    let mut pause = RECONNECT.0;
    loop {
        match Connection::open(&options).await {
            Ok(connection) => {
                info!(%host, %endpoint, "connected to Docker");
                let connected_at = Instant::now();
                let error = follow(&connection, &options, &mut traefik_peers, &news).await;
                warn!(%host, %endpoint, %error, "connection to Docker lost; what is known stays");
                news.send(DockerUpdate::Unreachable(error)).await;
                if connected_at.elapsed() > RECONNECT.1 {
                    pause = RECONNECT.0;
                }
            }
            Err(error) => {
                warn!(%host, %endpoint, %error, "cannot connect to Docker");
                news.send(DockerUpdate::Unreachable(error.to_string())).await;
            }
        }
        if news.updates.is_closed() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Follows the events of a connection until it breaks; returns why it did.
async fn follow(
    connection: &Connection,
    options: &DockerOptions,
    traefik_peers: &mut watch::Receiver<BTreeSet<IpAddr>>,
    news: &News,
) -> String {
    let resync = if options.swarm { SWARM_RESYNC } else { RESYNC };
    // Subscribes to events before the survey, so that nothing in between is missed.
    let heard_by = HeardBy::of(options);
    let filters = event::filters(heard_by);
    let mut events = Box::pin(connection.api.events(&filters));
    let mut stop_signals = HashMap::new();
    let mut look: Option<Look<'_>> = None;
    let mut look_again = true;
    let mut withdrawn_meanwhile = Vec::new();
    let mut resync_at = Instant::now() + resync;
    loop {
        if look_again && look.is_none() {
            look_again = false;
            withdrawn_meanwhile.clear();
            let peers = traefik_peers.borrow_and_update().clone();
            look = Some(Box::pin(async move { connection.survey(options, &peers).await }));
        }
        tokio::select! {
            // Events take precedence over the survey's result, so that a withdrawal is never late.
            biased;
            () = news.updates.closed() => return "shutting down".into(),
            event = events.next() => match event {
                Some(Ok(line)) => {
                    let event = event::parse(&line);
                    debug!(action = event.action, id = event.actor.id, "Docker event");
                    look_again = true;
                    if options.swarm {
                        resync_at = resync_at.min(Instant::now() + SWARM_SETTLES);
                    }
                    let update = match event::read(&event, heard_by, &stop_signals) {
                        Meaning::Withdraw(withdrawal) => {
                            withdrawn_meanwhile.push(withdrawal.clone());
                            DockerUpdate::Withdrawn(withdrawal)
                        }
                        Meaning::Started(id) => DockerUpdate::Started(id),
                        Meaning::Look => continue,
                    };
                    news.send(update).await;
                }
                Some(Err(error)) => return error.to_string(),
                None => return "the event stream has ended".into(),
            },
            result = async { look.as_mut().expect("guarded by the condition").await }, if look.is_some() => {
                look = None;
                match result {
                    Ok(survey) => {
                        stop_signals.clone_from(&survey.stop_signals);
                        let meanwhile = std::mem::take(&mut withdrawn_meanwhile);
                        news.send(DockerUpdate::Surveyed(Box::new(survey), meanwhile)).await;
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
                resync_at = Instant::now() + resync;
            }
        }
    }
}
