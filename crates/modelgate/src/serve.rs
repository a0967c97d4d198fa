//! The wiring: sources ▶ discovery ▶ catalogue ▶ listeners.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use admin::{Admin, Gate, Program};
use catalogue::{Catalogue, Configured, Holds, ModelOverrides, ServerSpec};
use discovery::Sources;
use telemetry::COLLECT_EVERY;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};
use traefik_config::{Dashboard, Document, Gateway, Options};
use web::{CertificateAuthority, Listeners, Settings, Shared};

use crate::{
    admin_tokens,
    cli::Args,
    config::{self, Config, Env},
    counting,
    jwks::KeySets,
    keeper::{Keeper, Start},
    log,
    reload::{self, Reload, Review},
};

/// A poll is answered this long before Traefik gives it up.
const POLL_MARGIN: Duration = Duration::from_millis(500);
/// How long requests may go on after a signal to stop.
const FINISH: Duration = Duration::from_secs(6);
/// After so long the process ends, whatever is left to write: Docker kills it ten seconds after the signal
/// (<https://docs.docker.com/reference/cli/docker/container/stop/>).
const STOP: Duration = Duration::from_secs(9);
/// How often limits that nobody uses are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a command looks for servers.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(30);

/// `modelgate serve`.
pub(crate) fn serve(args: &Args, config: Config) -> ExitCode {
    log::start(&config.log);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    finish(runtime().and_then(|runtime| runtime.block_on(run(args, config))))
}

/// `modelgate render`: looks once and prints what Traefik would be told.
#[expect(clippy::print_stdout, reason = "a command's answer goes to its user")]
pub(crate) fn render(config: &Config) -> ExitCode {
    finish(survey(config).map(|catalogue| println!("{}", document(&catalogue, config).to_json_pretty())))
}

/// What Traefik would be told.
pub(crate) fn document(catalogue: &Catalogue, config: &Config) -> Document {
    let host = config.traefik.advertise.as_ref().map_or_else(|| "modelgate".into(), ToString::to_string);
    let authority = format!("{host}:{}", config.listen.requests.port());
    let ca_pem = "(made when Modelgate starts)".into();
    traefik_config::render(catalogue, &options(config), &Gateway { authority, ca_pem })
}

/// Looks for servers once.
///
/// # Errors
/// If discovery breaks, or nothing answers in time.
pub(crate) fn survey(config: &Config) -> io::Result<Arc<Catalogue>> {
    runtime()?.block_on(async {
        let (publisher, reader) = catalogue::channel();
        let (_holds, none) = watch::channel(Holds::default());
        let (_servers, _peers, sources) = sources(config, none);
        let survey = discovery::run(sources, publisher);
        tokio::select! {
            ended = survey => Err(io::Error::other(format!("discovery has ended: {ended:?}"))),
            found = timeout(SURVEY_TIMEOUT, reader.changed_since(0)) => found.map_err(|_| {
                let obstacles: Vec<String> = reader.obstacles().iter().map(ToString::to_string).collect();
                let why = if obstacles.is_empty() { "is the Docker endpoint right?".into() } else { obstacles.join("; ") };
                io::Error::other(format!("the first survey did not finish: {why}"))
            })
        }
    })
}

/// `modelgate healthcheck`: asks the running Modelgate whether it is ready, for a container's HEALTHCHECK.
pub(crate) fn healthcheck(config: &Config) -> ExitCode {
    let mut admin = config.listen.admin;
    if admin.ip().is_unspecified() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    finish(ask_ready(admin))
}

fn ask_ready(admin: SocketAddr) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    match status.ends_with(b" 200") {
        true => Ok(()),
        false => Err(io::Error::other("it is not ready")),
    }
}

pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    // Before any TLS: reqwest takes the process's default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new()
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
pub(crate) fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args, config: Config) -> io::Result<()> {
    let file = config::locate(args.config.as_deref(), &Env::of_this_process());
    let seen = file.as_ref().and_then(|path| std::fs::read(path).ok());
    let authority =
        CertificateAuthority::open(config.state_dir.as_deref(), config.traefik.client_ca.as_deref())
            .map_err(io::Error::other)?;
    let listeners = bind(&config).await?;
    let requests_port = listeners.requests.local_addr()?.port();
    let (publisher, reader) = catalogue::channel();
    let (holds, held) = watch::channel(Holds::default());
    let (servers, peers, sources) = sources(&config, held);
    let key_sets = KeySets::default();
    let start = Start::new(&config, &key_sets).await?;
    let policy = Arc::clone(&start.book.policy);
    let shared = Shared::new(reader, settings(&config), policy, authority, requests_port, peers);
    let shared = Arc::new(match &config.shared_limits {
        Some(limits) => {
            shared.with_shared_counting(counting::connect(limits, config.state_dir.as_deref()).await?)
        }
        None => shared,
    });
    counting::report(&shared);
    let registry = Arc::clone(&start.registry);
    let config = Arc::new(config);
    let (configs, config_changes) = watch::channel(Arc::clone(&config));
    let mut keeper = Keeper::new(start, Arc::clone(&shared), key_sets.clone(), config_changes.clone());
    let (stop, stopped) = watch::channel(false);
    let gate = Arc::new(Gate::new(admin_tokens::open(&config)?));
    let (reviews, reviewed) = watch::channel(Review::of(&config, &config));
    reload::report(&shared, &reviewed);
    let program = program(&config, config_changes.clone(), reviewed);
    let admin = Admin::new(gate.clone(), shared.clone(), registry.clone(), holds, program, stopped.clone());
    let pages = admin::router(admin.clone());
    let mut serving = tokio::spawn(web::serve(listeners, Arc::clone(&shared), pages, stopped));
    let (started, running) = (Arc::clone(&config), config);
    let for_reload = Arc::clone(&shared);
    let reload = Reload { file, seen, started, running, shared: for_reload, servers, gate, configs, reviews };
    let background = background(Arc::clone(&shared), reload, key_sets, &mut keeper);
    tokio::select! {
        ended = discovery::run(sources, publisher) => {
            return Err(io::Error::other(format!("discovery has ended: {ended:?}")));
        }
        ended = &mut serving => return ended.map_err(io::Error::other)?,
        () = background => {}
        () = admin.watch() => {}
        signal = stop_signal() => info!(signal = signal?, "stopping"),
    }
    let deadline = Instant::now() + STOP;
    stop.send_replace(true);
    // A poll may be held for seconds; Traefik does not mind if it breaks off.
    let ended = timeout(FINISH, serving).await.map_or(Ok(Ok(())), |ended| ended);
    // Whatever became of the requests, what they have counted is written.
    keeper.last_flush(deadline).await;
    ended.map_err(io::Error::other)?
}

/// What goes on beside the requests; never returns.
async fn background(shared: Arc<Shared>, reload: Reload, key_sets: KeySets, keeper: &mut Keeper) {
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
    tokio::join!(sweep, collect, reload.watch(), key_sets.keep_fresh(), keeper.run());
}

async fn stop_signal() -> io::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

async fn bind(config: &Config) -> io::Result<Listeners> {
    let bind = async |name: &str, address: SocketAddr| {
        let failed = |e| io::Error::other(format!("listen.{name}: cannot listen on {address}: {e}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        info!(listener = name, address = %listener.local_addr()?, "listening");
        Ok::<_, io::Error>(listener)
    };
    Ok(Listeners {
        provider: bind("provider", config.listen.provider).await?,
        requests: bind("requests", config.listen.requests).await?,
        admin: bind("admin", config.listen.admin).await?,
    })
}

/// What only the wiring knows and the dashboard shows.
fn program(
    config: &Config,
    changes: watch::Receiver<Arc<Config>>,
    reviews: watch::Receiver<Review>,
) -> Program {
    let hosts = if config.docker.is_wanted() { &config.docker.hosts[..] } else { &[] };
    let host = |host: &discovery::DockerOptions| (host.name.clone(), host.endpoint.to_string());
    Program {
        docker: hosts.iter().map(host).collect(),
        configuration: Box::new(move || changes.borrow().shown.clone()),
        problems: Box::new(move || reviews.borrow().problems.clone()),
    }
}

type Feeds = (watch::Sender<Configured>, watch::Sender<BTreeSet<IpAddr>>, Sources);

fn sources(config: &Config, holds: watch::Receiver<Holds>) -> Feeds {
    let (sender, configured) = watch::channel(configured(config));
    let (peers, traefik_peers) = watch::channel(BTreeSet::new());
    let mut docker = if config.docker.is_wanted() { config.docker.hosts.clone() } else { Vec::new() };
    for host in &mut docker {
        host.own_ports = [config.listen.provider, config.listen.requests].map(|at| at.port()).into();
    }
    if docker.is_empty() {
        info!("no Docker host: only the servers of the configuration are used");
    }
    (sender, peers, Sources { docker, configured, holds, traefik_peers })
}

/// The servers and models of the configuration, as discovery takes them.
pub(crate) fn configured(config: &Config) -> Configured {
    let spec = |server: &config::StaticServer| ServerSpec {
        base_path: server.base_path.clone(),
        models: server.models.clone(),
        settings: server.settings.clone(),
        model_settings: server.model_settings.clone(),
        credential: server.credential.clone().map(Arc::new),
        ..ServerSpec::configured(&server.name, server.url.clone())
    };
    let servers = config.servers.iter().map(spec).collect();
    Configured { servers, models: ModelOverrides::new(config.models.clone()) }
}

/// What the handlers are to know of the configuration.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        trusted_networks: config.traefik.trusted_addresses.clone(),
        traefik: options(config),
        advertise: config.traefik.advertise.as_ref().map(|host| host.as_str().to_owned()),
        hold: config.traefik.poll_timeout.saturating_sub(POLL_MARGIN),
    }
}

pub(crate) fn options(config: &Config) -> Options {
    Options {
        version: config.traefik.version,
        entry_points: config.traefik.entry_points.clone(),
        hosts: config.traefik.hosts.clone(),
        apis: config.traefik.apis.clone(),
        path_prefixes: config.traefik.path_prefixes.clone(),
        redirect_entry_points: config.traefik.redirect_entry_points.clone(),
        hsts: config.traefik.hsts.clone(),
        cors: config.traefik.cors.clone(),
        allow_ips: config.traefik.allow_ips.iter().map(ToString::to_string).collect(),
        ip_depth: config.traefik.ip_depth,
        client_certificate: config.traefik.client_certificate.clone(),
        dashboard: config
            .admin
            .host
            .as_ref()
            .map(|host| Dashboard { host: host.clone(), port: config.listen.admin.port() }),
        tls: config.traefik.tls.clone(),
        max_body: config.requests.max_body,
        max_chunked_body: config.requests.max_chunked_body,
        key_headers: config.requests.key_headers.iter().map(|name| name.as_str().to_owned()).collect(),
    }
}
