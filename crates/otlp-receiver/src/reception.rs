//! What becomes of an export, whatever the protocol: who sent it, and whether its receipts fit into the queue.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ::http::{HeaderMap, header::AUTHORIZATION};
use bytes::Bytes;
use metering::{Receipt, Trust};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;

use crate::{
    admission::Admission,
    export::{Format, Signal},
    found::Found,
};

/// The SHA-256 of the bearer token. The token itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// The header `Authorization` names no bearer token, or a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrongToken;

/// Numbers of what came, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    spans: AtomicU64,
    records: AtomicU64,
    others: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    /// Spans of requests that were taken.
    pub fn spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }

    /// Access log records that were taken.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Spans and records that tell nothing about a request.
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// Spans and records that found the queue full, or exceeded a bound.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Exports that were refused: a wrong token, a body that is too large or cannot be read, too many at once.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where exports are passed on. Called for each that could be read, with its message as it came, not compressed; must not wait.
pub type PassOn = Box<dyn Fn(Signal, Format, Bytes) + Send + Sync>;

/// Takes exports, and puts their receipts into a queue.
pub struct Reception {
    token: Option<TokenDigest>,
    queue: mpsc::Sender<Receipt>,
    pass_on: Option<PassOn>,
    counts: Counts,
    pub(crate) admission: Admission,
}

impl fmt::Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reception").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Reception {
    /// `token` is what proves a sender. The queue's capacity bounds how many receipts wait. With a token only what comes from those
    /// who have it is passed on.
    pub fn new(
        token: Option<TokenDigest>,
        queue: mpsc::Sender<Receipt>,
        pass_on: Option<PassOn>,
    ) -> Arc<Self> {
        let admission = Admission::new(Instant::now());
        Arc::new(Self { token, queue, pass_on, counts: Counts::default(), admission })
    }

    /// Passes an export on, if the operator wants that.
    pub(crate) fn pass_on(&self, sender: Trust, signal: Signal, format: Format, message: &Bytes) {
        let is_known = self.token.is_none() || sender == Trust::Proven;
        if let Some(pass_on) = self.pass_on.as_ref().filter(|_| is_known) {
            pass_on(signal, format, message.clone());
        }
    }

    /// What came so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether the sender has proven who it is. A wrong token is refused, so that whoever set it up notices.
    pub(crate) fn sender(&self, headers: &HeaderMap) -> Result<Trust, WrongToken> {
        let Some(token) = &self.token else { return Ok(Trust::None) };
        let Some(given) = headers.get(AUTHORIZATION) else { return Ok(Trust::None) };
        let given = given.to_str().ok().and_then(|value| value.split_once(' '));
        let (_, given) = given.filter(|(kind, _)| kind.eq_ignore_ascii_case("Bearer")).ok_or(WrongToken)?;
        let is_right: bool = TokenDigest::of(given.trim_start()).0.ct_eq(&token.0).into();
        if is_right { Ok(Trust::Proven) } else { Err(WrongToken) }
    }

    /// Puts receipts into the queue without waiting. Returns how many were dropped.
    pub(crate) fn take(&self, found: Found, sender: Trust) -> u64 {
        let found = found.trusted(sender);
        self.counts.others.fetch_add(found.others, Ordering::Relaxed);
        let mut dropped = found.too_many;
        if self.admission.items(sender, found.receipts.len()) {
            for receipt in found.receipts {
                let taken = match &receipt {
                    Receipt::Span(_) => &self.counts.spans,
                    Receipt::Record(_) => &self.counts.records,
                };
                match self.queue.try_send(receipt) {
                    Ok(()) => drop(taken.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => dropped += 1,
                }
            }
        } else {
            dropped += found.receipts.len() as u64;
        }
        self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        dropped
    }
}
