//! What the handlers share.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use access::{Policy, Usage};
use arc_swap::{ArcSwap, Guard};
use catalogue::Reader;
use ipnet::IpNet;
use limits::{Demands, Left, Limiters, SystemClock};
use telemetry::Telemetry;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::{
    CertificateAuthority, Family, History, Polls, SharedCounting, connection::Peer, counting,
    metrics::Sources, provider::RenderCache,
};

/// What the configuration says to the handlers; replaced as a whole on reload.
#[derive(Debug)]
pub struct Settings {
    /// Networks whose every address is taken for Traefik's: it is given servers' credentials.
    pub trusted_networks: Vec<IpNet>,
    /// How the document for Traefik is rendered.
    pub traefik: traefik_config::Options,
    /// The host under which Traefik reaches us; `None`: the one that it polls.
    pub advertise: Option<String>,
    /// How long a poll is held when there is nothing new; shorter than Traefik's `pollTimeout`.
    pub hold: Duration,
}

impl Settings {
    /// Whether a peer has proven that it is Traefik.
    pub(crate) fn trusts(&self, peer: Peer) -> bool {
        peer.has_certificate || self.is_traefiks(peer.address)
    }

    /// Whether an address is in one of Traefik's networks.
    fn is_traefiks(&self, address: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&address))
    }
}

/// What the handlers share. `/auth` takes no lock here: all that it reads is an atomic pointer.
#[derive(Debug)]
pub struct Shared {
    catalogue: Reader,
    settings: ArcSwap<Settings>,
    policy: ArcSwap<Policy>,
    shared_counting: Option<SharedCounting>,
    usage: Usage,
    settings_revision: watch::Sender<u64>,
    limiters: Limiters<SystemClock>,
    authority: Arc<CertificateAuthority>,
    requests_port: u16,
    traefik_peers: watch::Sender<BTreeSet<IpAddr>>,
    request_ids: RequestIds,
    pub(crate) render_cache: RenderCache,
    telemetry: Arc<Telemetry>,
    polls: Polls,
    history: History,
    pub(crate) metrics: Sources,
    statuses: Statuses,
}

type Status = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What other parts say about themselves, by name.
#[derive(Default)]
struct Statuses(Mutex<Vec<(&'static str, Status)>>);

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Statuses")
    }
}

/// Numbers requests: a random start, so that two runs do not share ids, and a counter.
#[derive(Debug)]
struct RequestIds {
    run: u32,
    next: AtomicU64,
}

/// Of what it is put together.
#[derive(Debug)]
pub struct Parts {
    /// What is known of servers and models.
    pub catalogue: Reader,
    /// What the configuration says.
    pub settings: Settings,
    /// The keys and limits.
    pub policy: Arc<Policy>,
    /// Who signs the certificates of the requests listener.
    pub authority: CertificateAuthority,
    /// The port of the requests listener.
    pub requests_port: u16,
    /// Where the addresses go from which Traefik polls.
    pub traefik_peers: watch::Sender<BTreeSet<IpAddr>>,
}

impl Shared {
    /// Puts it together.
    pub fn new(parts: Parts) -> Self {
        let Parts { catalogue, settings, policy, authority, requests_port, traefik_peers } = parts;
        let mut run = [0; 4];
        // Without randomness ids repeat after a restart; nothing depends on them.
        let _ = getrandom::fill(&mut run);
        Self {
            catalogue,
            settings: ArcSwap::from_pointee(settings),
            policy: ArcSwap::new(policy),
            shared_counting: None,
            usage: Usage::default(),
            settings_revision: watch::Sender::new(0),
            limiters: Limiters::new(SystemClock::new()),
            authority: Arc::new(authority),
            requests_port,
            traefik_peers,
            request_ids: RequestIds { run: u32::from_ne_bytes(run), next: AtomicU64::new(0) },
            render_cache: RenderCache::default(),
            telemetry: Arc::default(),
            polls: Polls::default(),
            history: History::default(),
            metrics: Sources::default(),
            statuses: Statuses::default(),
        }
    }

    /// Puts new settings in force. What limits have counted so far is kept.
    pub fn replace_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.settings_revision.send_modify(|revision| *revision += 1);
    }

    /// Has limits counted by a server that several Modelgates share.
    #[must_use]
    pub fn with_shared_counting(self, counting: SharedCounting) -> Self {
        Self { shared_counting: Some(counting), ..self }
    }

    /// Puts other keys and limits in force. What limits have counted so far is kept.
    pub fn replace_policy(&self, policy: impl Into<Arc<Policy>>) {
        self.policy.store(policy.into());
    }

    /// Forgets limits that nobody uses; to be called now and then.
    pub fn sweep_limits(&self) {
        self.limiters.sweep();
    }

    /// What is known about servers and models.
    pub fn catalogue(&self) -> &Reader {
        &self.catalogue
    }

    /// The settings in force.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// The keys and limits in force.
    pub fn policy(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// The server that counts limits for several Modelgates, if there is one.
    pub fn shared_counting(&self) -> Option<&SharedCounting> {
        self.shared_counting.as_ref()
    }

    /// What keys have used. Somebody must take it again and again.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Tells when the settings are replaced; its value counts the times.
    pub(crate) fn settings_revision(&self) -> watch::Receiver<u64> {
        self.settings_revision.subscribe()
    }

    /// What is left of limits, wherever they are counted. Takes nothing.
    pub async fn left(&self, demands: &Demands) -> Vec<Left> {
        counting::left(self.shared_counting(), &self.limiters, demands).await
    }

    /// What limits have counted.
    pub fn limiters(&self) -> &Limiters<SystemClock> {
        &self.limiters
    }

    /// What `/auth` has decided. Somebody must call its `collect` again and again.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Who polls.
    pub fn polls(&self) -> &Polls {
        &self.polls
    }

    /// The documents that Traefik was told lately.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Adds to what `/metrics` answers. It is called for each answer, and shall neither wait nor fail; each
    /// family has a name of its own.
    pub fn add_metrics(&self, families: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        self.metrics.add(Box::new(families));
    }

    /// Adds to what `/readyz` answers to who asks on this machine. Never a secret.
    pub fn add_status(
        &self,
        name: &'static str,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        let mut statuses = self.statuses.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.push((name, Box::new(status)));
    }

    /// What other parts say about themselves, by name.
    pub fn statuses(&self) -> Vec<(&'static str, serde_json::Value)> {
        let statuses = self.statuses.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.iter().map(|(name, status)| (*name, status())).collect()
    }

    pub(crate) fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    pub(crate) fn tls(&self) -> TlsAcceptor {
        CertificateAuthority::acceptor(&self.authority)
    }

    pub(crate) fn requests_port(&self) -> u16 {
        self.requests_port
    }

    /// Remembers from where Traefik polls.
    pub(crate) fn polled_from(&self, peer: IpAddr) {
        /// More Traefiks than anybody runs; a bound against whoever else finds the port.
        const MAX_PEERS: usize = 64;
        self.traefik_peers
            .send_if_modified(|peers| peers.len() < MAX_PEERS && !peer.is_loopback() && peers.insert(peer));
    }

    /// Whether an address is one that Traefik is known to have: then it can be believed from where a request comes.
    pub fn is_traefik(&self, address: IpAddr) -> bool {
        // A Traefik on this machine cannot be told from other programs on it.
        address.is_loopback()
            || self.traefik_peers.borrow().contains(&address)
            || self.settings().is_traefiks(address)
    }

    /// A new request id.
    pub(crate) fn request_id(&self) -> String {
        let number = self.request_ids.next.fetch_add(1, Ordering::Relaxed);
        format!("req_{:08x}{number:012x}", self.request_ids.run)
    }
}

#[cfg(test)]
impl Shared {
    /// One that knows no server and no key, for tests of the handlers.
    pub(crate) fn empty() -> Arc<Self> {
        Self::with_catalogue(catalogue::channel().1)
    }

    /// The same with what is known of servers and models.
    pub(crate) fn with_catalogue(catalogue: Reader) -> Arc<Self> {
        let settings = Settings {
            trusted_networks: Vec::new(),
            traefik: Default::default(),
            advertise: None,
            hold: Duration::ZERO,
        };
        let authority = CertificateAuthority::open(None, None).expect("an authority");
        let traefik_peers = watch::channel(Default::default()).0;
        let policy = Arc::default();
        Arc::new(Self::new(Parts {
            catalogue,
            settings,
            policy,
            authority,
            requests_port: 8101,
            traefik_peers,
        }))
    }
}
