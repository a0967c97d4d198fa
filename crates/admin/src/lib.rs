//! The operator's dashboard: pages that are rendered on the server and updated live by JavaScript, and the authentication in
//! front of them.
//!
//! ```text
//! authentication.rs  token or session ─▶ Operator; roles; forms of our own pages only   around every route
//! sign_in.rs         exchanges a token for a session's cookie
//! routes.rs          the path of each page
//! page.rs            what all pages share; security headers
//! assets.rs          styles and scripts, built in
//! pages/             one file per page
//! live.rs            server-sent events: the part of a page that changes
//! api/               the same operations for programs: REST, with an OpenAPI document
//! issue.rs           everything that needs an operator, in words; made from findings (finding.rs)
//! ```
//!
//! Pages can be read without JavaScript. They load nothing from other hosts, and contain no inline script or style.

mod api;
mod assets;
mod authentication;
mod books;
mod chart;
mod client;
mod connection;
mod finding;
mod format;
mod issue;
mod list;
mod live;
mod operator;
mod page;
mod pages;
mod refusal;
mod routes;
mod session;
mod sign_in;
mod since;
mod throttle;
mod token;

#[cfg(test)]
mod testing;

use std::{pin::Pin, sync::Arc};

use arc_swap::ArcSwap;
use axum::extract::FromRef;
use catalogue::Cordons;
use store::{Audit, Registry};
use tokio::sync::watch;

use chart::Charts;
use live::Live;
use since::Since;

pub use api::{
    InvalidGrace, Present, USAGE_NUMBERS, budget_to_json, entry_to_json, erased_to_json, is_day, read_grace,
    state_in_words, usage_to_json,
};
pub use authentication::Authenticator;
pub use finding::{ConfigurationFinding, Doubt};
pub use issue::Attention;
pub use operator::Operator;
pub use refusal::Refusal;
pub use routes::router;
pub use token::{AdminToken, AdminTokens, NewAdminToken, Role};

/// The state behind the pages.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Authenticates operators.
    pub(crate) authenticator: Arc<Authenticator>,
    /// The state that the listeners share.
    pub(crate) shared: Arc<web::Shared>,
    /// Plans, consumers and keys, of the file and the store.
    pub(crate) registry: Arc<Registry>,
    /// The servers that operators have cordoned; discovery watches it.
    pub(crate) cordons: watch::Sender<Cordons>,
    pub(crate) program: Arc<Program>,
    pub(crate) live: Live,
    pub(crate) since: Arc<Since>,
    pub(crate) charts: Arc<Charts>,
    /// The alerts that are firing and that no page finds by itself; the worst first.
    pub(crate) alerts: Arc<ArcSwap<Vec<Attention>>>,
}

/// What the pages show and only the program knows.
pub struct Program {
    /// The Docker hosts: name and endpoint.
    pub docker: Vec<(String, String)>,
    /// The configuration in force, as YAML, with secrets hidden.
    pub configuration: Box<dyn Fn() -> String + Send + Sync>,
    /// What is wrong with the configuration, or not in force.
    pub problems: Box<dyn Fn() -> Vec<ConfigurationFinding> + Send + Sync>,
    /// The webhooks that are told of alerts.
    pub webhooks: Box<dyn Fn() -> Vec<WebhookRow> + Send + Sync>,
    /// Sends a test message to each of them.
    pub test_webhooks: Box<dyn Fn() -> TestedWebhooks + Send + Sync>,
}

/// A webhook, as the page shows it. Its URL is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// Its name.
    pub name: String,
    /// What is told and when, in words.
    pub note: String,
}

/// What came of a test message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestedWebhook {
    /// The webhook's name.
    pub name: String,
    /// Why the message did not arrive, if it did not.
    pub fault: Option<String>,
}

/// What comes of test messages.
pub type TestedWebhooks = Pin<Box<dyn Future<Output = Vec<TestedWebhook>> + Send>>;

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("docker", &self.docker).finish_non_exhaustive()
    }
}

/// The parts of the dashboard.
#[derive(Debug)]
pub struct Parts {
    /// Authenticates operators.
    pub authenticator: Arc<Authenticator>,
    /// The state that the listeners share.
    pub shared: Arc<web::Shared>,
    /// Plans, consumers and keys, of the file and the store.
    pub registry: Arc<Registry>,
    /// The servers that operators have cordoned.
    pub cordons: watch::Sender<Cordons>,
    /// What only the program knows.
    pub program: Program,
    /// Becomes true at shutdown; live pages end then.
    pub shutdown: watch::Receiver<bool>,
}

impl Admin {
    /// Builds the dashboard from its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { authenticator, shared, registry, cordons, program, shutdown } = parts;
        let program = Arc::new(program);
        let (since, charts, alerts) = (Arc::default(), Arc::default(), Arc::default());
        let live = Live::new(shutdown);
        Self { authenticator, shared, registry, cordons, program, live, since, charts, alerts }
    }

    /// Writes down what an operator has done, if there is a store. What cannot be written down is in the log at least.
    pub(crate) async fn note(&self, operator: &Operator, action: &'static str, subject: &str) {
        let (name, address) = (&operator.name, operator.address);
        tracing::info!(operator = %name, %address, action, subject, "an operator acts");
        let entry = Audit::new(operator.actor(), action).about(subject);
        if let Ok(store) = self.registry.store()
            && let Err(error) = store.record(&[entry]).await
        {
            tracing::error!(%error, operator = %name, action, subject, "the audit log cannot be written");
        }
    }

    /// Records what pages need from the past, such as since when a server is in its state; never returns.
    pub async fn watch(&self) {
        self.since.watch(self.shared.catalogue()).await;
    }
}

impl FromRef<Admin> for Arc<Authenticator> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.authenticator)
    }
}

impl FromRef<Admin> for Arc<web::Shared> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.shared)
    }
}
