//! `modelgate serve`: sources ▶ discovery ▶ catalogue ▶ listeners.
//!
//! ```text
//! reload.rs           watches the configuration file
//! admin_tokens.rs     the tokens with which operators sign in
//! shared_counting.rs  limits that several replicas share
//! metering.rs         what servers and Traefik tell about requests, and what servers have counted
//! own_usage.rs        what callers' own keys have used
//! alerts.rs           what webhooks are told
//! log.rs              the log
//! ```

mod admin_tokens;
pub(crate) mod alerts;
mod budget_log;
mod log;
mod metering;
mod own_usage;
mod reload;
mod shared_counting;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use admin::{Admin, Authenticator, Program};
use catalogue::Cordons;
use telemetry::COLLECT_EVERY;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};
use web::{CertificateAuthority, Listeners, Shared};

use self::{
    log::LogLevel,
    metering::Metering,
    reload::{Reload, Review},
};
use crate::{
    config::{self, Config, Env},
    exit,
    jwks::KeySets,
    runtime,
    store_sync::{StoreSync, names::KnownNames, start::Start},
    wiring,
};

/// How long settling what is told may take at the end.
const FINISH_METERING: Duration = Duration::from_secs(1);
/// How long requests may go on after a signal to stop.
const FINISH: Duration = Duration::from_secs(6);
/// After so long the process ends, whatever is left to write: Docker kills it ten seconds after the signal
/// (<https://docs.docker.com/reference/cli/docker/container/stop/>).
const STOP: Duration = Duration::from_secs(9);
/// How often limits that nobody uses are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Serves until it is told to stop; `named` is the configuration file that the command line names.
pub(crate) fn serve(named: Option<&Path>, config: Config) -> ExitCode {
    let log_level = log::start(&config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    exit::of(runtime::new().and_then(|runtime| runtime.block_on(run(named, config, log_level))))
}

async fn run(named: Option<&Path>, config: Config, log_level: LogLevel) -> io::Result<()> {
    let file = config::locate(named, &Env::of_this_process());
    let seen = file.as_ref().and_then(|path| std::fs::read(path).ok());
    let authority =
        CertificateAuthority::open(config.state_dir.as_deref(), config.traefik.client_ca.as_deref())
            .map_err(io::Error::other)?;
    let listeners = bind(&config).await?;
    let telemetry_listener = match config.listen.telemetry {
        Some(address) => Some(bind_one("telemetry", address).await?),
        None => None,
    };
    let requests_port = listeners.requests.local_addr()?.port();
    let (stop, stopped) = watch::channel(false);
    let (publisher, reader) = catalogue::channel();
    let (cordons, cordoned) = watch::channel(Cordons::default());
    let key_sets = KeySets::default();
    let start = Start::new(&config, &key_sets).await?;
    let (names, remembered) = KnownNames::read(Arc::clone(&start.registry)).await;
    let (servers, peers, sources) = wiring::sources(&config, cordoned, remembered);
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
    let mut serving = tokio::spawn(web::serve(listeners, Arc::clone(&shared), pages, stopped));
    let (started, running) = (Arc::clone(&config), config);
    let for_reload = Arc::clone(&shared);
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
    let background = background(Arc::clone(&shared), reload, key_sets, names, &mut store_sync);
    tokio::select! {
        ended = discovery::run(sources, publisher) => {
            return Err(io::Error::other(format!("discovery has ended: {ended:?}")));
        }
        ended = &mut serving => return ended.map_err(io::Error::other)?,
        () = background => {}
        () = admin.watch() => {}
        () = alerts::keep(&admin, &shared, config_changes) => {}
        () = metering::keep(metering.as_mut()) => {}
        signal = stop_signal() => info!(signal = signal?, "stopping"),
    }
    let deadline = Instant::now() + STOP;
    stop.send_replace(true);
    // A poll may be held for seconds; Traefik does not mind if it breaks off.
    let ended = timeout(FINISH, serving).await.map_or(Ok(Ok(())), |ended| ended);
    if let Some(metering) = &mut metering {
        // A slow Redis must not take the time in which counts are written.
        let _ = timeout(FINISH_METERING, metering.close()).await;
    }
    // Whatever became of the requests, what they have counted is written.
    store_sync.last_flush(deadline).await;
    ended.map_err(io::Error::other)?
}

/// The background tasks; never returns.
async fn background(
    shared: Arc<Shared>,
    reload: Reload,
    key_sets: KeySets,
    names: KnownNames,
    store_sync: &mut StoreSync,
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
    let refusals = log::refusals(shared.telemetry().subscribe());
    tokio::join!(sweep, collect, reload.watch(), key_sets.keep_fresh(), names, store_sync.run(), refusals);
}

async fn stop_signal() -> io::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

async fn bind(config: &Config) -> io::Result<Listeners> {
    Ok(Listeners {
        provider: bind_one("provider", config.listen.provider).await?,
        requests: bind_one("requests", config.listen.requests).await?,
        admin: bind_one("admin", config.listen.admin).await?,
    })
}

async fn bind_one(name: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let failed = |e| io::Error::other(format!("listen.{name}: cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    info!(listener = name, address = %listener.local_addr()?, "listening");
    Ok(listener)
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
