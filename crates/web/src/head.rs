//! Refuses requests whose head cannot be accepted, before any other check.
//!
//! Servers answer these faults in different ways, or not at all; and Traefik's bare 500 would explain nothing.

use std::time::SystemTime;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Response, Uri, uri::PathAndQuery},
};

use crate::{
    Shared, auth,
    identity::Identity,
    refusal::{Dialect, Refusal},
    report::Report,
};

/// The longest headers that pass: names, values and the URL together, in bytes. Servers accept less than Traefik (1 MiB):
/// uvicorn, under vLLM and SGLang, 64 KiB.
pub(crate) const MAX_HEADERS: usize = 64 * 1024;

/// The refusal of a request whose head is faulty; `None` if it is fine.
pub(crate) fn check(shared: &Shared, request: &Request) -> Option<Response<Body>> {
    fault(request.uri(), request.headers()).map(|refusal| refuse(shared, request, refusal))
}

fn fault(uri: &Uri, headers: &HeaderMap) -> Option<Refusal> {
    let own_url = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let all = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let length = own_url.len() + all.sum::<usize>();
    if length > MAX_HEADERS {
        return Some(Refusal::headers_too_large(length, MAX_HEADERS));
    }
    let client_url = headers.get(auth::FORWARDED_URI).map_or(&b""[..], HeaderValue::as_bytes);
    (!own_url.is_ascii() || !client_url.is_ascii()).then(Refusal::url_not_ascii)
}

fn refuse(shared: &Shared, request: &Request, refusal: Refusal) -> Response<Body> {
    let headers = request.headers();
    let forwarded =
        |name| headers.get(name).map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()));
    let method = forwarded(auth::FORWARDED_METHOD).unwrap_or(request.method().as_str().into());
    let uri = forwarded(auth::FORWARDED_URI).unwrap_or(request.uri().path().into());
    let identity = Identity::new(headers, &shared.policy());
    let report = Report {
        telemetry: shared.telemetry(),
        since: None,
        waited: None,
        at: SystemTime::now(),
        from: auth::client_address(headers, shared.settings().traefik.ip_depth),
        identity: &identity,
        method: &method,
        uri: &uri,
    };
    report.refused(refusal).answer(Dialect::of(&uri, headers), identity.answered())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::Requests;

    async fn ask(request: http::request::Builder) -> (u16, serde_json::Value) {
        let shared = Shared::empty();
        let request = request.body(Body::empty()).expect("a request");
        let answer = Requests::new(&shared).answer(request).await;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 9_999).await.expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_to_the_byte() {
        for url in ["/auth", "/v1/models", "/refuse/413/v1/embeddings"] {
            let with = |length: usize| {
                let taken =
                    url.len() + "x-forwarded-uri".len() + "/v1/chat/completions".len() + "x-long".len();
                let request = Request::get(url).header("x-forwarded-uri", "/v1/chat/completions");
                request.header("x-long", "x".repeat(length - taken))
            };
            assert_ne!(ask(with(MAX_HEADERS)).await.0, 431, "{url}");
            let (status, body) = ask(with(MAX_HEADERS + 1)).await;
            assert_eq!((status, body["error"]["code"].as_str()), (431, Some("headers_too_large")), "{url}");
            assert_eq!(
                body["error"]["message"],
                "The request's headers and URL are 65537 bytes long; at most 65536 are allowed."
            );
        }
        let anthropic = Request::get("/auth").header("x-forwarded-uri", "/v1/messages");
        let (status, body) = ask(anthropic.header("x-long", "x".repeat(MAX_HEADERS))).await;
        assert_eq!((status, body["error"]["type"].as_str()), (431, Some("invalid_request_error")));
    }

    #[tokio::test]
    async fn a_url_that_is_not_ascii_is_told_what_to_do() {
        let raw = HeaderValue::from_bytes("/v1/chat/completions?user=Zo\u{eb}".as_bytes()).expect("a value");
        let latin1 = HeaderValue::from_bytes(b"/v1/chat/completions?user=Zo\xeb").expect("a value");
        for request in [
            Request::get("/auth").header("x-forwarded-uri", raw),
            Request::get("/auth").header("x-forwarded-uri", latin1),
            Request::get("/v1/limits?model=Zo\u{eb}"),
        ] {
            let (status, body) = ask(request).await;
            assert_eq!((status, body["error"]["code"].as_str()), (400, Some("invalid_url")), "{body}");
            assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("%C3%AB")), "{body}");
        }
    }
}
