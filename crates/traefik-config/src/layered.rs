//! The two layers of routers, for Traefik 3.6.2 and later.
//!
//! ```text
//! root routers                                     child routers
//!   modelgate-models     GET /v1/models → Modelgate
//!   modelgate-small     ┐                            <route id>: X-Inference-Route → its servers
//!   modelgate-large     │
//!   modelgate-bodyless  ├─ questions to Modelgate ─▶ …
//!   modelgate-websocket │
//!   modelgate-upload    │                            modelgate-unrouted: everything else → Modelgate
//!   modelgate-chunked   ┘
//!   modelgate-too-large  → Modelgate, which answers 413
//! ```
//!
//! Model names come from other people's servers. They are never put into the document: a
//! [`RouteId`](catalogue::RouteId) stands for each.

use catalogue::Catalogue;

use crate::{
    MODELGATE_SERVICE, Options,
    front::{
        CHUNKED, Front, RANK_OF_MODELS, RANK_OF_TOO_LARGE, TOO_LARGE, UNROUTED, refusal, tiers, too_large,
    },
    rule,
    upstream::Upstream,
    wire::{Http, Router},
};

/// Adds the routers of the layered layout.
pub(crate) fn add(http: &mut Http, catalogue: &Catalogue, options: &Options, front: &Front<'_>) {
    let mut parents = Vec::new();
    for tier in tiers(options) {
        let mut router = front.root(&tier.matcher, tier.rank);
        router.middlewares.extend(front.ask(http, tier.name, "", tier.question));
        http.routers.insert(tier.name.into(), router);
        parents.push(tier.name.to_owned());
    }
    front.add_lists(http, RANK_OF_MODELS);
    front.add_refusal(http, TOO_LARGE, "413", &too_large(options), RANK_OF_TOO_LARGE);
    if options.max_chunked_body == 0 {
        front.add_refusal(http, CHUNKED, "411", "", 1);
    }
    add_unrouted(http, &parents);
    for pool in catalogue.pools() {
        for leg in &pool.legs {
            for way in (Upstream { http: &mut *http, catalogue, options }).add(pool, leg) {
                let chosen = format!("Header(`X-Inference-Route`, `{}`)", leg.route);
                let router = Router {
                    rule: rule::all(&[&chosen, &way.matcher]),
                    parent_refs: parents.clone(),
                    middlewares: way.middlewares,
                    service: Some(way.service),
                    ..Router::default()
                };
                http.routers.insert(format!("{}{}", leg.route, way.suffix), router);
            }
        }
    }
}

/// `/auth` may know a route before Traefik does; and a root router without children would be invalid.
fn add_unrouted(http: &mut Http, parents: &[String]) {
    http.routers.insert(
        UNROUTED.into(),
        Router {
            rule: "PathPrefix(`/`)".into(),
            priority: Some(1),
            parent_refs: parents.to_vec(),
            middlewares: vec![UNROUTED.into()],
            service: Some(MODELGATE_SERVICE.into()),
            ..Router::default()
        },
    );
    http.middlewares.insert(UNROUTED.into(), refusal("unrouted"));
}
