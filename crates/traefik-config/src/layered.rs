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
//! Traefik looks at one route after the other, and makes a table of them for each router above. Where there are more
//! than [`MANY`], sixteen routers (`modelgate-routes-0` to `-f`) stand between, each for the routes whose hash ends with that digit.
//!
//! Model names come from other people's servers. They are never put into the document: a
//! [`RouteId`](catalogue::RouteId) stands for each.

use std::collections::BTreeSet;

use catalogue::Catalogue;

use crate::{
    MODELGATE_SERVICE, Options,
    front::{Front, RANK_OF_MODELS, RANK_OF_TOO_LARGE, Refusal, UNROUTED, tiers, too_large},
    rule,
    upstream::Upstream,
    wire::{Http, Router},
};

/// So many routes may stand side by side.
const MANY: usize = 64;

/// Adds the routers of the layered layout.
pub(crate) fn add(http: &mut Http, catalogue: &Catalogue, options: &Options, front: &Front<'_>) {
    let mut roots = Vec::new();
    for tier in tiers(options) {
        let mut router = front.root(&tier.matcher, tier.rank);
        router.middlewares.extend(front.ask(http, tier.name, "", tier.question));
        http.routers.insert(tier.name.into(), router);
        roots.push(tier.name.to_owned());
    }
    front.add_lists(http, RANK_OF_MODELS);
    front.add_refusal(http, Refusal::TooLarge, &too_large(options), RANK_OF_TOO_LARGE);
    if options.max_chunked_body == 0 {
        front.add_refusal(http, Refusal::LengthMissing, "", 1);
    }
    let has_many = catalogue.pools().map(|pool| pool.legs.len()).sum::<usize>() > MANY;
    let mut groups = BTreeSet::new();
    for pool in catalogue.pools() {
        for leg in &pool.legs {
            let group = leg.route.as_str().chars().next_back().filter(|_| has_many);
            groups.extend(group);
            for way in (Upstream { http: &mut *http, catalogue, options }).add(pool, leg) {
                let chosen = format!("Header(`X-Inference-Route`, `{}`)", leg.route);
                let router = Router {
                    rule: rule::all(&[&chosen, &way.matcher]),
                    parent_refs: group.map_or_else(|| roots.clone(), |digit| vec![name_of_group(digit)]),
                    middlewares: way.middlewares,
                    service: Some(way.service),
                    ..Router::default()
                };
                http.routers.insert(format!("{}{}", leg.route, way.suffix), router);
            }
        }
    }
    for digit in &groups {
        let rule = format!("HeaderRegexp(`X-Inference-Route`, `{digit}$`)");
        let group = Router { rule, parent_refs: roots.clone(), ..Router::default() };
        http.routers.insert(name_of_group(*digit), group);
    }
    add_unrouted(http, roots.into_iter().chain(groups.into_iter().map(name_of_group)).collect());
}

fn name_of_group(digit: char) -> String {
    format!("modelgate-routes-{digit}")
}

/// `/auth` may know a route before Traefik does; and a root router without children would be invalid.
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
