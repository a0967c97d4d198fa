//! The ForwardAuth request to Modelgate, as a chain of middlewares
//! (<https://doc.traefik.io/traefik/reference/routing-configuration/http/middlewares/forwardauth/>).
//!
//! ```text
//! [modelgate-upgrade] ─▶ [modelgate-key] ─▶ [modelgate-413] ─▶ [modelgate-copy] ─▶ ForwardAuth with the body ─▶ [modelgate-copy]
//! ```
//!
//! * `modelgate-upgrade`, for WebSockets: leaves only `websocket` of the protocols that a client may ask to switch to. All
//!   other requests lose `Upgrade`: whatever a server answered with `101` would be a tunnel past Modelgate.
//! * `modelgate-key`, where a body is large or its length is unknown: checks the key before the body is read. It removes
//!   nothing from the request, so the second ForwardAuth request decides everything again.
//! * `modelgate-413`, where a body without a length is bounded: Traefik refuses a longer one with a 401, as if the key were
//!   wrong. The key is known to be right by then, so the two can be told apart, except from the 401 of a server that wants
//!   another credential.
//! * `modelgate-copy`, where there may be trailers: ForwardAuth reads a body to its end, so trailers are known by then, and
//!   Traefik 3.3 to 3.7 forwards announced ones to the server. `retry` copies the request; the trailers are added to the
//!   original, and the copy goes on. At its end it waits for the rest of a body, so the answer to a wrong key must come
//!   before it.

use super::{Body, Front, Question, edge};
use crate::{
    page::page,
    wire::{ClientTls, ErrorPage, ForwardAuth, Headers, Http, Middleware, Retry},
    withheld,
};

const KEY: &str = "modelgate-key";
const COPY: &str = "modelgate-copy";
const UPGRADE: &str = "modelgate-upgrade";
const UPGRADE_WITHOUT_ORIGIN: &str = "modelgate-upgrade-without-origin";

/// The headers that `/auth` may set on a request. Each is deleted from the client's request first, so the client's key never
/// reaches a server. A browser's WebSocket has its key in the list of protocols; `/auth` returns the others.
const AUTH_RESPONSE_HEADERS: [&str; 5] =
    ["Authorization", "X-Api-Key", "Api-Key", "X-Request-Id", "Sec-WebSocket-Protocol"];
/// With [`RenderOptions::traces`](crate::RenderOptions::traces). A client's own is read by `/auth`, which continues its trace.
/// Where Traefik's own tracing is on, servers get a span of Traefik's as parent instead.
///
/// A server's answer is measured by its bytes where the server does not tell its tokens. A client could make it cheap by asking
/// for it compressed, so `/auth` asks for it as it is.
const OF_TRACED: [&str; 2] = ["Traceparent", "Accept-Encoding"];
/// Headers that `/auth` never sets, so they are deleted. Clients that try HTTP/2 over plain HTTP (RFC 7540, 3.2) send both.
const UPGRADE_HEADERS: [&str; 2] = ["Upgrade", "HTTP2-Settings"];

impl Front<'_> {
    /// Adds the ForwardAuth middlewares, the last one under this name, and returns their names in order.
    pub(crate) fn ask(&self, http: &mut Http, name: &str, query: &str, question: Question) -> Vec<String> {
        let reads = self.options.version.forwards_body();
        let mut names = Vec::new();
        let mut add = |name: &str, middleware: Middleware| {
            http.middlewares.entry(name.into()).or_insert(middleware);
            names.push(name.to_owned());
        };
        if question.is_websocket {
            let (name, middleware) = only_websockets(question);
            add(name, middleware);
        }
        if reads && question.key_first {
            add(KEY, self.key_question());
        }
        if let Some(why) = question.too_large
            && self.options.version.rewrites_status()
        {
            let page = page(self.options.version, "401", why);
            let status_rewrites = [("401", 413)].into();
            add(&format!("modelgate-{why}"), Middleware::Errors(ErrorPage { status_rewrites, ..page }));
        }
        let copies = reads && question.may_have_trailers;
        if copies {
            add(COPY, self.copy());
        }
        add(name, self.question(query, question));
        // A `retry` before ForwardAuth would repeat its request with a body that has already been read. From 3.7 on it is told
        // not to retry; before 3.7, a second `retry` behind ForwardAuth receives the failures instead.
        if copies && !self.options.version.limits_retries_by_time() {
            add(COPY, self.copy());
        }
        names
    }

    /// Asks only about the key: nothing is removed from the request, and no limit is debited.
    fn key_question(&self) -> Middleware {
        Middleware::ForwardAuth(Box::new(self.forward_auth("key")))
    }

    /// The ForwardAuth request. Before 3.3 it has no body, and says so, lest Modelgate take the body for an empty one.
    fn question(&self, query: &str, question: Question) -> Middleware {
        let reads = self.options.version.forwards_body();
        let websocket = if question.is_websocket { "websocket" } else { "" };
        let parts = [query, websocket, if reads { "" } else { "body=none" }];
        let query: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Middleware::ForwardAuth(Box::new(ForwardAuth {
            forward_body: reads,
            max_body_size: reads.then_some(match question.body {
                Body::BoundByRule => -1,
                Body::AtMost(max) => i64::try_from(max).unwrap_or(i64::MAX),
            }),
            auth_response_headers: self.deleted_headers(question),
            auth_response_headers_regex: Some(withheld::expression(&self.options.key_headers)),
            ..self.forward_auth(&query.join("&"))
        }))
    }

    fn forward_auth(&self, query: &str) -> ForwardAuth {
        let certificate = self.options.client_certificate.as_ref();
        let separator = if query.is_empty() { "" } else { "?" };
        ForwardAuth {
            address: format!("https://{}/auth{separator}{query}", self.gateway.authority),
            tls: ClientTls {
                ca: self.gateway.ca_pem.clone(),
                cert: certificate.map(|c| c.cert.clone()),
                key: certificate.map(|c| c.key.clone()),
            },
            // This passes on `X-Forwarded-For`; the proxies' other headers have been deleted by then (`edge.rs`).
            trust_forward_header: self.options.ip_depth > 0,
            forward_body: false,
            max_body_size: None,
            // Modelgate's answers are short; a limit would be allocated for each of them.
            max_response_body_size: self.options.version.limits_auth_answers().then_some(-1),
            auth_response_headers: Vec::new(),
            auth_response_headers_regex: None,
        }
    }

    /// `Connection` names headers that a proxy must drop (RFC 9110, 7.6.1). A client could name those that `/auth` sets, so
    /// its value is deleted, unless Modelgate has set it (`edge.rs`).
    fn deleted_headers(&self, question: Question) -> Vec<&'static str> {
        let mut headers = AUTH_RESPONSE_HEADERS.to_vec();
        if self.options.traces {
            headers.extend(OF_TRACED);
        }
        headers.extend(UPGRADE_HEADERS.iter().filter(|name| !question.is_websocket || **name != "Upgrade"));
        if !question.is_websocket && !question.hides_origin {
            headers.push("Connection");
        }
        headers
    }

    fn copy(&self) -> Middleware {
        Middleware::Retry(Retry {
            attempts: 2,
            timeout: self.options.version.limits_retries_by_time().then_some("1ns"),
            ..Retry::default()
        })
    }
}

fn only_websockets(question: Question) -> (&'static str, Middleware) {
    let (name, connection) = match question.hides_origin {
        true => (UPGRADE_WITHOUT_ORIGIN, edge::UPGRADE_AND_DROP_ORIGIN),
        false => (UPGRADE, "Upgrade"),
    };
    let headers = [("Connection", connection), ("Upgrade", "websocket")];
    let headers = Headers { custom_request_headers: headers.into(), ..Headers::default() };
    (name, Middleware::Headers(Box::new(headers)))
}
