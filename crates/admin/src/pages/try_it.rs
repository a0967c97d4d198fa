//! Try it: shows what would happen to a request, and why. Nothing is counted, and nothing is sent to a model.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use access::{Key, Policy, Reason};
use askama::Template;
use axum::{
    Form,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::InvalidUri},
    response::Response,
};
use limits::{Left, Limit, LimitReached, Unit, write_money, write_money_in};
use serde::Deserialize;
use web::{Rehearsal, Rehearsed};

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
    let uri: Uri = given.url.trim().parse()?;
    let from: Option<IpAddr> = match given.from.trim() {
        "" => None,
        text => Some(text.parse().map_err(|_| Unreadable::Address)?),
    };
    let headers = headers(given)?;
    let key = match given.name.trim() {
        "" => None,
        _ if !given.key.trim().is_empty() || given.headers.lines().any(may_hold_key) => {
            return Err(Unreadable::KeyAndName);
        }
        name => Some(key_called(&admin.shared.policy(), name).ok_or(Unreadable::NoSuchKey)?),
    };
    let rehearsal = Rehearsal {
        method: given.method.trim(),
        uri: &uri,
        headers: &headers,
        body: given.body.as_bytes(),
        from,
        key: key.as_ref(),
    };
    let mut rehearsed = web::rehearse(&admin.shared, &rehearsal).await.ok_or(Unreadable::Surveying)?;
    let unheard = admin.shared.polls().unheard();
    rehearsed.steps.splice(0..0, unheard.iter().map(ToString::to_string));
    // Reads what is left, and debits nothing.
    let left = admin.shared.left(&rehearsed.demands).await;
    Ok(outcome(rehearsed, &left, admin.shared.settings().prices.currency()))
}

/// The outcome in words, with what is left of the limits.
fn outcome(rehearsed: Rehearsed, left: &[Left], currency: Option<&str>) -> TriedOutcome {
    let reached = rehearsed.reached(left);
    let Rehearsed { mut steps, outcome, .. } = rehearsed;
    let (class, says) = match reached {
        Some(reached) => ("bad", refused_now(reached, currency)),
        None => (if outcome.is_good() { "good" } else { "bad" }, capitalised(&outcome.to_string())),
    };
    steps.extend(left.iter().map(|left| left_now(left, currency)));
    TriedOutcome { class, says, steps }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// Says which limit refuses the request now, and until when.
fn refused_now(reached: LimitReached, currency: Option<&str>) -> String {
    let (reason, words) = (Reason::LimitReached(reached), reached.words_in(currency));
    let until = match reached.limit {
        _ if reached.never_resets() => "it never begins anew".to_owned(),
        _ if reached.exceeds_budget() => "a smaller request may pass".to_owned(),
        Limit::Rate(_) => format!("this request passes again in {}", format::span(reached.retry_after)),
        Limit::Quota(_) => format!("it begins anew in {}", format::span(reached.retry_after)),
    };
    format!("Refused now ({}): {words}; {until}", web::status_and_code(&reason))
}

/// Says what is left of a limit.
fn left_now(left: &Left, currency: Option<&str>) -> String {
    let Left { limit, scope, remaining, allowed, .. } = left;
    match limit.unit() {
        Unit::Money => format!(
            "left now of the budget of {limit} {scope}: {} of {}",
            write_money(*remaining),
            write_money_in(*allowed, currency)
        ),
        Unit::Requests | Unit::Tokens => {
            format!("left now of {limit} {scope}: {}", format::count(*remaining))
        }
    }
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
