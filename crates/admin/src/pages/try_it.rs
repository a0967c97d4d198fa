//! Try it: a request, and what `/auth` would say to it and why. Nothing is counted, and nothing is sent to a model.

use std::{net::IpAddr, time::SystemTime};

use access::{Decision, Mode, Request};
use askama::Template;
use axum::{
    Form,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri},
    response::Response,
};
use serde::Deserialize;

use crate::{
    Admin, Operator,
    page::{Frame, html},
};

#[derive(Template)]
#[template(path = "try_it.html")]
struct Page {
    frame: Frame,
    given: Given,
    outcome: Option<Result<Outcome, String>>,
}

/// What the form sends. The key is not shown again.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Given {
    method: String,
    url: String,
    key: String,
    headers: String,
    body: String,
    from: String,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            method: "POST".into(),
            url: "/v1/chat/completions".into(),
            key: String::new(),
            headers: "Content-Type: application/json".into(),
            body: String::new(),
            from: String::new(),
        }
    }
}

struct Outcome {
    class: &'static str,
    says: String,
    steps: Vec<String>,
}

/// `GET /requests/try`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator) -> Response {
    let loaded = admin.shared.catalogue().load();
    let model = loaded.iter().flat_map(|catalogue| catalogue.pools()).find(|pool| !pool.ready.is_empty());
    let model = serde_json::Value::from(model.map_or("", |pool| pool.model.as_str()));
    let messages = r#"[{"role": "user", "content": "Hello"}]"#;
    let body = format!(
        "{{
  \"model\": {model},
  \"messages\": {messages}
}}"
    );
    html(&Page { frame: frame(operator), given: Given { body, ..Given::default() }, outcome: None })
}

/// `POST /requests/try`
pub(crate) async fn submit(
    State(admin): State<Admin>,
    operator: Operator,
    Form(mut given): Form<Given>,
) -> Response {
    let outcome = explain(&admin, &given);
    given.key.clear();
    html(&Page { frame: frame(operator), given, outcome: Some(outcome) })
}

fn frame(operator: Operator) -> Frame {
    Frame::new("Try a request", "/requests", operator)
}

fn explain(admin: &Admin, given: &Given) -> Result<Outcome, String> {
    let loaded = admin.shared.catalogue().load();
    let catalogue = loaded.as_deref().ok_or("The first look for servers is not finished.")?;
    let uri: Uri = given.url.trim().parse().map_err(|error| format!("URL: {error}"))?;
    let from: Option<IpAddr> = match given.from.trim() {
        "" => None,
        text => Some(
            text.parse().map_err(|_| "Client's address: allowed: an IP address, or nothing".to_owned())?,
        ),
    };
    let headers = headers(given)?;
    let request = Request {
        method: given.method.trim(),
        uri: uri.path_and_query().map_or("/", |p| p.as_str()),
        host: uri.authority().map(axum::http::uri::Authority::as_str),
        headers: &headers,
        body: given.body.as_bytes(),
        mode: Mode::Layered,
        // What a Traefik that has proven itself would be told.
        trusted: true,
        from,
        now: SystemTime::now(),
    };
    let explanation = access::explain(&admin.shared.policy(), catalogue, &request);
    let (class, says) = match &explanation.decision {
        Decision::Allow(grant) => {
            let route = grant.route.as_ref().map_or("none", |route| route.as_str());
            let model = grant.model.as_ref().map_or("none", |model| model.as_str());
            ("good", format!("Allowed: model {model}, consumer {}, route {route}", grant.consumer.name))
        }
        Decision::Deny(denial) => ("bad", format!("Refused ({}): {}", denial.reason.code(), denial.reason)),
    };
    Ok(Outcome { class, says, steps: explanation.steps })
}

/// The headers, one on each line, and the key. An error does not repeat a value, which may be a key.
fn headers(given: &Given) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let bearer =
        (!given.key.trim().is_empty()).then(|| format!("Authorization: Bearer {}", given.key.trim()));
    for line in given.headers.lines().chain(bearer.as_deref()).map(str::trim).filter(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(':').ok_or("Headers: allowed: NAME: VALUE, one on each line")?;
        let bad =
            || format!("Headers: {:?} is not a header, or its value is not allowed in one", name.trim());
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad())?);
    }
    Ok(headers)
}
