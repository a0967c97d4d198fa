//! Follows a request through a rendered document, as Traefik would: which router takes it, and what that does.
//!
//! For operators who ask what would happen to a request. The document that is followed is the one that Traefik gets, so that the
//! answer cannot differ from it; only the choice of a router is done here once more (`evaluate.rs`), after
//! <https://doc.traefik.io/traefik/reference/routing-configuration/http/routing/rules-and-priority/>.

mod arrival;
mod evaluate;
#[cfg(test)]
mod tests;

pub use arrival::Arrival;
pub use evaluate::Verdict;

use regex::Regex;

use crate::{
    Document, MODELGATE_SERVICE,
    wire::{Http, Middleware, Router},
};

/// What Traefik does with a request, by the routers of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterWay {
    /// The router that takes it.
    pub router: String,
    /// The priority of that router: a router of somebody else's with a higher one, or a longer rule, comes first.
    pub priority: usize,
    /// The networks from which it takes requests; empty: any.
    pub allowed: Vec<String>,
    /// Whether Traefik itself answers the preflights of pages there.
    pub answers_preflights: bool,
    /// The path that goes on, where it replaces the client's before it asks.
    pub replaced: Option<String>,
    /// What the router does.
    pub step: RouterStep,
}

/// What a router does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterStep {
    /// It redirects to https.
    Redirect,
    /// It leads to the dashboard.
    Dashboard,
    /// Modelgate answers at this path.
    Answer {
        /// What is put before the client's path.
        prefix: String,
    },
    /// It asks `/auth`, one question after the other.
    Ask(Vec<AuthQuestion>),
}

/// A question to `/auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuestion {
    /// The query of its address.
    pub query: String,
    /// Whether the body comes with it.
    pub has_body: bool,
    /// The longest body that Traefik reads for it, in bytes; `None`: the whole body.
    pub max_body: Option<u64>,
    /// The path of the page that Modelgate writes if the body is longer; `None`: Traefik answers with a bare 401.
    pub page: Option<String>,
}

impl Document {
    /// The router that takes a request, if one does.
    pub fn way(&self, arrival: &Arrival<'_>) -> Option<RouterWay> {
        let roots = self.http.routers.iter().filter(|(_, router)| router.parent_refs.is_empty());
        let (name, router) = first(roots.filter(|(_, router)| is_reached(router, arrival)), arrival)?;
        let of = || router.middlewares.iter().filter_map(|name| self.http.middlewares.get(name));
        let allowed = of().find_map(|middleware| match middleware {
            Middleware::IpAllowList(list) => Some(list.source_range.clone()),
            _ => None,
        });
        let answers = |middleware: &Middleware| matches!(middleware, Middleware::Headers(headers) if !headers.access_control_allow_origin_list.is_empty());
        Some(RouterWay {
            router: name.clone(),
            priority: priority(router),
            allowed: allowed.unwrap_or_default(),
            answers_preflights: of().any(answers),
            replaced: self.http.replaced(router, arrival.path),
            step: self.http.step(router),
        })
    }

    /// The router that takes a request behind another one, once `/auth` has chosen its route; the service that it leads to.
    pub fn behind(&self, parent: &str, arrival: &Arrival<'_>) -> Option<(&str, &str)> {
        let mut parent = parent;
        loop {
            let children = self
                .http
                .routers
                .iter()
                .filter(|(_, router)| router.parent_refs.iter().any(|of| of == parent));
            let (name, router) = first(children, arrival)?;
            match &router.service {
                Some(service) => return Some((name, service)),
                None => parent = name,
            }
        }
    }

    /// The questions of the middlewares that a router of somebody else's names; empty if they ask nothing.
    pub fn questions<'n>(&self, middlewares: impl IntoIterator<Item = &'n str>) -> Vec<AuthQuestion> {
        let named = middlewares.into_iter().filter_map(|name| name.strip_suffix("@http"));
        self.http.questions(named)
    }
}

impl Http {
    /// The path after the replacements that come before the first question.
    fn replaced(&self, router: &Router, path: &str) -> Option<String> {
        let all = router.middlewares.iter().filter_map(|name| self.middlewares.get(name));
        let before = all.take_while(|middleware| !matches!(middleware, Middleware::ForwardAuth(_)));
        let mut replaced = None;
        for middleware in before {
            if let Middleware::ReplacePathRegex(replace) = middleware {
                let now = replaced.as_deref().unwrap_or(path);
                let expression =
                    Regex::new(&replace.regex).ok().filter(|expression| expression.is_match(now));
                replaced = expression
                    .map(|expression| expression.replace(now, &replace.replacement).into_owned())
                    .or(replaced);
            }
        }
        replaced
    }

    fn step(&self, router: &Router) -> RouterStep {
        let questions = self.questions(router.middlewares.iter().map(String::as_str));
        if !questions.is_empty() {
            return RouterStep::Ask(questions);
        }
        if router.middlewares.iter().any(|name| is_redirect(self, name)) {
            return RouterStep::Redirect;
        }
        if router.service.as_deref() != Some(MODELGATE_SERVICE) {
            return RouterStep::Dashboard;
        }
        let prefix = router.middlewares.iter().find_map(|name| match self.middlewares.get(name) {
            Some(Middleware::AddPrefix(added)) => Some(added.prefix.clone()),
            _ => None,
        });
        RouterStep::Answer { prefix: prefix.unwrap_or_default() }
    }

    fn questions<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<AuthQuestion> {
        let (mut found, mut page) = (Vec::new(), None);
        for name in names {
            match self.middlewares.get(name) {
                Some(Middleware::Chain(chain)) => {
                    found.extend(self.questions(chain.middlewares.iter().map(String::as_str)));
                }
                Some(Middleware::Errors(errors)) => {
                    page = errors.query.split_once('?').map(|(path, _)| path.to_owned());
                }
                Some(Middleware::ForwardAuth(asked)) => {
                    let query = asked.address.split_once('?').map_or("", |(_, query)| query);
                    found.push(AuthQuestion {
                        query: query.to_owned(),
                        has_body: asked.forward_body,
                        max_body: asked.max_body_size.and_then(|max| u64::try_from(max).ok()),
                        page: page.clone(),
                    });
                }
                _ => {}
            }
        }
        found
    }
}

fn is_redirect(http: &Http, middleware: &str) -> bool {
    matches!(http.middlewares.get(middleware), Some(Middleware::RedirectScheme(_)))
}

/// The one with the highest priority of those whose rule matches.
fn first<'r>(
    routers: impl Iterator<Item = (&'r String, &'r Router)>,
    arrival: &Arrival<'_>,
) -> Option<(&'r String, &'r Router)> {
    let matching = routers.filter(|(_, router)| evaluate::rule(&router.rule, arrival) == Verdict::Yes);
    matching.max_by_key(|(_, router)| priority(router))
}

/// Traefik's own default is the length of the rule.
fn priority(router: &Router) -> usize {
    router.priority.unwrap_or(router.rule.len())
}

/// A router with TLS gets what comes by TLS, one that redirects to https what does not. Where the URL does not say, Traefik is
/// asked in the way that leads on.
fn is_reached(router: &Router, arrival: &Arrival<'_>) -> bool {
    let redirects = router.service.as_deref().is_some_and(|service| service.ends_with("@internal"));
    match arrival.is_https {
        Some(true) | None => !redirects,
        Some(false) => router.tls.is_none(),
    }
}
