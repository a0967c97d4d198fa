//! OTLP over gRPC (<https://opentelemetry.io/docs/specs/otlp/#otlpgrpc>). tonic handles the protocol; messages are read as they
//! are over HTTP.

use std::{
    future::{Ready, ready},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::Response,
    routing::post,
};
use bytes::{Buf as _, BufMut as _, Bytes};
use metering::Trust;
use tokio::time::timeout;
use tonic::{
    Status,
    codec::{
        Codec, CompressionEncoding, DecodeBuf, Decoder, EnabledCompressionEncodings, EncodeBuf, Encoder,
    },
    server::{Grpc, UnaryService},
};

use crate::{
    export::{Format, Signal},
    http::{BODY_TIME, MAX_MESSAGE, success_message},
    protobuf,
    reception::Reception,
};

pub(crate) fn router() -> axum::Router<Arc<Reception>> {
    axum::Router::new()
        .route("/opentelemetry.proto.collector.trace.v1.TraceService/Export", post(traces))
        .route("/opentelemetry.proto.collector.logs.v1.LogsService/Export", post(logs))
}

async fn traces(State(reception): State<Arc<Reception>>, request: Request) -> Response<Body> {
    answer(&reception, Signal::Traces, request).await
}

async fn logs(State(reception): State<Arc<Reception>>, request: Request) -> Response<Body> {
    answer(&reception, Signal::Logs, request).await
}

async fn answer(reception: &Arc<Reception>, signal: Signal, request: Request) -> Response<Body> {
    match receive(reception, signal, request).await {
        Ok(response) => response,
        Err(status) => {
            reception.counts().refuse();
            status.into_http()
        }
    }
}

async fn receive(
    reception: &Arc<Reception>,
    signal: Signal,
    request: Request,
) -> Result<Response<Body>, Status> {
    let wrong_token =
        |_| Status::unauthenticated("the bearer token is not the one of listen.telemetry_token");
    let sender = reception.sender(request.headers()).map_err(wrong_token)?;
    let busy = |_| Status::unavailable("too many exports at once");
    let _turn = reception.admission.turn(sender).await.map_err(busy)?;
    let mut gzip = EnabledCompressionEncodings::default();
    gzip.enable(CompressionEncoding::Gzip);
    // The size holds for a message as it is sent, and for one that is decompressed.
    let mut grpc = Grpc::new(Raw)
        .apply_compression_config(gzip, EnabledCompressionEncodings::default())
        .apply_max_message_size_config(Some(MAX_MESSAGE), None);
    let export = Export { reception: Arc::clone(reception), signal, sender };
    let too_slow = |_| Status::deadline_exceeded("the message takes too long to arrive");
    let response = timeout(BODY_TIME, grpc.unary(export, request)).await.map_err(too_slow)?;
    // The status of a failure is in the head; that of a success follows the answer.
    if response.headers().contains_key(Status::GRPC_STATUS) {
        reception.counts().refuse();
    }
    Ok(response.map(Body::new))
}

/// One call of `Export`.
struct Export {
    reception: Arc<Reception>,
    signal: Signal,
    sender: Trust,
}

impl UnaryService<Bytes> for Export {
    type Response = Vec<u8>;
    type Future = Ready<Result<tonic::Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let message = request.into_inner();
        let found = match self.signal {
            Signal::Traces => protobuf::spans(&message),
            Signal::Logs => protobuf::records(&message),
        };
        ready(match found {
            Ok(found) => {
                self.reception.pass_on(self.sender, self.signal, Format::Protobuf, &message);
                Ok(tonic::Response::new(success_message(self.reception.take(found, self.sender))))
            }
            Err(_) => Err(Status::invalid_argument("the message cannot be read")),
        })
    }
}

/// Leaves messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
