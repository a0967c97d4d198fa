//! The part before the models in either layout: root routers, ForwardAuth, requests that Modelgate answers itself, and the edge
//! (TLS, CORS, allowed addresses).

mod dashboard;
mod edge;
mod gate;
mod misaddressed;
mod prefix;
mod question;
mod tier;

use catalogue::{Api, Catalogue};
pub use gate::{SIZED_GATE, WEBSOCKET_GATE};
pub(crate) use prefix::is_other;
pub use prefix::{as_v1, bases};
pub(crate) use tier::{Body, Question, RANK_OF_TOO_LARGE, exclusive_chunked, tiers, too_large};

use crate::{
    Gateway, RenderOptions, rule,
    wire::{
        AddPrefix, ForwardingTimeouts, Http, LoadBalancer, Middleware, Router, RouterTls, Server,
        ServersTransport, Service,
    },
};

/// Modelgate's own service. The middleware for routers that the operator writes has the same name (`middlewares=modelgate@http`).
pub const MODELGATE_SERVICE: &str = "modelgate";
/// The path prefix under which Modelgate answers what Traefik could not route; the next segment
/// says why: `413`, `411`, `unrouted` or `elsewhere`, and the client's own path follows. Pages in place of errors (`429`, `502`,
/// `413`, `413-chunked`) have the client's URL in the query, as `url`.
pub const REFUSE_PREFIX: &str = "/refuse";

pub(crate) const UNROUTED: &str = "modelgate-unrouted";
const TOO_LARGE: &str = "modelgate-too-large";
const ELSEWHERE: &str = "modelgate-elsewhere";
const CHUNKED: &str = "modelgate-chunked";
const MODELS: &str = "modelgate-models";
/// Requests for a list of models below a model's name. Modelgate answers with that one model, because its servers may have others.
const NAMED_LISTS: &str = "PathRegexp(`^/models/.+/(v1/models(/[^/]+)?|api/(tags|ps))/?$`)";
/// The shortest rule for all paths.
const CATCH_ALL: &str = "PathPrefix(`/`)";
const SIGN_OF_LIFE: &str = "modelgate-ollama";

/// The highest rank of the layered layout.
pub(crate) const RANK_OF_MODELS: usize = 6;

/// Why Modelgate itself answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its body is too large.
    TooLarge,
    /// It has no `Content-Length`, and such bodies are not allowed.
    LengthMissing,
    /// No other router takes it.
    Unrouted,
    /// It looks like a request for one of the APIs, but none of them has its path.
    Elsewhere,
}

/// What the root routers share.
pub(crate) struct Front<'a> {
    options: &'a RenderOptions,
    gateway: &'a Gateway,
    /// The rule for the hosts; empty: any.
    pub(crate) hosts: String,
    /// The rule for the hosts and all paths.
    pub(crate) base: String,
    /// The length of the shortest plain rule.
    shortest: usize,
    /// The middlewares of every root router.
    pub(crate) edge: Vec<String>,
    /// The middleware that replaces prefixes, before `/auth` is asked.
    pub(crate) prefix: Option<String>,
}

impl<'a> Front<'a> {
    /// Adds everything that does not depend on the layout.
    pub(crate) fn new(
        http: &mut Http,
        catalogue: &Catalogue,
        options: &'a RenderOptions,
        gateway: &'a Gateway,
    ) -> Self {
        let hosts = rule::hosts(catalogue, options);
        let paths = rule::each_once(options.apis.iter().flat_map(|api| rule::paths(*api, options)));
        let shortest = |rules: &[String]| rules.iter().map(String::len).min().unwrap_or(0);
        let host = if hosts.is_empty() { 0 } else { shortest(&hosts) + " && ".len() };
        let hosts_rule = if hosts.is_empty() { String::new() } else { rule::any(&hosts) };
        let front = Self {
            options,
            gateway,
            base: rule::all(&[&hosts_rule, &rule::any(&paths)]),
            hosts: hosts_rule,
            // Above somebody's `PathPrefix(`/`)`, however short a path is.
            shortest: host + shortest(&paths).max(CATCH_ALL.len()),
            edge: edge::add_middlewares(http, catalogue, options),
            prefix: prefix::add(http, options),
        };
        edge::add_redirect(http, &front);
        front.add_service(http);
        if let Some(dashboard) = &options.dashboard {
            dashboard::add(http, &front, dashboard);
        }
        gate::add(http, &front);
        misaddressed::add(http, &front);
        front
    }

    /// A root router for the requests that a rule matches; a higher rank takes precedence.
    pub(crate) fn root(&self, matcher: &str, rank: usize) -> Router {
        let options = self.options;
        Router {
            entry_points: options.entry_points.clone(),
            rule: rule::all(&[&self.base, matcher]),
            // Ranked among themselves, yet no higher than a plain rule would be, so that a user's own
            // router with a longer rule (another Host, a longer path) keeps its requests.
            priority: Some(self.shortest + rank),
            middlewares: self.edge.clone(),
            tls: options.tls.as_ref().map(|tls| RouterTls { cert_resolver: tls.cert_resolver.clone() }),
            ..Router::default()
        }
    }

    /// A root router to Modelgate, which answers in the client's API and gives the reason.
    pub(crate) fn add_refusal(&self, http: &mut Http, refusal: Refusal, matcher: &str, rank: usize) {
        let name = refusal.name();
        let mut router = Router { service: Some(MODELGATE_SERVICE.into()), ..self.root(matcher, rank) };
        router.middlewares.push(name.into());
        http.routers.insert(name.into(), router);
        http.middlewares.insert(name.into(), refusal.middleware());
    }

    /// The lists of models, limits and usage of a key, which Modelgate answers.
    pub(crate) fn add_lists(&self, http: &mut Http, rank: usize) {
        let mut paths = Vec::new();
        if self.options.apis.contains(&Api::OpenAi) {
            for prefix in bases(self.options) {
                paths.push(format!("Path(`{prefix}/models`)"));
                paths.push(format!("PathPrefix(`{prefix}/models/`)"));
                paths.push(format!("Path(`{prefix}/limits`)"));
                paths.push(format!("Path(`{prefix}/usage`)"));
            }
        }
        if self.options.apis.contains(&Api::Ollama) {
            paths.extend(["tags", "ps", "version"].map(|list| format!("Path(`/api/{list}`)")));
            self.add_sign_of_life(http);
        }
        if self.options.apis.contains(&Api::Azure) {
            paths.push("Path(`/openai/v1/models`)".into());
            paths.push("PathPrefix(`/openai/v1/models/`)".into());
        }
        if self.options.apis.contains(&Api::Models) {
            paths.push(NAMED_LISTS.into());
        }
        if paths.is_empty() {
            return;
        }
        let matcher = format!("{} && (Method(`GET`) || Method(`HEAD`))", rule::any(&paths));
        let router = Router { service: Some(MODELGATE_SERVICE.into()), ..self.root(&matcher, rank) };
        http.routers.insert(MODELS.into(), router);
    }

    /// Ollama's clients request `/` to check that the server is there. Any other router on these hosts takes precedence.
    fn add_sign_of_life(&self, http: &mut Http) {
        let rule = rule::all(&[&self.hosts, "Path(`/`)", "(Method(`GET`) || Method(`HEAD`))"]);
        let service = Some(MODELGATE_SERVICE.into());
        http.routers
            .insert(SIGN_OF_LIFE.into(), Router { rule, priority: Some(1), service, ..self.root("", 0) });
    }

    fn add_service(&self, http: &mut Http) {
        http.services.insert(
            MODELGATE_SERVICE.into(),
            Service::LoadBalancer(LoadBalancer {
                servers: vec![Server {
                    url: format!("https://{}", self.gateway.authority),
                    ..Server::default()
                }],
                servers_transport: MODELGATE_SERVICE.into(),
                ..LoadBalancer::default()
            }),
        );
        http.servers_transports.insert(
            MODELGATE_SERVICE.into(),
            ServersTransport {
                root_cas: vec![self.gateway.ca_pem.clone()],
                // HTTP/1.1, for two reasons. Behind `retry`, Traefik before 3.7.1 loses an answer that comes over HTTP/2
                // at once: the client gets an empty 200. And these requests have the client's own URL: h2 ends a
                // connection on which a URL is not UTF-8, and with it the requests of all clients that share it.
                disable_http2: true,
                max_idle_conns_per_host: 200,
                forwarding_timeouts: ForwardingTimeouts {
                    dial_timeout: "500ms".into(),
                    response_header_timeout: "0s".into(),
                    // Shorter than Modelgate's own time-out, so that no request is sent on a connection that is being closed.
                    idle_conn_timeout: "30s".into(),
                },
            },
        );
    }
}

impl Refusal {
    /// The name of its router and its middleware.
    fn name(self) -> &'static str {
        match self {
            Self::TooLarge => TOO_LARGE,
            Self::LengthMissing => CHUNKED,
            Self::Unrouted => UNROUTED,
            Self::Elsewhere => ELSEWHERE,
        }
    }

    /// Adds the reason in front of the client's path.
    pub(crate) fn middleware(self) -> Middleware {
        let why = match self {
            Self::TooLarge => "413",
            Self::LengthMissing => "411",
            Self::Unrouted => "unrouted",
            Self::Elsewhere => "elsewhere",
        };
        Middleware::AddPrefix(AddPrefix { prefix: format!("{REFUSE_PREFIX}/{why}") })
    }
}
