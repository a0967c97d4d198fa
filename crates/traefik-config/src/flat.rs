//! One layer of routers, for Traefik 3.0.0 to 3.6.1, which lack `parentRefs`.
//!
//! Traefik cannot read a body, so the model is chosen by what Traefik can see: the path (`/models/<name>/…`,
//! `/openai/deployments/<name>/…`), the header `X-Model`, the parameter `model`, or the operator's conditions. Each router asks
//! Modelgate about its own route, `/auth?route=<route id>`. From 3.3 on ForwardAuth sends the body, with one router and one
//! middleware per kind of body, and Modelgate checks that the body names the same model. Before 3.3 nobody reads the body, so
//! only servers without other models get requests.
//!
//! ```text
//! modelgate-models       GET /v1/models → Modelgate
//! modelgate-too-large    → Modelgate, which answers 413
//! <route id>-small  …    requests that match a selector, most conditions first ─ ForwardAuth ─▶ servers
//! <route id>-small  …    requests that name a model                            ─ ForwardAuth ─▶ servers
//! modelgate-unrouted     everything else → Modelgate
//! ```
//!
//! Model names come from servers and are untrusted. They occur in these rules, but only as [escaped
//! expressions](crate::rule::literal).

use std::{collections::BTreeSet, sync::Arc};

use catalogue::{Api, Catalogue, Choice, ModelName, Pool, RouteGroup};

use crate::{
    RenderOptions,
    front::{Front, Refusal, exclusive_chunked, tiers, too_large},
    rule,
    upstream::Upstream,
    wire::Http,
};

/// Adds the routers of the flat layout.
pub(crate) fn add(http: &mut Http, catalogue: &Catalogue, options: &RenderOptions, front: &Front<'_>) {
    let default: Vec<_> = catalogue.pools().filter(|pool| pool.selector.is_none()).collect();
    let selections = catalogue.selections().iter().rev().map(|selection| selection.pools().collect());
    front.add_refusal(http, Refusal::Unrouted, "", 1);
    let mut rank = 2;
    let mut routers = Routers { http: &mut *http, catalogue, options, front };
    for pools in std::iter::once(default).chain(selections) {
        rank = routers.add_group(&pools, rank);
    }
    front.add_lists(http, rank);
    front.add_refusal(http, Refusal::TooLarge, &too_large(options), rank);
    if options.max_chunked_body == 0 {
        front.add_refusal(http, Refusal::LengthMissing, &exclusive_chunked(), rank);
    }
}

/// Adds the routers of pools.
struct Routers<'a> {
    http: &'a mut Http,
    catalogue: &'a Catalogue,
    options: &'a RenderOptions,
    front: &'a Front<'a>,
}

/// Whether a request must name its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Needed,
    /// The servers of these requests have only one model.
    Optional,
}

impl Routers<'_> {
    /// Adds the pools of requests that are told apart by model name. Returns the next free rank.
    fn add_group(&mut self, pools: &[&Arc<Pool>], rank: usize) -> usize {
        let only = only_model(pools);
        let mut next = rank;
        for pool in pools {
            // In `/models/a/b/…`, the model `a/b` takes precedence over `a`.
            let within =
                |name: &str| pool.model.as_str().strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
            let depth = pools.iter().filter(|other| within(other.model.as_str())).count();
            let rank = rank + 2 * depth;
            next = next.max(rank + 2);
            if let Some(group) = pool.group().filter(|_| can_be_served(pool, self.options)) {
                let is_only = only.as_ref() == Some(&pool.model);
                let naming = if is_only { Naming::Optional } else { Naming::Needed };
                self.add_pool(pool, group, naming, rank);
            }
        }
        next
    }

    fn add_pool(&mut self, pool: &Pool, group: &RouteGroup, naming: Naming, rank: usize) {
        let Self { catalogue, options, front, .. } = *self;
        let ways = Upstream { http: &mut *self.http, catalogue, options }.add(pool, group);
        if ways.is_empty() {
            return;
        }
        let chosen = requests_of(pool, naming, options);
        for tier in tiers(options) {
            let suffix = format!("-{}", tier.size());
            let query = format!("route={}", group.route);
            let questions = front.ask(self.http, &format!("{}{suffix}", group.route), &query, tier.question);
            for way in &ways {
                let matcher = rule::all(&[&chosen, &way.matcher, &tier.exclusive]);
                // A way with a matcher takes precedence over the one for all other requests.
                let mut router = front.root("", rank + usize::from(!way.matcher.is_empty()));
                router.rule = rule::all(&[&front.hosts, &matcher]);
                router.middlewares.extend(front.prefix.iter().chain(&questions).cloned());
                router.middlewares.extend(way.counters.iter().chain(&way.middlewares).cloned());
                router.service = Some(way.service.clone());
                self.http.routers.insert(format!("{}{}{}", group.route, way.suffix, suffix), router);
            }
        }
    }
}

/// Whether no unread body could choose another model.
pub(crate) fn can_be_served(pool: &Pool, options: &RenderOptions) -> bool {
    options.version.forwards_body() || pool.choice() <= Choice::Sole
}

/// The only model of these pools, if there is exactly one: requests then need not name it. Its aliases do not count as others;
/// a model that is not ready does, since its requests would otherwise go elsewhere meanwhile.
fn only_model(pools: &[&Arc<Pool>]) -> Option<ModelName> {
    let models: BTreeSet<&ModelName> = pools.iter().map(|pool| &pool.canonical).collect();
    (models.len() == 1).then(|| models.first().map(|model| (*model).clone())).flatten()
}

/// The rule for a pool's requests: its selector, and all the ways to name the model.
fn requests_of(pool: &Pool, naming: Naming, options: &RenderOptions) -> String {
    let (name, name_in_path) = (rule::literal(&pool.model), rule::literal_in_path(&pool.model));
    let mut plain = Vec::new();
    let mut ways = Vec::new();
    for api in &options.apis {
        match api {
            Api::Models => ways.push(format!("PathRegexp(`^/models/{name_in_path}/`)")),
            Api::Azure => {
                ways.push(format!("PathRegexp(`^/openai/deployments/{name_in_path}/`)"));
                plain.extend(rule::AZURE_V1.map(String::from));
            }
            Api::OpenAi | Api::Ollama | Api::LlamaCpp | Api::Cohere | Api::Vllm | Api::Tei => {
                plain.extend(rule::paths(*api, options));
            }
        }
    }
    let plain = rule::each_once(plain);
    if !plain.is_empty() {
        let by_name = format!("(HeaderRegexp(`X-Model`, `^{name}$`) || QueryRegexp(`model`, `^{name}$`))");
        let by_name = match naming {
            Naming::Needed => by_name.as_str(),
            Naming::Optional => "",
        };
        ways.push(rule::all(&[&rule::any(&plain), by_name]));
    }
    let selector = pool.selector.as_deref().map(rule::selector).unwrap_or_default();
    rule::all(&[&selector, &rule::any(&ways)])
}
