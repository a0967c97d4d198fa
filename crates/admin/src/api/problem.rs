//! The API's errors, in the form of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457). Only here does the API choose an error's
//! status.

use std::time::Duration;

use accounts::AccountKind;
use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use config_reader::{ConfigError, ConfigErrors};
use serde_json::{Value, json};
use store::{Conflict, RegistryError, StoreError};

/// An error that the API answers.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// The error's code, for programs.
    code: &'static str,
    detail: String,
    /// Every error in the request, with its place.
    errors: Vec<ConfigError>,
    retry_after: Option<Duration>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// The content does not match its media type.
    pub(crate) fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable", detail)
    }

    /// Parameters of the query are invalid.
    pub(crate) fn bad_query(errors: Vec<ConfigError>) -> Self {
        let detail = "the query is invalid; errors lists what is wrong with it";
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "bad_query", detail) }
    }

    /// The document was read, and is invalid.
    pub(crate) fn invalid(ConfigErrors(mut errors): ConfigErrors) -> Self {
        for error in errors.iter_mut().filter(|error| error.place == "the file") {
            error.place = "the document".into();
        }
        let detail = "the document is invalid; errors lists what is wrong with it";
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }

    pub(crate) fn too_long(most: usize) -> Self {
        let detail = format!("the body is too long; allowed: {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", detail)
    }

    pub(crate) fn wrong_media_type(allowed: &str) -> Self {
        let detail = format!("Content-Type: allowed: {allowed}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_media_type", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn missing(kind: AccountKind, name: &str) -> Self {
        Self::not_found(Conflict::Missing(kind, name.to_owned()).to_string())
    }

    pub(crate) fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path has other methods; see Allow")
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// The request may succeed later.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail);
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    pub(crate) fn with_errors(self, errors: Vec<ConfigError>) -> Self {
        Self { errors, ..self }
    }

    pub(crate) fn retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::Invalid(errors) => Self::invalid(errors),
            RegistryError::Declared(..) => Self::new(StatusCode::CONFLICT, "in_configuration_file", detail),
            RegistryError::NoBudget(..) => Self::not_found(detail),
            RegistryError::NoStore => Self::new(StatusCode::CONFLICT, "no_store", detail),
            RegistryError::Store(error) => error.into(),
            RegistryError::NoRandomness(_) => Self::unavailable(detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(missing @ Conflict::Missing(..)) => Self::not_found(missing.to_string()),
            StoreError::Conflict(conflict) => Self::conflict(conflict.to_string()),
            StoreError::Unreadable(_) => {
                Self::new(StatusCode::CONFLICT, "unreadable_account", error.to_string())
            }
            StoreError::Unavailable(_)
            | StoreError::Migration(_)
            | StoreError::Backup { .. }
            | StoreError::NotEmpty(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, code, detail, errors, retry_after } = self;
        let mut body = json!({
            // The code identifies the error; a URL here would lead nowhere.
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
        });
        if !errors.is_empty() {
            let error = |error: &ConfigError| json!({ "place": error.place, "message": error.message });
            body["errors"] = errors.iter().map(error).collect::<Vec<Value>>().into();
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"modelgate\""));
        }
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).into());
        }
        response
    }
}

/// An error at a place of the request.
pub(crate) fn error(place: &str, message: impl Into<String>) -> ConfigError {
    ConfigError { place: place.to_owned(), variable: None, message: message.into() }
}

/// As much of a text as is shown in an error.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    text.chars().take(MOST).collect()
}
