//! One connection for all requests, monitored and renewed in the background.
//!
//! The client library also has a connection that reconnects by itself, but it makes each request wait for a hanging server;
//! here requests fail at once when a server is known to hang.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    ServerErrorKind, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    Epoch, Health, InvalidOptions, ServerTime, Unavailable,
    script::{self, Announced, Call, Keys, REPLICA_COUNTS},
};

/// The time limit for network, TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval at which a server without requests is checked.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The first and the longest pause between attempts to connect: each is twice the last.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// The number of consecutive late answers after which the connection is given up: one alone may be chance.
const MOST_LATE: u32 = 3;
/// The maximum number of consecutive redirects to another node of a cluster.
const MOST_MOVES: u32 = 5;
/// Why it is down before anything is known.
const NOT_YET: &str = "not connected yet";
/// The number of requests queued between their tasks and the connection's.
const QUEUE: usize = 1024;

/// The server's address and credentials.
#[derive(Clone)]
pub(crate) struct Server {
    info: ConnectionInfo,
    authorities: Option<Vec<u8>>,
}

/// The connection as requests see it.
pub(crate) struct Link {
    /// `None` while the server makes no decisions.
    connection: ArcSwapOption<MultiplexedConnection>,
    timeout: Duration,
    /// The number of consecutive late answers.
    late: AtomicU32,
    failures: AtomicU64,
    /// The number of Modelgates that share the limits, as last reported: for requests, which take no lock, and for others.
    replicas: AtomicU32,
    replica_changes: watch::Sender<NonZeroU32>,
    /// What the server's clock and its data are.
    clock: ServerClock,
    epoch: AtomicU64,
    /// Whether the log says that this connection's user may not pass messages on.
    refuses_messages: AtomicBool,
    server: Server,
    /// The cluster node that has the slot; the configured server until another node is named.
    node: ArcSwap<ConnectionInfo>,
    /// When the last loss of data was noticed, in nanoseconds since the clock's beginning; 0: never.
    lost: AtomicU64,
    /// Tells the connector that the connection was given up, and why.
    given_up: mpsc::Sender<String>,
    health: watch::Sender<Health>,
}

/// What is known of the server's clock.
struct ServerClock {
    base: Instant,
    /// The server's time at `base`, in nanoseconds since 1970, at the earliest that is possible; 0: not known.
    at_base: AtomicU64,
}

/// Keeps the connection up. Only the connector connects, and only it reports the server's health.
struct Connector {
    link: Arc<Link>,
    lost: mpsc::Receiver<String>,
    probe: Call,
    keys: Keys,
    /// The number of this Modelgate.
    id: u64,
    /// The last announcement that was answered.
    last: ServerTime,
    /// When the connection was made.
    since: Instant,
}

/// Why there is no connection.
enum Failure {
    /// The slot is on another node of the cluster.
    Moved(Box<ConnectionInfo>),
    Other(String),
}

impl Server {
    pub(crate) fn new(url: &str, authorities: Option<Vec<u8>>) -> Result<Self, InvalidOptions> {
        let invalid = |error: RedisError| InvalidOptions::Url(error.to_string());
        let info = url.into_connection_info().map_err(invalid)?;
        let server = Self { info, authorities };
        // Unreadable certificates of authorities fail here.
        server.client(&server.info).map_err(invalid)?;
        Ok(server)
    }

    fn client(&self, node: &ConnectionInfo) -> Result<Client, RedisError> {
        match (&self.authorities, node.addr()) {
            (Some(authorities), ConnectionAddr::TcpTls { .. }) => {
                let trust = TlsCertificates { client_tls: None, root_cert: Some(authorities.clone()) };
                Client::build_with_tls(node.clone(), trust)
            }
            _ => Client::open(node.clone()),
        }
    }
}

impl Link {
    /// Tries to connect once, and continues in the background.
    pub(crate) async fn start(
        server: Server,
        timeout: Duration,
        replicas: NonZeroU32,
        keys: &Keys,
    ) -> (Arc<Self>, AbortHandle) {
        // A capacity of one suffices: the next connection is made only after the loss of this one was noted.
        let (sender, lost) = mpsc::channel(1);
        let link = Arc::new(Self {
            connection: ArcSwapOption::empty(),
            timeout,
            late: AtomicU32::new(0),
            failures: AtomicU64::new(0),
            replicas: AtomicU32::new(replicas.get()),
            replica_changes: watch::Sender::new(replicas),
            clock: ServerClock::new(),
            epoch: AtomicU64::new(0),
            refuses_messages: AtomicBool::new(false),
            node: ArcSwap::from_pointee(server.info.clone()),
            server,
            lost: AtomicU64::new(0),
            given_up: sender,
            health: watch::Sender::new(Health::Down(NOT_YET.into())),
        });
        let (probe, keys, id, last) = (keys.probe(), keys.clone(), random_id(), ServerTime(0));
        let (since, link_of_connector) = (Instant::now(), Arc::clone(&link));
        let mut connector = Connector { link: link_of_connector, lost, probe, keys, id, last, since };
        let is_connected = connector.try_connect().await;
        let task = tokio::spawn(connector.keep(is_connected));
        (link, task.abort_handle())
    }

    /// Runs a script, within the time limit of a decision.
    pub(crate) async fn run(&self, call: &Call) -> Result<Vec<u64>, Unavailable> {
        let connection = self.connection.load_full().ok_or(Unavailable)?;
        match timeout(self.timeout, ask(&connection, call)).await {
            Ok(Ok(answer)) => {
                self.late.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.give_up(&connection, || error.to_string());
                Err(Unavailable)
            }
            Err(_) => {
                if self.late.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_LATE {
                    self.give_up(&connection, || format!("no answer within {:?}", self.timeout));
                }
                Err(Unavailable)
            }
        }
    }

    /// The server's time until which it may still take something for a request that began then; `None` if its clock is not known.
    /// A quarter of the time limit is left for the answer.
    pub(crate) fn deadline(&self, began: Instant) -> Option<ServerTime> {
        self.clock.at(began + self.timeout * 3 / 4)
    }

    pub(crate) fn learn_time(&self, began: Instant, at: ServerTime) {
        self.clock.learn(began, Instant::now(), at);
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(crate) fn lost_at(&self) -> Option<Instant> {
        let lost = self.lost.load(Ordering::Acquire);
        (lost > 0).then(|| self.clock.base + Duration::from_nanos(lost))
    }

    /// The loss is noted first: whoever sees the new epoch sees it, too.
    fn learn_epoch(&self, epoch: Epoch) {
        let known = self.epoch();
        if known == epoch {
            return;
        }
        if known != Epoch::default() {
            warn!(
                "the server of shared limits has lost data: hard budgets wait until the store has told what was spent"
            );
            self.lost.store(nanos(self.clock.base.elapsed()).max(1), Ordering::Release);
        }
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// The connection, for what is not a decision: its errors do not mean that the server makes no decisions.
    pub(crate) fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.load_full().map(|connection| (*connection).clone())
    }

    /// One more connection to the same server, for calls that wait there. It is not renewed.
    pub(crate) async fn connect_to_wait(&self) -> Result<MultiplexedConnection, Unavailable> {
        let connection = timeout(CONNECT_TIMEOUT, self.open()).await.map_err(|_| Unavailable)?;
        connection.map_err(|error| {
            tracing::debug!(%error, "there is no second connection to the server of shared limits");
            Unavailable
        })
    }

    async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        // Time limits are set where it is used: a decision's starts before it is sent.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let client = self.server.client(&self.node.load())?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The server refuses messages for other Modelgates, or to read theirs. That is logged once for each connection: it may take some, and
    /// refuse others all the time. Returns whether it was logged now.
    pub(crate) fn note_refusal(&self, error: &RedisError) -> bool {
        let is_news = !self.refuses_messages.swap(true, Ordering::Relaxed);
        if is_news {
            warn!(%error, "Modelgates cannot tell each other everything: the server of shared limits refuses streams");
        }
        is_news
    }

    /// How long ago that was by the server's clock; zero if that is not known.
    pub(crate) fn age(&self, then: ServerTime) -> Duration {
        let now = self.clock.at(Instant::now()).map_or(0, ServerTime::as_nanos);
        Duration::from_nanos(now.saturating_sub(then.as_nanos()))
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn replicas(&self) -> NonZeroU32 {
        NonZeroU32::new(self.replicas.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    pub(crate) fn replica_changes(&self) -> watch::Receiver<NonZeroU32> {
        self.replica_changes.subscribe()
    }

    fn learn_replicas(&self, replicas: NonZeroU32) {
        self.replicas.store(replicas.get(), Ordering::Relaxed);
        self.replica_changes.send_if_modified(|known| std::mem::replace(known, replicas) != replicas);
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Makes requests fail at once from now on. Late reports about an earlier connection have no effect.
    fn give_up(&self, connection: &Arc<MultiplexedConnection>, why: impl FnOnce() -> String) {
        let before = self.connection.compare_and_swap(&Some(Arc::clone(connection)), None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            // If the channel is closed, the connector is gone because `SharedLimits` is.
            if let Err(TrySendError::Full(why)) = self.given_up.try_send(why()) {
                debug_assert!(false, "two connections were lost at once: {why}");
            }
        }
    }
}

impl Connector {
    /// The loss of each connection is read once: by `try_connect`, which then returns false, or by `watch`.
    async fn keep(mut self, is_connected: bool) {
        if !is_connected {
            self.reconnect().await;
        }
        loop {
            let since = Instant::now();
            self.watch().await;
            // A server that accepts the connection and fails at once must not be retried without pause.
            if since.elapsed() < HEARTBEAT {
                sleep(PAUSES[0]).await;
            }
            self.reconnect().await;
        }
    }

    /// Returns when there is a connection.
    async fn reconnect(&mut self) {
        let [mut pause, longest] = PAUSES;
        while !self.try_connect().await {
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    /// Returns when the connection is lost.
    async fn watch(&mut self) {
        loop {
            match timeout(HEARTBEAT, self.lost.recv()).await {
                Ok(why) => return self.report(Health::Down(why.unwrap_or_default().into())),
                Err(_) => self.announce().await,
            }
        }
    }

    /// A failure shows as a loss of the connection.
    async fn announce(&mut self) {
        let began = Instant::now();
        let Ok(answer) = self.link.run(&self.keys.announce(self.id, self.last, random_id().max(1))).await
        else {
            return;
        };
        let Some(Announced { replicas, at, last, epoch }) = script::announced(&answer) else { return };
        self.link.learn_time(began, at);
        self.last = last;
        self.link.learn_epoch(epoch);
        // After a restart, the server learns of the others only as they reconnect.
        let is_new = self.since.elapsed() < REPLICA_COUNTS;
        self.link.learn_replicas(if is_new { replicas.max(self.link.replicas()) } else { replicas });
    }

    /// Returns whether there is now a connection to a server that decides in time.
    async fn try_connect(&mut self) -> bool {
        let mut why = "the cluster's nodes send from one to the other".to_owned();
        for _ in 0..MOST_MOVES {
            match self.connect().await {
                Ok(connection) => {
                    self.since = Instant::now();
                    self.link.late.store(0, Ordering::Relaxed);
                    self.link.connection.store(Some(Arc::new(connection)));
                    // It may have lost its data, or be another one.
                    self.announce().await;
                    // Or refuse that: its user may have the right to decide, and not to count Modelgates.
                    if let Ok(lost) = self.lost.try_recv() {
                        why = lost;
                        break;
                    }
                    self.link.refuses_messages.store(false, Ordering::Relaxed);
                    self.report(Health::Up);
                    return true;
                }
                Err(Failure::Moved(node)) => self.link.node.store(Arc::from(node)),
                Err(Failure::Other(other)) => {
                    why = other;
                    break;
                }
            }
        }
        self.link.node.store(Arc::new(self.link.server.info.clone()));
        self.report(Health::Down(why.into()));
        false
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let late = |within| move |_| Failure::Other(format!("no answer within {within:?}"));
        let connection = timeout(CONNECT_TIMEOUT, self.open()).await.map_err(late(CONNECT_TIMEOUT))?;
        let connection = connection.map_err(|error| Failure::of(&error, &self.link.node.load()))?;
        let probed = timeout(self.link.timeout, ask(&connection, &self.probe)).await;
        probed
            .map_err(late(self.link.timeout))?
            .map_err(|error| Failure::of(&error, &self.link.node.load()))?;
        Ok(connection)
    }

    async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.link.open().await?;
        script::load_all().exec_async(&mut connection).await?;
        Ok(connection)
    }

    fn report(&self, health: Health) {
        let is_news = match &*self.link.health.borrow() {
            Health::Up => true,
            Health::Down(why) => **why == *NOT_YET,
        };
        let server = self.link.node.load();
        match &health {
            Health::Up => info!(server = %server.addr(), "limits are shared"),
            Health::Down(why) if is_news => warn!(server = %server.addr(), %why, "limits are not shared"),
            Health::Down(_) => {}
        }
        self.link.health.send_if_modified(|known| {
            let is_news = *known != health;
            *known = health;
            is_news
        });
    }
}

impl ServerClock {
    fn new() -> Self {
        Self { base: Instant::now(), at_base: AtomicU64::new(0) }
    }

    /// The server's time at that moment or a little before.
    fn at(&self, moment: Instant) -> Option<ServerTime> {
        let at_base = self.at_base.load(Ordering::Relaxed);
        (at_base > 0).then(|| ServerTime(at_base + nanos(moment.saturating_duration_since(self.base))))
    }

    /// Between these two moments it was `at` there. What is known already is kept as far as it agrees with that.
    fn learn(&self, began: Instant, ended: Instant, at: ServerTime) {
        let at_base =
            |moment: Instant| at.0.saturating_sub(nanos(moment.saturating_duration_since(self.base)));
        let known = self.at_base.load(Ordering::Relaxed);
        self.at_base.store(known.clamp(at_base(ended), at_base(began)), Ordering::Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Failure {
    fn of(error: &RedisError, at: &ConnectionInfo) -> Self {
        let moved = error.redirect_node().and_then(|(node, _)| elsewhere(at, node));
        moved.map_or_else(|| Self::Other(error.to_string()), |node| Self::Moved(Box::new(node)))
    }
}

/// The address of another node, with the same credentials: `MOVED 3999 127.0.0.1:6381`. A node that does not know its own host
/// leaves it out.
fn elsewhere(at: &ConnectionInfo, node: &str) -> Option<ConnectionInfo> {
    let (new_host, new_port) = node.rsplit_once(':')?;
    let mut addr = at.addr().clone();
    match &mut addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            if !new_host.is_empty() {
                new_host.clone_into(host);
            }
            *port = new_port.parse().ok()?;
        }
        _ => return None,
    }
    Some(at.clone().set_addr(addr))
}

/// A random number, unlike those of other Modelgates.
pub(crate) fn random_id() -> u64 {
    RandomState::new().build_hasher().finish() >> 11
}

async fn ask(connection: &MultiplexedConnection, call: &Call) -> Result<Vec<u64>, RedisError> {
    // A connection is a handle: cloning it increments two counters.
    let mut connection = connection.clone();
    match call.by_sha1().query_async(&mut connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            call.by_text().query_async(&mut connection).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of a cluster that sends a client on may leave out its own host. Credentials go with it.
    #[test]
    fn another_node_is_found_where_the_server_says() {
        let at = |url: &str| url.into_connection_info().expect(url);
        for (from, node, to) in [
            ("redis://:pw@a:6379", "b:7000", Some("b:7000")),
            ("redis://:pw@a:6379", ":7000", Some("a:7000")),
            ("rediss://:pw@a:6379", "b:7000", Some("b:7000")),
            ("redis://a", "b", None),
            ("redis://a", "b:x", None),
            ("unix:///run/redis.sock", "b:7000", None),
        ] {
            let from = at(from);
            let found = elsewhere(&from, node);
            assert_eq!(found.as_ref().map(|found| found.addr().to_string()).as_deref(), to, "{node}");
            assert!(found.is_none_or(|found| found.redis_settings().password() == from.redis_settings().password()));
        }
    }

    /// Lua's numbers hold 53 bits: two Modelgates whose numbers are rounded could be counted as one.
    #[test]
    fn a_random_number_fits_into_a_double() {
        let numbers: Vec<u64> = (0..100).map(|_| random_id()).collect();
        assert!(numbers.iter().all(|number| *number < 1 << 53), "{numbers:?}");
        assert_ne!(numbers[0], numbers[1]);
    }

    /// After it the server takes nothing for a request: too early, and requests are refused that it had time for; too late, and it
    /// takes for requests that were already decided without it. A wrong moment of a loss lets hard budgets spend what is lost again.
    #[tokio::test]
    async fn a_deadline_leaves_a_quarter_and_a_loss_is_told_when_it_was_noted() {
        let server = Server::new("redis://127.0.0.1:1", None).expect("a URL");
        let keys = Keys::new("test").expect("a name");
        let (link, task) = Link::start(server, Duration::from_secs(400), NonZeroU32::MIN, &keys).await;
        task.abort();
        let began = Instant::now();
        assert_eq!(link.deadline(began), None, "its clock is not known");
        let now = 1_000_000_000 * 1_000_000_000;
        link.learn_time(began, ServerTime(now));
        let deadline = link.deadline(began).expect("a deadline").0;
        let seconds = |count| nanos(Duration::from_secs(count));
        assert!((now + seconds(290)..=now + seconds(300)).contains(&deadline), "{deadline}");

        link.learn_epoch(Epoch(7));
        assert_eq!((link.epoch(), link.lost_at()), (Epoch(7), None), "the first one is no loss");
        let before = Instant::now();
        link.learn_epoch(Epoch(8));
        let lost_at = link.lost_at().expect("a loss");
        assert!((before..=Instant::now()).contains(&lost_at));
        link.learn_epoch(Epoch(8));
        assert_eq!((link.epoch(), link.lost_at()), (Epoch(8), Some(lost_at)));
    }

    /// A user who may read and not write has messages refused many times a second.
    #[tokio::test]
    async fn a_refusal_of_messages_is_logged_once_for_each_connection() {
        let server = Server::new("redis://127.0.0.1:1", None).expect("a URL");
        let keys = Keys::new("test").expect("a name");
        let (link, task) = Link::start(server, Duration::from_millis(40), NonZeroU32::MIN, &keys).await;
        task.abort();
        let refused = RedisError::from((ErrorKind::Server(ServerErrorKind::NoPerm), "xadd"));
        assert_eq!([(); 3].map(|()| link.note_refusal(&refused)), [true, false, false]);
    }

    /// All Modelgates lose a server at the same moment: it must be able to start while they wait for it.
    #[tokio::test]
    async fn a_server_that_fails_is_tried_less_and_less_often() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", listener.local_addr().expect("its address"));
        let keys = Keys::new("test").expect("a name");
        let tried = tokio::spawn(async move {
            let mut count = 0;
            // Each connection ends as soon as it is accepted.
            let until = Instant::now() + Duration::from_millis(800);
            while let Ok(Ok(_)) =
                timeout(until.saturating_duration_since(Instant::now()), listener.accept()).await
            {
                count += 1;
            }
            count
        });
        let server = Server::new(&url, None).expect("a URL");
        let (_link, task) = Link::start(server, Duration::from_millis(40), NonZeroU32::MIN, &keys).await;
        let count = tried.await.expect("a number");
        task.abort();
        assert!((2..=6).contains(&count), "{count} times; after 50, 150, 350 and 750 ms at the earliest");
    }
}
