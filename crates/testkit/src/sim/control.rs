//! The endpoints under `/sim/`, through which a test changes a server in a container and queries what reached it. Requests to
//! them are not recorded as received.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Json, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::state::{FailureMode, RawListing, State};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetHealth {
    healthy: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    models: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Loaded {
    loaded: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    milliseconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequiredKey {
    key: Option<String>,
}

pub(super) fn answer(
    state: &State,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    match (method.as_str(), uri.path()) {
        ("GET", "/sim/requests") => return Json(state.requests()).into_response(),
        ("DELETE", "/sim/requests") => state.forget_requests(),
        ("DELETE", "/sim/models/raw") => state.switches().raw_listing = None,
        ("POST", "/sim/models/raw") => state.switches().raw_listing = Some(raw_listing(uri, headers, body)),
        ("POST", "/sim/health") => {
            return set(body, |SetHealth { healthy }| state.switches().healthy = healthy);
        }
        ("POST", "/sim/models") => return set(body, |Models { models }| state.switches().models = models),
        ("POST", "/sim/loaded") => {
            return set(body, |Loaded { loaded }| state.switches().loaded = Some(loaded));
        }
        ("POST", "/sim/latency") => {
            let latency = |Latency { milliseconds }| Duration::from_millis(milliseconds);
            return set(body, |value| state.switches().latency = latency(value));
        }
        ("POST", "/sim/key") => return set(body, |RequiredKey { key }| state.switches().required_key = key),
        ("POST", "/sim/fail") => return set(body, |failure: FailureMode| state.switches().failure = failure),
        _ => return StatusCode::NOT_FOUND.into_response(),
    }
    StatusCode::NO_CONTENT.into_response()
}

fn set<T: DeserializeOwned>(body: &[u8], apply: impl FnOnce(T)) -> Response {
    match serde_json::from_slice(body) {
        Ok(value) => {
            apply(value);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

fn raw_listing(uri: &Uri, headers: &HeaderMap, body: &Bytes) -> RawListing {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let status =
        uri.query().and_then(|query| query.strip_prefix("status=")).and_then(|status| status.parse().ok());
    RawListing {
        status: status.unwrap_or(200),
        content_type: content_type.unwrap_or("application/json").to_owned(),
        body: body.to_vec(),
    }
}
