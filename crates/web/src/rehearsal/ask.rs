//! A client's request, as Traefik passes it on, and the answers to it.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::Request as HttpRequest,
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header, response::Parts},
};
use bytes::Bytes;
use serde_json::Value;
use telemetry::{ChosenServer, Filter};
use traefik_config::{Arrival, AuthQuestion, RenderOptions};

use super::{HOP_BY_HOP, Rehearsal, RequestOutcome, handlers, told};
use crate::{Shared, auth, connection::Peer};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// A client's request as it arrives at Traefik.
#[derive(Clone)]
pub(super) struct ClientRequest<'a> {
    pub(super) method: &'a str,
    is_https: Option<bool>,
    pub(super) host: Option<Cow<'a, str>>,
    path: Cow<'a, str>,
    query: Option<&'a str>,
    pub(super) headers: HeaderMap,
    pub(super) body: &'a [u8],
    from: Option<IpAddr>,
    options: &'a RenderOptions,
}

/// An answer of Modelgate's.
pub(super) struct GatewayAnswer {
    head: Parts,
    body: Bytes,
    /// The name of the reason, if it is a refusal that operators see among others.
    code: Option<&'static str>,
    /// The server that was chosen, if it is an answer by which one is.
    pub(super) chosen: Option<Arc<ChosenServer>>,
    is_of_auth: bool,
}

impl<'a> ClientRequest<'a> {
    /// What is missing is completed as clients and Traefik do; the steps say so.
    pub(super) fn new(
        rehearsal: &Rehearsal<'a>,
        mut headers: HeaderMap,
        options: &'a RenderOptions,
        steps: &mut Vec<String>,
    ) -> Self {
        let Rehearsal { method, uri, body, from, .. } = *rehearsal;
        let takes_body = !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH");
        let has_length =
            headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        if takes_body && !has_length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let path = cleaned(uri.path(), options);
        if path != uri.path() {
            steps.push(format!("Traefik cleans the path: {path}"));
        }
        steps.extend(told::of_path(uri.path(), options));
        Self {
            method,
            is_https: uri.scheme_str().map(|scheme| scheme == "https"),
            host: host(uri, &headers, options, steps),
            path,
            query: uri.query(),
            headers,
            body,
            from,
            options,
        }
    }

    /// The same request at another path.
    pub(super) fn at(&self, path: &'a str) -> Self {
        Self { path: path.into(), ..self.clone() }
    }

    pub(super) fn arrival(&self) -> Arrival<'_> {
        let text = |value: &'_ HeaderValue| value.to_str().ok().map(str::len);
        let headers = self.headers.iter().filter(|(_, value)| text(value).is_some());
        Arrival {
            method: self.method,
            is_https: self.is_https,
            host: self.host.as_deref(),
            path: &self.path,
            query: self.query,
            headers: headers
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
                .collect(),
            version: self.options.version,
        }
    }

    /// Path and query.
    pub(super) fn uri(&self) -> String {
        let query = self.query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.path)
    }

    /// Whether it asks what a page may do (<https://fetch.spec.whatwg.org/#cors-preflight-request>).
    pub(super) fn is_preflight(&self) -> bool {
        self.method == "OPTIONS"
            && self.headers.contains_key(header::ORIGIN)
            && self.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Sends it to Modelgate itself, below a prefix.
    pub(super) async fn send(&self, scratch: &Arc<Shared>, prefix: &str) -> GatewayAnswer {
        let request = HttpRequest::builder().method(self.method).uri(format!("{prefix}{}", self.uri()));
        self.answered(scratch, request, self.forwarded(), Bytes::copy_from_slice(self.body)).await
    }

    /// Sends Traefik's request for a page in place of an error.
    pub(super) async fn page(&self, scratch: &Arc<Shared>, page: &str) -> GatewayAnswer {
        let url = percent_encoding::utf8_percent_encode(&self.uri(), percent_encoding::NON_ALPHANUMERIC)
            .to_string();
        let request = HttpRequest::get(format!("{page}?url={url}"));
        self.answered(scratch, request, HeaderMap::new(), Bytes::new()).await
    }

    /// Sends a question about it.
    pub(super) async fn ask(&self, scratch: &Arc<Shared>, question: &AuthQuestion) -> GatewayAnswer {
        let mut headers = self.forwarded();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(auth::FORWARDED_METHOD, self.method);
        set(auth::FORWARDED_URI, &self.uri());
        if let Some(host) = &self.host {
            set(auth::FORWARDED_HOST, host);
        }
        let body = if question.has_body { self.body } else { &[] };
        let request = HttpRequest::get(format!("/auth?{}", question.query));
        let mut answer = self.answered(scratch, request, headers, Bytes::copy_from_slice(body)).await;
        answer.is_of_auth = true;
        answer
    }

    /// The headers that Traefik passes on, with the client's address behind those of as many proxies as there are.
    fn forwarded(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        if let Some(from) = self.from {
            let proxies = ", 127.0.0.1".repeat(self.options.ip_depth.into());
            let value = HeaderValue::from_str(&format!("{from}{proxies}"));
            headers.extend(value.ok().map(|value| (auth::FORWARDED_FOR, value)));
        }
        headers
    }

    async fn answered(
        &self,
        scratch: &Arc<Shared>,
        request: http::request::Builder,
        headers: HeaderMap,
        body: Bytes,
    ) -> GatewayAnswer {
        let Ok(mut request) = request.body(Body::from(body)) else {
            return GatewayAnswer::of(StatusCode::BAD_REQUEST);
        };
        *request.headers_mut() = headers;
        let address = self.from.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        request.extensions_mut().insert(Peer { address, has_certificate: true });
        let (head, body) = handlers(scratch).answer(request).await.into_parts();
        let body = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
        let telemetry = scratch.telemetry();
        telemetry.collect(std::time::SystemTime::now());
        let recent = telemetry.recent(&Filter::default(), 1);
        let code = recent.first().and_then(|record| record.refused);
        let chosen = recent.first().and_then(|record| record.chosen.clone());
        GatewayAnswer { head, body, code, chosen, is_of_auth: false }
    }
}

impl GatewayAnswer {
    fn of(status: StatusCode) -> Self {
        let mut head = Response::new(()).into_parts().0;
        head.status = status;
        Self { head, body: Bytes::new(), code: None, chosen: None, is_of_auth: false }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.head.status.is_success()
    }

    pub(super) fn outcome(&self) -> RequestOutcome {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let header = |name: &HeaderName| {
            let value = self.head.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        match (self.is_ok(), self.is_of_auth) {
            (true, true) => RequestOutcome::Allowed {
                model: header(&auth::MODEL),
                consumer: header(&auth::CONSUMER).unwrap_or_default(),
                route: header(&auth::ROUTE),
                server: header(&auth::SERVER),
            },
            (true, false) => RequestOutcome::Answered { what: told::of_answer(&body, &self.body) },
            (false, _) => {
                let error = &body["error"];
                let message = error["message"].as_str().or(error.as_str()).unwrap_or_default();
                let code = self.code.or(error["code"].as_str()).or(error["type"].as_str()).unwrap_or("error");
                RequestOutcome::Refused {
                    status: self.head.status.as_u16(),
                    code: code.to_owned(),
                    message: message.to_owned(),
                }
            }
        }
    }
}

/// The host of the URL, of the header, or, where neither is given, the first of those that are served.
fn host<'a>(
    uri: &'a Uri,
    headers: &HeaderMap,
    options: &'a RenderOptions,
    steps: &mut Vec<String>,
) -> Option<Cow<'a, str>> {
    let in_url = uri.authority().map(|authority| Cow::from(authority.as_str()));
    let in_header = || headers.get(header::HOST)?.to_str().ok().map(|host| Cow::from(host.to_owned()));
    in_url.or_else(in_header).or_else(|| {
        let first = options.hosts.first()?;
        steps.push(format!("no host is given, so it is taken to be {first} (traefik.hosts)"));
        Some(first.as_str().into())
    })
}

/// A path without empty, `.` and `..` segments, if Traefik removes them (`sanitizePath`, which is on unless it is turned off).
fn cleaned<'p>(path: &'p str, options: &RenderOptions) -> Cow<'p, str> {
    let is_clean = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    let inner = path.trim_start_matches('/');
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let odd = path.starts_with("//") || !inner.is_empty() && !inner.split('/').all(is_clean);
    if !odd || !options.version.cleans_paths() {
        return path.into();
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/")).into()
}
