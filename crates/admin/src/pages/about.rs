//! About: version and what is in force.

use askama::Template;
use axum::response::Response;

use crate::{
    Operator,
    page::{Frame, html},
};

#[derive(Template)]
#[template(path = "about.html")]
struct Page {
    frame: Frame,
    version: &'static str,
}

/// `GET /about`
pub(crate) async fn show(operator: Operator) -> Response {
    html(&Page { frame: Frame::new("About", "/about", operator), version: env!("CARGO_PKG_VERSION") })
}
