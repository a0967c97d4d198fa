//! Native answers to what Traefik could not route. Traefik sends such requests here with
//! `/refuse/{why}` before the client's own path.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use traefik_config::REFUSE_PREFIX;

use crate::{
    Shared, auth,
    refusal::{Dialect, Refusal},
};

/// A client that is still sending its body reads no answer: cutting it off shows up as a broken
/// connection. So a body that is too large is read and thrown away, up to this much and this long.
const DRAIN_BYTES: usize = 128 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);

pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_id = auth::request_id(&shared, &parts.headers);
    let path =
        parts.uri.path().strip_prefix(REFUSE_PREFIX).and_then(|p| p.strip_prefix('/')).unwrap_or_default();
    let (why, client_path) = path.split_once('/').unwrap_or((path, ""));
    // An errors middleware asks a page of its own, and puts the client's URL into the query.
    let client_url = parts.uri.query().and_then(|query| query.strip_prefix("url=")).unwrap_or_default();
    let client_url = percent_decode_str(client_url).decode_utf8_lossy();
    let dialect = Dialect::of(&format!("/{client_path}{client_url}"), &parts.headers);
    let refusal = match why {
        "413" => Refusal::too_large(shared.settings().traefik.max_body),
        "411" => Refusal::length_required(),
        "429" => Refusal::too_many_at_once(),
        "unrouted" if !shared.settings().traefik.version.is_layered() => Refusal::unnamed(),
        "unrouted" => Refusal::unrouted(),
        _ => Refusal::not_found(),
    };
    // Whatever comes of it, the answer is the same.
    let _ = timeout(DRAIN_TIME, drain(body)).await;
    refusal.answer(dialect, &request_id)
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = match left.checked_sub(length) {
            Some(left) => left,
            None => return,
        };
    }
}
