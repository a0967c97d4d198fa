//! Two layers of routers, for Traefik 3.6.2 and later.
//!
//! ```text
//! root routers                                     child routers
//!   modelgate-models     GET /v1/models → Modelgate
//!   modelgate-small     ┐                            <route id>: X-Inference-Route → its servers
//!   modelgate-large     │
//!   modelgate-bodyless  ├─ ForwardAuth ────────────▶ …
//!   modelgate-websocket │
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

use catalogue::Catalogue;

use crate::{
    MODELGATE_SERVICE, RenderOptions,
    front::{Front, RANK_OF_MODELS, RANK_OF_TOO_LARGE, Refusal, UNROUTED, tiers, too_large},
    rule,
    upstream::Upstream,
    wire::{Http, Router},
};

/// The maximum number of routes below one router.
const MAX_ROUTES_PER_ROUTER: usize = 64;

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
    let has_many = catalogue.pools().map(|pool| pool.groups.len()).sum::<usize>() > MAX_ROUTES_PER_ROUTER;
    let mut buckets = BTreeSet::new();
    for pool in catalogue.pools() {
        for group in &pool.groups {
            let bucket = group.route.as_str().chars().next_back().filter(|_| has_many);
            buckets.extend(bucket);
            for way in (Upstream { http: &mut *http, catalogue, options }).add(pool, group) {
                let chosen = format!("Header(`X-Inference-Route`, `{}`)", group.route);
                let router = Router {
                    rule: rule::all(&[&chosen, &way.matcher]),
                    parent_refs: bucket.map_or_else(|| roots.clone(), |digit| vec![name_of_bucket(digit)]),
                    middlewares: way.middlewares,
                    service: Some(way.service),
                    ..Router::default()
                };
                http.routers.insert(format!("{}{}", group.route, way.suffix), router);
            }
        }
    }
    for digit in &buckets {
        let rule = format!("HeaderRegexp(`X-Inference-Route`, `{digit}$`)");
        let bucket = Router { rule, parent_refs: roots.clone(), ..Router::default() };
        http.routers.insert(name_of_bucket(*digit), bucket);
    }
    add_unrouted(http, roots.into_iter().chain(buckets.into_iter().map(name_of_bucket)).collect());
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
