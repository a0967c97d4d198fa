//! Services and how Traefik connects to their servers
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/load-balancing/service/>).

use serde::Serialize;

use super::is_false;

/// A service of exactly one kind.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Service {
    LoadBalancer(LoadBalancer),
    Weighted(Weighted),
    Failover(Failover),
    Mirroring(Mirroring),
    /// One service behind middlewares.
    #[serde(untagged)]
    Guarded(Guarded),
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    pub(crate) servers: Vec<Server>,
    /// Since 3.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sticky: Option<Sticky>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthCheck>,
    /// Since 3.6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) passive_health_check: Option<PassiveHealthCheck>,
    pub(crate) pass_host_header: bool,
    pub(crate) servers_transport: String,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u16>,
    /// Since 3.2.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) preserve_path: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sticky {
    pub(crate) cookie: Cookie,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cookie {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) secure: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) http_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) same_site: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthCheck {
    pub(crate) path: String,
    pub(crate) interval: String,
    pub(crate) timeout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PassiveHealthCheck {
    pub(crate) max_failed_attempts: u16,
    pub(crate) failure_window: String,
}

/// `healthCheck: {}` on a service of services: its children report to it when all of their servers are down, and it reports to
/// its parent.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Watched {}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Weighted {
    pub(crate) services: Vec<WeightedService>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sticky: Option<Sticky>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<Watched>,
}

/// Since 3.7.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Guarded {
    pub(crate) middlewares: Vec<String>,
    pub(crate) weighted: Weighted,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WeightedService {
    pub(crate) name: String,
    pub(crate) weight: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failover {
    pub(crate) service: String,
    pub(crate) fallback: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<Watched>,
    /// Since 3.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errors: Option<FailoverErrors>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FailoverErrors {
    pub(crate) status: Vec<String>,
    /// If it is absent, Traefik reads the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_request_body_bytes: Option<i64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mirroring {
    pub(crate) service: String,
    pub(crate) mirrors: Vec<Mirror>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_body_size: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mirror {
    pub(crate) name: String,
    pub(crate) percent: u8,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServersTransport {
    #[serde(rename = "rootCAs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) root_cas: Vec<String>,
    #[serde(rename = "disableHTTP2", skip_serializing_if = "is_false")]
    pub(crate) disable_http2: bool,
    /// -1: none.
    pub(crate) max_idle_conns_per_host: i32,
    pub(crate) forwarding_timeouts: ForwardingTimeouts,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForwardingTimeouts {
    pub(crate) dial_timeout: String,
    pub(crate) response_header_timeout: String,
    pub(crate) idle_conn_timeout: String,
}
