//! Receives what inference servers and Traefik tell about requests: OTLP traces and logs, over HTTP (protobuf or JSON) and
//! gRPC, on one port (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! ```text
//! vLLM     spans    ─┐                 ┌─ protobuf.rs ─┐
//!                    ├─▶ http.rs, grpc.rs               ├─▶ span.rs, record.rs ─▶ Receipt ─▶ a bounded queue
//! Traefik  records  ─┘   bounds, token └─ json.rs ─────┘   keep what is used
//! ```
//!
//! Spans may hold prompts. Bodies are read item by item, and of each item only the attributes in use: nothing else is
//! kept or logged. So the memory that a body needs is bounded by its size.
//!
//! If the operator wants that, each body that could be read is passed on as it came (`PassOn`).
//!
//! An export is answered at once. If the queue is full, receipts are dropped and counted, and the answer says how many.

mod admission;
mod connections;
mod export;
mod found;
mod grpc;
mod http;
mod json;
mod listener;
mod protobuf;
mod reception;
mod record;
mod span;
mod text;
mod wire;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod tests;

pub use export::{Format, Signal, receipts};
pub use listener::serve;
pub use reception::{Counts, PassOn, Reception, TokenDigest};
