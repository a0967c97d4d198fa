//! The requests listener: `/auth`, and the few requests that Modelgate answers itself.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, body::Body, extract::Request, http::Response, routing::any};
use tower::ServiceExt as _;

use crate::{Shared, auth, head, models, refused_by_traefik};

/// The service of the requests listener. The listener itself has it from [`serve`](crate::serve).
#[derive(Debug)]
pub struct Requests {
    shared: Arc<Shared>,
    others: Router,
}

impl Requests {
    /// The service over a state.
    pub fn new(shared: &Arc<Shared>) -> Self {
        let others = Router::new()
            .route("/refuse/{why}", any(refused_by_traefik::handle))
            .route("/refuse/{why}/{*path}", any(refused_by_traefik::handle))
            .fallback(models::handle)
            .with_state(Arc::clone(shared));
        Self { shared: Arc::clone(shared), others }
    }

    /// Answers one request, which has come from Traefik.
    pub async fn answer(&self, request: Request) -> Response<Body> {
        if let Some(refusal) = head::check(&self.shared, &request) {
            return refusal;
        }
        // Not by the router: together with a layer it took a twentieth of the time of a short request.
        if request.uri().path() == "/auth" {
            return auth::handle(&self.shared, request).await;
        }
        let Ok(answer) =
            self.others.clone().oneshot(request).await.map_err(|never: Infallible| match never {});
        answer
    }
}
