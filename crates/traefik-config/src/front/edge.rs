//! Middlewares of every root router: allowed addresses, CORS and HSTS
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/headers/>).
//!
//! They come before ForwardAuth, so that Traefik answers a preflight, which has no key, and a refusal has the headers that let
//! a page read it.

use catalogue::{Catalogue, Condition};

use super::Front;
use crate::{
    Cors, RenderOptions,
    wire::{Headers, Http, IpAllowList, IpStrategy, Middleware, RedirectScheme, Router},
};

pub(super) const ALLOW: &str = "modelgate-allow";
const HEADERS: &str = "modelgate-headers";
pub(super) const FORWARDED: &str = "modelgate-forwarded";
const REDIRECT: &str = "modelgate-redirect";
/// Traefik's own service for routers whose middleware always answers.
const NOOP: &str = "noop@internal";
/// The configuration ensures that no other Modelgate router is on its entry points.
const RANK: usize = 1;

const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "OPTIONS"];
/// The headers that the SDKs of OpenAI and Anthropic send from a browser, and those that choose a model.
const ALLOWED_HEADERS: [&str; 28] = [
    "accept",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-version",
    "api-key",
    "authorization",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "user-agent",
    "x-api-key",
    "x-model",
    "x-request-id",
    "x-stainless-arch",
    "x-stainless-async",
    "x-stainless-custom-poll-interval",
    "x-stainless-helper",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
];
/// The headers of refusals and servers that a page of another origin may read.
const EXPOSED_HEADERS: [&str; 17] = [
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
];

/// Servers have their own lists of origins (Ollama refuses unknown ones), but if the gateway has a list, the gateway decides
/// about pages. Traefik needs the request's `Origin` until it answers, so the header cannot be deleted. But a proxy does not
/// forward headers that `Connection` names.
const DROP_ORIGIN: &str = "Origin";
pub(super) const UPGRADE_AND_DROP_ORIGIN: &str = "Upgrade, Origin";

/// Adds the middlewares and returns their names in order.
pub(super) fn add_middlewares(
    http: &mut Http,
    catalogue: &Catalogue,
    options: &RenderOptions,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |name: &str, middleware| {
        http.middlewares.insert(name.into(), middleware);
        names.push(name.to_owned());
    };
    if !options.allow_ips.is_empty() {
        let depth = options.ip_depth;
        add(
            ALLOW,
            Middleware::IpAllowList(IpAllowList {
                source_range: options.allow_ips.clone(),
                ip_strategy: (depth > 0).then_some(IpStrategy { depth }),
            }),
        );
    }
    if options.hsts.is_some() || options.cors.is_some() {
        add(HEADERS, Middleware::Headers(Box::new(headers(catalogue, options))));
    }
    if options.ip_depth > 0 {
        add(FORWARDED, Middleware::Headers(Box::new(forwarded())));
    }
    names
}

/// ForwardAuth forwards the proxies' `X-Forwarded-For` only if it trusts all `X-Forwarded-*` headers, including the path, which
/// most proxies let clients set. So host, method and URI are deleted, and Traefik sets them itself.
fn forwarded() -> Headers {
    let deleted = ["X-Forwarded-Host", "X-Forwarded-Method", "X-Forwarded-Uri"];
    Headers { custom_request_headers: deleted.map(|name| (name, "")).into(), ..Headers::default() }
}

fn headers(catalogue: &Catalogue, options: &RenderOptions) -> Headers {
    let mut headers = Headers::default();
    if let Some(hsts) = &options.hsts {
        headers.sts_seconds = Some(hsts.max_age.as_secs());
        headers.sts_include_subdomains = hsts.include_subdomains;
        headers.sts_preload = hsts.preload;
    }
    if let Some(cors) = &options.cors {
        headers.access_control_allow_origin_list = cors.origins.clone();
        headers.access_control_allow_methods = METHODS.to_vec();
        headers.access_control_allow_headers = allowed_headers(catalogue, cors, &options.key_headers);
        headers.access_control_expose_headers = EXPOSED_HEADERS.to_vec();
        headers.access_control_max_age = Some(cors.max_age.as_secs());
        headers.add_vary_header = true;
        headers.custom_request_headers.insert("Connection", DROP_ORIGIN);
    }
    headers
}

/// The operator's list, or the default headers plus those of selectors and those that hold keys.
fn allowed_headers(catalogue: &Catalogue, cors: &Cors, key_headers: &[String]) -> Vec<String> {
    if !cors.headers.is_empty() {
        return cors.headers.clone();
    }
    let conditions = catalogue.selections().iter().flat_map(|s| s.selector.conditions());
    let chosen_by = conditions.filter_map(Condition::header_name);
    let more = chosen_by.chain(key_headers.iter().map(String::as_str));
    let mut headers: Vec<String> = ALLOWED_HEADERS.into_iter().chain(more).map(str::to_owned).collect();
    headers.sort();
    headers.dedup();
    headers
}

/// Redirects requests on the entry points without TLS to the others.
pub(super) fn add_redirect(http: &mut Http, front: &Front<'_>) {
    if front.options.redirect_entry_points.is_empty() {
        return;
    }
    let router = redirected(&front.root("", RANK), front.options);
    http.routers.insert(REDIRECT.into(), router);
    let redirect = RedirectScheme { scheme: "https", permanent: true };
    http.middlewares.insert(REDIRECT.into(), Middleware::RedirectScheme(redirect));
}

/// The router that redirects another router's requests to https.
pub(super) fn redirected(router: &Router, options: &RenderOptions) -> Router {
    Router {
        entry_points: options.redirect_entry_points.clone(),
        middlewares: vec![REDIRECT.into()],
        service: Some(NOOP.into()),
        tls: None,
        ..router.clone()
    }
}
