//! The audit log: who changed what, and when.

use askama::Template;
use axum::{extract::State, http::Uri, response::Response};
use serde::Deserialize;
use store::{AuditFilter, Entry};

use crate::{
    Admin, Operator,
    format::{self, Time},
    list::encode,
    page::{Frame, html},
};

/// So many entries a page.
const ROWS: u32 = 50;

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    query: Asked,
    rows: Vec<Row>,
    older: Option<String>,
    error: Option<String>,
}

/// Which entries to show; what is empty does not matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    actor: String,
    subject: String,
    action: String,
    before: String,
}

struct Row {
    at: Time,
    actor: String,
    action: String,
    subject: String,
    details: String,
}

/// `GET /audit`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator, uri: Uri) -> Response {
    let query: Asked = super::query(&uri);
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let filter = AuditFilter {
        actor: given(&query.actor),
        subject: given(&query.subject),
        action: given(&query.action),
        before: given(&query.before),
        limit: ROWS + 1,
    };
    let (mut entries, error) = match admin.registry.store() {
        Ok(store) => match store.audit(&filter).await {
            Ok(entries) => (entries, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        },
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let has_more = entries.len() > ROWS as usize;
    entries.truncate(ROWS as usize);
    let older = entries.last().filter(|_| has_more).map(|last| {
        let Asked { actor, subject, action, .. } = &query;
        let given = [("actor", actor), ("subject", subject), ("action", action), ("before", &last.id)];
        let pairs = given.iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("?{}", pairs.join("&"))
    });
    let rows = entries.iter().map(row).collect();
    html(&Page { frame: Frame::new("Audit log", "/audit", operator), query, rows, older, error })
}

fn row(entry: &Entry) -> Row {
    let details = if entry.details.is_null() { String::new() } else { entry.details.to_string() };
    Row {
        at: format::time(entry.at()),
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        subject: entry.subject.clone(),
        details,
    }
}
