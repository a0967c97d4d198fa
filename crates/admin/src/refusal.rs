//! Refusals: a page for people, JSON for programs. Only here is the status of a refusal chosen.

use std::time::Duration;

use askama::Template;
use axum::{
    Json,
    http::{
        HeaderMap, Method, StatusCode,
        header::{ACCEPT, LOCATION, REFERER, RETRY_AFTER, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{Html, IntoResponse, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::api::{self, Problem};

/// The path of the sign-in page, to which browsers without a session are sent.
pub(crate) const SIGN_IN: &str = "/sign-in";

/// A refusal of a request.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Whether a person reads it, so that it is a page.
    page: bool,
    /// Whether the API answers.
    api: bool,
    /// The path to which the browser is redirected.
    location: Option<String>,
    retry_after: Option<Duration>,
    /// Whether the browser is to send the request again from our own page.
    again: bool,
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusalPage<'a> {
    status: u16,
    message: &'a str,
}

impl Refusal {
    fn new(parts: &Parts, status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let api = api::is_for_api(parts);
        let page = !api && wants_page(&parts.headers);
        Self {
            status,
            code,
            message: message.into(),
            page,
            api,
            location: None,
            retry_after: None,
            again: false,
        }
    }

    /// The operator is not signed in: a browser is sent to the sign-in page, and from there to the page that it wanted.
    pub(crate) fn sign_in(parts: &Parts) -> Self {
        const MESSAGE: &str = "sign in, or send an admin token as \"Authorization: Bearer <token>\"";
        let mut refusal = Self::new(parts, StatusCode::UNAUTHORIZED, "unauthorized", MESSAGE);
        if refusal.page && is_link_of_another_site(parts) {
            // On a link from another site browsers withhold the cookie; they send it when our own page repeats the request.
            refusal.again = true;
        } else if refusal.page {
            let wanted = parts.uri.path_and_query().map_or("/", |wanted| wanted.as_str());
            let location = match (&parts.method, wanted) {
                (&Method::GET, "/") => SIGN_IN.to_owned(),
                (&Method::GET, _) => {
                    format!("{SIGN_IN}?next={}", utf8_percent_encode(wanted, NON_ALPHANUMERIC))
                }
                (_, "/sign-out") => SIGN_IN.to_owned(),
                // The form's content is lost, but the page that it was sent from can be filled in again.
                _ => {
                    let from = utf8_percent_encode(path_of_referer(parts), NON_ALPHANUMERIC);
                    format!("{SIGN_IN}?lost=1&next={from}")
                }
            };
            refusal.location = Some(location);
        }
        refusal
    }

    pub(crate) fn too_many(parts: &Parts, wait: Duration) -> Self {
        let message = format!("too many wrong tokens from this address; try again in {} s", seconds(wait));
        let refusal = Self::new(parts, StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message);
        Self { retry_after: Some(wait), ..refusal }
    }

    pub(crate) fn read_only(parts: &Parts) -> Self {
        let message = "this token may only read; changes need one with the role admin";
        Self::new(parts, StatusCode::FORBIDDEN, "read_only", message)
    }

    pub(crate) fn other_site(parts: &Parts) -> Self {
        let message = "this was sent by a page of another site";
        Self::new(parts, StatusCode::FORBIDDEN, "other_site", message)
    }

    pub(crate) fn no_form_token(parts: &Parts) -> Self {
        let message = "the form is out of date: go back, load the page anew and send it again \
                       (programs with a cookie send X-CSRF-Token, or better a token)";
        Self::new(parts, StatusCode::FORBIDDEN, "form_out_of_date", message)
    }

    pub(crate) fn not_found(parts: &Parts) -> Self {
        Self::new(parts, StatusCode::NOT_FOUND, "not_found", "there is no such page")
    }

    /// The registry has refused the operation, or does not answer.
    pub(crate) fn of_registry(parts: &Parts, status: StatusCode, error: &store::RegistryError) -> Self {
        Self::new(parts, status, "registry", error.to_string())
    }

    /// The request cannot be carried out; `message` says what is allowed.
    pub(crate) fn bad_request(parts: &Parts, message: &str) -> Self {
        Self::new(parts, StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if let Some(location) = self.location {
            return (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response();
        }
        if self.api {
            let problem = Problem::new(self.status, self.code, self.message);
            return problem.retry_after(self.retry_after).into_response();
        }
        if self.again {
            return Html(AGAIN).into_response();
        }
        let page = RefusalPage { status: self.status.as_u16(), message: &self.message };
        let body = match page.render().ok().filter(|_| self.page) {
            Some(page) => Html(page).into_response(),
            None => Json(json!({ "error": { "code": self.code, "message": self.message } })).into_response(),
        };
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers
                .insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer realm=\"modelgate\""));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds(wait).into());
        }
        response
    }
}

/// A page that repeats its own request. It contains nothing else.
const AGAIN: &str =
    "<!doctype html><html lang=\"en\"><meta http-equiv=\"refresh\" content=\"0\"><title>Modelgate</title>";

/// The path of our own page from which a form was sent, by the `Referer`.
fn path_of_referer(parts: &Parts) -> &str {
    let url = parts.headers.get(REFERER).and_then(|value| value.to_str().ok());
    let rest = url.and_then(|url| url.split_once("://")).map_or("", |(_, rest)| rest);
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// Whether the request follows a link on another site. Then browsers send no cookie of ours (`SameSite=Strict`), even if there is
/// one.
fn is_link_of_another_site(parts: &Parts) -> bool {
    let is = |name: &str, values: &[&str]| {
        parts.headers.get(name).is_some_and(|value| values.iter().any(|wanted| value == wanted))
    };
    parts.method == Method::GET
        && is("sec-fetch-site", &["cross-site", "same-site"])
        && is("sec-fetch-mode", &["navigate"])
}

/// Whether a person reads the answer, by the browser's `Accept`.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
