//! The operator's dashboard on a host of its own. It has its own gate instead of `/auth`.

use super::{Front, MODELGATE_SERVICE, edge};
use crate::{
    Dashboard,
    wire::{Http, LoadBalancer, Router, RouterTls, Server, Service},
};

const DASHBOARD: &str = "modelgate-dashboard";
/// Above the rank of every model: the host is the dashboard's alone, even where its paths look like an API's.
const RANK: usize = 10_000;
const TO_HTTPS: &str = "modelgate-dashboard-redirect";

/// Adds the dashboard's routers and service.
pub(super) fn add(http: &mut Http, front: &Front<'_>, dashboard: &Dashboard) {
    let options = front.options;
    let rule = format!("Host(`{}`)", dashboard.host);
    let priority = Some(front.shortest + RANK);
    let router = Router { rule, priority, service: Some(DASHBOARD.into()), ..Router::default() };
    if !options.redirect_entry_points.is_empty() {
        http.routers.insert(TO_HTTPS.into(), edge::redirected(&router, options));
    }
    http.routers.insert(
        DASHBOARD.into(),
        Router {
            entry_points: options.entry_points.clone(),
            // The allowed addresses apply; CORS does not.
            middlewares: front.edge.iter().filter(|name| *name == edge::ALLOW).cloned().collect(),
            tls: options.tls.as_ref().map(|tls| RouterTls { cert_resolver: tls.cert_resolver.clone() }),
            ..router
        },
    );
    let host = front.gateway.authority.rsplit_once(':').map_or("", |(host, _)| host);
    http.services.insert(
        DASHBOARD.into(),
        Service::LoadBalancer(LoadBalancer {
            servers: vec![Server { url: format!("http://{host}:{}", dashboard.port), ..Server::default() }],
            // Browsers send the origin of a form, which the dashboard compares with the host.
            pass_host_header: true,
            servers_transport: MODELGATE_SERVICE.into(),
            ..LoadBalancer::default()
        }),
    );
}
