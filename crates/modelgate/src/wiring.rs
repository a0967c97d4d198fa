//! Translates the configuration for each part: discovery, the listeners, what is rendered for Traefik.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use catalogue::{Configured, Cordons, ModelOverrides, ServerSpec};
use discovery::{Kept, Sources};
use tokio::sync::watch;
use tracing::info;
use traefik_config::{Dashboard, RenderOptions};
use web::Settings;

use crate::config::{Config, StaticServer};

/// A poll is answered this long before Traefik's timeout.
const POLL_MARGIN: Duration = Duration::from_millis(500);

/// What discovery is told later: the servers of a new configuration, and the addresses from which Traefik polls.
pub(crate) type Feeds = (watch::Sender<Configured>, watch::Sender<BTreeSet<IpAddr>>, Sources);

/// The file in the state folder in which discovery keeps what it knows.
const KEPT_FILE: &str = "servers.json";

/// What the Modelgate before this one knew, and where it is kept.
pub(crate) fn kept(config: &Config) -> Option<Kept> {
    config.state_dir.as_ref().map(|folder| Kept::open(folder.join(KEPT_FILE)))
}

/// Where discovery looks for servers.
pub(crate) fn sources(
    config: &Config,
    cordons: watch::Receiver<Cordons>,
    remembered: watch::Receiver<Arc<BTreeSet<String>>>,
    kept: Option<Kept>,
) -> Feeds {
    let (sender, configured) = watch::channel(configured(config));
    let (peers, traefik_peers) = watch::channel(kept.as_ref().map(Kept::peers).unwrap_or_default());
    let mut docker = if config.docker.is_wanted() { config.docker.hosts.clone() } else { Vec::new() };
    for host in &mut docker {
        host.own_ports = [config.listen.provider, config.listen.requests].map(|at| at.port()).into();
    }
    if docker.is_empty() {
        info!("no Docker host: only the servers of the configuration are used");
    }
    (sender, peers, Sources { docker, configured, cordons, remembered, traefik_peers, kept })
}

/// The servers and models of the configuration, in discovery's types.
pub(crate) fn configured(config: &Config) -> Configured {
    let spec = |server: &StaticServer| ServerSpec {
        base_path: server.base_path.clone(),
        models: server.models.clone(),
        settings: server.settings.clone(),
        model_settings: server.model_settings.clone(),
        credential: server.credential.clone().map(Arc::new),
        ..ServerSpec::configured(&server.name, server.url.clone())
    };
    let servers = config.servers.iter().map(spec).collect();
    Configured {
        servers,
        models: ModelOverrides::new(config.models.clone()),
        loading_time: config.requests.loading_time,
    }
}

/// The configuration that the handlers need.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        trusted_networks: config.traefik.trusted_addresses.clone(),
        traefik: options(config),
        version_is_given: config.traefik.version_is_given,
        advertise: config.traefik.advertise.as_ref().map(|host| host.as_str().to_owned()),
        hold: config.traefik.poll_timeout.saturating_sub(POLL_MARGIN),
        telemetry: telemetry_listener(config),
        prices: config.prices.clone(),
        keeps_hard_budgets: config.keeps_hard_budgets(),
    }
}

/// Where servers and Traefik reach `listen.telemetry`. Its host is not configured: `modelgate` is its name in deploy/.
pub(crate) fn telemetry_listener(config: &Config) -> Option<web::TelemetryListener> {
    let port = config.listen.telemetry?.port();
    let host = config.traefik.advertise.as_ref().map_or_else(|| "modelgate".into(), ToString::to_string);
    Some(web::TelemetryListener {
        authority: format!("{host}:{port}"),
        has_token: config.listen.telemetry_token.is_some(),
    })
}

/// What is rendered for Traefik besides models.
pub(crate) fn options(config: &Config) -> RenderOptions {
    RenderOptions {
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
        traces: config.listen.telemetry.is_some(),
    }
}
