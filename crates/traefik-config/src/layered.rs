//! Two layers of routers, for Traefik 3.6.2 and later.
//!
//! ```text
//! root routers                                     child routers
//!   modelgate-models     GET /v1/models → Modelgate
//!   modelgate-small     ┐                            <route id>: X-Inference-Route → its servers
//!   modelgate-large     │
//!   modelgate-bodyless  ├─ ForwardAuth ────────────▶ …
//!   modelgate-websocket │                            <server's id>: X-Inference-Server → one server, then its others
//!   modelgate-upload    │                            modelgate-unrouted: everything else → Modelgate
//!   modelgate-chunked   ┘
//!   modelgate-too-large  → Modelgate, which answers 413
//! ```
//!
//! Each parent router has a table of its routes, which Traefik tries one after the other. If there are more than
//! [`MAX_ROUTES_PER_ROUTER`] routes, a layer of sixteen buckets (the routers `modelgate-routes-0` to `-f`) is put between: each
//! bucket has the routes whose hash ends with its digit.
//!
//! Model names come from servers and are untrusted. They are never put into the document: a [`RouteId`](catalogue::RouteId)
//! takes the place of each.

use std::collections::BTreeSet;

use catalogue::{Catalogue, RouteGroup};

use crate::{
    MODELGATE_SERVICE, RenderOptions,
    front::{Front, RANK_OF_MODELS, RANK_OF_TOO_LARGE, Refusal, UNROUTED, tiers, too_large},
    rule,
    upstream::{ServerWay, Upstream, Way},
    wire::{Http, Router},
};

/// The maximum number of routes below one router.
const MAX_ROUTES_PER_ROUTER: usize = 64;
/// The priority of servers' routers, above any rule's length.
const RANK_OF_SERVERS: usize = 1_000_000;

/// Adds the routers of the layered layout.
pub(crate) fn add(http: &mut Http, catalogue: &Catalogue, options: &RenderOptions, front: &Front<'_>) {
    let mut roots = Vec::new();
    for tier in tiers(options) {
        let mut router = front.root(&tier.matcher, tier.rank);
        router.middlewares.extend(front.prefix.clone());
        router.middlewares.extend(front.ask(http, tier.name, "", tier.question));
        http.routers.insert(tier.name.into(), router);
        roots.push(tier.name.to_owned());
    }
    front.add_lists(http, RANK_OF_MODELS);
    front.add_refusal(http, Refusal::TooLarge, &too_large(options), RANK_OF_TOO_LARGE);
    if options.max_chunked_body == 0 {
        front.add_refusal(http, Refusal::LengthMissing, "", 1);
    }
    let groups = || catalogue.pools().flat_map(|pool| pool.groups.iter().map(move |group| (pool, group)));
    let has_many = groups().count() > MAX_ROUTES_PER_ROUTER;
    let mut buckets = BTreeSet::new();
    for (pool, group) in groups() {
        let bucket = group.route.as_str().chars().next_back().filter(|_| has_many);
        buckets.extend(bucket);
        let parents = bucket.map_or_else(|| roots.clone(), |digit| vec![name_of_bucket(digit)]);
        for way in (Upstream { http: &mut *http, catalogue, options }).add(pool, group) {
            add_way(http, group, &parents, way);
        }
    }
    for digit in &buckets {
        let rule = format!("HeaderRegexp(`X-Inference-Route`, `{digit}$`)");
        let bucket = Router { rule, parent_refs: roots.clone(), ..Router::default() };
        http.routers.insert(name_of_bucket(*digit), bucket);
    }
    add_unrouted(http, roots.into_iter().chain(buckets.into_iter().map(name_of_bucket)).collect());
}

/// Adds the router of a group, and those of its servers. These come first. Where `/auth` names a server that this Traefik does not
/// know (yet), or none, the group's router takes the request.
///
/// Traefik counts concurrent requests for each router. So where they are limited, the servers' routers are behind the group's.
fn add_way(http: &mut Http, group: &RouteGroup, parents: &[String], way: Way) {
    let name = format!("{}{}", group.route, way.suffix);
    let chosen = format!("Header(`X-Inference-Route`, `{}`)", group.route);
    let rule = rule::all(&[&chosen, &way.matcher]);
    let nested = !way.counters.is_empty() && !way.servers.is_empty();
    let (behind, parents_of_servers) = match nested {
        true => ("PathPrefix(`/`)".to_owned(), vec![name.clone()]),
        false => (rule.clone(), parents.to_vec()),
    };
    for ServerWay { id, middlewares, service } in way.servers {
        let chosen = format!("Header(`X-Inference-Server`, `{id}`)");
        let router = http.routers.entry(format!("{id}{}", way.suffix)).or_insert_with(|| Router {
            rule: rule::all(&[&chosen, &way.matcher]),
            priority: Some(RANK_OF_SERVERS + usize::from(!way.matcher.is_empty())),
            middlewares,
            service: Some(service),
            ..Router::default()
        });
        router.parent_refs.extend(parents_of_servers.iter().cloned());
        router.parent_refs.sort();
        router.parent_refs.dedup();
    }
    let parent_refs = parents.to_vec();
    let group_router = |rule, parent_refs, middlewares, service| Router {
        rule,
        parent_refs,
        middlewares,
        service,
        ..Router::default()
    };
    if nested {
        http.routers.insert(name.clone(), group_router(rule, parent_refs, way.counters, None));
        let child = group_router(behind, vec![name.clone()], way.middlewares, Some(way.service));
        http.routers.insert(format!("{name}-any"), child);
    } else {
        let middlewares = way.counters.into_iter().chain(way.middlewares).collect();
        http.routers.insert(name, group_router(behind, parent_refs, middlewares, Some(way.service)));
    }
}

fn name_of_bucket(digit: char) -> String {
    format!("modelgate-routes-{digit}")
}

/// `/auth` may know a route before Traefik does; and Traefik rejects a root router without children.
fn add_unrouted(http: &mut Http, parents: Vec<String>) {
    http.routers.insert(
        UNROUTED.into(),
        Router {
            rule: "PathPrefix(`/`)".into(),
            priority: Some(1),
            parent_refs: parents,
            middlewares: vec![UNROUTED.into()],
            service: Some(MODELGATE_SERVICE.into()),
            ..Router::default()
        },
    );
    http.middlewares.insert(UNROUTED.into(), Refusal::Unrouted.middleware());
}
