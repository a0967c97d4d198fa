//! TLS connections: accepted, served over HTTP/2 or HTTP/1.1, and closed when idle.
//!
//! Traefik makes a new transport, and with it new connections, for every ForwardAuth middleware at
//! every reload, and forgets the old ones without closing them. So idle ones are closed here.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::{debug, warn};

/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may go on after the listener has closed.
const FINISH: Duration = Duration::from_secs(5);
/// Traefik asks about all requests over one connection.
const MAX_STREAMS: u32 = 4096;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// It has shown a certificate that was accepted.
    pub(crate) has_certificate: bool,
}

/// Serves until `shutdown` becomes true.
pub(crate) async fn serve_tls(
    listener: TcpListener,
    router: Router,
    acceptor: TlsAcceptor,
    shutdown: watch::Receiver<bool>,
) {
    // Each connection holds a sender; when all are gone, all connections are.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let mut stop = pin!(wait_for(shutdown.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, acceptor, shutdown, open) =
                    (router.clone(), acceptor.clone(), shutdown.clone(), open.clone());
                tokio::spawn(async move {
                    serve_one(stream, peer.ip().to_canonical(), router, acceptor, shutdown).await;
                    drop(open);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely; trying again at once would only burn the CPU.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop((listener, open));
    if timeout(FINISH, all_closed.recv()).await.is_err() {
        warn!("some requests did not finish in time");
    }
}

async fn wait_for(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn serve_one(
    stream: TcpStream,
    address: IpAddr,
    router: Router,
    acceptor: TlsAcceptor,
    shutdown: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
    let peer = Peer { address, has_certificate };
    let activity = Arc::new(Activity::new());
    let seen = Arc::clone(&activity);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        answer(router.clone(), Arc::clone(&seen), request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let enough = async {
        tokio::select! {
            () = activity.idle_for(IDLE) => {}
            () = wait_for(shutdown) => {}
        }
    };
    // A request may be on its way at this very moment: GOAWAY tells the client to send it again elsewhere.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = enough => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error, "connection ended");
    }
}

fn answer(
    router: Router,
    activity: Arc<Activity>,
    request: hyper::Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    activity.under_way.fetch_add(1, Ordering::Relaxed);
    async move {
        let response = router.oneshot(request.map(Body::new)).await;
        activity.touch();
        activity.under_way.fetch_sub(1, Ordering::Relaxed);
        response
    }
}

/// When a connection was last in use.
struct Activity {
    since: Instant,
    last: AtomicU64,
    under_way: AtomicUsize,
}

impl Activity {
    fn new() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0), under_way: AtomicUsize::new(0) }
    }

    fn touch(&self) {
        let seconds = self.since.elapsed().as_secs();
        self.last.store(seconds, Ordering::Relaxed);
    }

    /// Returns once there has been no request for that long.
    async fn idle_for(&self, time: Duration) {
        let mut tick = interval(time / 4);
        loop {
            tick.tick().await;
            let quiet = self.since.elapsed().as_secs().saturating_sub(self.last.load(Ordering::Relaxed));
            if self.under_way.load(Ordering::Relaxed) == 0 && quiet >= time.as_secs() {
                return;
            }
        }
    }
}
