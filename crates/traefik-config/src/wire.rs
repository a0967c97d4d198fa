//! The part of Traefik's dynamic configuration that is used, field by field.
//!
//! Source: <https://doc.traefik.io/traefik/reference/routing-configuration/dynamic-configuration-methods/>
//! and Traefik's `pkg/config/dynamic`. Maps are sorted, so that the same state gives the same bytes.

use std::collections::BTreeMap;

use serde::Serialize;

/// The whole document. Only `http` is used.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Document {
    pub(crate) http: Http,
}

impl Document {
    /// The document as the HTTP provider reads it: JSON, the same bytes for the same state.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with string keys and plain values can be written")
    }

    /// The same for people.
    pub fn to_json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("maps with string keys and plain values can be written")
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Http {
    pub(crate) routers: BTreeMap<String, Router>,
    pub(crate) middlewares: BTreeMap<String, Middleware>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) servers_transports: BTreeMap<String, ServersTransport>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Router {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) entry_points: Vec<String>,
    pub(crate) rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parent_refs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) middlewares: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<RouterTls>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterTls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_resolver: Option<String>,
}

/// Each has exactly one of the kinds.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Middleware {
    ForwardAuth(ForwardAuth),
    Retry(Retry),
    StripPrefix(StripPrefix),
    AddPrefix(AddPrefix),
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForwardAuth {
    pub(crate) address: String,
    pub(crate) tls: ClientTls,
    pub(crate) trust_forward_header: bool,
    pub(crate) forward_body: bool,
    pub(crate) max_body_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_response_body_size: Option<u64>,
    pub(crate) auth_response_headers: Vec<&'static str>,
    pub(crate) auth_response_headers_regex: &'static str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientTls {
    pub(crate) ca: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retry {
    pub(crate) attempts: u32,
    pub(crate) initial_interval: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) status: Vec<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retry_non_idempotent_method: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StripPrefix {
    pub(crate) prefixes: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddPrefix {
    pub(crate) prefix: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) load_balancer: LoadBalancer,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    pub(crate) servers: Vec<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthCheck>,
    pub(crate) pass_host_header: bool,
    pub(crate) servers_transport: &'static str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) preserve_path: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthCheck {
    pub(crate) path: String,
    pub(crate) interval: &'static str,
    pub(crate) timeout: &'static str,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServersTransport {
    #[serde(rename = "rootCAs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) root_cas: Vec<String>,
    pub(crate) max_idle_conns_per_host: u32,
    pub(crate) forwarding_timeouts: ForwardingTimeouts,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForwardingTimeouts {
    pub(crate) dial_timeout: &'static str,
    pub(crate) response_header_timeout: &'static str,
    pub(crate) idle_conn_timeout: &'static str,
}
