//! What to do about the most frequent errors, each with where to look.

use askama::Template;
use axum::response::Response;

use crate::{
    Operator,
    page::{Frame, html},
};

#[derive(Template)]
#[template(path = "help.html")]
struct HelpPage {
    frame: Frame,
}

/// `GET /help`
pub(crate) async fn show(operator: Operator) -> Response {
    html(&HelpPage { frame: Frame::new("Common errors", "/help", operator) })
}
