//! What stands before the models, in either layout: root routers, the question to Modelgate, what Modelgate
//! answers itself, the edge (TLS, CORS, allowed addresses).

mod dashboard;
mod edge;
mod tier;

use catalogue::{Api, Catalogue};
pub(crate) use tier::{Tier, exclusive_chunked, exclusive_too_large, tiers};

use crate::{
    Gateway, Options, rule,
    wire::{
        AddPrefix, Chain, ClientTls, ForwardAuth, ForwardingTimeouts, Http, LoadBalancer, Middleware, Router,
        RouterTls, Server, ServersTransport, Service,
    },
};

/// Modelgate's own service. The middleware for routers that the operator writes has this name, too
/// (`middlewares=modelgate@http`).
pub const MODELGATE_SERVICE: &str = "modelgate";
/// The path prefix under which Modelgate answers what Traefik could not route; the next segment
/// says why: `413`, `411` or `unrouted`, and the client's own path follows. `429` has the client's URL in
/// the query, as `url`.
pub const REFUSE_PREFIX: &str = "/refuse";

pub(crate) const UNROUTED: &str = "modelgate-unrouted";
const GATE: &str = "modelgate-gate";
pub(crate) const TOO_LARGE: &str = "modelgate-too-large";
pub(crate) const CHUNKED: &str = "modelgate-chunked";
const MODELS: &str = "modelgate-models";

/// What `/auth` may set on a request; each is deleted from the client's request first, so the
/// client's key never reaches a server. A browser's WebSocket carries its key in the list of protocols, of
/// which `/auth` gives back the others.
const AUTH_RESPONSE_HEADERS: [&str; 5] =
    ["Authorization", "X-Api-Key", "Api-Key", "X-Request-Id", "Sec-WebSocket-Protocol"];
/// Every `X-Inference-*`, and the spellings that servers take for it (`X_Inference_Consumer`
/// becomes the same WSGI variable): deleted from the client's request, then set by `/auth`.
const AUTH_RESPONSE_HEADERS_REGEX: &str = "(?i)^x[^a-z0-9]inference[^a-z0-9]";
/// More than any refusal of ours is long, in bytes.
const MAX_AUTH_ANSWER: u64 = 64 * 1024;
/// Above every other rank of the layered layout.
pub(crate) const RANK_OF_MODELS: usize = 5;

/// What the root routers have in common.
pub(crate) struct Front<'a> {
    options: &'a Options,
    gateway: &'a Gateway,
    /// The hosts, as a rule; empty: any.
    pub(crate) hosts: String,
    /// The hosts and all paths, as a rule.
    pub(crate) base: String,
    /// As long as the shortest plain rule would be.
    shortest: usize,
    /// Middlewares of every root router.
    pub(crate) edge: Vec<String>,
}

impl<'a> Front<'a> {
    /// Adds all that does not depend on the layout.
    pub(crate) fn new(
        http: &mut Http,
        catalogue: &Catalogue,
        options: &'a Options,
        gateway: &'a Gateway,
    ) -> Self {
        let hosts = rule::hosts(catalogue, options);
        let paths: Vec<String> = options.apis.iter().flat_map(|api| rule::paths(*api, options)).collect();
        let shortest = |rules: &[String]| rules.iter().map(String::len).min().unwrap_or(0);
        let host = if hosts.is_empty() { 0 } else { shortest(&hosts) + " && ".len() };
        let hosts_rule = if hosts.is_empty() { String::new() } else { rule::any(&hosts) };
        let front = Self {
            options,
            gateway,
            base: rule::all(&[&hosts_rule, &rule::any(&paths)]),
            hosts: hosts_rule,
            shortest: host + shortest(&paths),
            edge: edge::add_middlewares(http, catalogue, options),
        };
        edge::add_redirect(http, &front);
        front.add_service(http);
        if let Some(dashboard) = &options.dashboard {
            dashboard::add(http, &front, dashboard);
        }
        front.add_gate(http);
        front
    }

    /// The middleware for routers that the operator writes, which have none of the others.
    fn add_gate(&self, http: &mut Http) {
        let gate = self.forward_auth("gate", self.options.max_body);
        if self.options.ip_depth == 0 {
            http.middlewares.insert(MODELGATE_SERVICE.into(), gate);
            return;
        }
        http.middlewares.insert(GATE.into(), gate);
        let both = Chain { middlewares: vec![edge::FORWARDED.into(), GATE.into()] };
        http.middlewares.insert(MODELGATE_SERVICE.into(), Middleware::Chain(both));
    }

    /// A root router for the requests that a rule matches; the higher rank is asked first.
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

    /// A root router to Modelgate, which answers natively and says why.
    pub(crate) fn add_refusal(&self, http: &mut Http, name: &str, why: &str, matcher: &str, rank: usize) {
        let mut router = Router { service: Some(MODELGATE_SERVICE.into()), ..self.root(matcher, rank) };
        router.middlewares.push(name.into());
        http.routers.insert(name.into(), router);
        http.middlewares.insert(name.into(), refusal(why));
    }

    /// Lists of models and limits, which Modelgate answers: the key's own.
    pub(crate) fn add_lists(&self, http: &mut Http, rank: usize) {
        let mut paths = Vec::new();
        if self.options.apis.contains(&Api::OpenAi) {
            for prefix in &self.options.path_prefixes {
                paths.push(format!("Path(`{prefix}/models`)"));
                paths.push(format!("PathPrefix(`{prefix}/models/`)"));
                paths.push(format!("Path(`{prefix}/limits`)"));
            }
        }
        if self.options.apis.contains(&Api::Ollama) {
            paths.extend(["tags", "ps", "version"].map(|list| format!("Path(`/api/{list}`)")));
        }
        if paths.is_empty() {
            return;
        }
        let matcher = format!("{} && (Method(`GET`) || Method(`HEAD`))", rule::any(&paths));
        let router = Router { service: Some(MODELGATE_SERVICE.into()), ..self.root(&matcher, rank) };
        http.routers.insert(MODELS.into(), router);
    }

    /// The question to Modelgate. Before 3.3 it has no body, and says so, lest Modelgate take it for
    /// an empty one.
    pub(crate) fn forward_auth(&self, query: &str, max_body: u64) -> Middleware {
        let version = self.options.version;
        let body = version.forwards_body();
        let mut address = format!("https://{}/auth", self.gateway.authority);
        for (separator, part) in [("?", query), ("&", if body { "" } else { "body=none" })] {
            if !part.is_empty() {
                address.push_str(separator);
                address.push_str(part);
            }
        }
        let certificate = self.options.client_certificate.as_ref();
        Middleware::ForwardAuth(Box::new(ForwardAuth {
            address,
            tls: ClientTls {
                ca: self.gateway.ca_pem.clone(),
                cert: certificate.map(|c| c.cert.clone()),
                key: certificate.map(|c| c.key.clone()),
            },
            // Which proxies a request has passed. Whatever else they say is gone by then (`edge.rs`).
            trust_forward_header: self.options.ip_depth > 0,
            forward_body: body,
            max_body_size: body.then_some(max_body),
            max_response_body_size: version.limits_auth_answers().then_some(MAX_AUTH_ANSWER),
            auth_response_headers: AUTH_RESPONSE_HEADERS.to_vec(),
            auth_response_headers_regex: AUTH_RESPONSE_HEADERS_REGEX,
        }))
    }

    fn add_service(&self, http: &mut Http) {
        http.services.insert(
            MODELGATE_SERVICE.into(),
            Service::LoadBalancer(LoadBalancer {
                servers: vec![Server {
                    url: format!("https://{}", self.gateway.authority),
                    weight: None,
                    preserve_path: false,
                }],
                strategy: None,
                sticky: None,
                health_check: None,
                passive_health_check: None,
                pass_host_header: false,
                servers_transport: MODELGATE_SERVICE.into(),
            }),
        );
        http.servers_transports.insert(
            MODELGATE_SERVICE.into(),
            ServersTransport {
                root_cas: vec![self.gateway.ca_pem.clone()],
                max_idle_conns_per_host: 200,
                forwarding_timeouts: ForwardingTimeouts {
                    dial_timeout: "500ms".into(),
                    response_header_timeout: "0s".into(),
                    idle_conn_timeout: "90s".into(),
                },
            },
        );
    }
}

/// Puts the reason before the client's path.
pub(crate) fn refusal(why: &str) -> Middleware {
    Middleware::AddPrefix(AddPrefix { prefix: format!("{REFUSE_PREFIX}/{why}") })
}
