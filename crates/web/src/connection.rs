//! TLS connections: accepted, served over HTTP/2 or HTTP/1.1 by dedicated threads (`lanes.rs`), and closed when idle.
//!
//! At every reload Traefik makes a new transport, and so new connections, for each ForwardAuth middleware, and forgets the old
//! ones without closing them. So idle ones are closed here.
//!
//! One HTTP/2 connection carries the requests of all of Traefik's clients. If one client's behaviour ended it, the others would
//! get a bare 500: so h2's limits against misbehaving peers are raised to suit a peer that speaks for many clients.
//!
//! At the end, GOAWAY tells Traefik to ask elsewhere. Go's client loses a request with a body that has chosen the connection but has
//! sent nothing yet when GOAWAY comes (<https://github.com/golang/go/issues/62450>: "cannot rewind body after connection loss"), and
//! Traefik then answers with a bare 500. So all answers wait for a moment before: clients ask no more, what Traefik has begun to
//! send arrives, and only then does GOAWAY leave, ahead of the answers.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    mem,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use futures_util::FutureExt as _;
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{Notify, mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, interval, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::{Listener, lanes::Lanes, one_task, requests::Requests};

/// A connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may continue after the listener has closed.
const FINISH: Duration = Duration::from_secs(5);
/// How long a new connection is left alone at the end: its first request is on its way. hyper closes a connection on which nothing
/// has come without a word, and Traefik does not send a request with a body again.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// At the end, no request must have come for this long before GOAWAY is sent.
const QUIET: Duration = Duration::from_millis(50);
/// But it is sent after this time at the latest.
const LONGEST_HOLD: Duration = Duration::from_millis(250);
/// The maximum number of concurrent streams: Traefik sends all requests over one connection.
const MAX_STREAMS: u32 = 4096;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The largest frame. Go's client sends up to half a MiB if allowed; 16 KiB, the smallest value that may be announced (RFC 9113
/// §6.5.2), would mean thirty times as many frames.
const MAX_FRAME: u32 = 512 * 1024;
/// Bodies up to this size, in bytes, are read and decided on the connection's own task (`one_task.rs`).
const SHORT: u64 = 256 * 1024;
/// The maximum number of streams that are reset before hyper has seen them. Traefik resets a stream when its client goes away,
/// and h2 closes the connection when more than this many come at once (by default 20, against CVE-2023-44487). h2 hands over
/// what has arrived before it reads more, so the number never greatly exceeds that of clients leaving in one moment.
const MAX_RESET_BEFORE_SEEN: usize = 64 * 1024;
/// The longest headers read over HTTP/2, counted as in RFC 9113 §6.5.2: 32 bytes more for each. Go's client refuses to send
/// more than is announced, and Traefik then answers with a bare 500. Traefik accepts 1 MiB in HTTP/1.1's form (Go's
/// `DefaultMaxHeaderBytes`), in which the shortest header takes 5 bytes, and adds the URL once more. Headers beyond
/// [`head::MAX_HEADERS`](crate::head::MAX_HEADERS) are refused after they are read.
const MAX_HEADERS_READ: u32 = 16 * 1024 * 1024;
/// The longest headers over HTTP/1.1, in bytes, and their maximum number; only clients that bypass Traefik use HTTP/1.1 here.
const MAX_HEAD_HTTP1: usize = 2 * 1024 * 1024;
const MAX_HEADERS_HTTP1: usize = 1_000;

/// The peer of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// It has presented a certificate that was accepted.
    pub(crate) has_certificate: bool,
}

/// The parts that serve a connection.
#[derive(Clone)]
struct Serving {
    requests: Arc<Requests>,
    /// The pool for bodies that take long to read.
    pool: Handle,
    acceptor: TlsAcceptor,
    shutdown: watch::Receiver<bool>,
}

/// Serves until `shutdown` becomes true.
///
/// First the listener closes, and only then are clients told to leave (GOAWAY), so that they find another Modelgate at once.
pub(crate) async fn serve_tls(
    listener: Listener,
    requests: Arc<Requests>,
    acceptor: TlsAcceptor,
    shutdown: watch::Receiver<bool>,
) {
    let Listener { socket: listener, is_inherited } = listener;
    let lanes = match Lanes::new() {
        Ok(lanes) => lanes,
        Err(error) => return tracing::error!(%error, "no thread can be started to answer requests"),
    };
    // Each connection holds a sender; once all senders are dropped, all connections have ended.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let mut stop = pin!(wait_for(shutdown));
    let (leave, left) = watch::channel(false);
    let serving = Serving { requests, pool: Handle::current(), acceptor, shutdown: left };
    let serve = |(stream, peer): (TcpStream, SocketAddr)| {
        let (serving, open, address) = (serving.clone(), open.clone(), peer.ip().to_canonical());
        // The stream moves to another thread's runtime, which must register it.
        let stream = stream.into_std();
        lanes.spawn(async move {
            match stream.and_then(TcpStream::from_std) {
                Ok(stream) => serve_one(stream, address, serving).await,
                Err(error) => warn!(%error, "cannot take over a connection"),
            }
            drop(open);
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok(accepted) => serve(accepted),
            Err(error) => {
                // Most likely out of file descriptors; retrying at once would only burn CPU.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // The kernel has accepted these, and would reset them. With a socket that somebody else keeps, the next Modelgate has them.
    while !is_inherited && let Some(Ok(accepted)) = listener.accept().now_or_never() {
        serve(accepted);
    }
    drop((listener, open));
    leave.send_replace(true);
    if timeout(FINISH, all_closed.recv()).await.is_err() {
        warn!("some requests did not finish in time");
    }
}

async fn wait_for(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn serve_one(stream: TcpStream, address: IpAddr, serving: Serving) {
    let Serving { requests, pool, acceptor, shutdown } = serving;
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
    let peer = Peer { address, has_certificate };
    let (activity, since) = (Arc::new(Activity::new()), Instant::now());
    let seen = Arc::clone(&activity);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        answer(Arc::clone(&requests), pool.clone(), Arc::clone(&seen), request)
    });
    let (sender, mut questions) = one_task::new();
    let protocol = protocol(sender);
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let enough = async {
        tokio::select! {
            () = activity.idle_for(IDLE) => {}
            () = wait_for(shutdown) => {
                sleep_until(since + FIRST_REQUEST).await;
                activity.hold_answers().await;
            }
        }
    };
    // A request may be on its way right now: GOAWAY tells the client to send it again elsewhere.
    let ended = tokio::select! {
        ended = poll_fn(|context| questions.poll(connection.as_mut(), context)) => ended,
        () = enough => {
            connection.as_mut().graceful_shutdown();
            let mut is_told = false;
            poll_fn(|context| {
                let ended = questions.poll(connection.as_mut(), context);
                if !mem::replace(&mut is_told, true) {
                    activity.release_answers();
                    context.waker().wake_by_ref();
                }
                ended
            })
            .await
        }
    };
    if let Err(error) = ended {
        debug!(error, "connection ended");
    }
}

fn protocol(sender: one_task::Sender) -> auto::Builder<one_task::Sender> {
    let mut builder = auto::Builder::new(sender);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD_HTTP1)
        .max_headers(MAX_HEADERS_HTTP1);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS_READ)
        .max_pending_accept_reset_streams(MAX_RESET_BEFORE_SEEN)
        // This would count over the life of a connection: a stream is reset here if a client's URL cannot be read, or if its
        // body is still being sent after the answer.
        .max_local_error_reset_streams(None);
    builder
}

fn answer(
    requests: Arc<Requests>,
    pool: Handle,
    activity: Arc<Activity>,
    request: hyper::Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let under_way = UnderWay::new(activity);
    async move {
        let is_short = request.body().size_hint().upper().is_some_and(|length| length <= SHORT);
        let answer = async move { requests.answer(request.map(Body::new)).await };
        let response = match is_short {
            true => AssertUnwindSafe(answer).catch_unwind().await.ok(),
            // Reading it takes so long that it would delay the others.
            false => AbortedOnDrop(pool.spawn(answer)).await.ok(),
        };
        if under_way.0.is_held.load(Ordering::SeqCst) {
            under_way.0.released().await;
        }
        drop(under_way);
        // A bug of ours must not end the connection that all clients share.
        let response = response.unwrap_or_else(|| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        Ok(response)
    }
}

/// A task that ends when nobody waits for it any more: its client has gone away.
struct AbortedOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortedOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortedOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request that is being answered; it is dropped when its client goes away.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn new(activity: Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.touch();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tracks when a connection was last in use.
struct Activity {
    since: Instant,
    last: AtomicU64,
    under_way: AtomicUsize,
    /// Answers wait for `release`.
    is_held: AtomicBool,
    release: Notify,
}

impl Activity {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            last: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            is_held: AtomicBool::new(false),
            release: Notify::new(),
        }
    }

    fn touch(&self) {
        let seconds = self.since.elapsed().as_secs();
        self.last.store(seconds, Ordering::Relaxed);
    }

    /// From now on answers wait; returns once no more requests come.
    async fn hold_answers(&self) {
        self.is_held.store(true, Ordering::SeqCst);
        let latest = Instant::now() + LONGEST_HOLD;
        loop {
            // Nothing is answered now: the number grows with each request that comes.
            let before = self.under_way.load(Ordering::Relaxed);
            sleep(QUIET).await;
            if self.under_way.load(Ordering::Relaxed) <= before || Instant::now() >= latest {
                return;
            }
        }
    }

    /// Waits while answers are held.
    async fn released(&self) {
        // A `Notified` hears of what happens once it has been made.
        let release = self.release.notified();
        if self.is_held.load(Ordering::SeqCst) {
            release.await;
        }
    }

    fn release_answers(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        self.release.notify_waiters();
    }

    /// Returns once there has been no request for this long.
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
