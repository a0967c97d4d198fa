//! A key that was just generated: shown once, with lines to paste.

use access::NewKey;
use accounts::{KeySpec, Patterns, Plan};
use askama::Template;
use axum::response::Response;
use catalogue::Pool;

use super::{Pages as _, link};
use crate::{
    Admin, Operator,
    format::{self, Time},
    page::{Frame, html},
    pages::usable_model,
};

#[derive(Template)]
#[template(path = "secret.html")]
struct SecretPage<'k> {
    frame: Frame,
    says: &'static str,
    name: &'k str,
    link: String,
    key: &'k str,
    /// Until when the replaced key works.
    old_key: Option<Time>,
    base_url: String,
    model: String,
}

/// Shows a key; it is not stored anywhere.
pub(super) async fn show(
    admin: &Admin,
    operator: Operator,
    account: &KeySpec,
    key: &NewKey,
    says: &'static str,
) -> Response {
    let model = example(admin, patterns(admin, account).await.as_ref());
    html(&SecretPage {
        frame: Frame::new("API key", "/keys", operator),
        says,
        name: &account.name,
        link: link::<KeySpec>(&account.name),
        key: key.reveal(),
        old_key: account.old_key_until().map(format::time),
        base_url: base_url(&admin.shared.settings().traefik),
        model,
    })
}

/// Which models a key may use; `None` for all. The key is not in force yet, so the policy does not know it.
async fn patterns(admin: &Admin, account: &KeySpec) -> Option<Patterns> {
    match (&account.models, &account.plan) {
        (Some(models), _) => Some(models.clone()),
        (None, Some(plan)) => admin.registry.get::<Plan>(plan).await.ok()??.account.models,
        (None, None) => None,
    }
}

/// A model that the key may use: one that is ready, else one that the key names.
fn example(admin: &Admin, patterns: Option<&Patterns>) -> String {
    let loaded = admin.shared.catalogue().load();
    let may_use = |pool: &Pool| patterns.is_none_or(|patterns| pool.is_among(patterns.globs()));
    let ready = loaded.as_deref().and_then(|catalogue| usable_model(catalogue, may_use));
    let is_name = |text: &&str| !text.contains(['*', '?', '[', ']', '{', '}', '\\']);
    let texts = patterns.map(Patterns::texts).unwrap_or_default();
    ready.or_else(|| texts.iter().map(String::as_str).find(is_name)).unwrap_or("MODEL").to_owned()
}

/// The URL at which clients find the API, as far as it is known here.
fn base_url(traefik: &traefik_config::RenderOptions) -> String {
    let scheme = if traefik.tls.is_some() { "https" } else { "http" };
    let host = traefik.hosts.first().map_or("localhost", String::as_str);
    let prefix = traefik.path_prefixes.first().map_or("/v1", String::as_str);
    format!("{scheme}://{host}{prefix}")
}

/// Quotes text for the inside of single quotes in a shell.
fn in_shell(text: &str) -> String {
    text.replace('\'', "'\\''")
}

/// Text as a JSON string, which is also a valid string in Python.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
