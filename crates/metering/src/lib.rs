//! What each request has really used.
//!
//! `/auth` reserves tokens before a request is answered, because nobody knows yet how long the answer will be. Afterwards the
//! server and Traefik tell what happened, without Modelgate touching an answer: a server exports a span per request, Traefik
//! an access log record. Each such account is a [`Receipt`]. No I/O; time is passed in.

mod receipt;

pub use receipt::{Receipt, RecordReceipt, RequestId, SpanId, SpanReceipt, Trust};
