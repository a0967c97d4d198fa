//! The operator's dashboard: pages that a server renders and that JavaScript keeps live, and the gate before them.
//!
//! ```text
//! gate.rs       token or session ─▶ Operator; roles; forms of our own pages only   around every route
//! sign_in.rs    a token becomes a session's cookie
//! routes.rs     which page is where
//! page.rs       what all pages have in common; headers that browsers obey
//! assets.rs     style and scripts, built in
//! ```
//!
//! Pages work without JavaScript for reading. Nothing is asked of another host, and no script or style stands in a page.

mod about;
mod assets;
mod client;
mod gate;
mod operator;
mod page;
mod refusal;
mod routes;
mod session;
mod sign_in;
mod throttle;
mod token;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use axum::extract::FromRef;
use catalogue::Holds;
use tokio::sync::watch;

pub use gate::Gate;
pub use operator::Operator;
pub use refusal::Refusal;
pub use routes::router;
pub use token::{AdminToken, AdminTokens, NewAdminToken, Role};

/// What the pages know.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Who may enter.
    pub gate: Arc<Gate>,
    /// What the listeners share.
    pub shared: Arc<web::Shared>,
    /// The servers that operators have withdrawn by hand; discovery hears of it.
    pub holds: watch::Sender<Holds>,
}

impl FromRef<Admin> for Arc<Gate> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.gate)
    }
}

impl FromRef<Admin> for Arc<web::Shared> {
    fn from_ref(admin: &Admin) -> Self {
        Arc::clone(&admin.shared)
    }
}
