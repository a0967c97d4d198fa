//! The part behind a model's router: middlewares, then services, in either layout.
//!
//! ```text
//! router ─▶ [modelgate-429] ─▶ inFlightReq per model ─▶ … per key ─▶ [modelgate-502] ─▶ retry ─▶ path ─▶ mirroring
//!                                                                                                        └▶ weighted (canary)
//!                                                                          failover by priority ◀─────────┘
//!                     weighted, if the servers differ ◀──┘
//! loadBalancer ◀──────┘
//! ```
//!
//! A step is left out if no setting asks for it. Where `/auth` chooses the server, a router of its own leads there:
//!
//! ```text
//! 3.7: router ─▶ … ─▶ [modelgate-502] ─▶ path ─▶ failover on 502–504 ─▶ loadBalancer with one server
//!                                                                    └▶ retry ─▶ the same services as above
//! 3.6: router ─▶ … ─▶ retry ─▶ path ─▶ failover ─▶ loadBalancer with one server, checked ─▶ the same services as above
//! ```

mod service;

use std::{collections::BTreeMap, sync::Arc};

use catalogue::{
    Api, BasePath, Catalogue, Kind, ModelSettings, Pool, RouteGroup, RouteId, ServerRecord, ServerRoute,
};
use serde::Serialize;
use service::ServerUrls;
pub(crate) use service::{can_pick, is_checked, unchecked};
use sha2::{Digest, Sha256};

use crate::{
    RenderOptions,
    front::is_other,
    page::page,
    rule,
    wire::{ErrorPage, Headers, Http, InFlightReq, Middleware, ReplacePathRegex, Retry, SourceCriterion},
};

const RETRY: &str = "modelgate-retry";
const NATIVE_429: &str = "modelgate-429";
const NATIVE_502: &str = "modelgate-502";
const STRIP: &str = "modelgate-strip";
const AZURE_V1: &str = "modelgate-azure-v1";
const NO_CONVERSATION: &str = "modelgate-no-conversation";
const NO_ORIGIN: &str = "modelgate-no-origin";
/// Traefik's own service.
const NOOP: &str = "noop@internal";
const DEFAULT_ATTEMPTS: u8 = 12;

/// A router that leads to a group's servers.
pub(crate) struct Way {
    /// The suffix of the router's name.
    pub(crate) suffix: &'static str,
    /// The rule for the part of the group's requests that it takes; empty: all that no other way takes.
    pub(crate) matcher: String,
    /// The middlewares that count concurrent requests, which come before the others.
    pub(crate) counters: Vec<String>,
    /// The other middlewares, in order.
    pub(crate) middlewares: Vec<String>,
    pub(crate) service: String,
    /// The ways to each server that `/auth` may choose.
    pub(crate) servers: Vec<ServerWay>,
}

/// A router that leads to one server, and to the group's others if that one fails.
pub(crate) struct ServerWay {
    /// The value of `X-Inference-Server`.
    pub(crate) id: RouteId,
    /// The middlewares behind those that count, in order.
    pub(crate) middlewares: Vec<String>,
    pub(crate) service: String,
}

/// How `/v1` in a path becomes a server's base path.
pub(crate) enum Rewriting {
    /// All servers have `/v1` themselves.
    None,
    /// One path for all servers.
    All(BasePath),
    /// Each server has its own.
    Each,
}

/// Adds the part behind the routers.
pub(crate) struct Upstream<'a> {
    pub(crate) http: &'a mut Http,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) options: &'a RenderOptions,
}

impl Upstream<'_> {
    /// Adds a group's services and middlewares. Returns no way if this Traefik cannot do what the servers need.
    pub(crate) fn add(&mut self, pool: &Pool, group: &RouteGroup) -> Vec<Way> {
        let rewriting = rewriting(pool, group);
        if matches!(rewriting, Rewriting::Each) && !self.options.version.preserves_path() {
            return Vec::new();
        }
        let mut middlewares = self.names_in_paths(pool);
        middlewares.extend(self.conversations(pool, group));
        middlewares.extend(self.origins(pool, group));
        match rewriting {
            Rewriting::None => vec![self.way((pool, group), ServerUrls::Plain, middlewares)],
            Rewriting::All(base) => {
                middlewares.push(self.replace_v1(&format!("modelgate-base-{}", hash(&base.as_str())), &base));
                vec![self.way((pool, group), ServerUrls::Plain, middlewares)]
            }
            // A base path in a server's URL is put before every path, but it is meant only for those under /v1.
            Rewriting::Each => {
                let mut stripped = middlewares.clone();
                stripped.push(self.replace_v1(STRIP, &BasePath::parse("/").expect("the root is one")));
                let under_v1 = self.way((pool, group), ServerUrls::WithBasePath, stripped);
                let matcher = self.v1_paths(pool);
                let rest = self.way((pool, group), ServerUrls::Plain, middlewares);
                vec![Way { suffix: "-v1", matcher, ..under_v1 }, rest]
            }
        }
    }

    /// The way to a group's servers behind these middlewares, which change paths and headers.
    fn way(&mut self, (pool, group): (&Pool, &RouteGroup), urls: ServerUrls, changes: Vec<String>) -> Way {
        let counters = self.concurrency(&pool.settings, group, pool);
        let retry = self.retry(&pool.settings);
        let service = self.service(pool, group, urls);
        let pick = group.pick.as_ref().filter(|_| can_pick(pool, group, self.options.version));
        let mut servers = Vec::new();
        for ServerRoute { id, server } in pick.iter().flat_map(|pick| &*pick.routes) {
            let (first, service) = self.one_server(pool, server, urls, (&service, &retry));
            let middlewares = first.into_iter().chain(changes.iter().cloned()).collect();
            servers.push(ServerWay { id: id.clone(), middlewares, service });
        }
        let middlewares = retry.into_iter().chain(changes).collect();
        Way { suffix: "", matcher: String::new(), counters, middlewares, service, servers }
    }

    /// One server, then the others: the middlewares before it, and its service.
    ///
    /// From 3.7 on Traefik sends a request that the server has not answered to the others (`failover`), which it can only do if it
    /// keeps the body; so it keeps it once, and `retry` is put behind that. Before 3.7 only a server that is known to be down is
    /// left out, and `retry` tries again once that is known.
    fn one_server(
        &mut self,
        pool: &Pool,
        server: &Arc<ServerRecord>,
        urls: ServerUrls,
        (others, retry): (&str, &[String]),
    ) -> (Vec<String>, String) {
        if !self.options.version.fails_over_on_status() {
            return (retry.to_vec(), self.watched_server(&pool.settings, server, urls, others));
        }
        let (page, again) = match retry {
            [page, again @ ..] => (vec![page.clone()], again.to_vec()),
            [] => Default::default(),
        };
        (page, self.tried_server(&pool.settings, server, urls, (others, again)))
    }

    /// Traefik counts per router and source, so a header that is constant for a router makes one limit for all of the router's
    /// requests.
    fn concurrency(&mut self, settings: &ModelSettings, group: &RouteGroup, pool: &Pool) -> Vec<String> {
        let mut names = Vec::new();
        for (limit, kind, header) in [
            (settings.concurrency_max, "", "X-Inference-Route"),
            (settings.concurrency_per_key, "-key", "X-Inference-Key"),
            (settings.concurrency_per_consumer, "-consumer", "X-Inference-Consumer"),
        ] {
            let Some(amount) = limit else { continue };
            let name = format!("modelgate-inflight{kind}-{amount}");
            let source_criterion = SourceCriterion { request_header_name: header };
            let middleware = Middleware::InFlightReq(InFlightReq { amount, source_criterion });
            self.http.middlewares.entry(name.clone()).or_insert(middleware);
            names.push(name);
        }
        // The errors middleware replaces every 429 from what follows it, including a server's own, whose body and Retry-After
        // are lost. So it is added only if the servers never answer 429 themselves, or if the operator wants it.
        let native = settings
            .concurrency_native
            .unwrap_or_else(|| all_servers(pool, group).all(|server| server.kind().never_answers_429()));
        if native && !names.is_empty() {
            names.insert(0, NATIVE_429.into());
            self.native_page(NATIVE_429, "429");
        }
        names
    }

    /// Before 3.7 Traefik retries only refused connections. From 3.7 on it also retries a request that a server accepted and
    /// then dropped without an answer, which Traefik turns into a 502: a prompt can be asked twice. Balancing goes on between
    /// attempts under load, so one attempt per server would not be enough: with two servers, one of them gone, each attempt
    /// meets the dead one with even odds.
    ///
    /// By the status alone Traefik cannot tell its own 502 from a server's. It holds both back, except for an answer that is
    /// flushed at once, as chunked answers are: the client would get `200` without a header. So behind `retry` each 502 is
    /// emptied, and before `retry` the last one gets a page.
    fn retry(&mut self, settings: &ModelSettings) -> Vec<String> {
        let attempts = settings.retry_attempts.unwrap_or(DEFAULT_ATTEMPTS);
        let name = match attempts {
            0 | 1 => return Vec::new(),
            DEFAULT_ATTEMPTS => RETRY.to_owned(),
            _ => format!("{RETRY}-{attempts}"),
        };
        let on_status = self.options.version.retries_on_status();
        let retry = Retry {
            attempts: attempts.into(),
            initial_interval: Some("25ms"),
            timeout: None,
            // Every body's size has been bounded before this point.
            max_request_body_bytes: on_status.then_some(-1),
            status: if on_status { vec!["502"] } else { Vec::new() },
            retry_non_idempotent_method: on_status,
        };
        self.http.middlewares.entry(name.clone()).or_insert(Middleware::Retry(retry));
        if !on_status {
            return vec![name];
        }
        self.native_page(NATIVE_502, "502");
        vec![NATIVE_502.into(), name, self.emptied(&["502".into()])]
    }

    /// A middleware that empties answers, leaving only their status. Traefik's own service serves the page, because it needs no
    /// connection, which 3.7.0 would take for the server's.
    fn emptied(&mut self, status: &[String]) -> String {
        let page = Middleware::Errors(ErrorPage {
            status: status.to_vec(),
            service: NOOP,
            error_request_headers: vec!["X-Request-Id"],
            ..ErrorPage::default()
        });
        let name = format!("modelgate-emptied-{}", hash(&page));
        self.http.middlewares.entry(name.clone()).or_insert(page);
        name
    }

    /// A middleware by which Modelgate explains a status.
    fn native_page(&mut self, name: &str, status: &'static str) {
        let page = page(self.options.version, status, status);
        self.http.middlewares.entry(name.into()).or_insert(Middleware::Errors(page));
    }

    /// Removes the model's name from a path, by its number of segments: the name itself is not in the expression.
    /// `replacePathRegex` works on the escaped path; `stripPrefixRegex` works on the decoded one and, before 3.7, leaves a
    /// wrong escaped path if it has `%2F`.
    fn names_in_paths(&mut self, pool: &Pool) -> Vec<String> {
        let slashes = slashes(pool);
        let segments = rule::name_segments(slashes);
        let mut names = Vec::new();
        if self.options.apis.contains(&Api::Azure) {
            let regex = "^/openai/(?:v1/(.*)|(responses(?:/.*)?))$";
            self.replace_path(AZURE_V1, regex.into(), "/v1/${1}${2}".into());
            names.push(AZURE_V1.to_owned());
        }
        for (api, kind, prefix, replacement) in [
            // What follows /models/<name> is the server's own, so it goes last.
            (Api::Azure, "azure", "/openai/deployments", "/v1/${1}"),
            (Api::Models, "models", "/models", "/${1}"),
        ] {
            if self.options.apis.contains(&api) {
                let name = format!("modelgate-{kind}-{}", slashes + 1);
                self.replace_path(&name, format!("^{prefix}/{segments}(?:/(.*))?$"), replacement.into());
                names.push(name);
            }
        }
        names
    }

    /// llama.cpp ends the answer to one request when another comes with the same `X-Conversation-Id`, from whatever client. The
    /// header's purpose, reading an answer again, is closed, since the answer would be open to everybody.
    fn conversations(&mut self, pool: &Pool, group: &RouteGroup) -> Option<String> {
        let mut kinds = all_servers(pool, group).map(|server| server.kind());
        kinds.find(|kind| matches!(kind, Kind::LlamaCpp | Kind::LlamaCppRouter | Kind::LlamaSwap))?;
        Some(self.without_header(NO_CONVERSATION, "X-Conversation-Id"))
    }

    /// Ollama answers 403 to an unknown `Origin`, even that of a page on the gateway's own host, for which browsers send no
    /// preflight. If the gateway has a list of origins, `Origin` has already been removed from all requests, in a way that
    /// keeps it for Traefik's own answer (`front/edge.rs`).
    fn origins(&mut self, pool: &Pool, group: &RouteGroup) -> Option<String> {
        let is_ollama = all_servers(pool, group).any(|server| server.kind() == Kind::Ollama);
        (is_ollama && self.options.cors.is_none()).then(|| self.without_header(NO_ORIGIN, "Origin"))
    }

    /// A middleware that removes a header from requests.
    fn without_header(&mut self, name: &str, header: &'static str) -> String {
        let custom_request_headers = [(header, "")].into();
        let headers = Middleware::Headers(Box::new(Headers { custom_request_headers, ..Headers::default() }));
        self.http.middlewares.entry(name.into()).or_insert(headers);
        name.to_owned()
    }

    fn replace_v1(&mut self, name: &str, base: &BasePath) -> String {
        self.replace_path(name, "^/v1/(.*)$".into(), format!("{}/${{1}}", base.as_str()));
        name.to_owned()
    }

    fn replace_path(&mut self, name: &str, regex: String, replacement: String) {
        let replace = Middleware::ReplacePathRegex(ReplacePathRegex { regex, replacement });
        self.http.middlewares.entry(name.to_owned()).or_insert(replace);
    }

    /// The rule for paths that lead to `/v1` once the model's name is removed.
    fn v1_paths(&self, pool: &Pool) -> String {
        let mut paths = vec!["PathPrefix(`/v1/`)".to_owned()];
        // In the flat layout they are replaced behind the rule.
        let others = self.options.path_prefixes.iter().filter(|prefix| is_other(prefix));
        paths.extend(others.map(|prefix| format!("PathPrefix(`{prefix}/`)")));
        if self.options.apis.contains(&Api::Models) {
            paths.push(format!("PathRegexp(`^/models/{}/v1/`)", rule::name_segments(slashes(pool))));
        }
        if self.options.apis.contains(&Api::Azure) {
            paths.push("PathPrefix(`/openai/`)".into());
        }
        rule::any(&paths)
    }
}

fn slashes(pool: &Pool) -> usize {
    pool.model.as_str().matches('/').count()
}

/// The servers of a group, its canary and its mirror.
fn all_servers<'a>(pool: &'a Pool, group: &'a RouteGroup) -> impl Iterator<Item = &'a Arc<ServerRecord>> {
    let branches = pool.canary.iter().chain(&pool.mirror).filter(|_| group.credential.is_none());
    group.ready.iter().chain(branches.flat_map(|branch| &branch.ready))
}

/// A group, its canary and its mirror share the router and its middlewares, and therefore the path.
pub(crate) fn rewriting(pool: &Pool, group: &RouteGroup) -> Rewriting {
    let mut bases: Vec<&BasePath> = all_servers(pool, group).map(|s| &s.spec.base_path).collect();
    bases.dedup();
    match bases[..] {
        [] => Rewriting::None,
        [base] if base.is_default() => Rewriting::None,
        [base] => Rewriting::All(base.clone()),
        _ => Rewriting::Each,
    }
}

/// Servers grouped by priority, the lowest number first.
pub(crate) fn by_priority<'a>(
    servers: impl IntoIterator<Item = &'a Arc<ServerRecord>>,
) -> Vec<Vec<Arc<ServerRecord>>> {
    let mut levels: BTreeMap<u8, Vec<Arc<ServerRecord>>> = BTreeMap::new();
    for server in servers {
        levels.entry(server.spec.settings.priority).or_default().push(Arc::clone(server));
    }
    levels.into_values().collect()
}

/// A name derived from content: equal content gives an equal name.
fn hash(content: &impl Serialize) -> String {
    let bytes = serde_json::to_vec(content).expect("plain values can be written");
    hex::encode(&Sha256::digest(&bytes)[..6])
}
