//! Authenticates every request, refuses changes by readers, and refuses forms that another site sends with the
//! browser's cookie (CSRF).
//!
//! It is a layer around the whole router, so a new page cannot be forgotten.
//!
//! ```text
//! Authorization: Bearer <token> ─┐
//! cookie modelgate_session ──────┴─▶ Operator ─▶ may it change things? ─▶ was it sent by our own page? ─▶ handler
//! ```

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use access::KeyDigest;
use arc_swap::ArcSwap;
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{
        HeaderMap, Method,
        header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use percent_encoding::percent_decode;
use subtle::ConstantTimeEq as _;

use crate::{
    AdminTokens, Operator,
    client::Client,
    operator::SessionOf,
    refusal::{Refusal, SIGN_IN},
    session::Sessions,
    throttle::Throttle,
};

/// The cookie of a session.
pub(crate) const COOKIE_NAME: &str = "modelgate_session";
/// The longest form, in bytes.
const MAX_FORM: usize = 1 << 20;
/// Forms that readers may send, too: they change nothing, or only the reader's own session.
pub(crate) const READERS_MAY_SEND: [&str; 2] = ["/sign-out", "/requests/try"];
/// Whether a path is reachable without signing in.
fn is_open(path: &str) -> bool {
    path == SIGN_IN || path.starts_with("/assets/")
}

/// The tokens that admit operators, the open sessions, and the failed attempts.
#[derive(Debug)]
pub struct Authenticator {
    tokens: ArcSwap<AdminTokens>,
    sessions: Sessions,
    throttle: Throttle,
}

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The request has neither a valid token nor a valid session.
    Unknown,
    /// There were too many failures from this client; holds how long it must wait.
    TooMany(Duration),
}

impl Authenticator {
    /// Admits the holders of these tokens.
    pub fn new(tokens: AdminTokens) -> Self {
        Self {
            tokens: ArcSwap::from_pointee(tokens),
            sessions: Sessions::default(),
            throttle: Throttle::default(),
        }
    }

    /// Replaces the tokens. Sessions of removed tokens end at once.
    pub fn replace_tokens(&self, tokens: AdminTokens) {
        self.tokens.store(Arc::new(tokens));
    }

    /// Opens a session for a token, and returns the cookie's value with whose it is.
    pub(crate) fn sign_in(
        &self,
        token: &str,
        from: Client,
        now: Instant,
    ) -> Result<(String, Operator), Closed> {
        let operator = self.by_token(token, from, now)?;
        let cookie = self.sessions.open(operator.token, now).map_err(|error| {
            tracing::error!(%error, "no session can be opened");
            Closed::Unknown
        })?;
        Ok((cookie, operator))
    }

    /// Ends the operator's session.
    pub(crate) fn sign_out(&self, operator: &Operator) {
        if let Some(session) = &operator.session {
            self.sessions.close(&session.cookie);
        }
    }

    /// Whether an operator is still admitted: the session has not ended and the token is still valid. Counts as use of the
    /// session.
    pub(crate) fn still_admits(&self, operator: &Operator, now: Instant) -> bool {
        match &operator.session {
            Some(session) => self.by_cookie(&session.cookie, operator.address, now).is_some(),
            None => self.tokens.load().find(&operator.token).is_some(),
        }
    }

    /// Identifies the operator. A token takes precedence over a cookie.
    fn enter(&self, headers: &HeaderMap, from: Client, now: Instant) -> Result<Operator, Closed> {
        if let Some(token) = bearer(headers) {
            return self.by_token(token, from, now);
        }
        let by_cookie = |cookie| self.by_cookie(cookie, from.address, now);
        cookies(headers).find_map(by_cookie).ok_or(Closed::Unknown)
    }

    fn by_token(&self, token: &str, from: Client, now: Instant) -> Result<Operator, Closed> {
        self.throttle.check(from, now).map_err(Closed::TooMany)?;
        let digest = KeyDigest::of(token);
        match self.tokens.load().find(&digest) {
            Some(token) => Ok(Operator::new(token, None, from.address)),
            None => {
                self.throttle.failed(from, now);
                tracing::warn!(from = %from.address, "an admin token is not valid");
                Err(Closed::Unknown)
            }
        }
    }

    fn by_cookie(&self, cookie: &str, address: IpAddr, now: Instant) -> Option<Operator> {
        let session = self.sessions.of(cookie, now)?;
        let tokens = self.tokens.load();
        let Some(token) = tokens.find(&session.token) else {
            self.sessions.close(cookie);
            return None;
        };
        let session = SessionOf { cookie: cookie.to_owned(), csrf: session.csrf };
        Some(Operator::new(token, Some(session), address))
    }
}

/// The layer around all routes.
pub(crate) async fn guard(
    State(authenticator): State<Arc<Authenticator>>,
    from: Client,
    request: Request,
    next: Next,
) -> Response {
    let now = Instant::now();
    let (mut parts, body) = request.into_parts();
    let changes = !matches!(parts.method, Method::GET | Method::HEAD);
    if changes && is_of_another_site(&parts.headers) {
        return Refusal::other_site(&parts).into_response();
    }
    let is_open = is_open(parts.uri.path());
    let operator = match authenticator.enter(&parts.headers, from, now) {
        Ok(operator) => operator,
        Err(_) if is_open => return next.run(Request::from_parts(parts, body)).await,
        Err(Closed::Unknown) => return Refusal::sign_in(&parts).into_response(),
        Err(Closed::TooMany(wait)) => return Refusal::too_many(&parts, wait).into_response(),
    };
    if changes && !operator.role.may_write() && !READERS_MAY_SEND.contains(&parts.uri.path()) && !is_open {
        return Refusal::read_only(&parts).into_response();
    }
    let body = match (&operator.session, changes && !is_open) {
        (Some(session), true) => match carries_token(&parts, body, &session.csrf).await {
            Some(body) => body,
            None => return Refusal::no_form_token(&parts).into_response(),
        },
        _ => body,
    };
    parts.extensions.insert(operator);
    next.run(Request::from_parts(parts, body)).await
}

/// The token in `Authorization: Bearer` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The values of our cookie (RFC 6265 §4.2). There may be another one of the same name, set for a parent domain.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    /// How many of them are looked up; browsers send fewer.
    const MAX_COOKIES: usize = 4;
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|list| list.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value).take(MAX_COOKIES)
}

/// Whether a browser says that a page of another site has sent the request (<https://w3c.github.io/webappsec-fetch-metadata/>;
/// older browsers send only `Origin`). Clients other than browsers send neither header, and have no cookie that another site
/// could misuse.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v: &axum::http::HeaderValue| v.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    match (headers.get(ORIGIN), text(HOST)) {
        (None, _) => false,
        (Some(origin), Some(host)) => {
            let authority = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, rest)| rest);
            authority.is_none_or(|authority| !authority.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => true,
    }
}

/// The body, if the request carries the session's CSRF token: in `X-CSRF-Token`, or in the field `csrf` of a form.
async fn carries_token(parts: &Parts, body: Body, expected: &str) -> Option<Body> {
    let same = |given: &[u8]| bool::from(given.ct_eq(expected.as_bytes()));
    if let Some(given) = parts.headers.get("x-csrf-token") {
        return same(given.as_bytes()).then_some(body);
    }
    let is_form = parts.headers.get(CONTENT_TYPE).is_some_and(|v| v == "application/x-www-form-urlencoded");
    if !is_form {
        return None;
    }
    let bytes: Bytes = axum::body::to_bytes(body, MAX_FORM).await.ok()?;
    let given = bytes.split(|b| *b == b'&').find_map(|pair| pair.strip_prefix(b"csrf="))?;
    let given: Vec<u8> = percent_decode(given).collect();
    same(&given).then(|| Body::from(bytes))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::{Role, token::AdminToken};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    fn authenticator() -> Authenticator {
        let token = |name: &str, role| AdminToken { name: name.into(), digest: KeyDigest::of(name), role };
        Authenticator::new(AdminTokens::new(vec![token("alice", Role::Admin), token("bob", Role::Reader)]))
    }

    fn entered(authenticator: &Authenticator, pairs: &[(&str, &str)]) -> Result<String, Closed> {
        authenticator
            .enter(&headers(pairs), HERE.into(), Instant::now())
            .map(|operator| operator.name.to_string())
    }

    #[test]
    fn a_token_or_a_session_opens_the_gate() {
        let authenticator = authenticator();
        let (cookie, operator) =
            authenticator.sign_in("bob", HERE.into(), Instant::now()).expect("signed in");
        assert_eq!((&*operator.name, operator.address), ("bob", HERE));
        let cookie = format!("other=1; {COOKIE_NAME}=made-up; {COOKIE_NAME}={cookie}");
        assert_eq!(entered(&authenticator, &[("authorization", "Bearer alice")]), Ok("alice".into()));
        assert_eq!(entered(&authenticator, &[("authorization", "bearer alice ")]), Ok("alice".into()));
        assert_eq!(entered(&authenticator, &[("cookie", &cookie)]), Ok("bob".into()));
        for wrong in [
            &[][..],
            &[("authorization", "Bearer eve")],
            &[("authorization", "Basic alice")],
            &[("authorization", "Bearer ")],
            &[("x-api-key", "alice")],
            &[("cookie", "modelgate_session=")],
            &[("cookie", "modelgate_session=alice")],
            &[("authorization", "Bearer eve"), ("cookie", &cookie)],
        ] {
            assert_eq!(entered(&authenticator, wrong), Err(Closed::Unknown), "{wrong:?}");
        }
    }

    #[test]
    fn a_session_ends_with_its_token() {
        let authenticator = authenticator();
        let (cookie, _) = authenticator.sign_in("alice", HERE.into(), Instant::now()).expect("signed in");
        let cookie = format!("{COOKIE_NAME}={cookie}");
        let operator = authenticator
            .enter(&headers(&[("cookie", &cookie)]), HERE.into(), Instant::now())
            .expect("entered");
        assert!(authenticator.still_admits(&operator, Instant::now()));
        authenticator.replace_tokens(AdminTokens::default());
        assert!(!authenticator.still_admits(&operator, Instant::now()));
        assert_eq!(entered(&authenticator, &[("cookie", &cookie)]), Err(Closed::Unknown));
    }

    #[test]
    fn after_too_many_failures_even_the_right_token_must_wait() {
        let (authenticator, now) = (authenticator(), Instant::now());
        for n in 0..10 {
            let wrong = format!("guess {n}");
            assert_eq!(authenticator.sign_in(&wrong, HERE.into(), now).expect_err("wrong"), Closed::Unknown);
        }
        assert!(matches!(authenticator.sign_in("alice", HERE.into(), now), Err(Closed::TooMany(_))));
        let elsewhere = IpAddr::from([192, 0, 2, 2]);
        assert!(authenticator.sign_in("alice", elsewhere.into(), now).is_ok(), "others can sign in");
        assert!(authenticator.sign_in("alice", HERE.into(), now + Duration::from_secs(6)).is_ok());
    }

    #[test]
    fn what_a_browser_says_of_the_sender() {
        let host = ("host", "gate.example.com");
        for (pairs, other) in [
            (&[host][..], false),
            (&[host, ("sec-fetch-site", "same-origin")], false),
            (&[host, ("sec-fetch-site", "none")], false),
            (&[host, ("sec-fetch-site", "same-site")], true),
            (&[host, ("sec-fetch-site", "cross-site"), ("origin", "https://gate.example.com")], true),
            (&[host, ("origin", "https://gate.example.com")], false),
            (&[host, ("origin", "https://gate.example.com:8443")], true),
            (&[host, ("origin", "https://evil.example.com")], true),
            (&[host, ("origin", "null")], true),
            (&[("origin", "https://gate.example.com")], true),
        ] {
            assert_eq!(is_of_another_site(&headers(pairs)), other, "{pairs:?}");
        }
    }

    #[tokio::test]
    async fn a_form_carries_the_token_of_its_session() {
        let carried = async |content_type: &str, header: Option<&str>, body: &str| {
            let mut request = axum::http::Request::post("/x").header("content-type", content_type);
            if let Some(header) = header {
                request = request.header("x-csrf-token", header);
            }
            let (parts, body) = request.body(Body::from(body.to_owned())).expect("a request").into_parts();
            carries_token(&parts, body, "secret").await.is_some()
        };
        let form = "application/x-www-form-urlencoded";
        assert!(carried(form, None, "a=1&csrf=secret").await);
        assert!(carried(form, None, "csrf=%73ecret&a=1").await);
        assert!(carried("application/json", Some("secret"), "{}").await);
        for (content_type, header, body) in [
            (form, None, ""),
            (form, None, "csrf=wrong"),
            (form, None, "csrf=wrong&csrf=secret"),
            (form, None, "xcsrf=secret"),
            (form, Some("wrong"), "csrf=secret"),
            ("text/plain", None, "csrf=secret"),
            ("application/json", None, "{}"),
        ] {
            assert!(!carried(content_type, header, body).await, "{content_type} {header:?} {body}");
        }
        let long = format!("a={}&csrf=secret", "x".repeat(MAX_FORM));
        assert!(!carried(form, None, &long).await);
    }
}
