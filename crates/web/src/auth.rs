//! ForwardAuth: may this request pass, and where to
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/forwardauth/>).
//!
//! This is the hot path: no lock shared between requests, no I/O.

use std::sync::Arc;

use access::{Decision, Grant, Request, decide};
use axum::{
    body::Body,
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode},
};
use tracing::debug;

use crate::{
    Shared,
    refusal::{Dialect, Refusal},
};

const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const ROUTE: HeaderName = HeaderName::from_static("x-inference-route");
const MODEL: HeaderName = HeaderName::from_static("x-inference-model");
const CONSUMER: HeaderName = HeaderName::from_static("x-inference-consumer");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers Traefik. The question is a GET with the client's headers and body; the client's own
/// method and URI stand in `X-Forwarded-*`, which Traefik sets itself.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, question: HttpRequest) -> Response<Body> {
    let (parts, body) = question.into_parts();
    let headers = &parts.headers;
    let request_id = request_id(&shared, headers);
    let forwarded = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let (Some(method), Some(uri)) = (forwarded(&FORWARDED_METHOD), forwarded(&FORWARDED_URI)) else {
        return Refusal::not_for_you().answer(Dialect::OpenAi, &request_id);
    };
    let dialect = Dialect::of(uri, headers);
    let settings = shared.settings();
    let max_body = settings.traefik.max_body;
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    let Ok(body) = axum::body::to_bytes(body, limit).await else {
        return Refusal::too_large(max_body).answer(dialect, &request_id);
    };
    let refusal = match &*shared.catalogue().load() {
        // Who has no key is told so even now.
        None => {
            settings.policy.authenticate(headers).map_or_else(|r| Refusal::from(&r), |_| Refusal::surveying())
        }
        Some(catalogue) => {
            let request = Request { method, uri, headers, body: &body };
            match decide(&settings.policy, catalogue, shared.limiters(), &request) {
                Decision::Allow(grant) => return allow(&grant, &request_id),
                Decision::Deny(denial) => {
                    debug!(request_id, reason = denial.reason.code(), consumer = denial.consumer.as_deref(), model = ?denial.model, "refused");
                    Refusal::from(&denial.reason)
                }
            }
        }
    };
    refusal.answer(dialect, &request_id)
}

/// The client's own id, if it is harmless, so that it finds its request in the server's log.
pub(crate) fn request_id(shared: &Shared, headers: &HeaderMap) -> String {
    let harmless = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok()).filter(harmless);
    given.map_or_else(|| shared.request_id(), str::to_owned)
}

fn allow(grant: &Grant, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    for (name, value) in [
        (ROUTE, grant.route.as_str()),
        (MODEL, grant.model.as_str()),
        (CONSUMER, &*grant.consumer),
        (REQUEST_ID, request_id),
    ] {
        match HeaderValue::from_str(value) {
            Ok(value) => headers.insert(name, value),
            // Model names, consumers and ids are checked when they are read; this is the last line.
            Err(_) => return Refusal::unrouted().answer(Dialect::OpenAi, request_id),
        };
    }
    response
}
