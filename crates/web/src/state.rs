//! The state that handlers share.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use access::{Policy, Usage, estimate::PaidBy};
use arc_swap::{ArcSwap, Guard};
use catalogue::Reader;
use ipnet::IpNet;
use limits::{Demands, Left, Limiters, SystemClock};
use metering::Opener;
use prices::PriceList;
use telemetry::{Sampler, Telemetry};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    BooksOfServers, CertificateAuthority, ChoiceKeeper, Family, History, Polls, SharedCounting,
    TelemetryListener,
    budget_events::{BudgetEvent, BudgetEvents, BudgetUsed, LookedBudgets, RefusedBudget},
    choice::ServerChoices,
    connection::Peer,
    counting,
    metered::Metered,
    metrics::{Sources, tallies::UsageTally},
    outcomes::ServersByUrl,
    own_usage::{NoOwnUsage, OwnUsage, OwnUsageQuestion, OwnUsageSource},
    pricing::is_counted,
    provider::RenderCache,
    uncounted::{UncountedPath, UncountedPaths},
};

/// How long after the start requests wait for the first catalogue. A client waits longer than that, and so does Traefik (30 s).
const FIRST_CATALOGUE: Duration = Duration::from_secs(5);

/// The configuration for the handlers; replaced as a whole on reload.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Networks in which every address counts as Traefik's: Traefik is given servers' credentials.
    pub trusted_networks: Vec<IpNet>,
    /// How the document for Traefik is rendered.
    pub traefik: traefik_config::RenderOptions,
    /// Whether the version of Traefik in there was given; otherwise it is the oldest with all that is needed.
    pub version_is_given: bool,
    /// The host at which Traefik reaches Modelgate; `None`: the host that it polls.
    pub advertise: Option<String>,
    /// How long a poll is held while nothing changes; shorter than Traefik's `pollTimeout`.
    pub hold: Duration,
    /// Where servers and Traefik tell what they did; `None`: nowhere.
    pub telemetry: Option<TelemetryListener>,
    /// What models cost.
    pub prices: PriceList,
    /// Hard budgets can be kept without a Redis: no other Modelgate counts in the same store.
    pub keeps_hard_budgets: bool,
}

impl Settings {
    /// Whether a peer has proven to be Traefik.
    pub(crate) fn trusts(&self, peer: Peer) -> bool {
        peer.has_certificate || self.is_traefiks(peer.address)
    }

    /// Whether an address is in one of Traefik's networks.
    fn is_traefiks(&self, address: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&address))
    }
}

/// The state that handlers share. `/auth` takes no lock here: all that it reads is an atomic pointer.
#[derive(Debug)]
pub struct Shared {
    catalogue: Reader,
    settings: ArcSwap<Settings>,
    policy: ArcSwap<Policy>,
    shared_counting: Option<SharedCounting>,
    metering: OnceLock<Opener<Metered>>,
    budget_events: BudgetEvents,
    uncounted_paths: UncountedPaths,
    choices: ServerChoices,
    sampler: OnceLock<Sampler>,
    /// Requests are open, and nothing is told of them.
    is_metering_silent: AtomicBool,
    pub(crate) servers_by_url: ServersByUrl,
    books: BooksOfServers,
    usage: Usage,
    /// What requests have really used is counted once it is told.
    is_metered: Arc<AtomicBool>,
    pub(crate) own_usage: Arc<OwnUsageSource>,
    settings_revision: watch::Sender<u64>,
    limiters: Limiters<SystemClock>,
    authority: Arc<CertificateAuthority>,
    requests_port: u16,
    traefik_peers: watch::Sender<BTreeSet<IpAddr>>,
    pub(crate) render_cache: RenderCache,
    telemetry: Arc<Telemetry>,
    polls: Polls,
    history: History,
    pub(crate) metrics: Sources,
    statuses: Statuses,
    stopping: watch::Sender<bool>,
    started: Instant,
}

type Status = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The statuses of other parts, by name.
#[derive(Default)]
struct Statuses(Mutex<Vec<(&'static str, Status)>>);

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Statuses")
    }
}

/// The parts of the shared state.
#[derive(Debug)]
pub struct Parts {
    /// What is known of servers and models.
    pub catalogue: Reader,
    /// What the configuration says.
    pub settings: Settings,
    /// The keys and limits.
    pub policy: Arc<Policy>,
    /// The authority that signs the certificates of the requests listener.
    pub authority: CertificateAuthority,
    /// The port of the requests listener.
    pub requests_port: u16,
    /// Receives the addresses from which Traefik polls.
    pub traefik_peers: watch::Sender<BTreeSet<IpAddr>>,
}

impl Shared {
    /// Builds the state from its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { catalogue, settings, policy, authority, requests_port, traefik_peers } = parts;
        Self::fresh(
            catalogue,
            Arc::new(settings),
            policy,
            (Arc::new(authority), requests_port),
            traefik_peers,
        )
    }

    /// A copy of the state with another policy, in which nothing has been counted, and whose own counts nobody sees.
    pub(crate) fn uncounted(&self, policy: Arc<Policy>) -> Self {
        let (settings, unheard) = (self.settings.load_full(), watch::Sender::new(BTreeSet::new()));
        // Where they are counted in Redis, hard budgets are kept as well.
        let settings = match self.shared_counting.is_some() && !settings.keeps_hard_budgets {
            true => Arc::new(Settings { keeps_hard_budgets: true, ..Settings::clone(&settings) }),
            false => settings,
        };
        let listener = (Arc::clone(&self.authority), self.requests_port);
        let own_usage = Arc::clone(&self.own_usage);
        let choices = self.choices.rehearsal();
        Self {
            own_usage,
            choices,
            ..Self::fresh(self.catalogue.clone(), settings, policy, listener, unheard)
        }
    }

    fn fresh(
        catalogue: Reader,
        settings: Arc<Settings>,
        policy: Arc<Policy>,
        (authority, requests_port): (Arc<CertificateAuthority>, u16),
        traefik_peers: watch::Sender<BTreeSet<IpAddr>>,
    ) -> Self {
        let (telemetry, is_metered) = (Arc::<Telemetry>::default(), Arc::<AtomicBool>::default());
        let usage = Usage::default();
        usage.watch(UsageTally {
            catalogue: catalogue.clone(),
            telemetry: Arc::clone(&telemetry),
            is_metered: Arc::clone(&is_metered),
        });
        Self {
            catalogue,
            settings: ArcSwap::new(settings),
            policy: ArcSwap::new(policy),
            shared_counting: None,
            metering: OnceLock::new(),
            budget_events: BudgetEvents::default(),
            uncounted_paths: UncountedPaths::default(),
            choices: ServerChoices::default(),
            sampler: OnceLock::new(),
            is_metering_silent: AtomicBool::new(false),
            servers_by_url: ServersByUrl::default(),
            books: BooksOfServers::default(),
            usage,
            is_metered,
            own_usage: Arc::default(),
            settings_revision: watch::Sender::new(0),
            limiters: Limiters::new(SystemClock::new()),
            authority,
            requests_port,
            traefik_peers,
            render_cache: RenderCache::default(),
            telemetry,
            polls: Polls::default(),
            history: History::default(),
            metrics: Sources::default(),
            statuses: Statuses::default(),
            stopping: watch::Sender::new(false),
            started: Instant::now(),
        }
    }

    /// Ends polls that are held, and makes `/readyz` say that Modelgate stops.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when Modelgate stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Waits for the first catalogue, for some seconds after the start: until then a request that waits gets an answer, and one
    /// that does not gets 503.
    pub(crate) async fn first_catalogue(&self) {
        if self.catalogue.load().is_none() {
            let _ = timeout_at(self.started + FIRST_CATALOGUE, self.catalogue.changed_since(0)).await;
        }
    }

    /// Replaces the settings. The limits' counts are kept.
    pub fn replace_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.settings_revision.send_modify(|revision| *revision += 1);
    }

    /// Uses a server that counts limits for several replicas.
    #[must_use]
    pub fn with_shared_counting(self, counting: SharedCounting) -> Self {
        Self { shared_counting: Some(counting), ..self }
    }

    /// Hands each admitted request over to the owner of the ledger from now on; later calls change nothing.
    pub fn meter(&self, opener: Opener<Metered>) {
        let _ = self.metering.set(opener);
        self.is_metered.store(true, Ordering::Relaxed);
    }

    /// Which server gets a request, where Modelgate chooses it.
    pub(crate) fn choices(&self) -> &ServerChoices {
        &self.choices
    }

    /// What tells the choice of servers about them; it must have one owner.
    pub fn choice_keeper(&self) -> ChoiceKeeper {
        ChoiceKeeper::new(self.choices.clone())
    }

    /// Tells one more listener of budgets that are spent to a level, from now on.
    pub fn tell_of_budgets(&self, listener: &mpsc::Sender<BudgetEvent>) {
        self.budget_events.tell(listener);
    }

    /// How much of which budgets is spent or reserved now, of those from which requests have taken since the start: the first
    /// thousand, and all that have come to a level. In the order of their names.
    pub fn budgets_used(&self, now: SystemTime) -> Vec<BudgetUsed> {
        let loaded = self.catalogue.load();
        self.budget_events.used(&self.limiters, (&self.policy(), loaded.as_deref()), now)
    }

    /// Notes which budgets have refused a request before the start. Returns for each whether that is settled; if not, the budget may
    /// be known later.
    pub fn budgets_were_refused(&self, refused: &[RefusedBudget<'_>], now: SystemTime) -> Vec<bool> {
        self.budget_events.were_refused(refused, now)
    }

    /// Looks for budgets of which something is spent, by this Modelgate or another, before it started or since. Their counts must
    /// have been read from the store.
    pub fn find_budgets(&self, now: SystemTime) {
        let loaded = self.catalogue.load();
        self.budget_events.find(&self.limiters, &self.policy(), loaded.as_deref(), now);
    }

    /// Whose budgets [`find_budgets`](Self::find_budgets) has looked at last; `None` before the first time.
    pub fn budgets_looked_at(&self) -> Option<Arc<LookedBudgets>> {
        self.budget_events.looked_at()
    }

    pub(crate) fn uncounted_paths(&self) -> &UncountedPaths {
        &self.uncounted_paths
    }

    /// The models that have a price, and lately were used by paths of which that price does not say what they cost.
    pub fn paths_not_counted(&self, now: SystemTime) -> Vec<UncountedPath> {
        let settings = self.settings();
        let is_free = |path: &UncountedPath| {
            let price = settings.prices.at(&path.model, now);
            price.is_none_or(|price| price.is_free() || is_counted(price, PaidBy::of(&path.path, None)))
        };
        let mut paths = self.uncounted_paths.lately(now);
        paths.retain(|path| !is_free(path));
        paths
    }

    pub(crate) fn budget_events(&self) -> &BudgetEvents {
        &self.budget_events
    }

    /// Gives decisions spans from now on; later calls change nothing.
    pub fn trace(&self, sampler: Sampler) {
        let _ = self.sampler.set(sampler);
    }

    /// Which requests have spans, if any have.
    pub(crate) fn sampler(&self) -> Option<&Sampler> {
        self.sampler.get()
    }

    /// Says whether requests are open of which nothing is told: then nothing of what they have reserved is likely to come back.
    pub fn metering_is_silent(&self, is_silent: bool) {
        self.is_metering_silent.store(is_silent, Ordering::Relaxed);
    }

    pub(crate) fn is_metering_silent(&self) -> bool {
        self.is_metering_silent.load(Ordering::Relaxed)
    }

    /// Whether it is told when requests end.
    pub fn hears_of_ends(&self) -> bool {
        self.metering().is_some() && !self.is_metering_silent()
    }

    /// Where admitted requests are handed over, if what becomes of them is told.
    pub(crate) fn metering(&self) -> Option<&Opener<Metered>> {
        self.metering.get()
    }

    /// What servers have counted beside what was settled.
    pub fn books(&self) -> &BooksOfServers {
        &self.books
    }

    /// Replaces the keys and limits. The limits' counts are kept.
    pub fn replace_policy(&self, policy: impl Into<Arc<Policy>>) {
        self.policy.store(policy.into());
    }

    /// Forgets unused limits; must be called now and then.
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

    /// The server that counts limits for several replicas, if there is one.
    pub fn shared_counting(&self) -> Option<&SharedCounting> {
        self.shared_counting.as_ref()
    }

    /// The usage of keys. Another task must take it regularly.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Looks up callers' own usage there from now on; later calls change nothing.
    pub fn answer_own_usage<A>(&self, source: impl Fn(OwnUsageQuestion) -> A + Send + Sync + 'static)
    where
        A: Future<Output = Result<OwnUsage, NoOwnUsage>> + Send + 'static,
    {
        self.own_usage.set(source);
    }

    /// Notifies when the settings are replaced; the value counts the replacements.
    pub(crate) fn settings_revision(&self) -> watch::Receiver<u64> {
        self.settings_revision.subscribe()
    }

    /// What is left of limits, wherever they are counted. Takes nothing.
    pub async fn left(&self, demands: &Demands) -> Vec<Left> {
        counting::left(self.shared_counting(), &self.limiters, demands).await
    }

    /// The limits' counts in this process.
    pub fn limiters(&self) -> &Limiters<SystemClock> {
        &self.limiters
    }

    /// The decisions of `/auth`. Another task must call its `collect` regularly.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// The Traefiks that poll.
    pub fn polls(&self) -> &Polls {
        &self.polls
    }

    /// The last documents that Traefik was given.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Adds metrics to `/metrics`. The function is called for each answer, and must neither wait nor fail; each family needs a
    /// unique name.
    pub fn add_metrics(&self, families: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        self.metrics.add(Box::new(families));
    }

    /// Adds a status to the `/readyz` answers for callers on this machine. Never a secret.
    pub fn add_status(
        &self,
        name: &'static str,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        let mut statuses = self.statuses.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.push((name, Box::new(status)));
    }

    /// The statuses of other parts, by name.
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

    /// Remembers an address from which Traefik polls.
    pub(crate) fn polled_from(&self, peer: IpAddr) {
        /// More Traefiks than anybody runs; bounds the memory in case anybody else finds the port.
        const MAX_PEERS: usize = 64;
        self.traefik_peers
            .send_if_modified(|peers| peers.len() < MAX_PEERS && !peer.is_loopback() && peers.insert(peer));
    }

    /// Whether an address is known to be Traefik's, so that its word about a request's origin can be believed.
    pub fn is_traefik(&self, address: IpAddr) -> bool {
        // A Traefik on this machine cannot be told from other programs on it.
        address.is_loopback()
            || self.traefik_peers.borrow().contains(&address)
            || self.settings().is_traefiks(address)
    }
}

#[cfg(test)]
impl Shared {
    /// A state without servers or keys, for tests of the handlers.
    pub(crate) fn empty() -> Arc<Self> {
        Self::with_catalogue(catalogue::channel().1)
    }

    /// Like [`empty`](Self::empty), with a catalogue.
    pub(crate) fn with_catalogue(catalogue: Reader) -> Arc<Self> {
        let authority = CertificateAuthority::open(None, None).expect("an authority");
        let traefik_peers = watch::channel(Default::default()).0;
        let policy = Arc::default();
        Arc::new(Self::new(Parts {
            catalogue,
            settings: Self::usual_settings(),
            policy,
            authority,
            requests_port: 8101,
            traefik_peers,
        }))
    }

    /// The settings of the states for tests.
    pub(crate) fn usual_settings() -> Settings {
        Settings {
            trusted_networks: Vec::new(),
            traefik: Default::default(),
            version_is_given: true,
            advertise: None,
            hold: Duration::ZERO,
            telemetry: None,
            prices: PriceList::default(),
            keeps_hard_budgets: true,
        }
    }
}
