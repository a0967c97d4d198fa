//! What each request has really used.
//!
//! `/auth` reserves tokens before a request is answered, because nobody knows yet how long the answer will be. Afterwards the
//! server and Traefik tell what happened, without Modelgate touching an answer: a server exports a span per answer, Traefik
//! an access log record per request. Each such account is a [`Receipt`].
//!
//! ```text
//! /auth ─ RequestReservation ─▶ queue ─▶ Ledger ─ RequestSettlement ─┬▶ limits, quotas, usage
//! servers, Traefik ─ Receipt ────────────▶ │                          ▼
//!                                          └▶ Calibration ◀─ Books ◀─ Counters (of servers)
//! ```
//!
//! The [`Ledger`] closes each reservation once, with the best that was told: exact (spans), measured (bytes, by the
//! [`Calibration`]) or estimated (the reservation stands). The [`Books`] compare what was settled with what the servers
//! themselves have counted. No I/O and no async runtime; time is passed in.

mod books;
mod calibration;
mod ledger;
mod queue;
mod receipt;
mod request_shape;
mod reservation;
mod settlement;
#[cfg(test)]
mod testing;

pub use books::{Balance, BookDifference, BookRow, Books, Counters, Hour, Terms, UsageCorrection};
pub use calibration::Calibration;
pub use ledger::{Ledger, LedgerCounts, LedgerOptions, Told};
pub use queue::{Opener, Openings, queue};
pub use receipt::{NotARequestId, Receipt, RecordReceipt, RequestId, SpanId, SpanReceipt, Trust};
pub use request_shape::{MeteredEndpoint, RequestShape};
pub use reservation::{RequestReservation, ReservedTokens};
pub use settlement::{Ending, RequestSettlement, UsageKind, UsedTokens};
