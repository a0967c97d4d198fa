//! What all pages share.

use askama::Template;
use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    response::{Html, IntoResponse as _, Response},
};

use crate::Operator;

/// The content security policy: only our own files, and no framing (<https://www.w3.org/TR/CSP3/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What the frame around a page shows.
pub(crate) struct Frame {
    /// What the page is called.
    pub(crate) title: String,
    /// The path of the navigation's entry to which the page belongs.
    pub(crate) at: &'static str,
    /// The operator who is signed in.
    pub(crate) operator: Operator,
}

/// An entry of the navigation.
pub(crate) struct NavigationEntry {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
}

impl Frame {
    pub(crate) fn new(title: impl Into<String>, at: &'static str, operator: Operator) -> Self {
        Self { title: title.into(), at, operator }
    }

    /// The navigation, in groups.
    pub(crate) fn navigation(&self) -> &'static [&'static [NavigationEntry]] {
        const fn entry(path: &'static str, name: &'static str) -> NavigationEntry {
            NavigationEntry { path, name }
        }
        const ENTRIES: &[&[NavigationEntry]] = &[
            &[entry("/", "Overview"), entry("/requests", "Requests"), entry("/usage", "Usage")],
            &[entry("/models", "Models"), entry("/servers", "Servers"), entry("/traefik", "Traefik")],
            &[entry("/keys", "API keys"), entry("/consumers", "Consumers"), entry("/plans", "Plans")],
            &[entry("/audit", "Audit log"), entry("/help", "Common errors"), entry("/about", "About")],
        ];
        ENTRIES
    }
}

/// Renders a page.
pub(crate) fn html(page: &impl Template) -> Response {
    rendered(page.render())
}

/// The response with a rendered page.
pub(crate) fn rendered(page: askama::Result<String>) -> Response {
    match page {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be rendered; the log says why\n")
                .into_response()
        }
    }
}

/// Adds the security headers. Responses may not be cached, unless they say otherwise (the assets do).
pub(crate) async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let obey = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Not `no-referrer`: then browsers would hide the origin of our own forms, by which these are recognised.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in obey {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the client's connection to Traefik uses TLS.
pub(crate) fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
