//! Middlewares for routers that the operator writes, which have no other middleware of Modelgate.
//!
//! A rule can distinguish requests, a middleware cannot. So one middleware is for all requests, for which Traefik allocates the
//! largest body; one is for routers whose rule requires a `Content-Length`; and one is for routers of WebSockets.

use super::{Front, MODELGATE_SERVICE, Question, edge};
use crate::wire::{Chain, Http, Middleware};

/// The middleware for routers whose rule requires a `Content-Length`, and so bounds bodies.
pub const SIZED_GATE: &str = "modelgate-sized";
/// The middleware for routers whose rule requires `Upgrade: websocket`.
pub const WEBSOCKET_GATE: &str = "modelgate-websockets";

/// Adds them.
pub(super) fn add(http: &mut Http, front: &Front<'_>) {
    let any = Question::unsized_up_to(front.options.max_body);
    let gates = [
        (MODELGATE_SERVICE, "modelgate-gate", "gate", any),
        (SIZED_GATE, "modelgate-gate-sized", "gate", Question::SIZED),
        (WEBSOCKET_GATE, "modelgate-gate-websocket", "gate", Question::WEBSOCKET),
    ];
    for (name, question_name, query, question) in gates {
        let mut middlewares = Vec::new();
        if front.options.ip_depth > 0 {
            middlewares.push(edge::FORWARDED.to_owned());
        }
        middlewares.extend(front.ask(http, question_name, query, question));
        http.middlewares.insert(name.into(), Middleware::Chain(Chain { middlewares }));
    }
}
