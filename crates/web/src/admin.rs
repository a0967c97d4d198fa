//! Health of Modelgate itself.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use catalogue::Readiness;
use serde_json::json;

use crate::{Shared, metrics};

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::handle))
        .with_state(shared)
}

/// Ready once the first survey is finished. To who asks on this machine it says what is known and what is wrong; others
/// get numbers only, since addresses and problems are for those who may see the dashboard.
async fn ready(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    // A proxy on this machine may ask for anybody.
    let is_local = peer.ip().to_canonical().is_loopback() && !headers.contains_key("x-forwarded-for");
    let loaded = shared.catalogue().load();
    let Some(catalogue) = loaded.as_deref() else {
        let mut body = json!({ "status": "starting", "reason": "the first survey is not finished" });
        if is_local {
            body["problems"] = shared.catalogue().obstacles().iter().map(ToString::to_string).collect();
        }
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    if !is_local {
        let body = json!({
            "status": "ready",
            "models": catalogue.pools().count(),
            "servers": catalogue.servers().count(),
            "problems": catalogue.problems().len(),
        });
        return Json(body).into_response();
    }
    let servers: Vec<_> = catalogue
        .servers()
        .map(|s| {
            json!({
                "name": s.spec.name,
                "url": s.spec.url.as_str(),
                "state": s.state.name(),
                "why": s.state.why(),
                "models": s.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let models: Vec<_> = catalogue
        .pools()
        .map(|p| {
            json!({
                "name": p.model.as_str(),
                "stands_for": p.stands_for.as_str(),
                "selector": p.selector.as_ref().map(ToString::to_string),
                "routes": p.legs.iter().map(|leg| leg.route.as_str()).collect::<Vec<_>>(),
                "ready": p.readiness() == Readiness::Ready,
                "servers": p.ready.len(),
            })
        })
        .collect();
    let mut problems: Vec<String> = catalogue.problems().iter().map(ToString::to_string).collect();
    problems.extend(traefik_config::shortcomings(catalogue, &shared.settings().traefik));
    let hints: Vec<String> = catalogue.hints().iter().map(ToString::to_string).collect();
    let mut body = json!({
        "status": "ready",
        "models": models,
        "servers": servers,
        "problems": problems,
        "advisories": shared.advisories(),
        "hints": hints,
    });
    for (name, status) in shared.statuses() {
        body[name] = status;
    }
    Json(body).into_response()
}
