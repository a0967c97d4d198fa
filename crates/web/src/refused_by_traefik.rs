//! Errors in the client's API for requests that Traefik does not let pass, because it has no route or the body is too large.
//! Traefik sends such requests here with `/refuse/{why}` before the client's own path; or, from an errors middleware, its own
//! request for `/refuse/{why}?url={the client's URL}`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response, header::CONTENT_LENGTH},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use traefik_config::{REFUSE_PREFIX, as_v1};

use crate::{
    Shared, auth,
    identity::Identity,
    misaddressed,
    refusal::{Dialect, Refusal},
    report::Report,
};

/// A client that is still sending its body reads no answer: cutting it off looks like a broken connection. So a body that is
/// too large is read and dropped, up to this size and this time.
const DRAIN_BYTES: usize = 128 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let identity = Identity::passed_on(&parts.headers, &shared.policy());
    let identity = identity.sampled(&parts.headers, &shared.policy(), shared.sampler());
    let path =
        parts.uri.path().strip_prefix(REFUSE_PREFIX).and_then(|p| p.strip_prefix('/')).unwrap_or_default();
    let (why, client_path) = path.split_once('/').unwrap_or((path, ""));
    // An errors middleware requests a page of its own, with the client's URL in the query.
    let client_url = parts.uri.query().and_then(|query| query.strip_prefix("url="));
    let client_url = client_url.filter(|_| client_path.is_empty());
    let is_page = client_url.is_some();
    let uri = match client_url {
        Some(url) => percent_decode_str(url).decode_utf8_lossy().into_owned(),
        None => format!("/{client_path}"),
    };
    let settings = shared.settings();
    let dialect = Dialect::of(&as_v1(&uri, &settings.traefik), &parts.headers);
    let (max_body, max_chunked_body) = (settings.traefik.max_body, settings.traefik.max_chunked_body);
    let misaddressed = || misaddressed::refusal(&uri, dialect, &settings.traefik.path_prefixes);
    let refusal = match why {
        "413" | "413-chunked" if is_page && parts.headers.contains_key(&auth::CONSUMER) => {
            Refusal::refused_by_server()
        }
        "413" if length(&parts.headers).is_some_and(|length| length <= max_body) => Refusal::odd_length(),
        "413" => Refusal::too_large(max_body),
        // Traefik cannot tell its own 401, for a body that is too large, from a server's; but only a request that `/auth` let
        // pass names a consumer.
        "413-chunked" => Refusal::too_large_without_length(max_chunked_body),
        "411" => Refusal::length_required(),
        "429" => Refusal::too_many_at_once(),
        "502" => Refusal::bad_gateway(),
        "unrouted" if access::is_asked_by_post(&uri, &parts.headers) => Refusal::over_http(),
        "unrouted" if !settings.traefik.version.is_layered() => {
            misaddressed().unwrap_or_else(Refusal::unnamed)
        }
        "unrouted" => Refusal::unrouted(),
        "elsewhere" => misaddressed().unwrap_or_else(Refusal::not_found),
        _ => Refusal::not_found(),
    };
    // An errors middleware asks with a method of its own, too.
    let method = if is_page { "" } else { parts.method.as_str() };
    let report = Report {
        telemetry: shared.telemetry(),
        since: None,
        waited: None,
        at: SystemTime::now(),
        from: auth::client_address(&parts.headers, settings.traefik.ip_depth),
        identity: &identity,
        method,
        uri: &uri,
    };
    let refusal = report.refused(refusal);
    // Whatever comes of it, the answer is the same.
    let _ = timeout(DRAIN_TIME, drain(body)).await;
    refusal.answer(dialect, identity.answered())
}

/// The announced length as Traefik has parsed it: Traefik writes the number anew.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = match left.checked_sub(length) {
            Some(left) => left,
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::Requests;
    use axum::http::StatusCode;
    use telemetry::Filter;

    /// `Content-Length: 0031` matches no range of lengths, and used to be called too large.
    #[tokio::test]
    async fn a_length_that_is_allowed_is_not_called_too_large() {
        let shared = Shared::empty();
        let max = shared.settings().traefik.max_body;
        for (length, status) in [(31, 400), (max, 400), (max + 1, 413)] {
            let request = Request::post("/refuse/413/v1/embeddings").header("content-length", length);
            let request = request.body(Body::empty()).expect("a request");
            let answer = Requests::new(&shared).answer(request).await;
            assert_eq!(answer.status().as_u16(), status, "{length}");
        }
    }

    /// An errors middleware around ForwardAuth for a chunked body catches 401s of servers, too.
    #[tokio::test]
    async fn a_servers_own_401_is_not_called_too_large() {
        let shared = Shared::empty();
        for (consumer, code) in [(None, "request_too_large"), (Some("alice"), "server_refused")] {
            let mut request = Request::get("/refuse/413-chunked?url=%2Fv1%2Fembeddings");
            if let Some(consumer) = consumer {
                request = request.header("x-inference-consumer", consumer);
            }
            let request = request.body(Body::empty()).expect("a request");
            let answer = Requests::new(&shared).answer(request).await;
            let body = axum::body::to_bytes(answer.into_body(), 9_999).await.expect("a body");
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["error"]["code"], code);
        }
    }

    /// Operators see these refusals among all others; they do not count in the latencies of decisions.
    #[tokio::test]
    async fn what_is_refused_here_is_counted_and_shown() {
        let shared = Shared::empty();
        for (method, uri, status) in [
            ("PUT", "/refuse/413/v1/chat/completions?api-key=a-secret", 413),
            ("POST", "/refuse/411/v1/embeddings", 411),
            ("POST", "/refuse/unrouted/v1/chat/completions", 503),
            ("GET", "/refuse/429?url=%2Fv1%2Fmessages%3Fapi-key%3Da-secret", 429),
            ("GET", "/refuse/502?url=%2Fv1%2Fchat%2Fcompletions", 502),
            ("GET", "/refuse/413-chunked?url=%2Fv1%2Fchat%2Fcompletions", 413),
            ("GET", "/refuse/no-reason", 404),
        ] {
            let request = Request::builder().method(method).uri(uri).header("x-request-id", "req-1");
            let request = request.body(Body::empty()).expect("a request");
            let answer = Requests::new(&shared).answer(request).await;
            assert_eq!(answer.status(), StatusCode::from_u16(status).expect("a status"), "{uri}");
        }
        shared.telemetry().collect(SystemTime::now());
        let seen = shared.telemetry().recent(&Filter::default(), 9);
        let seen: Vec<_> = seen
            .iter()
            .rev()
            .map(|record| (record.refused.unwrap_or_default(), record.method(), record.path()))
            .collect();
        assert_eq!(
            seen,
            [
                ("request_too_large", "PUT", "/v1/chat/completions"),
                ("length_required", "POST", "/v1/embeddings"),
                ("model_not_ready", "POST", "/v1/chat/completions"),
                ("too_many_requests", "", "/v1/messages"),
                ("bad_gateway", "", "/v1/chat/completions"),
                ("request_too_large", "", "/v1/chat/completions"),
                ("not_found", "GET", "/"),
            ]
        );
        let totals = shared.telemetry().totals();
        assert_eq!((totals.refused.values().sum::<u64>(), totals.latencies.count()), (7, 0));
    }
}
