//! The listeners: Traefik's poll; ForwardAuth and the model list; administration.
//!
//! ```text
//! provider  plain HTTP   GET /traefik       provider.rs            Traefik's configuration, by long poll
//! requests  TLS, HTTP/2  every request      head.rs                checks the head
//!                        /auth              auth.rs                whether a request may pass, and its route
//!                        GET /v1/models     models.rs              the models that a key may use
//!                        GET /v1/usage      own_usage.rs           what a key has used
//!                        /refuse/…          refused_by_traefik.rs  errors for requests that Traefik does not let pass
//! admin     plain HTTP   /healthz /readyz   health.rs              for people and health checks
//!                        /metrics           metrics.rs             for Prometheus
//! ```
//!
//! `refusal.rs` alone chooses the status with which a client's request is refused.

mod advice;
mod asked;
mod auth;
mod books;
mod budget_events;
mod changes;
mod choice;
mod connection;
mod counting;
mod dialect;
mod finding_json;
mod head;
mod health;
mod history;
mod identity;
mod lanes;
mod leaked_key;
mod metered;
mod metrics;
mod misaddressed;
mod models;
mod one_task;
mod outcomes;
mod own_usage;
mod polls;
mod pricing;
mod provider;
mod recost;
mod refusal;
mod refused_by_traefik;
mod rehearsal;
mod report;
mod requests;
mod server_metering;
mod state;
#[cfg(test)]
mod testing;
mod tls;
mod uncounted;
mod waiting;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch};

pub use advice::UNKNOWN_TRAEFIK;
pub use books::BooksOfServers;
pub use budget_events::{BUDGET_LEVELS, BudgetEvent, BudgetUsed, LookedBudgets, NamedBudget, RefusedBudget};
pub use choice::{ChoiceKeeper, ChoiceNote, ChoiceSharing};
pub use counting::{OnFailure, SharedCounting};
pub use finding_json::finding_to_json;
pub use history::{History, MAX_BYTES, MAX_REVISIONS, Revision};
pub use metered::{Corrections, Metered};
pub use metrics::{Family, HistogramFamily, HistogramSample, MetricKind, Sample};
pub use models::limits_left;
pub use own_usage::{NoOwnUsage, OwnUsage, OwnUsageQuestion};
pub use polls::{Given, Instance, PollFinding, Polls};
pub use recost::recost;
pub use refusal::status_and_code;
pub use rehearsal::{Rehearsal, Rehearsed, RequestOutcome, rehearse};
pub use report::DECISION;
pub use requests::Requests;
pub use server_metering::{BestMetering, MeteringState, ServerMetering, TelemetryListener};
pub use state::{Parts, Settings, Shared};
pub use tls::{CertificateAuthority, TlsError};
pub use uncounted::UncountedPath;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Somebody else keeps it open when Modelgate stops (systemd): connections that have not been accepted wait for the next
    /// Modelgate.
    pub is_inherited: bool,
}

/// The three listeners, already bound.
#[derive(Debug)]
pub struct Listeners {
    /// For Traefik's poll. It has a listener of its own: over plain HTTP Traefik polls from the connection pool that other
    /// middlewares use, and the long poll remembers what each connection was sent.
    pub provider: Listener,
    /// For requests.
    pub requests: Listener,
    /// For administration.
    pub admin: Listener,
}

/// Serves until `shutdown` becomes true. Then `/readyz` says so, polls are answered at once, no connection is accepted any more,
/// and requests under way finish. `pages` is the dashboard, including its gate.
///
/// # Errors
/// If a listener breaks.
pub async fn serve(
    listeners: Listeners,
    shared: Arc<Shared>,
    pages: axum::Router,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let stopped = |mut shutdown: watch::Receiver<bool>| {
        let shared = Arc::clone(&shared);
        async move {
            let _ = shutdown.wait_for(|stop| *stop).await;
            shared.stop();
        }
    };
    let provider = axum::serve(
        listeners.provider.socket,
        provider::router(Arc::clone(&shared)).into_make_service_with_connect_info::<provider::Connection>(),
    )
    .with_graceful_shutdown(stopped(shutdown.clone()));
    let admin = health::router(Arc::clone(&shared)).merge(pages);
    let admin =
        axum::serve(listeners.admin.socket, admin.into_make_service_with_connect_info::<SocketAddr>())
            .with_graceful_shutdown(stopped(shutdown.clone()));
    let requests =
        connection::serve_tls(listeners.requests, Arc::new(Requests::new(&shared)), shared.tls(), shutdown);
    let (provider, admin, ()) = tokio::join!(provider, admin, requests);
    provider.and(admin)
}
