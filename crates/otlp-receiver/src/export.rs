//! What an export is and how it is written, and the receipts in it.

use metering::Receipt;

use crate::{found::Found, json, protobuf};

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans, from inference servers.
    Traces,
    /// Records of requests, from Traefik.
    Logs,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// The receipts of a body, and the number of items that tell nothing about a request; `None` if it cannot be read. What the
/// listener does with each body, without the listener.
pub fn receipts(body: &[u8], signal: Signal, format: Format) -> Option<(Vec<Receipt>, u64)> {
    read(body, signal, format).map(|found| (found.receipts, found.others))
}

pub(crate) fn read(body: &[u8], signal: Signal, format: Format) -> Option<Found> {
    match (format, signal) {
        (Format::Protobuf, Signal::Traces) => protobuf::spans(body).ok(),
        (Format::Protobuf, Signal::Logs) => protobuf::records(body).ok(),
        // The error is not logged: it may quote what the body holds.
        (Format::Json, Signal::Traces) => json::spans(body).ok(),
        (Format::Json, Signal::Logs) => json::records(body).ok(),
    }
}
