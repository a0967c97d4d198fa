//! The two layers of routers.
//!
//! ```text
//! root routers                                     child routers
//!   modelgate-models     GET /v1/models → Modelgate
//!   modelgate-small   ┐                              <route id>: X-Inference-Route → its servers
//!   modelgate-medium  ├─ ForwardAuth → Modelgate ──▶ …
//!   modelgate-large   │                              modelgate-unrouted: everything else → Modelgate
//!   modelgate-bodyless│
//!   modelgate-chunked ┘
//!   modelgate-too-large  → Modelgate, which answers 413
//! ```
//!
//! Model names come from other people's servers. They are never put into the document: a
//! [`RouteId`](catalogue::RouteId) stands for each.

use std::{fmt::Write as _, sync::Arc};

use catalogue::{BasePath, Catalogue, Pool, ServerRecord};
use sha2::{Digest, Sha256};

use crate::{
    Gateway, Options, content_length,
    wire::{
        AddPrefix, ClientTls, Document, ForwardAuth, ForwardingTimeouts, HealthCheck, Http, LoadBalancer,
        Middleware, Retry, Router, RouterTls, Server, ServersTransport, Service, StripPrefix,
    },
};

/// Modelgate's own service.
pub const MODELGATE_SERVICE: &str = "modelgate";
/// The path prefix under which Modelgate answers what Traefik could not route; the next segment
/// says why: `413`, `411` or `unrouted`, and the client's own path follows.
pub const REFUSE_PREFIX: &str = "/refuse";

const TRANSPORT_TO_SERVERS: &str = "inference";
const TRANSPORT_TO_MODELGATE: &str = "modelgate";
const RETRY: &str = "modelgate-retry";
const UNROUTED: &str = "modelgate-unrouted";
const TOO_LARGE: &str = "modelgate-too-large";
const CHUNKED: &str = "modelgate-chunked";
const STRIP: &str = "modelgate-strip";

/// What `/auth` may set on a request; each is deleted from the client's request first, so the
/// client's key never reaches a server.
const AUTH_RESPONSE_HEADERS: [&str; 4] = ["Authorization", "X-Api-Key", "Api-Key", "X-Request-Id"];
/// Every `X-Inference-*`, and the spellings that servers take for it (`X_Inference_Consumer`
/// becomes the same WSGI variable): deleted from the client's request, then set by `/auth`.
const AUTH_RESPONSE_HEADERS_REGEX: &str = "(?i)^x[^a-z0-9]inference[^a-z0-9]";
/// More than any refusal of ours is long, in bytes.
const MAX_AUTH_ANSWER: u64 = 64 * 1024;

/// A range of body sizes whose requests share a ForwardAuth middleware, because Traefik allocates
/// that middleware's `maxBodySize` for each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// The router's and the middleware's name.
    pub name: &'static str,
    /// The longest body, in bytes.
    pub max_body: u64,
    /// What its requests have in common, as part of a rule.
    pub matcher: String,
    /// Added to the priority: the higher is asked first.
    rank: usize,
}

/// Renders the document. The same catalogue, options and gateway give the same bytes.
pub fn render(catalogue: &Catalogue, options: &Options, gateway: &Gateway) -> Document {
    let tiers = tiers(options);
    let mut http = Http::default();
    add_roots(&mut http, &tiers, options, gateway);
    add_modelgate(&mut http, options, gateway);
    let parents: Vec<String> = tiers.iter().map(|t| t.name.to_owned()).collect();
    for pool in catalogue.pools().filter(|p| !p.ready.is_empty()) {
        add_pool(&mut http, pool, &parents, options);
    }
    Document { http }
}

/// The tiers for a limit: up to 9,999 bytes, up to 999,999, up to the limit; bodyless and chunked
/// requests, which have no `Content-Length`, have their own.
fn tiers(options: &Options) -> Vec<Tier> {
    let mut tiers = Vec::new();
    let mut min = 0;
    for (name, bound) in
        [("modelgate-small", 9_999), ("modelgate-medium", 999_999), ("modelgate-large", u64::MAX)]
    {
        let max = options.max_body.min(bound);
        if max < min {
            break;
        }
        let matcher = format!("HeaderRegexp(`Content-Length`, `{}`)", content_length::between(min, max));
        tiers.push(Tier { name, max_body: max, matcher, rank: 4 });
        min = max + 1;
    }
    // A GET may carry a body all the same: forwarding it with a limit of 0 bytes refuses it, where a
    // middleware that forwards no body would let it slip past the reader.
    let bodyless = ["GET", "HEAD", "DELETE", "OPTIONS"].map(|m| format!("Method(`{m}`)")).join(" || ");
    tiers.push(Tier { name: "modelgate-bodyless", max_body: 0, matcher: format!("({bodyless})"), rank: 2 });
    if options.max_chunked_body > 0 {
        tiers.push(Tier {
            name: CHUNKED,
            max_body: options.max_chunked_body,
            matcher: String::new(),
            rank: 1,
        });
    }
    tiers
}

fn add_roots(http: &mut Http, tiers: &[Tier], options: &Options, gateway: &Gateway) {
    let base = base_rule(options);
    let root = |matcher: &str, rank: usize| Router {
        entry_points: options.entry_points.clone(),
        rule: if matcher.is_empty() { base.clone() } else { format!("{base} && {matcher}") },
        // Ranked among themselves, yet no higher than the plain rule would be, so that a user's own
        // router with a longer rule (another Host, a longer path) keeps its requests.
        priority: Some(base.len() + rank),
        tls: options.tls.as_ref().map(|tls| RouterTls { cert_resolver: tls.cert_resolver.clone() }),
        ..Router::default()
    };
    for tier in tiers {
        let router = Router { middlewares: vec![tier.name.into()], ..root(&tier.matcher, tier.rank) };
        http.routers.insert(tier.name.into(), router);
        http.middlewares.insert(tier.name.into(), forward_auth(tier, options, gateway));
    }
    let models: Vec<String> = options
        .path_prefixes
        .iter()
        .map(|prefix| format!("Path(`{prefix}/models`) || PathPrefix(`{prefix}/models/`)"))
        .collect();
    let models = format!("({}) && (Method(`GET`) || Method(`HEAD`))", models.join(" || "));
    let to_modelgate = |router: Router, middlewares: Vec<String>| Router {
        middlewares,
        service: Some(MODELGATE_SERVICE.into()),
        ..router
    };
    http.routers.insert("modelgate-models".into(), to_modelgate(root(&models, 5), Vec::new()));
    let mut refuse = |name: &str, matcher: &str, rank, why: &str| {
        http.routers.insert(name.into(), to_modelgate(root(matcher, rank), vec![name.into()]));
        http.middlewares.insert(name.into(), refusal(why));
    };
    refuse(TOO_LARGE, "HeaderRegexp(`Content-Length`, `.`)", 3, "413");
    if options.max_chunked_body == 0 {
        refuse(CHUNKED, "", 1, "411");
    }
}

fn refusal(why: &str) -> Middleware {
    Middleware::AddPrefix(AddPrefix { prefix: format!("{REFUSE_PREFIX}/{why}") })
}

fn base_rule(options: &Options) -> String {
    let any = |matcher: &str, values: &mut dyn Iterator<Item = String>| {
        let all: Vec<String> = values.map(|v| format!("{matcher}(`{v}`)")).collect();
        if all.len() == 1 { all.concat() } else { format!("({})", all.join(" || ")) }
    };
    let paths = any("PathPrefix", &mut options.path_prefixes.iter().map(|p| format!("{p}/")));
    if options.hosts.is_empty() {
        return paths;
    }
    format!("{} && {paths}", any("Host", &mut options.hosts.iter().cloned()))
}

fn forward_auth(tier: &Tier, options: &Options, gateway: &Gateway) -> Middleware {
    Middleware::ForwardAuth(ForwardAuth {
        address: format!("https://{}/auth", gateway.authority),
        tls: ClientTls { ca: gateway.ca_pem.clone() },
        trust_forward_header: false,
        forward_body: true,
        max_body_size: tier.max_body,
        max_response_body_size: options.version.limits_auth_answers().then_some(MAX_AUTH_ANSWER),
        auth_response_headers: AUTH_RESPONSE_HEADERS.to_vec(),
        auth_response_headers_regex: AUTH_RESPONSE_HEADERS_REGEX,
    })
}

fn add_modelgate(http: &mut Http, options: &Options, gateway: &Gateway) {
    let tiers: Vec<String> =
        http.routers.iter().filter(|(_, r)| r.service.is_none()).map(|(name, _)| name.clone()).collect();
    http.routers.insert(
        UNROUTED.into(),
        Router {
            rule: "PathPrefix(`/`)".into(),
            priority: Some(1),
            parent_refs: tiers,
            middlewares: vec![UNROUTED.into()],
            service: Some(MODELGATE_SERVICE.into()),
            ..Router::default()
        },
    );
    http.middlewares.insert(UNROUTED.into(), refusal("unrouted"));
    // Before 3.7 Traefik tries only a refused connection again. From 3.7 on also a request that a server
    // took and then dropped without an answer, which Traefik turns into a 502: a prompt can be asked twice.
    // Balancing goes on between attempts under load, so one attempt per server would not do: with two
    // servers, one of them gone, each attempt meets the dead one with even odds.
    let on_status = options.version.retries_on_status();
    let retry = Retry {
        attempts: 12,
        initial_interval: "25ms",
        status: if on_status { vec!["502"] } else { Vec::new() },
        retry_non_idempotent_method: on_status,
    };
    http.middlewares.insert(RETRY.into(), Middleware::Retry(retry));
    http.services.insert(
        MODELGATE_SERVICE.into(),
        Service {
            load_balancer: LoadBalancer {
                servers: vec![Server { url: format!("https://{}", gateway.authority), preserve_path: false }],
                health_check: None,
                pass_host_header: false,
                servers_transport: TRANSPORT_TO_MODELGATE,
            },
        },
    );
    let transport = |root_cas, idle_conn_timeout| ServersTransport {
        root_cas,
        max_idle_conns_per_host: 200,
        forwarding_timeouts: ForwardingTimeouts {
            // A container that has gone leaves an address at which nobody even refuses. The retry makes
            // up for a connection that was given up too early.
            dial_timeout: "500ms",
            // A long answer that is not streamed sends its headers last.
            response_header_timeout: "0s",
            idle_conn_timeout,
        },
    };
    http.servers_transports
        .insert(TRANSPORT_TO_MODELGATE.into(), transport(vec![gateway.ca_pem.clone()], "90s"));
    // uvicorn, under vLLM and SGLang, closes connections that were idle for 5 s; a request sent into
    // that moment fails and, being a POST, is not repeated. So Traefik closes them first.
    http.servers_transports.insert(TRANSPORT_TO_SERVERS.into(), transport(Vec::new(), "4s"));
}

fn add_pool(http: &mut Http, pool: &Pool, parents: &[String], options: &Options) {
    let rewrite = pool.ready.iter().any(|s| !s.spec.base_path.is_default());
    let service = Service { load_balancer: balance(&pool.ready, rewrite) };
    let service_name = service_name(&pool.ready, &service);
    let mut middlewares = vec![RETRY.to_owned()];
    if rewrite {
        middlewares.push(STRIP.into());
        let prefixes = options.path_prefixes.clone();
        http.middlewares.entry(STRIP.into()).or_insert(Middleware::StripPrefix(StripPrefix { prefixes }));
    }
    http.routers.insert(
        pool.route.to_string(),
        Router {
            rule: format!("Header(`X-Inference-Route`, `{}`)", pool.route),
            parent_refs: parents.to_vec(),
            middlewares,
            service: Some(service_name.clone()),
            ..Router::default()
        },
    );
    // Models of the same servers share a service, so that Traefik's health checks stay in
    // proportion to servers and not to models.
    http.services.entry(service_name).or_insert(service);
}

fn balance(servers: &[Arc<ServerRecord>], rewrite: bool) -> LoadBalancer {
    let server = |s: &ServerRecord| {
        let base = if rewrite { s.spec.base_path.as_str() } else { "" };
        Server { url: format!("{}{base}", s.spec.url), preserve_path: !base.is_empty() }
    };
    LoadBalancer {
        servers: servers.iter().map(|s| server(s)).collect(),
        health_check: health_check(servers),
        pass_host_header: true,
        servers_transport: TRANSPORT_TO_SERVERS,
    }
}

/// Traefik has one check for all servers of a service, so there is none if they would need
/// different ones, or if one of them has no model list to ask for.
fn health_check(servers: &[Arc<ServerRecord>]) -> Option<HealthCheck> {
    let base: &BasePath = &servers.first()?.spec.base_path;
    let alike = servers.iter().all(|s| s.spec.base_path == *base && s.spec.models.is_empty());
    alike.then(|| HealthCheck {
        path: format!("{base}/models", base = base.as_str()),
        interval: "10s",
        timeout: "5s",
    })
}

/// The first server's name, for people, and a hash of what the service holds: services with the
/// same content get the same name.
fn service_name(servers: &[Arc<ServerRecord>], service: &Service) -> String {
    let name = servers.first().map_or("", |s| s.spec.name.as_str());
    let mut slug: String =
        name.chars().filter(char::is_ascii_alphanumeric).take(24).collect::<String>().to_lowercase();
    if servers.len() > 1 {
        let _ = write!(slug, "-and-{}-more", servers.len() - 1);
    }
    let content = serde_json::to_vec(service).expect("plain values can be written");
    let hash: String = Sha256::digest(&content)[..6].iter().map(|b| format!("{b:02x}")).collect();
    format!("servers-{slug}-{hash}")
}

#[cfg(test)]
mod tests;
