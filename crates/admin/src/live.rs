//! Live pages: server-sent events carry the live part of a page whenever it has changed
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! This adds no work to `/auth`: its counters are read a few times a second at most, and only while somebody has a page open.

use std::{
    convert::Infallible,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Query, State},
    http::{StatusCode, Uri, request::Parts},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};

use crate::{
    Admin, Operator, Refusal,
    pages::{self, accounts::Meters},
};

/// How often a page is rendered again.
const RENDER_INTERVAL: Duration = Duration::from_secs(1);
/// After a change of the catalogue the page is rendered at once, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// How often an unchanged page gets a keep-alive event; `app.js` relies on it.
const STILL_THERE: Duration = Duration::from_secs(15);
/// How many pages are live at the same time; further ones have to be reloaded by hand.
const MAX_LIVE_PAGES: usize = 64;

/// The slots for live pages, and the signal that ends them.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    places: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Live {
    /// Live pages that end when `shutdown` becomes true.
    pub(crate) fn new(shutdown: watch::Receiver<bool>) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_LIVE_PAGES)), shutdown }
    }
}

/// The page to keep live.
#[derive(Debug, Deserialize)]
pub(crate) struct LivePage {
    /// Its path and query.
    page: String,
}

/// `GET /events?page=…`
pub(crate) async fn events(State(admin): State<Admin>, operator: Operator, parts: Parts) -> Response {
    let wanted = Query::<LivePage>::try_from_uri(&parts.uri).ok();
    let wanted = wanted.filter(|Query(wanted)| wanted.page.starts_with('/'));
    let uri = wanted.and_then(|Query(wanted)| wanted.page.parse::<Uri>().ok());
    let Some(uri) = uri else { return Refusal::not_found(&parts).into_response() };
    let meters = Meters::at(&admin, uri.path()).await;
    if meters.is_none() && live_part(&admin, &operator, &uri).is_none() {
        return Refusal::not_found(&parts).into_response();
    }
    let Ok(place) = Arc::clone(&admin.live.places).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live pages; load this one by hand\n")
            .into_response();
    };
    let stream =
        futures_util::stream::unfold(Watching::new(admin, operator, uri, meters, place), Watching::next);
    let keep_alive = KeepAlive::new().interval(STILL_THERE).event(Event::default().event("alive").data("1"));
    // nginx and similar proxies would buffer the events.
    ([("x-accel-buffering", "no")], Sse::new(stream).keep_alive(keep_alive)).into_response()
}

fn live_part(admin: &Admin, operator: &Operator, uri: &Uri) -> Option<String> {
    let page = pages::find(pages::PageRequest { admin, operator: operator.clone(), uri })?;
    rendered(page.live())
}

fn rendered(part: askama::Result<String>) -> Option<String> {
    part.inspect_err(|error| tracing::error!(%error, "a page cannot be rendered")).ok()
}

/// A live page.
struct Watching {
    admin: Admin,
    operator: Operator,
    uri: Uri,
    /// The meters, if it is the page of a key or a consumer.
    meters: Option<Meters>,
    /// The hash of what was sent last.
    sent: Option<u64>,
    rendered: Option<Instant>,
    generation: u64,
    _place: OwnedSemaphorePermit,
}

impl Watching {
    fn new(
        admin: Admin,
        operator: Operator,
        uri: Uri,
        meters: Option<Meters>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { admin, operator, uri, meters, sent: None, rendered: None, generation: 0, _place: place }
    }

    /// Waits until the page has changed.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if !self.wait().await || !self.admin.authenticator.still_admits(&self.operator, Instant::now()) {
                return None;
            }
            self.rendered = Some(Instant::now());
            self.generation = self.admin.shared.catalogue().load().as_ref().map_or(0, |c| c.generation());
            let html = match &mut self.meters {
                Some(meters) => rendered(meters.render(&self.admin).await),
                None => live_part(&self.admin, &self.operator, &self.uri),
            };
            let html = html.unwrap_or_else(gone);
            let mut hasher = DefaultHasher::new();
            html.hash(&mut hasher);
            let digest = hasher.finish();
            if self.sent.replace(digest) != Some(digest) {
                // As JSON, because a line break would end the event's data.
                let event = Event::default().event("live").json_data(html).unwrap_or_default();
                return Some((Ok(event), self));
            }
        }
    }

    /// Waits until it is time to render; false if the program stops.
    async fn wait(&mut self) -> bool {
        let Some(rendered) = self.rendered else { return true };
        let catalogue = self.admin.shared.catalogue().clone();
        let mut shutdown = self.admin.live.shutdown.clone();
        let soon = async {
            sleep(AT_MOST_EVERY.saturating_sub(rendered.elapsed())).await;
            catalogue.changed_since(self.generation).await;
        };
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => false,
            () = sleep(RENDER_INTERVAL.saturating_sub(rendered.elapsed())) => true,
            () = soon => true,
        }
    }
}

/// Replaces a page that no longer exists, such as that of a removed server.
fn gone() -> String {
    "<p class=\"card muted\">It is not there any more.</p>".to_owned()
}
