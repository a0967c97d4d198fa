//! What a sender is answered, over HTTP and gRPC.

use std::{io::Write as _, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request},
};
use flate2::{Compression, write::GzEncoder};
use http_body_util::BodyExt as _;
use metering::{Receipt, Trust};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::{
    http::{MAX_BODY, MAX_MESSAGE},
    listener::router,
    reception::{Reception, TokenDigest},
    tests::{TRAEFIK, VLLM},
};

const TOKEN: &str = "a-token-of-the-receiver";
const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The spans in [`VLLM`].
const SPANS: usize = 11;

type Header = (&'static str, &'static str);

struct Receiver {
    reception: Arc<Reception>,
    router: Router,
    queue: mpsc::Receiver<Receipt>,
}

impl Receiver {
    fn new(token: Option<&str>, capacity: usize) -> Self {
        let (sender, queue) = mpsc::channel(capacity);
        let reception = Reception::new(token.map(TokenDigest::of), sender, None);
        Self { router: router(Arc::clone(&reception)), reception, queue }
    }

    async fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> (u16, HeaderMap, Bytes) {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a request");
        let (parts, body) = self.router.clone().oneshot(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body");
        let mut headers = parts.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        (parts.status.as_u16(), headers, body.to_bytes())
    }

    /// What has arrived, by trust.
    fn arrived(&mut self) -> Vec<Trust> {
        let trust = |receipt| match receipt {
            Receipt::Span(span) => span.trust,
            Receipt::Record(record) => record.trust,
        };
        std::iter::from_fn(|| self.queue.try_recv().ok()).map(trust).collect()
    }
}

const PROTOBUF: Header = ("content-type", "application/x-protobuf");
const GZIP: Header = ("content-encoding", "gzip");

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

/// A gRPC message (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn framed(message: &[u8], is_gzip: bool) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[u8::from(is_gzip)], &length[..], message].concat()
}

const GRPC_HEADERS: [(&str, &str); 3] =
    [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-encoding", "gzip")];

#[tokio::test]
async fn exports_are_taken_by_http_and_grpc_plain_and_compressed() {
    let mut receiver = Receiver::new(None, 100);
    let (status, headers, body) = receiver.send("/v1/traces", &[PROTOBUF], VLLM).await;
    assert_eq!(
        (status, &headers["content-type"], body.len()),
        (200, &"application/x-protobuf".parse().expect("a value"), 0)
    );
    assert_eq!(receiver.arrived().len(), SPANS);
    assert_eq!(receiver.send("/v1/traces", &[PROTOBUF, GZIP], gzip(VLLM)).await.0, 200);
    assert_eq!(receiver.arrived().len(), SPANS);
    assert_eq!(receiver.send("/v1/logs", &[PROTOBUF, GZIP], gzip(TRAEFIK)).await.0, 200);
    assert_eq!(receiver.arrived(), [Trust::None; 6]);
    let (status, _, body) =
        receiver.send("/v1/logs", &[("content-type", "application/json; charset=utf-8")], "{}").await;
    assert_eq!((status, &*body), (200, &b"{}"[..]));
    for body in [framed(VLLM, false), framed(&gzip(VLLM), true)] {
        let (status, headers, body) = receiver.send(GRPC, &GRPC_HEADERS, body).await;
        assert_eq!((status, &headers["grpc-status"]), (200, &"0".parse().expect("a value")));
        assert_eq!(body, framed(&[], false));
        assert_eq!(receiver.arrived().len(), SPANS);
    }
    let counts = receiver.reception.counts();
    assert_eq!((counts.spans(), counts.records(), counts.refused()), (4 * SPANS as u64, 6, 0));
}

#[tokio::test]
async fn only_the_token_proves_a_sender_and_a_wrong_one_is_refused() {
    let mut receiver = Receiver::new(Some(TOKEN), 100);
    let right = format!("Bearer {TOKEN}");
    let cases = [
        (None, Some(Trust::None)),
        (Some(&*right), Some(Trust::Proven)),
        (Some("bearer a-token-of-the-receiver"), Some(Trust::Proven)),
        (Some("Bearer a-token-of-the-receiver2"), None),
        (Some("Bearer "), None),
        (Some("Basic a-token-of-the-receiver"), None),
        (Some(TOKEN), None),
    ];
    for (given, expected) in cases {
        let header: Vec<_> = given.iter().map(|value| ("authorization", *value)).collect();
        let (status, ..) = receiver.send("/v1/traces", &[&[PROTOBUF], &header[..]].concat(), VLLM).await;
        assert_eq!(status, if expected.is_some() { 200 } else { 401 }, "{given:?}");
        let (_, headers, _) =
            receiver.send(GRPC, &[&GRPC_HEADERS[..], &header].concat(), framed(VLLM, false)).await;
        assert_eq!(headers["grpc-status"], if expected.is_some() { "0" } else { "16" }, "{given:?}");
        let all = expected.map_or(Vec::new(), |trust| vec![trust; 2 * SPANS]);
        assert_eq!(receiver.arrived(), all, "{given:?}");
    }
    // Where no token is set, none proves anything.
    let mut receiver = Receiver::new(None, 100);
    assert_eq!(receiver.send("/v1/traces", &[PROTOBUF, ("authorization", &right)], VLLM).await.0, 200);
    assert_eq!(receiver.arrived(), [Trust::None; SPANS]);
}

#[tokio::test]
async fn a_full_queue_drops_and_says_so() {
    let mut receiver = Receiver::new(None, 4);
    let (status, _, body) = receiver.send("/v1/traces", &[PROTOBUF], VLLM).await;
    let partial =
        ExportTraceServiceResponse::decode(&*body).expect("a response").partial_success.expect("partial");
    assert_eq!((status, partial.rejected_spans), (200, 7));
    assert!(partial.error_message.contains("dropped"), "{partial:?}");
    let (_, headers, body) = receiver.send(GRPC, &GRPC_HEADERS, framed(VLLM, false)).await;
    let partial =
        ExportTraceServiceResponse::decode(&body[5..]).expect("a response").partial_success.expect("partial");
    assert_eq!((&headers["grpc-status"], partial.rejected_spans), (&"0".parse().expect("a value"), 11));
    let spans = serde_json::to_vec(
        &opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(VLLM)
            .expect("spans"),
    );
    let (_, _, body) =
        receiver.send("/v1/traces", &[("content-type", "application/json")], spans.expect("JSON")).await;
    assert!(
        body.starts_with(br#"{"partialSuccess":{"#)
            && String::from_utf8_lossy(&body).contains(r#""rejectedSpans":"11""#)
    );
    assert_eq!((receiver.arrived().len(), receiver.reception.counts().dropped()), (4, 29));
}

#[tokio::test]
async fn what_is_too_large_or_no_otlp_is_refused() {
    let receiver = Receiver::new(None, 100);
    let bomb = gzip(&vec![0; MAX_MESSAGE + 1]);
    let long = vec![0_u8; MAX_BODY + 1];
    let cases: [(&str, &[Header], Vec<u8>, u16); 9] = [
        ("/v1/traces", &[PROTOBUF], long, 413),
        ("/v1/traces", &[PROTOBUF, GZIP], bomb.clone(), 413),
        ("/v1/traces", &[PROTOBUF, GZIP], VLLM.to_vec(), 400),
        ("/v1/traces", &[PROTOBUF], gzip(VLLM), 400),
        ("/v1/traces", &[PROTOBUF, ("content-encoding", "zstd")], VLLM.to_vec(), 415),
        ("/v1/traces", &[("content-type", "text/plain")], VLLM.to_vec(), 415),
        ("/v1/traces", &[], VLLM.to_vec(), 415),
        ("/v1/logs", &[("content-type", "application/json")], b"my secret prompt".to_vec(), 400),
        ("/v1/metrics", &[PROTOBUF], Vec::new(), 404),
    ];
    for (path, headers, body, expected) in cases {
        let (status, _, body) = receiver.send(path, headers, body).await;
        assert_eq!(status, expected, "{path} {headers:?}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{path}");
    }
    for body in
        [framed(&bomb, true), framed(b"\xff", false), framed(VLLM, true), framed(VLLM, false)[..99].to_vec()]
    {
        let (_, headers, _) = receiver.send(GRPC, &GRPC_HEADERS, body).await;
        assert_ne!(headers["grpc-status"], "0");
    }
    assert_eq!(receiver.reception.counts().refused(), 12, "all but the unknown path, and the four by gRPC");
    assert_eq!(receiver.reception.counts().spans(), 0);
}

/// A flood of exports is refused for the moment, and does not keep out who has the token.
#[tokio::test]
async fn a_flood_is_slowed() {
    let receiver = Receiver::new(Some(TOKEN), 1);
    let mut last = 200;
    for _ in 0..2_000 {
        last = receiver.send("/v1/traces", &[PROTOBUF], Vec::new()).await.0;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 503);
    let (_, headers, _) = receiver.send("/v1/traces", &[PROTOBUF], Vec::new()).await;
    assert_eq!(headers["retry-after"], "1");
    let token = format!("Bearer {TOKEN}");
    assert_eq!(receiver.send("/v1/traces", &[PROTOBUF, ("authorization", &token)], Vec::new()).await.0, 200);
}

/// 10,000 spans and records a second must fit on one core; this takes a small share of that, even without optimisation.
#[test]
fn reading_is_fast() {
    let since = std::time::Instant::now();
    let rounds = 100;
    let mut read = 0;
    for _ in 0..rounds {
        read += crate::protobuf::spans(VLLM).expect("spans").receipts.len();
        read += crate::protobuf::records(TRAEFIK).expect("records").receipts.len();
    }
    let per_second = read as f64 / since.elapsed().as_secs_f64();
    assert!(per_second > 10_000.0, "{per_second:.0} a second");
}
