//! The endpoint that Traefik's HTTP provider polls
//! (<https://doc.traefik.io/traefik/reference/install-configuration/providers/others/http/>).
//!
//! It is a long poll: for each TCP connection the last document sent is remembered, and an answer is held until the document
//! changes, or until shortly before Traefik would time out. So a change takes effect almost at once, with hardly any traffic. A
//! new connection is always answered at once.
//!
//! An empty document would make Traefik drop every route, so before the first survey the poll is answered with 503, and Traefik
//! keeps its routes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    extract::{ConnectInfo, Query, State, connect_info::Connected},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};
use traefik_config::{Gateway, TraefikVersion};

use crate::{
    Settings, Shared,
    history::{History, Rendering},
    polls::Poll,
};

/// A TCP connection from Traefik.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    peer: SocketAddr,
    /// The fingerprint of the last document sent; 0 for none.
    sent: Arc<AtomicU64>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self { peer: *stream.remote_addr(), sent: Arc::default() }
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/traefik", get(poll)).with_state(shared)
}

#[derive(Debug, Deserialize)]
struct PollQuery {
    /// The Traefik version to render for, instead of the configured one.
    version: Option<String>,
}

async fn poll(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Query(query): Query<PollQuery>,
    headers: HeaderMap,
) -> Response {
    let version = match query.version.map(|v| v.parse::<TraefikVersion>()).transpose() {
        Ok(version) => version,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("version: {error}\n")).into_response(),
    };
    let Some(polled_host) = headers.get(header::HOST).and_then(|h| host_of(h.to_str().ok()?)) else {
        return (StatusCode::BAD_REQUEST, "the Host header names no host\n").into_response();
    };
    let peer = connection.peer.ip().to_canonical();
    shared.polled_from(peer);
    let user_agent =
        headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let poll = shared.polls().begin(peer, user_agent, version.unwrap_or(shared.settings().traefik.version));
    let mut settings_revision = shared.settings_revision();
    let mut stopping = shared.stopping();
    let deadline = Instant::now() + shared.settings().hold;
    loop {
        // Marked as seen before the settings are read, so that no change is missed in between.
        let revision = *settings_revision.borrow_and_update();
        let catalogue = shared.catalogue().load().clone();
        let document = catalogue.as_ref().map(|catalogue| {
            let settings = shared.settings();
            let gateway = gateway(&shared, &settings, polled_host);
            let version = version.unwrap_or(settings.traefik.version);
            let from = Rendering { catalogue, settings_revision: revision, gateway: &gateway, version };
            shared.render_cache.render(from, &settings, shared.history())
        });
        if let Some(document) = &document
            && connection.sent.load(Ordering::Relaxed) != document.fingerprint
        {
            return send(&connection, &poll, document);
        }
        let generation = catalogue.map_or(0, |c| c.generation());
        tokio::select! {
            _ = shared.catalogue().changed_since(generation) => {}
            // `shared` holds the sender, so this cannot fail.
            _ = settings_revision.changed() => {}
            () = sleep_until(deadline) => {}
            // Traefik polls again at once, and finds the next Modelgate.
            _ = stopping.wait_for(|stops| *stops) => {}
        }
        if Instant::now() < deadline && !*stopping.borrow() {
            continue;
        }
        return match &document {
            Some(document) => send(&connection, &poll, document),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the first survey is not finished\n").into_response(),
        };
    }
}

fn send(connection: &Connection, poll: &Poll<'_>, document: &Rendered) -> Response {
    poll.given(document.revision);
    connection.sent.store(document.fingerprint, Ordering::Relaxed);
    ([(header::CONTENT_TYPE, "application/json")], document.bytes.clone()).into_response()
}

fn gateway(shared: &Shared, settings: &Settings, polled_host: &str) -> Gateway {
    let host = settings.advertise.as_deref().unwrap_or(polled_host);
    let host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => {
            shared.authority().answer_for(ip);
            if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
        }
        Err(_) => host.to_owned(),
    };
    Gateway {
        authority: format!("{host}:{}", shared.requests_port()),
        ca_pem: shared.authority().certificate_pem().to_owned(),
    }
}

/// The host in a `Host` header, without the port; `None` if it is not a plain host.
fn host_of(header: &str) -> Option<&str> {
    let host = match header.strip_prefix('[') {
        Some(rest) => &header[..rest.find(']')? + 2],
        None => header.split(':').next()?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':');
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(plain)).then_some(host)
}

/// A rendered document.
#[derive(Debug, Clone)]
struct Rendered {
    bytes: Bytes,
    /// Distinguishes documents; never 0.
    fingerprint: u64,
    /// Its number in the history.
    revision: u64,
}

/// The last document, so that several polls of one state render it only once.
#[derive(Debug, Default)]
pub(crate) struct RenderCache(Mutex<Option<(CacheKey, Rendered)>>);

#[derive(Debug, PartialEq, Eq)]
struct CacheKey {
    generation: u64,
    settings_revision: u64,
    gateway: Gateway,
    version: TraefikVersion,
}

impl RenderCache {
    fn render(&self, from: Rendering<'_>, settings: &Settings, history: &History) -> Rendered {
        let Rendering { catalogue, settings_revision, gateway, version } = from;
        let generation = catalogue.generation();
        let key = CacheKey { generation, settings_revision, gateway: gateway.clone(), version };
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cached_key, rendered)) = &*cached
            && *cached_key == key
        {
            return rendered.clone();
        }
        let options = traefik_config::RenderOptions { version, ..settings.traefik.clone() };
        let bytes = Bytes::from(traefik_config::render(catalogue, &options, gateway).to_json());
        let digest = Sha256::digest(&bytes);
        let fingerprint = digest.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b)).max(1);
        let revision = history.rendered(from, &bytes, SystemTime::now());
        let rendered = Rendered { bytes, fingerprint, revision };
        *cached = Some((key, rendered.clone()));
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_that_traefik_polled() {
        assert_eq!(host_of("modelgate:8100"), Some("modelgate"));
        assert_eq!(host_of("10.0.0.2"), Some("10.0.0.2"));
        assert_eq!(host_of("[::1]:8100"), Some("[::1]"));
        for bad in ["", ":80", "a b", "a/b", "[::1", "x`y"] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}
