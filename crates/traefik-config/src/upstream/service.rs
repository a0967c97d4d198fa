//! Turns servers into services (<https://doc.traefik.io/traefik/reference/routing-configuration/http/load-balancing/service/>).
//!
//! Services are named by their content. Models on the same servers therefore share one, so that Traefik's health checks are
//! proportional to servers instead of models.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use catalogue::{Branch, Kind, ModelSettings, Pool, RouteGroup, ServerRecord, ServerUrl, Strategy};

use super::{Upstream, by_priority, hash};
use crate::{
    TraefikVersion,
    wire::{
        Cookie, Failover, FailoverErrors, ForwardingTimeouts, Guarded, HealthCheck, LoadBalancer, Mirror,
        Mirroring, PassiveHealthCheck, Server, ServersTransport, Service, Sticky, Watched, Weighted,
        WeightedService, go_duration,
    },
};

const TRANSPORT: &str = "inference";

/// A service that has been added.
struct Built {
    name: String,
    /// Whether Traefik checks all of its servers, and so notices when all are down.
    checked: bool,
}

/// What the servers of one load balancer share.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct BalancerSettings {
    transport: String,
    pass_host_header: bool,
    check: Option<HealthCheck>,
}

/// The form of the servers' URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerUrls {
    /// Without a base path: the router's middlewares add it.
    Plain,
    /// Each with the base path of its server.
    WithBasePath,
}

/// Adds the services of one model's servers, balanced by the model's settings.
struct Spread<'s, 'u> {
    upstream: &'s mut Upstream<'u>,
    settings: &'s ModelSettings,
    urls: ServerUrls,
}

impl Upstream<'_> {
    /// Adds the services of a group.
    pub(super) fn service(&mut self, pool: &Pool, group: &RouteGroup, urls: ServerUrls) -> String {
        let mut spread = Spread { upstream: self, settings: &pool.settings, urls };
        let main = spread.chain(&by_priority(&group.ready));
        // A request carries the group's credential, so it gets no canary or mirror.
        if group.credential.is_some() {
            return main.name;
        }
        let split = match &pool.canary {
            Some(canary) => spread.canary(main, canary),
            None => main,
        };
        match &pool.mirror {
            Some(mirror) => spread.mirroring(split, mirror),
            None => split.name,
        }
    }
}

/// The statuses with which Traefik answers for a server that has not answered.
const NOT_ANSWERED: &str = "502-504";
/// How long a server that failed once is left out, before 3.7.
const LEFT_OUT: &str = "10s";

impl Upstream<'_> {
    /// A server, and the others for whatever it did not answer; these behind middlewares of their own.
    pub(super) fn tried_server(
        &mut self,
        settings: &ModelSettings,
        server: &Arc<ServerRecord>,
        urls: ServerUrls,
        (others, before): (&str, Vec<String>),
    ) -> String {
        let status = vec![NOT_ANSWERED.to_owned()];
        let mut spread = Spread { upstream: self, settings, urls };
        let shape = spread.shape(server);
        let main = spread.load_balancer(shape, &[server]);
        let main = spread.guarded(main, &status);
        let others = Built { name: others.to_owned(), checked: false };
        let fallback = if before.is_empty() { others } else { spread.behind(others, before) };
        let errors = Some(FailoverErrors { status, max_request_body_bytes: Some(-1) });
        let (service, fallback) = (main.name, fallback.name);
        let service = Service::Failover(Failover { service, fallback, health_check: None, errors });
        spread.add_service(format!("failover-{}", hash(&service)), service)
    }

    /// A server that Traefik checks, and the others while it is down.
    pub(super) fn watched_server(
        &mut self,
        settings: &ModelSettings,
        server: &Arc<ServerRecord>,
        urls: ServerUrls,
        others: &str,
    ) -> String {
        let mut spread = Spread { upstream: self, settings, urls };
        let shape = spread.shape(server);
        let passive = PassiveHealthCheck { max_failed_attempts: 1, failure_window: LEFT_OUT.into() };
        let main = spread.balancer(shape, &[server], Some(passive));
        let (service, fallback) = (main.name, others.to_owned());
        let service = Service::Failover(Failover { service, fallback, health_check: None, errors: None });
        spread.add_service(format!("failover-{}", hash(&service)), service)
    }
}

/// Whether this Traefik can send each request to the server that `/auth` chooses, and to the others if that one fails.
pub(crate) fn can_pick(pool: &Pool, group: &RouteGroup, version: TraefikVersion) -> bool {
    version.is_layered() && (version.fails_over_on_status() || unchecked(pool, group).is_none())
}

/// The first server that Traefik does not check, among those that `/auth` may choose.
pub(crate) fn unchecked<'g>(pool: &Pool, group: &'g RouteGroup) -> Option<&'g ServerRecord> {
    let routes = group.pick.iter().flat_map(|pick| &*pick.routes);
    routes.map(|route| &*route.server).find(|server| !is_checked(server, &pool.settings))
}

impl Spread<'_, '_> {
    /// The servers of another model, balanced by that model's settings.
    fn branch(&mut self, branch: &Branch) -> Built {
        let own = self.upstream.catalogue.pool(branch.model.as_str()).map(|pool| &pool.settings);
        let default = ModelSettings::default();
        let settings = own.unwrap_or(&default);
        let mut spread = Spread { upstream: self.upstream, settings, urls: self.urls };
        spread.chain(&by_priority(&branch.ready))
    }

    fn canary(&mut self, main: Built, canary: &Branch) -> Built {
        let other = self.branch(canary);
        if canary.percent >= 100 {
            return other;
        }
        let percent = u32::from(canary.percent);
        let parts = vec![(main, 100 - percent), (other, percent)];
        self.weighted("canary", parts, sticky(self.settings, "-canary"))
    }

    /// Traefik keeps a body in memory to send it twice. With `maxBodySize` it would allocate that much for every request,
    /// however short; without, it keeps as much as the body has. From 3.3 on the size has been bounded before. Where nothing
    /// bounds a body without a length, bodies beyond the limit for such bodies are not copied.
    fn mirroring(&mut self, main: Built, mirror: &Branch) -> String {
        let copy = self.branch(mirror);
        let options = self.upstream.options;
        let bounded = options.version.forwards_body() || options.max_chunked_body == 0;
        let service = Service::Mirroring(Mirroring {
            service: main.name,
            mirrors: vec![Mirror { name: copy.name, percent: mirror.percent }],
            max_body_size: (!bounded).then_some(options.max_chunked_body),
        });
        self.add_service(format!("mirror-{}", hash(&service)), service)
    }

    /// Primary servers and their backups.
    ///
    /// Traefik's failover needs an active health check of the primary: without one it rejects the service, since it would never
    /// fail over. Then the backups are left out: Modelgate itself notices that no primary is left, and renders the backups in
    /// their place. Failing over on a status (3.7) needs no check. Its `maxRequestBodyBytes` reads the whole body, for the same
    /// reason as a mirror's. If the primary sent its error in chunks, Traefik (3.7.0 to 3.7.15 at least) would begin its own
    /// answer at once: the client would get the backup's body with a bare 200. So behind `failover` such errors are emptied.
    fn chain(&mut self, levels: &[Vec<Arc<ServerRecord>>]) -> Built {
        let (first, rest) = levels.split_first().expect("a group and a branch have at least one server");
        let main = self.level(first);
        let on_status = self.settings.failover_status.clone();
        let on_status = on_status.filter(|_| self.upstream.options.version.fails_over_on_status());
        if rest.is_empty() || (!main.checked && on_status.is_none()) {
            return main;
        }
        let main = match &on_status {
            Some(status) => self.guarded(main, status),
            None => main,
        };
        let fallback = self.chain(rest);
        let checked = main.checked && fallback.checked;
        let service = Service::Failover(Failover {
            service: main.name,
            fallback: fallback.name,
            health_check: checked.then_some(Watched {}),
            errors: on_status.map(|status| FailoverErrors { status, max_request_body_bytes: Some(-1) }),
        });
        Built { name: self.add_service(format!("failover-{}", hash(&service)), service), checked }
    }

    /// Empties the errors of a service that has a fallback.
    fn guarded(&mut self, main: Built, status: &[String]) -> Built {
        let emptied = self.upstream.emptied(status);
        self.behind(main, vec![emptied])
    }

    /// Puts middlewares before a service.
    fn behind(&mut self, main: Built, middlewares: Vec<String>) -> Built {
        let service = Service::Guarded(Guarded {
            middlewares,
            weighted: Weighted {
                services: vec![WeightedService { name: main.name, weight: 1 }],
                sticky: None,
                health_check: main.checked.then_some(Watched {}),
            },
        });
        Built {
            name: self.add_service(format!("guarded-{}", hash(&service)), service),
            checked: main.checked,
        }
    }

    /// Servers of one priority. Those that cannot share a load balancer are put into several, each weighted by the sum of its
    /// servers' weights.
    fn level(&mut self, servers: &[Arc<ServerRecord>]) -> Built {
        let mut groups: BTreeMap<BalancerSettings, Vec<&Arc<ServerRecord>>> = BTreeMap::new();
        for server in servers {
            groups.entry(self.shape(server)).or_default().push(server);
        }
        let mut parts: Vec<(Built, u32)> = Vec::new();
        for (shape, servers) in groups {
            let weight = servers.iter().map(|s| u32::from(s.spec.settings.weight())).sum();
            parts.push((self.load_balancer(shape, &servers), weight));
        }
        match parts.len() {
            1 => parts.remove(0).0,
            _ => self.weighted("groups", parts, sticky(self.settings, "-group")),
        }
    }

    fn load_balancer(&mut self, shape: BalancerSettings, servers: &[&Arc<ServerRecord>]) -> Built {
        let passive = passive(self.settings).filter(|_| self.upstream.options.version.checks_passively());
        self.balancer(shape, servers, passive)
    }

    fn balancer(
        &mut self,
        shape: BalancerSettings,
        servers: &[&Arc<ServerRecord>],
        passive_health_check: Option<PassiveHealthCheck>,
    ) -> Built {
        let Self { settings, urls, .. } = *self;
        let weighed = servers.iter().any(|s| s.spec.settings.weight() != 1);
        let server = |s: &ServerRecord| {
            let base = match urls {
                ServerUrls::Plain => "",
                ServerUrls::WithBasePath => s.spec.base_path.as_str(),
            };
            Server {
                url: format!("{}{base}", s.spec.url),
                weight: weighed.then(|| s.spec.settings.weight()),
                preserve_path: !base.is_empty(),
            }
        };
        let strategy = strategy(settings, self.upstream.options.version);
        let checked = shape.check.is_some();
        let service = Service::LoadBalancer(LoadBalancer {
            servers: servers.iter().map(|s| server(s)).collect(),
            strategy: strategy.map(Strategy::as_str),
            sticky: sticky(settings, "").filter(|_| strategy != Some(Strategy::Hrw)),
            health_check: shape.check,
            passive_health_check,
            pass_host_header: shape.pass_host_header,
            servers_transport: shape.transport,
        });
        Built { name: self.add_service(name(servers, &service), service), checked }
    }

    fn weighted(&mut self, kind: &str, parts: Vec<(Built, u32)>, sticky: Option<Sticky>) -> Built {
        let checked = parts.iter().all(|(part, _)| part.checked);
        let services =
            parts.into_iter().map(|(part, weight)| WeightedService { name: part.name, weight }).collect();
        let service =
            Service::Weighted(Weighted { services, sticky, health_check: checked.then_some(Watched {}) });
        Built { name: self.add_service(format!("{kind}-{}", hash(&service)), service), checked }
    }

    fn add_service(&mut self, name: String, service: Service) -> String {
        self.upstream.http.services.entry(name.clone()).or_insert(service);
        name
    }

    fn shape(&mut self, server: &ServerRecord) -> BalancerSettings {
        let https = server.spec.url.is_https();
        BalancerSettings {
            transport: self.transport(&server.spec.url, server.kind()),
            // Ollama on a loopback address answers 403 to every `Host` but its own.
            pass_host_header: server
                .spec
                .settings
                .pass_host_header
                .unwrap_or(!https && server.kind() != Kind::Ollama),
            check: check(server, self.settings),
        }
    }

    fn transport(&mut self, url: &ServerUrl, kind: Kind) -> String {
        let (settings, https) = (self.settings, url.is_https());
        // What is sent over a connection that the server has closed is lost, if it is a POST and Traefik may not send it again. A new
        // connection for each request costs a third of the requests a second that a server gets which answers at once, so it is made
        // only there.
        let sends_again = self.upstream.options.version.retries_on_status()
            && !matches!(settings.retry_attempts, Some(0 | 1));
        let loses_requests = kind.drops_connections() && !sends_again;
        let usual = usual_transport(https);
        let time = |set: Option<Duration>, usual: &str| set.map_or_else(|| usual.to_owned(), go_duration);
        let usual_times = &usual.forwarding_timeouts;
        let transport = ServersTransport {
            root_cas: Vec::new(),
            disable_http2: false,
            max_idle_conns_per_host: if loses_requests { -1 } else { usual.max_idle_conns_per_host },
            forwarding_timeouts: ForwardingTimeouts {
                dial_timeout: time(settings.timeout_dial, &usual_times.dial_timeout),
                response_header_timeout: time(
                    settings.timeout_response_header,
                    &usual_times.response_header_timeout,
                ),
                idle_conn_timeout: time(settings.timeout_idle, &usual_times.idle_conn_timeout),
            },
        };
        // Transports that differ in anything have different names, whatever settings there will be.
        let name = match (transport == usual, https) {
            (true, false) => TRANSPORT.to_owned(),
            (true, true) => format!("{TRANSPORT}-https"),
            (false, _) => format!("{TRANSPORT}-{}", hash(&transport)),
        };
        self.upstream.http.servers_transports.entry(name.clone()).or_insert(transport);
        name
    }
}

/// The transport to servers that have no settings of their own.
fn usual_transport(https: bool) -> ServersTransport {
    ServersTransport {
        root_cas: Vec::new(),
        disable_http2: false,
        max_idle_conns_per_host: 200,
        forwarding_timeouts: ForwardingTimeouts {
            // A container that has gone leaves an address that does not even refuse connections. The retry makes up for
            // connections that were given up too early. Remote servers take longer.
            dial_timeout: if https { "5s" } else { "500ms" }.into(),
            // A long answer that is not streamed sends its headers only at its end.
            response_header_timeout: "0s".into(),
            // uvicorn, under vLLM and SGLang, closes connections that were idle for 5 s; a request sent at that moment fails
            // and, being a POST, is not repeated. So Traefik closes them first.
            idle_conn_timeout: "4s".into(),
        },
    }
}

/// The strategy, if it is not the default and this Traefik supports it.
fn strategy(settings: &ModelSettings, version: TraefikVersion) -> Option<Strategy> {
    settings.strategy.filter(|strategy| match strategy {
        Strategy::Wrr | Strategy::Cache | Strategy::LeastBusy => false,
        Strategy::P2c => version.has_p2c(),
        Strategy::Hrw | Strategy::LeastTime => version.has_hrw_and_leasttime(),
    })
}

/// The sticky cookie of a balancer. A balancer above another one needs its own cookie name, or each would overwrite the other's.
fn sticky(settings: &ModelSettings, suffix: &str) -> Option<Sticky> {
    let name = format!("{}{suffix}", settings.sticky_cookie.as_ref()?);
    Some(Sticky {
        cookie: Cookie {
            name,
            secure: settings.sticky_secure.unwrap_or(false),
            http_only: settings.sticky_http_only.unwrap_or(true),
            same_site: settings.sticky_same_site.map(catalogue::SameSite::as_str),
            max_age: settings.sticky_max_age.map(|age| age.as_secs()),
        },
    })
}

/// Whether Traefik itself checks a server's health.
pub(crate) fn is_checked(server: &ServerRecord, settings: &ModelSettings) -> bool {
    check(server, settings).is_some()
}

/// Checks the list of models by default, if the server is known to have one. Traefik has no credential for its checks, so
/// servers that demand one are checked only if the operator names a path.
fn check(server: &ServerRecord, settings: &ModelSettings) -> Option<HealthCheck> {
    let path = match settings.healthcheck_path.as_deref() {
        Some("") => return None,
        Some(path) => path.to_owned(),
        None if server.spec.models.is_empty() && server.spec.credential.is_none() => {
            format!("{}/models", server.spec.base_path.as_str())
        }
        None => return None,
    };
    let time = |set: Option<Duration>, default: &str| set.map_or_else(|| default.to_owned(), go_duration);
    Some(HealthCheck {
        path,
        interval: time(settings.healthcheck_interval, "10s"),
        timeout: time(settings.healthcheck_timeout, "5s"),
        status: settings.healthcheck_status,
    })
}

fn passive(settings: &ModelSettings) -> Option<PassiveHealthCheck> {
    Some(PassiveHealthCheck {
        max_failed_attempts: settings.passive_max_failed_attempts?,
        failure_window: go_duration(settings.passive_failure_window.unwrap_or(Duration::from_secs(10))),
    })
}

/// The first server's name, to be readable, and a hash of the service's content.
fn name(servers: &[&Arc<ServerRecord>], service: &Service) -> String {
    let name = servers.first().map_or("", |s| s.spec.name.as_str());
    let mut slug: String =
        name.chars().filter(char::is_ascii_alphanumeric).take(24).collect::<String>().to_lowercase();
    if servers.len() > 1 {
        let _ = write!(slug, "-and-{}-more", servers.len() - 1);
    }
    format!("servers-{slug}-{}", hash(service))
}
