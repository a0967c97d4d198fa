//! A key that was just made: shown once, with lines to paste.

use access::NewKey;
use askama::Template;
use axum::response::Response;

use super::link;
use crate::{
    Admin, Operator,
    page::{Frame, html},
};

#[derive(Template)]
#[template(path = "secret.html")]
struct Page<'k> {
    frame: Frame,
    says: &'static str,
    name: &'k str,
    link: String,
    key: &'k str,
    base_url: String,
    model: String,
}

/// Shows a key; it is kept nowhere.
pub(super) fn show(
    admin: &Admin,
    operator: Operator,
    name: &str,
    key: &NewKey,
    says: &'static str,
) -> Response {
    let loaded = admin.shared.catalogue().load();
    let model = loaded.iter().flat_map(|catalogue| catalogue.pools()).find(|pool| !pool.ready.is_empty());
    html(&Page {
        frame: Frame::new("API key", "/keys", operator),
        says,
        name,
        link: link::<accounts::KeySpec>(name),
        key: key.reveal(),
        base_url: base_url(&admin.shared.settings().traefik),
        model: model.map_or_else(|| "MODEL".into(), |pool| pool.model.to_string()),
    })
}

/// Where clients find the API, as far as it is known here.
fn base_url(traefik: &traefik_config::Options) -> String {
    let scheme = if traefik.tls.is_some() { "https" } else { "http" };
    let host = traefik.hosts.first().map_or("localhost", String::as_str);
    let prefix = traefik.path_prefixes.first().map_or("/v1", String::as_str);
    format!("{scheme}://{host}{prefix}")
}

/// Text as it stands between single quotes in a shell.
fn in_shell(text: &str) -> String {
    text.replace('\'', "'\\''")
}

/// Text as a JSON string, which is one of Python's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
