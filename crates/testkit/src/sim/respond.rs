//! Answers that endpoints share, and whether a server can answer at all.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse as _, Json, Response},
};
use serde_json::json;

use super::{answers, state::State};

/// The media type of server-sent events.
pub(super) const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// The answer to every request for a model while the server is loading, or was told to fail.
pub(super) fn unable(state: &State) -> Option<Response> {
    if state.is_loading() {
        return Some(unavailable());
    }
    let failure = state.switches().failure.clone();
    let status = failure.status?;
    let retry_after = failure.retry_after.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
    Some((retry_after, error(status, "InternalServerError", "told to fail", None)).into_response())
}

/// The model of that name, the only one if none is named, or the 404 of a server that does not have it.
pub(super) fn served_model(state: &State, wanted: Option<&str>) -> Result<String, Box<Response>> {
    let models = state.switches().models.clone();
    let wanted = wanted.filter(|model| !model.is_empty()).or(models.first().map(String::as_str));
    let wanted = wanted.unwrap_or_default();
    let is_ollama = state.options.owned_by == "library";
    let is = |model: &String| model == wanted || (is_ollama && *model == format!("{wanted}:latest"));
    if state.options.accept_any || models.iter().any(is) {
        Ok(wanted.to_owned())
    } else {
        let message = format!("The model `{wanted}` does not exist.");
        Err(Box::new(error(404, "NotFoundError", &message, Some("model"))))
    }
}

pub(super) fn error(status: u16, kind: &str, message: &str, param: Option<&str>) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, Json(answers::error(status, kind, message, param))).into_response()
}

pub(super) fn unavailable() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

pub(super) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))).into_response()
}

pub(super) fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}
