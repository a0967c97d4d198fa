//! What is extracted from requests: names, queries, documents.

use std::ops::RangeInclusive;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{Method, StatusCode, header::CONTENT_TYPE, request::Parts},
    response::IntoResponse as _,
};
use catalogue::closest;
use config_reader::{ConfigError, ConfigErrors};
use serde_json::{Map, Value};

use super::{MAX_BODY, Problem, literal};

/// The name in the path.
pub(crate) struct Name(pub(crate) String);

/// The query, read parameter by parameter. [`Query::finish`] says whether everything in it was valid.
#[derive(Default)]
pub(crate) struct Query {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

/// A JSON document that creates or replaces something. Fields that are `null` count as absent, but stay in the document so that
/// the reader can report unknown fields.
pub(crate) struct Document(pub(crate) Value);

/// A JSON merge patch (RFC 7396): `null` removes a field.
pub(crate) struct Patch(pub(crate) Value);

impl<S: Sync + Send> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let impossible = |found: &str| {
            let message = format!("found {:?}; allowed: {}", shortened(found), accounts::NAME);
            Problem::not_found("there can be nothing of that name").with_errors(vec![error("name", message)])
        };
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => accounts::name(&name).map(Self).ok_or_else(|| impossible(&name)),
            // The decoded path is not UTF-8.
            Err(_) => Err(impossible(parts.uri.path())),
        }
    }
}

impl<S: Sync + Send> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(given) = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::unreadable("the query cannot be read"))?;
        Ok(Self { given, ..Self::default() })
    }
}

impl Query {
    /// A parameter that `fits` accepts; `allowed` says in errors what that is.
    pub(crate) fn text(
        &mut self,
        key: &'static str,
        allowed: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = self.take(key)?;
        if fits(&value) {
            return Some(value);
        }
        let message = format!("found {:?}; allowed: {allowed}", shortened(&value));
        self.errors.push(error(key, message));
        None
    }

    /// The name of an account.
    pub(crate) fn name(&mut self, key: &'static str) -> Option<String> {
        self.text(key, accounts::NAME, |text| accounts::name(text).is_some())
    }

    /// Words to search for. PostgreSQL does not accept NUL in texts.
    pub(crate) fn words(&mut self, key: &'static str) -> Option<String> {
        const MOST: usize = 256;
        self.text(key, "up to 256 characters on one line", |text| {
            text.chars().count() <= MOST && !text.contains(char::is_control)
        })
    }

    /// A whole number.
    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.text(key, &allowed, |text| read(text).is_some()).and_then(|text| read(&text))
    }

    /// Reports all errors, and the parameters that nothing has read.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        let (given, known) = (std::mem::take(&mut self.given), &self.known);
        let unknown = given.into_iter().map(|(key, _)| {
            let meant = closest(&key, known.iter().copied());
            let meant = meant.map(|known| format!(" did you mean {known}?")).unwrap_or_default();
            let message = format!("unknown parameter;{meant} allowed here: {}", known.join(", "));
            error(&shortened(&key), message)
        });
        self.errors.extend(unknown);
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::bad_query(self.errors)) }
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let at = self.given.iter().position(|(given, _)| given == key)?;
        let (_, value) = self.given.remove(at);
        if self.given.iter().any(|(given, _)| given == key) {
            self.given.retain(|(given, _)| given != key);
            self.errors.push(error(key, "is there more than once; allowed: once"));
        }
        Some(value)
    }
}

impl<S: Sync + Send> FromRequest<S> for Document {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = read(request, state, &["application/json"]).await?;
        check_types(&json)?;
        Ok(Self(json))
    }
}

impl<S: Sync + Send> FromRequest<S> for Patch {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = read(request, state, &["application/merge-patch+json", "application/json"]).await?;
        check_types(&json)?;
        Ok(Self(json))
    }
}

async fn read<S: Sync + Send>(request: Request, state: &S, media_types: &[&str]) -> Result<Value, Problem> {
    let header = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let found = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !media_types.iter().any(|media_type| found.eq_ignore_ascii_case(media_type)) {
        return Err(Problem::wrong_media_type(&media_types.join(" or ")));
    }
    debug_assert_ne!(request.method(), Method::GET, "only what changes something has a body");
    let body = Bytes::from_request(request, state).await.map_err(|rejection| {
        match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_long(MAX_BODY),
            _ => Problem::unreadable("the body ended early"),
        }
    })?;
    // serde_json's errors give the line and the column, and do not quote the input.
    let json = serde_json::from_slice(&body)
        .map_err(|e| Problem::unreadable(format!("the body is not JSON: {e}")))?;
    match literal::lost(&body) {
        lost if lost.is_empty() => Ok(json),
        lost => Err(Problem::invalid(ConfigErrors(lost))),
    }
}

/// The configuration file is YAML, in which `60` may be a number or a text. In JSON the types are explicit, so they are checked.
fn check_types(json: &Value) -> Result<(), Problem> {
    let Value::Object(object) = json else {
        let message = "found something else; allowed: an object with keys and values";
        return Err(Problem::invalid(ConfigErrors::one("the document", message)));
    };
    let mut errors = Vec::new();
    check_object(object, "", &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(ConfigErrors(errors))) }
}

fn check_object(object: &Map<String, Value>, place: &str, errors: &mut Vec<ConfigError>) {
    let is_limit = place.starts_with("limit");
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
        let (fits, allowed) = match (key.as_str(), value) {
            ("budget_kind", _) if is_limit => (value.is_string(), "a text"),
            (name, _) if is_limit && name.starts_with("budget_") => {
                (value.is_number() || value.is_string(), "a number, or a text with one")
            }
            (_, Value::Number(number)) if is_limit => (number.is_u64() || number.is_i64(), "a whole number"),
            (_, _) if is_limit => (false, "a whole number"),
            ("limit" | "limit_per_model" | "previous", Value::Object(inner)) if place.is_empty() => {
                check_object(inner, &path, errors);
                continue;
            }
            ("limit" | "limit_per_model" | "previous", _) => (false, "an object with keys and values"),
            ("models" | "networks", Value::Array(items)) => {
                (items.iter().all(Value::is_string), "a list of texts")
            }
            ("models" | "networks", _) => (false, "a list of texts"),
            ("manage" | "stored_data" | "disabled", _) => (value.is_boolean(), "true or false"),
            (
                "name" | "key" | "consumer" | "plan" | "note" | "sha256" | "until" | "expires" | "grace",
                Value::String(_),
            ) => (true, ""),
            ("name" | "key" | "consumer" | "plan" | "note" | "sha256" | "until" | "expires" | "grace", _) => {
                (false, "a text")
            }
            // Unknown fields are reported by the reader of the document.
            _ => continue,
        };
        if !fits {
            errors.push(error(&path, format!("found {}; allowed: {allowed}", kind(value))));
        }
    }
}

/// The type of a value, without its content: a misplaced value may be a secret.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(crate) fn error(place: &str, message: impl Into<String>) -> ConfigError {
    ConfigError { place: place.to_owned(), variable: None, message: message.into() }
}

pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    text.chars().take(MOST).collect()
}
