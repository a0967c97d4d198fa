//! The API's description (<https://spec.openapis.org/oas/v3.1.1.html>), kept by hand. Tests compare it with the routes and
//! with what accounts may hold.

use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::{Problem, extract::Query};

pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub(crate) async fn serve(query: Query) -> Result<Response, Problem> {
    query.finish()?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT).into_response())
}
