//! OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).

use std::{io::Read as _, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    routing::post,
};
use flate2::bufread::MultiGzDecoder;
use tokio::time::timeout;
use tracing::debug;

use crate::{
    export::{self, Format, Signal},
    reception::Reception,
    wire::{put_bytes, put_varint},
};

/// The longest body as it is sent, in bytes. 512 records of Traefik, uncompressed, are about 2 MB.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;
/// The longest body once decompressed, in bytes.
pub(crate) const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why an export is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(StatusCode, &'static str);

pub(crate) fn router() -> axum::Router<Arc<Reception>> {
    axum::Router::new().route("/v1/traces", post(traces)).route("/v1/logs", post(logs))
}

async fn traces(State(reception): State<Arc<Reception>>, request: Request) -> Response<Body> {
    answer(&reception, Signal::Traces, request).await
}

async fn logs(State(reception): State<Arc<Reception>>, request: Request) -> Response<Body> {
    answer(&reception, Signal::Logs, request).await
}

async fn answer(reception: &Reception, signal: Signal, request: Request) -> Response<Body> {
    let format = format(request.headers());
    match receive(reception, signal, format, request).await {
        Ok(dropped) => success(format.unwrap_or(Format::Protobuf), signal, dropped),
        Err(Refused(status, why)) => {
            reception.counts().refuse();
            debug!(%status, why, ?signal, "an export was refused");
            refusal(format.unwrap_or(Format::Protobuf), status, why)
        }
    }
}

/// Returns how many spans or records were dropped.
async fn receive(
    reception: &Reception,
    signal: Signal,
    format: Option<Format>,
    request: Request,
) -> Result<u64, Refused> {
    let unread =
        Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "allowed: application/x-protobuf, application/json");
    let format = format.ok_or(unread)?;
    let wrong_token =
        Refused(StatusCode::UNAUTHORIZED, "the bearer token is not the one of listen.telemetry_token");
    let sender = reception.sender(request.headers()).map_err(|_| wrong_token)?;
    let is_gzip = is_gzip(request.headers())?;
    let busy = Refused(StatusCode::SERVICE_UNAVAILABLE, "too many exports at once");
    let _turn = reception.admission.turn(sender).await.map_err(|_| busy)?;
    let body = timeout(BODY_TIME, axum::body::to_bytes(request.into_body(), MAX_BODY));
    let too_slow = Refused(StatusCode::REQUEST_TIMEOUT, "the body takes too long to arrive");
    let too_large =
        Refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 4 MiB, or has broken off");
    let body = body.await.map_err(|_| too_slow)?.map_err(|_| too_large)?;
    let body = if is_gzip { gunzip(&body)? } else { body };
    let found = export::read(&body, signal, format)
        .ok_or(Refused(StatusCode::BAD_REQUEST, "the body cannot be read"))?;
    reception.pass_on(sender, signal, format, &body);
    Ok(reception.take(found, sender))
}

fn format(headers: &HeaderMap) -> Option<Format> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match given.split(';').next()?.trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Some(Format::Protobuf),
        "application/json" => Some(Format::Json),
        _ => None,
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refused> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "allowed encodings: gzip, or none")),
    }
}

fn gunzip(body: &[u8]) -> Result<Bytes, Refused> {
    let mut message = Vec::new();
    // One byte more tells a message of the largest size from a larger one.
    let mut bounded = MultiGzDecoder::new(body).take(MAX_MESSAGE as u64 + 1);
    bounded
        .read_to_end(&mut message)
        .map_err(|_| Refused(StatusCode::BAD_REQUEST, "the body is not gzip"))?;
    match message.len() {
        ..=MAX_MESSAGE => Ok(message.into()),
        _ => Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "the decompressed body is larger than 8 MiB")),
    }
}

/// `ExportTraceServiceResponse` or `ExportLogsServiceResponse`, which have the same form: `partial_success = 1`, of which
/// `rejected_spans = 1` and `error_message = 2`.
pub(crate) fn success_message(dropped: u64) -> Vec<u8> {
    let mut message = Vec::new();
    if dropped > 0 {
        let mut partial = Vec::new();
        put_varint(&mut partial, 1, dropped);
        put_bytes(&mut partial, 2, DROPPED_WORDS.as_bytes());
        put_bytes(&mut message, 1, &partial);
    }
    message
}

const DROPPED_WORDS: &str = "the receiver has more to do than it can: the rest was dropped";

fn success(format: Format, signal: Signal, dropped: u64) -> Response<Body> {
    let body = match (format, signal) {
        (Format::Protobuf, _) => success_message(dropped),
        (Format::Json, _) if dropped == 0 => b"{}".to_vec(),
        (Format::Json, _) => {
            let count = match signal {
                Signal::Traces => "rejectedSpans",
                Signal::Logs => "rejectedLogRecords",
            };
            let partial = serde_json::json!({ count: dropped.to_string(), "errorMessage": DROPPED_WORDS });
            serde_json::json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
    };
    with_body(format, StatusCode::OK, body)
}

/// The body is a `google.rpc.Status`, whose `message` is its field 2.
fn refusal(format: Format, status: StatusCode, why: &str) -> Response<Body> {
    let body = match format {
        Format::Protobuf => {
            let mut message = Vec::new();
            put_bytes(&mut message, 2, why.as_bytes());
            message
        }
        Format::Json => serde_json::json!({ "message": why }).to_string().into_bytes(),
    };
    let mut response = with_body(format, status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn with_body(format: Format, status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = match format {
        Format::Protobuf => PROTOBUF,
        Format::Json => JSON,
    };
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
