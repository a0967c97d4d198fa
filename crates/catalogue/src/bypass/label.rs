//! The labels `traefik.*` of a container
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/other-providers/docker/>).
//!
//! Traefik ignores case in label names, except in the names of routers, services and middlewares.

use std::collections::BTreeMap;

/// The parts of a container's Traefik labels that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TraefikLabels {
    pub(super) enable: Option<bool>,
    /// Traefik cannot parse `traefik.enable`, and therefore leaves the container out.
    pub(super) is_refused: bool,
    pub(super) routers: Vec<Router>,
    /// The HTTP services, each with the port that its label names, if any.
    pub(super) services: BTreeMap<String, Option<u16>>,
    pub(super) tcp_services: BTreeMap<String, Option<u16>>,
    pub(super) middlewares: BTreeMap<String, Middleware>,
    pub(super) has_tcp_or_udp: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Router {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) service: Option<String>,
    pub(super) middlewares: Vec<String>,
    /// It has labels `….tls`, so it serves HTTPS.
    pub(super) has_tls: bool,
    pub(super) rule: Option<String>,
    pub(super) priority: Option<usize>,
}

/// The protocol of a router or service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Http,
    Tcp,
}

/// A middleware, as far as it matters whether it asks Modelgate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Middleware {
    /// It asks this address whether a request may pass.
    ForwardAuth(String),
    /// A chain of middlewares.
    Chain(Vec<String>),
    /// It redirects plain HTTP to HTTPS: no request gets past it there.
    ToHttps,
    Other,
}

/// What checks the requests of a router.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Modelgate, or a redirection that no request gets past.
    Closed,
    /// None of these middlewares does.
    None(Vec<String>),
    /// One of these may: they are defined where Modelgate cannot see them.
    Unseen(Vec<String>),
}

/// The name of Modelgate's own middleware, which comes with the rendered configuration.
const OWN_MIDDLEWARE: &str = "modelgate@http";
/// The deepest nesting of chains that is followed.
const MAX_DEPTH: usize = 8;

impl Protocol {
    /// The protocol that part of a label's name stands for.
    fn of(part: &str) -> Self {
        if part == "tcp" { Self::Tcp } else { Self::Http }
    }
}

impl TraefikLabels {
    pub(super) fn read(labels: &BTreeMap<String, String>) -> Self {
        let mut read = Self::default();
        for (name, value) in labels {
            let parts: Vec<&str> = name.split('.').collect();
            let lower: Vec<String> = parts.iter().map(|part| part.to_ascii_lowercase()).collect();
            let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
            match (lower.as_slice(), parts.as_slice()) {
                (["traefik", "enable"], _) => match go_bool(value) {
                    Some(enable) => read.enable = Some(enable),
                    None => read.is_refused = true,
                },
                (["traefik", kind @ ("http" | "tcp"), "routers", _, field @ ..], [_, _, _, router, ..]) => {
                    read.router(router, Protocol::of(kind), field, value);
                }
                (["traefik", kind @ ("http" | "tcp"), "services", _, field @ ..], [_, _, _, service, ..]) => {
                    read.service(service, Protocol::of(kind), field, value);
                }
                (["traefik", "http", "middlewares", _, field @ ..], [_, _, _, middleware, ..]) => {
                    read.middleware(middleware, field, value);
                }
                (["traefik", "udp", "routers" | "services", ..], _) => read.has_tcp_or_udp = true,
                _ => {}
            }
        }
        read
    }

    fn router(&mut self, name: &str, protocol: Protocol, field: &[&str], value: &str) {
        self.has_tcp_or_udp |= protocol == Protocol::Tcp;
        let known = self.routers.iter().position(|router| router.name == name && router.protocol == protocol);
        let at = known.unwrap_or_else(|| {
            self.routers.push(Router { name: name.into(), protocol, ..Router::default() });
            self.routers.len() - 1
        });
        match field {
            ["service"] => self.routers[at].service = Some(value.trim().into()),
            [list] if is_list(list, "middlewares") => self.routers[at].middlewares.extend(names(value)),
            ["rule"] => self.routers[at].rule = Some(value.trim().into()),
            // Traefik takes 0 for none.
            ["priority"] => self.routers[at].priority = value.trim().parse().ok().filter(|given| *given > 0),
            ["tls"] => self.routers[at].has_tls |= go_bool(value) != Some(false),
            ["tls", ..] => self.routers[at].has_tls = true,
            _ => {}
        }
    }

    fn service(&mut self, name: &str, protocol: Protocol, field: &[&str], value: &str) {
        self.has_tcp_or_udp |= protocol == Protocol::Tcp;
        let services = match protocol {
            Protocol::Http => &mut self.services,
            Protocol::Tcp => &mut self.tcp_services,
        };
        let port = services.entry(name.into()).or_default();
        if let ["loadbalancer", "server" | "servers[0]", "port"] = field {
            *port = value.trim().parse().ok();
        }
    }

    fn middleware(&mut self, name: &str, field: &[&str], value: &str) {
        let middleware = self.middlewares.entry(name.into()).or_insert(Middleware::Other);
        match field {
            ["forwardauth", "address"] => *middleware = Middleware::ForwardAuth(value.trim().into()),
            ["redirectscheme", "scheme"] if value.trim() == "https" => *middleware = Middleware::ToHttps,
            ["chain", list] if is_list(list, "middlewares") => match middleware {
                Middleware::Chain(links) => links.extend(names(value)),
                _ => *middleware = Middleware::Chain(names(value).collect()),
            },
            _ => {}
        }
    }
}

/// What checks the requests of a router.
pub(super) fn guard(router: &Router, known: &BTreeMap<&str, &Middleware>) -> Guard {
    let mut search = Search { known, plain_http: !router.has_tls, unseen: Vec::new() };
    match search.is_closed(&router.middlewares, MAX_DEPTH) {
        true => Guard::Closed,
        false if search.unseen.is_empty() => Guard::None(router.middlewares.clone()),
        false => Guard::Unseen(search.unseen),
    }
}

/// What the middlewares of a router ask Modelgate, as far as labels define them: the queries of `/auth`.
pub(super) fn asked(router: &Router, known: &BTreeMap<&str, &Middleware>) -> Vec<String> {
    fn collect(names: &[String], known: &BTreeMap<&str, &Middleware>, depth: usize, found: &mut Vec<String>) {
        for name in names {
            let (plain, provider) = name.rsplit_once('@').unwrap_or((name, "docker"));
            match known.get(plain).copied().filter(|_| matches!(provider, "docker" | "swarm")) {
                Some(Middleware::ForwardAuth(address)) if is_our_auth(address) => {
                    let query = address.split_once('?').map_or("", |(_, query)| query);
                    found.push(query.to_owned());
                }
                Some(Middleware::Chain(links)) if depth > 0 => collect(links, known, depth - 1, found),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    collect(&router.middlewares, known, MAX_DEPTH, &mut found);
    found
}

/// A search for a middleware that lets nothing pass without a key.
struct Search<'a> {
    known: &'a BTreeMap<&'a str, &'a Middleware>,
    plain_http: bool,
    unseen: Vec<String>,
}

impl Search<'_> {
    fn is_closed(&mut self, names: &[String], depth: usize) -> bool {
        names.iter().any(|name| {
            let (plain, provider) = name.rsplit_once('@').unwrap_or((name, "docker"));
            match (provider, self.known.get(plain).copied()) {
                _ if name == OWN_MIDDLEWARE => true,
                // Modelgate's other middlewares check no key.
                ("http", _) => false,
                ("docker" | "swarm", Some(Middleware::ForwardAuth(address))) => is_our_auth(address),
                ("docker" | "swarm", Some(Middleware::Chain(links))) => {
                    depth > 0 && self.is_closed(links, depth - 1)
                }
                ("docker" | "swarm", Some(Middleware::ToHttps)) => self.plain_http,
                ("docker" | "swarm", Some(Middleware::Other)) => false,
                _ => {
                    self.unseen.push(name.clone());
                    false
                }
            }
        })
    }
}

/// Whether an address is that of `/auth`: the path decides, whatever the host is called.
fn is_our_auth(address: &str) -> bool {
    let after_scheme = address.split_once("://").map_or(address, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
    path.split(['?', '#']).next() == Some("/auth")
}

/// Whether a field is `middlewares` or `middlewares[0]`.
fn is_list(field: &str, name: &str) -> bool {
    field.split('[').next() == Some(name)
}

fn names(list: &str) -> impl Iterator<Item = String> + '_ {
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Parses a boolean as Go does (<https://pkg.go.dev/strconv#ParseBool>).
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
