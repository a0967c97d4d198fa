//! About: the version, Modelgate's connections, the webhooks that are told of alerts, and the configuration in force.

use askama::Template;
use axum::{extract::State, response::Response};

use crate::{
    Admin, Operator, TestedWebhook, WebhookRow,
    connection::{self, Connection},
    format,
    page::{Frame, html},
};

#[derive(Template)]
#[template(path = "about.html")]
struct AboutPage {
    frame: Frame,
    facts: Vec<(&'static str, String)>,
    connections: Vec<Connection>,
    webhooks: Vec<WebhookRow>,
    /// What came of test messages, if some were sent just now.
    tested: Vec<TestedWebhook>,
    configuration: String,
}

/// `GET /about`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator) -> Response {
    page(&admin, operator, Vec::new())
}

/// `POST /about` sends a test message to each webhook, and says what came of it.
pub(crate) async fn test_webhooks(State(admin): State<Admin>, operator: Operator) -> Response {
    let tested = (admin.program.test_webhooks)().await;
    admin.note(&operator, "alerts tested", "webhooks and mail").await;
    page(&admin, operator, tested)
}

fn page(admin: &Admin, operator: Operator, tested: Vec<TestedWebhook>) -> Response {
    let settings = admin.shared.settings();
    let loaded = admin.shared.catalogue().load();
    let facts = vec![
        ("Modelgate", env!("CARGO_PKG_VERSION").to_owned()),
        ("Built for", format!("{} on {}", std::env::consts::ARCH, std::env::consts::OS)),
        ("Renders for Traefik", settings.traefik.version.to_string()),
        ("API keys", format::count(admin.shared.policy().key_count() as u64)),
        (
            "Catalogue",
            loaded.as_ref().map_or_else(|| "none yet".into(), |c| format!("revision {}", c.generation())),
        ),
    ];
    html(&AboutPage {
        frame: Frame::new("About", "/about", operator),
        facts,
        connections: connection::all(admin, loaded.as_deref()),
        webhooks: (admin.program.webhooks)(),
        tested,
        configuration: (admin.program.configuration)(),
    })
}
