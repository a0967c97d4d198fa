//! Middlewares (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/overview/>).

use std::collections::BTreeMap;

use serde::Serialize;

use super::is_false;

/// A middleware of exactly one kind.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Middleware {
    Chain(Chain),
    ForwardAuth(Box<ForwardAuth>),
    Retry(Retry),
    ReplacePathRegex(ReplacePathRegex),
    AddPrefix(AddPrefix),
    InFlightReq(InFlightReq),
    Errors(ErrorPage),
    Headers(Box<Headers>),
    IpAllowList(IpAllowList),
    RedirectScheme(RedirectScheme),
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chain {
    pub(crate) middlewares: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForwardAuth {
    pub(crate) address: String,
    pub(crate) tls: ClientTls,
    pub(crate) trust_forward_header: bool,
    /// Since 3.3.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) forward_body: bool,
    /// Since 3.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_body_size: Option<i64>,
    /// Since 3.6.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_response_body_size: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) auth_response_headers: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth_response_headers_regex: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClientTls {
    pub(crate) ca: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retry {
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initial_interval: Option<&'static str>,
    /// Since 3.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<&'static str>,
    /// Since 3.7. If it is absent, Traefik allocates 2 MiB for each request as soon as `status` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_request_body_bytes: Option<i64>,
    /// Since 3.7.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) status: Vec<&'static str>,
    /// Since 3.7.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) retry_non_idempotent_method: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplacePathRegex {
    pub(crate) regex: String,
    pub(crate) replacement: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddPrefix {
    pub(crate) prefix: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InFlightReq {
    pub(crate) amount: u32,
    pub(crate) source_criterion: SourceCriterion,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceCriterion {
    pub(crate) request_header_name: &'static str,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorPage {
    pub(crate) status: Vec<String>,
    /// Since 3.4.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) status_rewrites: BTreeMap<&'static str, u16>,
    pub(crate) service: &'static str,
    pub(crate) query: String,
    /// Since 3.6.15; empty: all headers of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) error_request_headers: Vec<&'static str>,
}

/// The headers middleware: CORS, HSTS, and request headers.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Headers {
    /// A header with an empty value is deleted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) custom_request_headers: BTreeMap<&'static str, &'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) access_control_allow_origin_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) access_control_allow_methods: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) access_control_allow_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) access_control_expose_headers: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_control_max_age: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) add_vary_header: bool,
    #[serde(rename = "stsSeconds", skip_serializing_if = "Option::is_none")]
    pub(crate) sts_seconds: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) sts_include_subdomains: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) sts_preload: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IpAllowList {
    pub(crate) source_range: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ip_strategy: Option<IpStrategy>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IpStrategy {
    pub(crate) depth: u8,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedirectScheme {
    pub(crate) scheme: &'static str,
    pub(crate) permanent: bool,
}
