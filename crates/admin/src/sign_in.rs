//! Signing in with an admin token, which sets a session cookie, and signing out.

use std::{sync::Arc, time::Instant};

use askama::Template;
use axum::{
    Form,
    extract::{Query, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{RETRY_AFTER, SET_COOKIE},
    },
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;

use crate::{
    Admin, Authenticator, Operator,
    authentication::{COOKIE_NAME, Closed},
    client::Client,
    operator::MaybeOperator,
    page::{self, html},
    refusal::SIGN_IN,
};

/// The page to go to after signing in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Next {
    next: String,
    /// Not empty if a form was sent without a session.
    lost: String,
}

/// The message after a form was sent too late.
const LOST: &str = "You were signed out, so what you sent was not done. Sign in, and send it again.";

/// The fields of the form.
#[derive(Deserialize)]
pub(crate) struct Credentials {
    token: String,
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    next: &'a str,
    error: Option<String>,
}

/// `GET /sign-in`
pub(crate) async fn show(MaybeOperator(operator): MaybeOperator, Query(next): Query<Next>) -> Response {
    match operator {
        Some(_) => Redirect::to(own_path(&next.next)).into_response(),
        None => {
            let error = (!next.lost.is_empty()).then(|| LOST.to_owned());
            html(&SignInPage { next: own_path(&next.next), error })
        }
    }
}

/// `POST /sign-in`
pub(crate) async fn submit(
    State(admin): State<Admin>,
    from: Client,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Response {
    let next = own_path(&given.next);
    let (status, error, wait) = match admin.authenticator.sign_in(given.token.trim(), from, Instant::now()) {
        Ok((cookie, operator)) => {
            admin.note(&operator, "signed in", "dashboard").await;
            let mut response = Redirect::to(next).into_response();
            set_cookie(&mut response, &headers, &cookie);
            return response;
        }
        Err(Closed::Unknown) => {
            (StatusCode::UNAUTHORIZED, "This is not a valid admin token.".to_owned(), None)
        }
        Err(Closed::TooMany(wait)) => {
            let seconds = wait.as_secs() + 1;
            let error = format!("Too many wrong tokens from this address. Try again in {seconds} s.");
            (StatusCode::TOO_MANY_REQUESTS, error, Some(seconds))
        }
    };
    let mut response = (status, html(&SignInPage { next, error: Some(error) })).into_response();
    if let Some(seconds) = wait {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// `POST /sign-out`
pub(crate) async fn sign_out(
    State(authenticator): State<Arc<Authenticator>>,
    operator: Operator,
    headers: HeaderMap,
) -> Response {
    authenticator.sign_out(&operator);
    let mut response = Redirect::to(SIGN_IN).into_response();
    set_cookie(&mut response, &headers, "");
    response
}

/// Sets the session's cookie (RFC 6265 §4.1); an empty value removes it. Scripts cannot read it, other sites cannot send it, and
/// over TLS it is never sent in clear.
fn set_cookie(response: &mut Response, request: &HeaderMap, value: &str) {
    let secure = if page::is_https(request) { "; Secure" } else { "" };
    let until = if value.is_empty() { "; Max-Age=0" } else { "" };
    let cookie = format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{until}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}

/// A path of this site, else the overview, so that a link to this page cannot redirect elsewhere. Browsers treat `\` as `/`.
fn own_path(next: &str) -> &str {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let own = next.starts_with('/') && !next.starts_with("//") && !next.starts_with(SIGN_IN);
    if plain && own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for (next, gone_to) in [
            ("/models?page=2", "/models?page=2"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("/sign-in", "/"),
        ] {
            assert_eq!(own_path(next), gone_to, "{next:?}");
        }
    }
}
