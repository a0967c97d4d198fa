//! The path of each page. All but the sign-in page and the assets require authentication.

use axum::{
    Router,
    http::request::Parts,
    middleware::{from_fn_with_state, map_response},
    routing::{MethodRouter, get, post},
};

use crate::{
    Admin, Refusal, api, assets, authentication, live, page,
    pages::{self, about, accounts, audit, help, servers, traefik, try_it, usage},
    refusal::SIGN_IN,
    sign_in,
};

/// Every route, as a table so that a test can walk it.
pub(crate) fn routes() -> Vec<(String, MethodRouter<Admin>)> {
    let pages = [
        (SIGN_IN, get(sign_in::show).post(sign_in::submit)),
        ("/sign-out", post(sign_in::sign_out)),
        ("/assets/{name}", get(assets::serve)),
        ("/", get(pages::show)),
        ("/models", get(pages::show)),
        ("/models/{name}", get(pages::show)),
        ("/servers", get(pages::show)),
        ("/servers/{id}", get(pages::show).post(servers::act)),
        ("/requests", get(pages::show)),
        ("/usage", get(usage::show).post(usage::erase)),
        ("/usage.csv", get(usage::csv)),
        ("/requests/try", get(try_it::show).post(try_it::submit)),
        ("/traefik", get(pages::show)),
        ("/traefik/revisions/{number}", get(traefik::revision)),
        ("/traefik/revisions/{number}/document", get(traefik::json)),
        ("/help", get(help::show)),
        ("/about", get(about::show).post(about::test_webhooks)),
        ("/audit", get(audit::show)),
        ("/events", get(live::events)),
    ];
    let pages = pages.into_iter().map(|(path, methods)| (path.to_owned(), methods));
    pages.chain(accounts::routes()).collect()
}

/// The dashboard, behind its authentication.
pub fn router(admin: Admin) -> Router {
    let routes =
        routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(&path, methods));
    routes
        .nest(api::BASE, api::router())
        .fallback(not_found)
        .layer(from_fn_with_state(admin.clone(), authentication::guard))
        .layer(map_response(page::with_headers))
        .with_state(admin)
}

async fn not_found(parts: Parts) -> Refusal {
    Refusal::not_found(&parts)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::http::{
        Method, Request, StatusCode,
        header::{HeaderMap, SET_COOKIE},
    };
    use catalogue::Catalogue;

    use super::*;
    use crate::testing::{ADMIN, Dashboard, READER, text};

    /// A path that matches a route.
    fn example(route: &str) -> String {
        let fill = |segment: &str| if segment.starts_with('{') { "x".to_owned() } else { segment.to_owned() };
        route.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    /// Every route, including those of the API.
    fn all() -> impl Iterator<Item = String> {
        let api = api::routes().into_iter().map(|(path, _)| format!("{}{path}", api::BASE));
        routes().into_iter().map(|(path, _)| path).chain(api)
    }

    fn is_open(route: &str) -> bool {
        route == SIGN_IN || route == "/assets/{name}"
    }

    #[tokio::test]
    async fn no_route_answers_without_a_session_or_a_token() {
        let dashboard = Dashboard::of(Catalogue::default());
        let paths: Vec<String> = all().collect();
        assert!(paths.len() > 30 && paths.contains(&"/api/v1/keys".to_owned()), "{paths:?}");
        for route in paths.into_iter().filter(|route| !is_open(route)).chain(["/nothing/there".to_owned()]) {
            let path = example(&route);
            for method in
                [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
            {
                let request = || Request::builder().method(&method).uri(&path);
                let response = dashboard.ask(None, request(), "").await;
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                assert!(response.headers().contains_key("www-authenticate"), "{method} {path}");
                let response = dashboard.ask(None, request().header("accept", "text/html"), "").await;
                if path.starts_with(api::BASE) {
                    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
                } else {
                    assert_eq!(response.status(), StatusCode::SEE_OTHER, "{method} {path}");
                    assert!(response.headers()["location"].to_str().expect("text").starts_with(SIGN_IN));
                }
                let cookie = request().header("cookie", "modelgate_session=0000");
                assert_eq!(dashboard.ask(None, cookie, "").await.status(), StatusCode::UNAUTHORIZED);
            }
        }
        // Each wrong token counts as a failure, so only one is sent here.
        let response = dashboard.ask(Some("a wrong token"), Request::get("/about"), "").await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn who_may_only_read_changes_nothing() {
        let dashboard = Dashboard::of(Catalogue::default());
        for route in all().filter(|route| !is_open(route)) {
            let path = example(&route);
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let request = Request::builder().method(&method).uri(&path);
                let status = dashboard.ask(Some(READER), request, "").await.status();
                match authentication::READERS_MAY_SEND.contains(&&*path) {
                    true => assert_ne!(status, StatusCode::FORBIDDEN, "{method} {path}"),
                    false => assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn every_answer_tells_browsers_to_trust_nothing_else() {
        let dashboard = Dashboard::of(Catalogue::default());
        for (path, token) in
            [("/about", Some(ADMIN)), ("/about", None), (SIGN_IN, None), ("/nope", Some(ADMIN))]
        {
            let response = dashboard.ask(token, Request::get(path), "").await;
            let headers = response.headers();
            let policy = headers["content-security-policy"].to_str().expect("text");
            for part in
                ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
            {
                assert!(policy.contains(part), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(headers["cache-control"], "no-store", "{path}");
            assert_eq!(headers["x-content-type-options"], "nosniff");
        }
        let response = dashboard.ask(None, Request::get(assets::url("app.css")), "").await;
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"text/css; charset=utf-8".parse().expect("a value"))
        );
        assert!(response.headers()["cache-control"].to_str().expect("text").contains("immutable"));
    }

    fn cookie_of(headers: &HeaderMap) -> String {
        headers[SET_COOKIE].to_str().expect("text").split(';').next().expect("a pair").to_owned()
    }

    fn form() -> axum::http::request::Builder {
        Request::post(SIGN_IN).header("content-type", "application/x-www-form-urlencoded")
    }

    #[tokio::test]
    async fn signing_in_with_a_cookie_and_signing_out() {
        let dashboard = Dashboard::of(Catalogue::default());
        let body = format!("token={ADMIN}&next=%2Fabout%3Fa%3D1");
        let over_tls = form().header("x-forwarded-proto", "https");
        let response = dashboard.ask(None, over_tls, &body).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()["location"], "/about?a=1");
        let attributes: HashMap<_, _> = response.headers()[SET_COOKIE]
            .to_str()
            .expect("text")
            .split("; ")
            .skip(1)
            .map(|a| a.split_once('=').unwrap_or((a, "")))
            .collect();
        let expected = [("Path", "/"), ("HttpOnly", ""), ("SameSite", "Strict"), ("Secure", "")];
        assert_eq!(attributes, expected.into());
        let response = dashboard.ask(None, form(), &body).await;
        assert!(!response.headers()[SET_COOKIE].to_str().expect("text").contains("Secure"), "no TLS");
        let cookie = cookie_of(response.headers());

        let page = dashboard.ask(None, Request::get("/about").header("cookie", &cookie), "").await;
        assert_eq!(page.status(), StatusCode::OK);
        let page = text(page).await;
        let token = page.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let token = token.expect("the form to sign out holds the session's token");

        let sign_out = || {
            Request::post("/sign-out")
                .header("cookie", &cookie)
                .header("content-type", "application/x-www-form-urlencoded")
        };
        for (request, body) in [
            (sign_out(), String::new()),
            (sign_out(), "csrf=0".to_owned()),
            (sign_out().header("sec-fetch-site", "cross-site"), format!("csrf={token}")),
            (
                sign_out().header("host", "a.example").header("origin", "https://b.example"),
                format!("csrf={token}"),
            ),
        ] {
            let response = dashboard.ask(None, request, &body).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{body}");
        }
        let response = dashboard.ask(None, sign_out(), &format!("csrf={token}")).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(cookie_of(response.headers()), "modelgate_session=");
        let page = dashboard.ask(None, Request::get("/about").header("cookie", &cookie), "").await;
        assert_eq!(page.status(), StatusCode::UNAUTHORIZED, "the session is over");
    }

    #[tokio::test]
    async fn who_follows_a_link_of_another_site_is_asked_for_again_before_signing_in() {
        let dashboard = Dashboard::of(Catalogue::default());
        let follow = |site: &str| {
            let request = Request::get("/servers").header("accept", "text/html");
            request.header("sec-fetch-site", site).header("sec-fetch-mode", "navigate")
        };
        let response = dashboard.ask(None, follow("cross-site"), "").await;
        assert_eq!(response.status(), StatusCode::OK);
        let page = text(response).await;
        assert!(page.contains("http-equiv=\"refresh\"") && page.len() < 200, "{page}");
        let response = dashboard.ask(None, follow("same-origin"), "").await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "the second time it is our own page that asks");
    }

    #[tokio::test]
    async fn who_sends_a_form_without_a_session_is_told_that_nothing_was_done() {
        let dashboard = Dashboard::of(Catalogue::default());
        let send = |path: &str| {
            let request = Request::post(path).header("accept", "text/html");
            request.header("referer", "https://modelgate.example/keys/alice?a=b")
        };
        let response = dashboard.ask(None, send("/keys/alice"), "action=delete").await;
        let location = response.headers()["location"].to_str().expect("text").to_owned();
        assert_eq!(location, "/sign-in?lost=1&next=%2Fkeys%2Falice%3Fa%3Db");
        let page = text(dashboard.ask(None, Request::get(&location), "").await).await;
        assert!(page.contains("was not done") && page.contains("value=\"/keys/alice?a=b\""), "{page}");
        let page = text(dashboard.ask(None, Request::get(SIGN_IN), "").await).await;
        assert!(!page.contains("was not done"));
        let response = dashboard.ask(None, send("/sign-out"), "").await;
        assert_eq!(response.headers()["location"], SIGN_IN, "signed out is what they wanted to be");
    }

    #[tokio::test]
    async fn wrong_tokens_are_slowed() {
        let dashboard = Dashboard::of(Catalogue::default());
        for _ in 0..10 {
            let response = dashboard.ask(None, form(), "token=wrong").await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
        let response = dashboard.ask(None, form(), &format!("token={ADMIN}")).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "even the right one has to wait");
        assert!(response.headers().contains_key("retry-after"));
        let response = dashboard.ask(Some(ADMIN), Request::get("/about"), "").await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS, "in a header as well");
    }

    #[tokio::test]
    async fn another_site_cannot_sign_anybody_in() {
        let dashboard = Dashboard::of(Catalogue::default());
        let request = form().header("sec-fetch-site", "cross-site");
        let response = dashboard.ask(None, request, &format!("token={ADMIN}")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!response.headers().contains_key(SET_COOKIE));
    }
}
