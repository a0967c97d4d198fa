//! An auth server for Traefik that allows everything: it reads the question, over the same TLS and HTTP/2 as Modelgate, and says
//! yes.
//!
//! A request with it costs the minimum that ForwardAuth can cost, so Modelgate's speed is compared with it. It has Modelgate's
//! allocator and HTTP/2 settings, but not Modelgate's scheduling of tasks.

use std::{convert::Infallible, env, fs, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `baseline PORT CERTIFICATE KEY ROUTE`: listens on 127.0.0.1 until it is killed, and routes every request to `ROUTE`.
fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, certificate, key, route] = &arguments[..] else {
        panic!("PORT CERTIFICATE KEY ROUTE, not {arguments:?}")
    };
    let certificate =
        CertificateDer::from_pem_slice(&fs::read(certificate).expect("a file")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&fs::read(key).expect("a file")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate], key).expect("an identity");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = format!("127.0.0.1:{port}");
    let route: Arc<str> = route.as_str().into();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async move {
        let listener = TcpListener::bind(address).await.expect("a listener");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&route)));
        }
    });
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, route: Arc<str>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol
        .http2()
        .max_concurrent_streams(4096)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(512 * 1024);
    let service = service_fn(move |question| yes(question, Arc::clone(&route)));
    let _ = protocol.serve_connection(TokioIo::new(stream), service).await;
}

/// A request id, as long as Modelgate's.
const ID: &str = "req_00000000000000000000000000000000";

/// Allows any request, with the headers of Modelgate's answer.
async fn yes(question: Request<Incoming>, route: Arc<str>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let body = question.into_body().collect().await;
    let status = if body.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let answer = Response::builder().status(status).header("x-inference-route", &*route);
    let answer = answer.header("x-inference-consumer", "benchmark").header("x-inference-key", "benchmark");
    let answer = answer.header("x-inference-model", "llama").header("x-request-id", ID);
    Ok(answer.body(Empty::new()).expect("a response"))
}
