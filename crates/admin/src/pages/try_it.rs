//! Try it: shows what `/auth` would answer to a request, and why. Nothing is counted, and nothing is sent to a model.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::SystemTime};

use access::{Decision, Explanation, Key, Mode, Policy, Reason, Request};
use askama::Template;
use axum::{
    Form,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::InvalidUri},
    response::Response,
};
use limits::{Left, Limit, LimitReached};
use serde::Deserialize;

use crate::{
    Admin, Operator, format,
    page::{Frame, html},
    pages::query,
};

#[cfg(test)]
mod tests;

/// How many names of keys are suggested.
const SUGGESTED: usize = 200;

#[derive(Template)]
#[template(path = "try_it.html")]
struct TryItPage {
    frame: Frame,
    given: TryItForm,
    names: Vec<String>,
    outcome: Option<Result<TriedOutcome, Unreadable>>,
}

/// The fields of the form. A key is never shown again.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct TryItForm {
    method: String,
    url: String,
    key: String,
    name: String,
    headers: String,
    body: String,
    from: String,
}

impl Default for TryItForm {
    fn default() -> Self {
        Self {
            method: "POST".into(),
            url: "/v1/chat/completions".into(),
            key: String::new(),
            name: String::new(),
            headers: "Content-Type: application/json".into(),
            body: String::new(),
            from: String::new(),
        }
    }
}

struct TriedOutcome {
    class: &'static str,
    says: String,
    steps: Vec<String>,
}

/// Why a request cannot be tried; begins with the field. Never repeats a value, because it may be a key.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("The first look for servers is not finished.")]
    Surveying,
    #[error("URL: {0}")]
    Url(#[from] InvalidUri),
    #[error("Client's address: allowed: an IP address, or nothing")]
    Address,
    #[error("Key's name: there is an API key too; allowed: one of both")]
    KeyAndName,
    #[error("Key's name: there is no API key of this name in force; allowed: the name of one, not the key")]
    NoSuchKey,
    #[error("Headers: allowed: NAME: VALUE, one on each line")]
    NotHeaders,
    #[error("Headers: {0:?} is not a header, or its value is not allowed in one")]
    NotAHeader(String),
}

/// The key with which the request is tried.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TryItQuery {
    name: String,
}

/// `GET /requests/try`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator, uri: Uri) -> Response {
    let TryItQuery { name } = query(&uri);
    let policy = admin.shared.policy().clone();
    let key = key_called(&policy, &name);
    let loaded = admin.shared.catalogue().load().clone();
    let model = loaded.as_deref().and_then(|catalogue| {
        super::usable_model(catalogue, |pool| key.as_ref().is_none_or(|key| key.may_use(pool)))
    });
    let model = serde_json::Value::from(model.unwrap_or_default());
    let messages = r#"[{"role": "user", "content": "Hello"}]"#;
    let body = format!(
        "{{
  \"model\": {model},
  \"messages\": {messages}
}}"
    );
    let name = key.map(|key| key.name.clone()).unwrap_or_default();
    let given = TryItForm { body, name, ..TryItForm::default() };
    html(&TryItPage { names: names(&admin, &policy), frame: frame(operator), given, outcome: None })
}

/// `POST /requests/try`
pub(crate) async fn submit(
    State(admin): State<Admin>,
    operator: Operator,
    Form(mut given): Form<TryItForm>,
) -> Response {
    let outcome = explain(&admin, &given).await;
    let policy = admin.shared.policy().clone();
    given.key.clear();
    let shown = given.headers.lines().filter(|line| !may_hold_key(line));
    given.headers = shown.collect::<Vec<_>>().join("\n");
    if key_called(&policy, &given.name).is_none() {
        // The field may contain a key instead of a name.
        given.name.clear();
    }
    html(&TryItPage { names: names(&admin, &policy), frame: frame(operator), given, outcome: Some(outcome) })
}

fn frame(operator: Operator) -> Frame {
    Frame::new("Try a request", "/requests", operator)
}

/// The key with a given name.
fn key_called(policy: &Policy, name: &str) -> Option<Arc<Key>> {
    policy.keys().find(|key| key.name == name.trim()).cloned()
}

/// Suggested names, sorted: those of keys that were used lately, then others up to the maximum, because there may be 100,000.
fn names(admin: &Admin, policy: &Policy) -> Vec<String> {
    let records = admin.shared.telemetry().recent(&telemetry::Filter::default(), telemetry::RECENT);
    let lately: HashSet<&str> = records.iter().filter_map(|record| record.key()).collect();
    let mut names: Vec<(bool, &str)> =
        policy.keys().map(|key| (!lately.contains(key.name.as_str()), key.name.as_str())).collect();
    if names.len() > SUGGESTED {
        names.select_nth_unstable(SUGGESTED);
        names.truncate(SUGGESTED);
    }
    let mut names: Vec<String> = names.into_iter().map(|(_, name)| name.to_owned()).collect();
    names.sort_unstable();
    names
}

async fn explain(admin: &Admin, given: &TryItForm) -> Result<TriedOutcome, Unreadable> {
    let loaded = admin.shared.catalogue().load().clone();
    let catalogue = loaded.as_deref().ok_or(Unreadable::Surveying)?;
    let uri: Uri = given.url.trim().parse()?;
    let from: Option<IpAddr> = match given.from.trim() {
        "" => None,
        text => Some(text.parse().map_err(|_| Unreadable::Address)?),
    };
    let headers = headers(given)?;
    let request = Request {
        method: given.method.trim(),
        uri: uri.path_and_query().map_or("/", |p| p.as_str()),
        host: uri.authority().map(axum::http::uri::Authority::as_str),
        headers: &headers,
        body: given.body.as_bytes(),
        mode: Mode::Layered,
        // The answer is the one for a Traefik that has proven to be one.
        trusted: true,
        from,
        now: SystemTime::now(),
    };
    let policy = admin.shared.policy().clone();
    let explanation = if given.name.trim().is_empty() {
        access::explain(&policy, catalogue, &request)
    } else {
        if !given.key.trim().is_empty() || given.headers.lines().any(may_hold_key) {
            return Err(Unreadable::KeyAndName);
        }
        let key = key_called(&policy, &given.name).ok_or(Unreadable::NoSuchKey)?;
        access::explain_for(&policy, catalogue, &request, &key)
    };
    // Reads what is left, and debits nothing.
    let left = admin.shared.left(&explanation.demands).await;
    Ok(outcome(explanation, &left))
}

/// The outcome in words, with what is left of the limits.
fn outcome(explanation: Explanation, left: &[Left]) -> TriedOutcome {
    let reached = explanation.demands.reached(left);
    let Explanation { mut steps, decision, .. } = explanation;
    let (class, says) = match (&decision, reached) {
        (Decision::Deny(denial), _) => {
            ("bad", format!("Refused ({}): {}", denial.reason.code(), denial.reason))
        }
        (Decision::Allow(_), Some(reached)) => ("bad", refused_now(reached)),
        (Decision::Allow(grant), None) => {
            let route = grant.route.as_ref().map_or("none", |route| route.as_str());
            let model = grant.model.as_ref().map_or("none", |model| model.as_str());
            ("good", format!("Allowed: model {model}, consumer {}, route {route}", grant.consumer.name))
        }
    };
    steps.extend(left.iter().map(left_now));
    TriedOutcome { class, says, steps }
}

/// Says which limit refuses the request now, and until when.
fn refused_now(reached: LimitReached) -> String {
    let (reason, after) = (Reason::LimitReached(reached), format::span(reached.retry_after));
    let until = match reached.limit {
        Limit::Rate(_) => format!("this request passes again in {after}"),
        Limit::Quota(_) => format!("it begins anew in {after}"),
    };
    format!("Refused now ({}): {reason}; {until}", web::status_and_code(&reason))
}

/// Says what is left of a limit.
fn left_now(left: &Left) -> String {
    let Left { limit, scope, remaining, .. } = left;
    format!("left now of {limit} {scope}: {}", format::count(*remaining))
}

/// Whether a header's line may contain a key.
fn may_hold_key(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    match line.split_once(':').map_or("", |(name, _)| name.trim()) {
        "authorization" | "x-api-key" | "api-key" => true,
        "sec-websocket-protocol" => line.contains("openai-insecure-api-key."),
        _ => false,
    }
}

/// The headers, one on each line of the field, and the key.
fn headers(given: &TryItForm) -> Result<HeaderMap, Unreadable> {
    let mut headers = HeaderMap::new();
    let bearer =
        (!given.key.trim().is_empty()).then(|| format!("Authorization: Bearer {}", given.key.trim()));
    for line in given.headers.lines().chain(bearer.as_deref()).map(str::trim).filter(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(':').ok_or(Unreadable::NotHeaders)?;
        let bad = || Unreadable::NotAHeader(name.trim().to_owned());
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad())?);
    }
    Ok(headers)
}
