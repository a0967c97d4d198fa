//! `modelgate serve`: sources ▶ discovery ▶ catalogue ▶ listeners.
//!
//! ```text
//! reload.rs           watches the configuration file
//! admin_tokens.rs     the tokens with which operators sign in
//! shared_counting.rs  limits that several replicas share
//! choice.rs           what is known of servers among which Modelgate chooses
//! metering.rs         what servers and Traefik tell about requests, and what servers have counted
//! open_telemetry.rs   what an OpenTelemetry collector is told
//! own_usage.rs        what callers' own keys have used
//! alerts.rs           what webhooks are told
//! messages.rs         the form in which Modelgates tell each other something
//! listeners.rs        the sockets: bound here, or handed over by systemd
//! log.rs              the log
//! ```

mod admin_tokens;
pub(crate) mod alerts;
mod budget_log;
mod choice;
mod find_budgets;
mod listeners;
mod log;
mod messages;
mod metering;
mod open_telemetry;
mod own_usage;
mod reload;
mod shared_counting;

use std::{
    io,
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use admin::{Admin, Authenticator, Program};
use listenfd::ListenFd;
use otlp_exporter::Exporter;
use telemetry::COLLECT_EVERY;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};
use web::{CertificateAuthority, Shared};

use self::{
    alerts::AlertKeeper,
    log::{LogLevel, Refusals},
    metering::Metering,
    reload::{Reload, Review},
};
use crate::{
    config::{self, Config, Env},
    exit,
    jwks::KeySets,
    runtime,
    store_sync::{StoreSync, cordons::SharedCordons, names::KnownNames, start::Start},
    wiring,
};

/// How long settling what is told may take at the end.
const FINISH_METERING: Duration = Duration::from_secs(1);
/// How long sending the last spans, metrics and lines may take at the end.
const FINISH_EXPORT: Duration = Duration::from_secs(1);
/// How long writing what has changed of servers in the last moment may take at the end.
const FINISH_STATE: Duration = Duration::from_secs(2);
/// How long requests may go on after a signal to stop.
const FINISH: Duration = Duration::from_secs(6);
/// After so long the process ends, whatever is left to write: Docker kills it ten seconds after the signal
/// (<https://docs.docker.com/reference/cli/docker/container/stop/>).
const STOP: Duration = Duration::from_secs(9);
/// How often limits that nobody uses are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Serves until it is told to stop; `named` is the configuration file that the command line names.
pub(crate) fn serve(named: Option<&Path>, config: Config) -> ExitCode {
    let handed_over = listeners::handed_over();
    let (exporter, problems) = open_telemetry::prepare();
    let log_level = log::start(&config.log, exporter.as_ref().and_then(Exporter::log_layer));
    open_telemetry::report(&problems);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    exit::of(
        runtime::new()
            .and_then(|runtime| runtime.block_on(run(named, config, (log_level, exporter), handed_over))),
    )
}

async fn run(
    named: Option<&Path>,
    config: Config,
    (log_level, mut exporter): (LogLevel, Option<Exporter>),
    handed_over: ListenFd,
) -> io::Result<()> {
    let file = config::locate(named, &Env::of_this_process());
    let seen = file.as_ref().and_then(|path| std::fs::read(path).ok());
    if let Some(folder) = &config.state_dir {
        config::files::try_folder(folder)
            .map_err(|error| io::Error::new(error.kind(), format!("state_dir: {error}")))?;
    }
    let authority =
        CertificateAuthority::open(config.state_dir.as_deref(), config.traefik.client_ca.as_deref())
            .map_err(io::Error::other)?;
    let (listeners, telemetry_listener) = listeners::open(&config.listen, handed_over).await?;
    let requests_port = listeners.requests.socket.local_addr()?.port();
    let (stop, stopped) = watch::channel(false);
    let stopped_discovery = stopped.clone();
    let (publisher, reader) = catalogue::channel();
    let key_sets = KeySets::default();
    let start = Start::new(&config, &key_sets).await?;
    let (mut names, remembered) = KnownNames::read(Arc::clone(&start.registry)).await;
    let (mut shared_cordons, cordons) = SharedCordons::read(Arc::clone(&start.registry)).await;
    let kept = wiring::kept(&config);
    let (servers, peers, sources) = wiring::sources(&config, cordons.subscribe(), remembered, kept);
    let policy = Arc::clone(&start.policy_source.policy);
    let shared = Shared::new(web::Parts {
        catalogue: reader,
        settings: wiring::settings(&config),
        policy,
        authority,
        requests_port,
        traefik_peers: peers,
    });
    let shared = Arc::new(match &config.shared_limits {
        Some(limits) => {
            shared.with_shared_counting(shared_counting::connect(limits, config.state_dir.as_deref()).await?)
        }
        None => shared,
    });
    shared_counting::report(&shared);
    budget_log::write(&shared);
    shared.telemetry().bound_tallies(config.metrics);
    open_telemetry::start(exporter.as_mut(), &shared);
    // A signal that comes earlier ends the process at once: nothing has been accepted yet.
    let mut signals = StopSignals::new()?;
    let mut metering =
        telemetry_listener.map(|listener| Metering::start(listener, &config, &shared, stopped.clone()));
    let registry = Arc::clone(&start.registry);
    own_usage::answer_from(&shared, &registry);
    let config = Arc::new(config);
    let (configs, config_changes) = watch::channel(Arc::clone(&config));
    let mut store_sync = StoreSync::new(start, Arc::clone(&shared), key_sets.clone(), config_changes.clone());
    let authenticator = Arc::new(Authenticator::new(admin_tokens::open(&config)?));
    let (reviews, reviewed) = watch::channel(Review::of(&config, &config));
    reload::report(&shared, &reviewed);
    let program = program(&config, config_changes.clone(), reviewed);
    let admin = Admin::new(admin::Parts {
        authenticator: authenticator.clone(),
        shared: shared.clone(),
        registry: registry.clone(),
        cordons,
        program,
        shutdown: stopped.clone(),
    });
    admin.count_issues();
    let pages = admin::router(admin.clone());
    let mut alerts = AlertKeeper::new(&admin, (&shared, &registry), &config);
    let mut serving = tokio::spawn(web::serve(listeners, Arc::clone(&shared), pages, stopped));
    let (started, running) = (Arc::clone(&config), config);
    let for_reload = Arc::clone(&shared);
    let admin_token_of = Arc::clone(&authenticator);
    let reload = Reload {
        file,
        seen,
        started,
        running,
        shared: for_reload,
        servers,
        authenticator,
        configs,
        reviews,
        log_level,
    };
    let until_stop = async {
        let mut stopped = stopped_discovery;
        let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
    };
    let mut discovering = pin!(discovery::run(sources, publisher, until_stop));
    let token = admin_tokens::keep_fresh(&admin_token_of, config_changes.clone());
    let mut refusals = Refusals::new(shared.telemetry().subscribe());
    let background =
        background(Arc::clone(&shared), reload, key_sets, &mut names, &mut store_sync, &mut refusals);
    let metered = metering::keep(metering.as_mut());
    let mut until_drained = Box::pin(async { tokio::join!(background, metered) });
    tokio::select! {
        ended = &mut discovering => {
            return Err(io::Error::other(format!("discovery has ended: {ended:?}")));
        }
        ended = &mut serving => return ended.map_err(io::Error::other)?,
        _ = &mut until_drained => {}
        () = admin.watch() => {}
        () = shared_cordons.keep() => {}
        () = alerts.keep(config_changes) => {}
        () = find_budgets::keep(&shared) => {}
        () = token => {}
        () = choice::keep(&shared) => {}
        signal = signals.recv() => info!(signal, "stopping"),
    }
    let deadline = Instant::now() + STOP;
    stop.send_replace(true);
    // What is decided and told until then counts as before.
    let ended = tokio::select! {
        ended = timeout(FINISH, serving) => ended.unwrap_or(Ok(Ok(()))),
        _ = &mut until_drained => Ok(Ok(())),
    };
    drop(until_drained);
    if let Some(metering) = &mut metering {
        // A slow Redis must not take the time in which counts are written.
        let _ = timeout(FINISH_METERING, metering.close()).await;
    }
    let exports = async {
        if let Some(exporter) = &mut exporter {
            exporter.close(FINISH_EXPORT).await;
        }
    };
    // Whatever became of the requests, what they have counted is written, and what has changed in the last moment.
    shared.telemetry().collect(SystemTime::now());
    refusals.last();
    let catalogue = shared.catalogue();
    let state = async {
        let all = async { tokio::join!(discovering, names.last(catalogue), shared_cordons.synchronise()) };
        if timeout(FINISH_STATE, all).await.is_err() {
            warn!("what has changed in the last moment may not be written");
        }
    };
    let (written, ..) = tokio::join!(store_sync.last_flush(deadline), exports, state, alerts.close(deadline));
    written?;
    ended.map_err(io::Error::other)?
}

/// The background tasks; never returns.
async fn background(
    shared: Arc<Shared>,
    reload: Reload,
    key_sets: KeySets,
    names: &mut KnownNames,
    store_sync: &mut StoreSync,
    refusals: &mut Refusals,
) {
    let sweep = async {
        let mut tick = interval(SWEEP);
        loop {
            tick.tick().await;
            shared.sweep_limits();
        }
    };
    let collect = async {
        let mut tick = interval(COLLECT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            shared.telemetry().collect(SystemTime::now());
        }
    };
    let names = names.keep(shared.catalogue());
    tokio::join!(
        sweep,
        collect,
        reload.watch(),
        key_sets.keep_fresh(),
        names,
        store_sync.run(),
        refusals.keep()
    );
}

/// The signals that tell it to stop; from [`Self::new`] on they do not end the process by themselves.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the first one that has come or comes.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What the dashboard shows and only the program knows.
fn program(
    config: &Config,
    changes: watch::Receiver<Arc<Config>>,
    reviews: watch::Receiver<Review>,
) -> Program {
    let hosts = if config.docker.is_wanted() { &config.docker.hosts[..] } else { &[] };
    let host = |host: &discovery::DockerOptions| (host.name.clone(), host.endpoint.to_string());
    let (of_webhooks, of_tests) = (changes.clone(), changes.clone());
    Program {
        docker: hosts.iter().map(host).collect(),
        configuration: Box::new(move || changes.borrow().shown.clone()),
        problems: Box::new(move || reviews.borrow().problems.clone()),
        webhooks: Box::new(move || alerts::rows(&of_webhooks.borrow().alerts)),
        test_webhooks: Box::new(move || {
            let config = Arc::clone(&of_tests.borrow());
            Box::pin(async move { alerts::test_all(&config.alerts).await })
        }),
    }
}
