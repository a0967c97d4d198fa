//! The listener: HTTP/1.1 and HTTP/2 without TLS on one port.

use std::{sync::Arc, time::Duration};

use axum::extract::DefaultBodyLimit;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tracing::{debug, warn};

use crate::{connections::Connections, grpc, http, reception::Reception};

/// Exports at a time over one HTTP/2 connection.
const MAX_STREAMS: u32 = 16;
/// How long a connection may be silent before its next request.
const IDLE: Duration = Duration::from_secs(120);
/// The longest headers, in bytes.
const MAX_HEADERS: usize = 16 * 1024;

/// Serves until `shutdown` becomes true. What has been answered is in the queue by then; exporters send the rest again.
pub async fn serve(listener: TcpListener, reception: Arc<Reception>, mut shutdown: watch::Receiver<bool>) {
    let connections = Connections::default();
    let router = router(reception);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let accepted = accepted.map(|(stream, peer)| (stream, connections.take(peer.ip())));
        match accepted {
            Ok((stream, Some(place))) => {
                let (router, mut shutdown) = (router.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve_one(stream, router) => {}
                        _ = shutdown.wait_for(|stop| *stop) => {}
                    }
                    drop(place);
                });
            }
            Ok((_, None)) => debug!("a connection of an exporter was closed: there are too many"),
            Err(error) => {
                // Most likely out of file descriptors; retrying at once would only burn CPU.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// OTLP over HTTP and over gRPC. Each bounds its bodies itself.
pub(crate) fn router(reception: Arc<Reception>) -> axum::Router {
    http::router().merge(grpc::router()).layer(DefaultBodyLimit::disable()).with_state(reception)
}

async fn serve_one(stream: TcpStream, router: axum::Router) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS as u32)
        .keep_alive_interval(IDLE);
    let service = TowerToHyperService::new(router);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(error, "connection ended");
    }
}
