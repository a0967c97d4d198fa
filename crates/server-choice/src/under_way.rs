//! How many requests are under way at a server, by all that is known: what was sent there, which ends were told, and what the server
//! says itself.
//!
//! The two sources come late, each in its own way. A page of the server's metrics leaves out a request that has ended. Traefik's record
//! of the same request comes up to a second later, and must not take it out again. So requests have numbers, in the order in which
//! they were sent, and each page divides them (`told_from`):
//!
//! ```text
//! sent:   0 1 2 3 4 5 6 │ 7 8 9 ▶
//!         in the page,  │ perhaps not in the page: they were on their way, or sent
//!         unless ended  │ while it was made. Each counts until its end is told.
//! ```
//!
//! The count is what the page says, and those from `told_from` on whose end was not told. When the end of a request is told
//! ([`RequestCount::finished`]):
//!
//! - From `told_from` on, it is taken out.
//! - An older one is taken out only if it has surely ended after the page: by how long it has lasted ([`READ_OUT`]). Otherwise the page
//!   has left it out, or the next one will.
//!
//! So the count is never too low where the page is true, and too high until the next page at most. Where no page comes for a while,
//! [`RequestCount::silent`] and [`RequestCount::halve`] bring it down.
//!
//! # No lock
//!
//! A page's count, and the number of those that are taken out, are in one atomic with the number of the page. So the end of a request is
//! never subtracted from another page than the one by which it was judged.

use std::{
    iter,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

/// A request reaches its server within this time. One that was sent within it, or twice as much, before a page was asked for may be
/// missing in that.
const ON_ITS_WAY: Duration = Duration::from_millis(64);

/// Traefik tells the end of a request once its client has read the answer. The server may have ended it so much earlier.
const READ_OUT: Duration = Duration::from_secs(1);

/// For how many spans of [`ON_ITS_WAY`] it is known which requests were sent in them: 8 s. Pages are given up after 3 s.
const SPANS: usize = 128;

/// The page's number, its count, and the number of the first request that counts besides, all in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ToldCount {
    /// Distinguishes it from those before it.
    page: u16,
    /// Requests that the page says are under way, less those that have ended since.
    requests: u32,
    /// `told_from`, and one more for each request from there on whose end was told, modulo 2³².
    gone: u32,
}

impl ToldCount {
    const PAGE_BITS: u32 = 12;
    const REQUEST_BITS: u32 = 20;
    const MOST: u32 = (1 << Self::REQUEST_BITS) - 1;

    fn unpack(bits: u64) -> Self {
        Self {
            page: (bits >> (32 + Self::REQUEST_BITS)) as u16,
            requests: (bits >> 32) as u32 & Self::MOST,
            gone: bits as u32,
        }
    }

    fn pack(self) -> u64 {
        let page = u64::from(self.page) & ((1 << Self::PAGE_BITS) - 1);
        page << (32 + Self::REQUEST_BITS)
            | u64::from(self.requests.min(Self::MOST)) << 32
            | u64::from(self.gone)
    }

    fn next(self, requests: u32, gone: u32) -> Self {
        Self { page: self.page.wrapping_add(1), requests, gone }
    }
}

/// A request that was sent to a server, as its end is told ([`Server::finished`](crate::Server::finished)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentRequest {
    number: u64,
    /// When it was sent, in µs.
    at: u64,
}

impl SentRequest {
    /// How many were sent to the same server before it.
    pub fn number(self) -> u64 {
        self.number
    }
}

/// Counts the requests that are under way at one server.
#[derive(Debug)]
pub(crate) struct RequestCount {
    sent: AtomicU64,
    told: AtomicU64,
    /// The first request that the latest page may lack.
    told_from: AtomicU64,
    /// When that page had come, in µs; 0: there was none.
    told_at: AtomicU64,
    /// When it was asked for, in µs.
    asked_at: AtomicU64,
    /// How many requests were sent from `told_from` on until it had come: they may count twice.
    twice: AtomicU32,
    /// All requests whose end was told, or is told by nobody, modulo 2³².
    ended: AtomicU32,
    /// For the latest spans of time, each at its number modulo [`SPANS`]: the number of the span, and the complement of the number of the
    /// first request that was sent in it, modulo 2³². So of two entries the greater one holds.
    spans: Box<[AtomicU64]>,
}

impl RequestCount {
    pub(crate) fn new() -> Self {
        Self {
            sent: AtomicU64::new(0),
            told: AtomicU64::new(0),
            told_from: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            twice: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            spans: iter::repeat_with(AtomicU64::default).take(SPANS).collect(),
        }
    }

    /// The memory besides its own, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.spans.len() * size_of::<AtomicU64>()
    }

    /// All requests that were ever sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// A request is sent now.
    pub(crate) fn send(&self, now: Duration) -> SentRequest {
        let span = span_of(now);
        // Before it has its number, which is this one or a later one: so whoever reads the numbers first finds the span, too.
        let first = self.sent.load(Relaxed) as u32;
        self.spans[span as usize % SPANS].fetch_max(u64::from(span) << 32 | u64::from(!first), AcqRel);
        SentRequest { number: self.sent.fetch_add(1, AcqRel), at: micros(now) }
    }

    /// The number of requests under way: the most that it can be, where what the server has told is true.
    pub(crate) fn most(&self) -> u32 {
        let told = ToldCount::unpack(self.told.load(Acquire));
        let own = (self.sent.load(Acquire) as u32).wrapping_sub(told.gone);
        told.requests + not_below_zero(own)
    }

    /// The number of requests under way, as it probably is: what was on its way when the server told is counted once.
    pub(crate) fn likely(&self) -> u32 {
        self.most().saturating_sub(self.twice.load(Relaxed))
    }

    /// The end of a request was told. It has lasted for so long at least since it was sent; zero if nobody knows.
    pub(crate) fn finished(&self, request: SentRequest, lasted: Duration) {
        let ended_at = request.at.saturating_add(micros(lasted));
        let mut before = self.told.load(Acquire);
        loop {
            let told = ToldCount::unpack(before);
            // Both may be those of a page that is being entered: then this is overwritten, and counts too many until the next page.
            let after = if request.number >= self.told_from.load(Acquire) {
                ToldCount { gone: told.gone.wrapping_add(1), ..told }
            } else if ended_at >= self.surely_told_by() {
                ToldCount { requests: told.requests.saturating_sub(1), ..told }
            } else {
                break;
            };
            match self.told.compare_exchange_weak(before, after.pack(), AcqRel, Acquire) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        // After the count: between the two it may look older than it is, and so count a moment longer.
        self.ended.fetch_add(1, Release);
    }

    /// What has ended at this moment or later was still under way when the server told last, in µs.
    fn surely_told_by(&self) -> u64 {
        match self.told_at.load(Acquire) {
            0 => 0,
            told_at => told_at.saturating_add(micros(READ_OUT)),
        }
    }

    /// Nobody tells the end of a request. If the server tells how many are under way, that is known without it.
    pub(crate) fn given_up(&self, request: SentRequest) {
        if self.told_at.load(Acquire) == 0 {
            self.finished(request, Duration::ZERO);
        } else {
            self.ended.fetch_add(1, Release);
        }
    }

    /// The server has told how many are under way, on a page that was asked for at `asked` and has come at `now`. Returns whether it
    /// counts: not if a page that was asked for later has come before, or if it took too long.
    pub(crate) fn told(&self, requests: u32, asked: Duration, now: Duration) -> bool {
        let from = span_of(asked.saturating_sub(ON_ITS_WAY));
        let is_late = span_of(now).saturating_sub(from) >= SPANS as u32;
        if is_late || micros(asked) < self.asked_at.load(Relaxed) {
            return false;
        }
        self.asked_at.store(micros(asked), Relaxed);
        let sent = self.sent.load(Acquire);
        let besides = self.sent_since(sent as u32, from);
        self.told_at.store(micros(now).max(1), Release);
        self.enter(requests, sent - u64::from(besides), besides);
        true
    }

    /// Nothing was heard of the server for a while, and nobody tells when its requests end: half of them are taken to have ended.
    pub(crate) fn halve(&self) {
        let half = self.likely() / 2;
        self.enter(half, self.sent.load(Acquire), 0);
    }

    fn enter(&self, requests: u32, told_from: u64, twice: u32) {
        self.twice.store(twice, Relaxed);
        self.told_from.store(told_from, Release);
        // Last, so that whoever sees it sees by what it is judged, or something newer.
        let told = ToldCount::unpack(self.told.load(Acquire));
        self.told.store(told.next(requests, told_from as u32).pack(), Release);
    }

    /// Nothing was heard of the server for a while, but ends of requests are told. So those of its own words that were not sent from here
    /// are forgotten, half of them each time, and so are requests whose end nobody will tell.
    pub(crate) fn silent(&self) {
        let forget = |bits| {
            let told = ToldCount::unpack(bits);
            // Those before `told_from` that are still open, less those from there on that were given up.
            let open = told.gone.wrapping_sub(self.ended.load(Acquire)).cast_signed();
            let (requests, gone) = match u32::try_from(open) {
                Ok(open) => (open.clamp(told.requests / 2, told.requests), told.gone),
                Err(_) => (told.requests / 2, told.gone.wrapping_add(open.unsigned_abs())),
            };
            Some(told.next(requests, gone).pack())
        };
        let _ = self.told.fetch_update(AcqRel, Acquire, forget);
    }

    /// How many of the first `sent` requests were sent in this span of time or after it.
    fn sent_since(&self, sent: u32, span: u32) -> u32 {
        let entries = self.spans.iter().map(|entry| entry.load(Acquire));
        let firsts = entries.filter(|entry| (entry >> 32) as u32 >= span).map(|entry| !(entry as u32));
        firsts.map(|first| not_below_zero(sent.wrapping_sub(first))).max().unwrap_or(0)
    }

    /// When the server has told last, in µs; 0: never.
    pub(crate) fn told_at(&self) -> u64 {
        self.told_at.load(Relaxed)
    }
}

/// In which span of time a moment is; the first is 1, so that an entry of 0 is none. They last for eight years.
pub(crate) fn span_of(time: Duration) -> u32 {
    (micros(time) / micros(ON_ITS_WAY)) as u32 + 1
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A difference modulo 2³².
fn not_below_zero(difference: u32) -> u32 {
    difference.cast_signed().max(0).cast_unsigned()
}
