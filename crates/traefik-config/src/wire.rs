//! The part of Traefik's dynamic configuration that is used, field by field.
//!
//! Source: <https://doc.traefik.io/traefik/reference/routing-configuration/dynamic-configuration-methods/> and Traefik's
//! `pkg/config/dynamic`. Maps are sorted, so that equal state gives equal bytes.

mod middleware;
mod service;

use std::{collections::BTreeMap, time::Duration};

pub(crate) use middleware::{
    AddPrefix, Chain, ClientTls, ErrorPage, ForwardAuth, Headers, InFlightReq, IpAllowList, IpStrategy,
    Middleware, RedirectScheme, ReplacePathRegex, Retry, SourceCriterion,
};
use serde::Serialize;
pub(crate) use service::{
    Cookie, Failover, FailoverErrors, ForwardingTimeouts, Guarded, HealthCheck, LoadBalancer, Mirror,
    Mirroring, PassiveHealthCheck, Server, ServersTransport, Service, Sticky, Watched, Weighted,
    WeightedService,
};

/// The whole document. Only `http` is used.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Document {
    pub(crate) http: Http,
}

impl Document {
    /// The document as JSON for the HTTP provider; equal state gives equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with string keys and plain values can be written")
    }

    /// The document, indented for people.
    pub fn to_json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("maps with string keys and plain values can be written")
    }
}

/// None of the maps is ever empty: Traefik refuses a document with `"services": {}`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Http {
    pub(crate) routers: BTreeMap<String, Router>,
    pub(crate) middlewares: BTreeMap<String, Middleware>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) servers_transports: BTreeMap<String, ServersTransport>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Router {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) entry_points: Vec<String>,
    pub(crate) rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<usize>,
    /// Since 3.6.
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

/// A duration as Go's `time.ParseDuration` reads it, in whole milliseconds.
pub(crate) fn go_duration(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

/// For `skip_serializing_if`: Traefik's default is left out.
fn is_false(value: &bool) -> bool {
    !*value
}
