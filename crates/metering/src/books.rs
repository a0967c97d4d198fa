//! Books that balance: what the servers' own counters say, beside what was settled, for each server and hour.
//!
//! ```text
//! RequestSettlement ─ settled() ─▶ lines ┐
//! Counters ─── read() ─────▶ sums ┴─ when the server is idle ─▶ BookRow (the difference, named), Corrections, calibration
//! ```
//!
//! A server's counters also count what others have asked it for, and the requests that it works on now. So the two are compared
//! over spans of time that begin and end with an idle server. Only where Modelgate is the server's only user
//! ([`Terms::exclusive`]) are receipts that are not exact corrected, so that their sum is what the server has counted; never
//! above what was reserved for each.

mod account;
mod counters;
mod share;
mod teach;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use account::ServerAccount;
pub use counters::{Counters, Terms};

use crate::{Calibration, RequestId, RequestSettlement, UsedTokens};

/// The number of servers that have books.
const MOST_SERVERS: usize = 1_024;

/// What servers have counted and what was settled. `W` says whose a request is; it comes back in [`UsageCorrection`]s.
#[derive(Debug)]
pub struct Books<W> {
    servers: HashMap<Arc<str>, ServerAccount<W>>,
}

/// Hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub u64);

/// One server and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BookRow {
    /// What the server has counted.
    pub counted: Counters,
    /// What was settled, corrections included. `cached` is 0 where nobody has told.
    pub settled: Counters,
    /// Cached tokens of prompts, as settled.
    pub cached: u64,
    /// Requests that were settled.
    pub requests: u64,
    /// The server does not count cached tokens of prompts.
    pub leaves_out_cached: bool,
}

/// What to make of a difference between what was counted and what was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BookDifference {
    /// They agree to 1 %, or to 16 tokens.
    None,
    /// The server has counted more: it has other users, or worked on what nobody has told.
    NotOurs(u64),
    /// The server has counted less: receipts that were measured or estimated say too much, or its counter was lost.
    Missing(u64),
}

/// What to add to a request that was settled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageCorrection<W> {
    /// The request.
    pub request: RequestId,
    /// As it was given to [`Books::settled`].
    pub whose: W,
    /// Tokens of the prompt.
    pub prompt: i64,
    /// Of those, cached ones.
    pub cached: i64,
    /// Tokens of the answers.
    pub completion: i64,
}

impl Hour {
    /// The hour that contains a time.
    pub fn of(time: SystemTime) -> Self {
        Self(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 3_600)
    }

    /// When it begins.
    pub fn start(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0 * 3_600)
    }
}

impl BookRow {
    /// The difference in tokens of answers.
    pub fn completion_difference(&self) -> BookDifference {
        BookDifference::between(self.counted.completion, self.settled.completion)
    }

    /// The difference in tokens of prompts.
    pub fn prompt_difference(&self) -> BookDifference {
        let cached = if self.leaves_out_cached { self.cached } else { 0 };
        BookDifference::between(self.counted.prompt, self.settled.prompt.saturating_sub(cached))
    }

    fn add(&mut self, used: UsedTokens, requests: u64) {
        self.settled.prompt += used.prompt;
        self.settled.completion += used.completion;
        self.cached += used.cached.unwrap_or(0);
        self.requests += requests;
    }
}

impl BookDifference {
    fn between(counted: u64, settled: u64) -> Self {
        let apart = counted.abs_diff(settled);
        match counted > settled {
            _ if apart <= 16 || apart <= counted.max(settled) / 100 => Self::None,
            true => Self::NotOurs(apart),
            false => Self::Missing(apart),
        }
    }
}

impl<W> Default for Books<W> {
    fn default() -> Self {
        Self { servers: HashMap::new() }
    }
}

impl<W: Clone> Books<W> {
    /// Empty books.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a request that was settled for this server.
    pub fn settled<T>(
        &mut self,
        server: &Arc<str>,
        whose: W,
        settlement: &RequestSettlement<T>,
        now: SystemTime,
    ) {
        if let Some(account) = self.account(server) {
            account.settled(whose, settlement, now);
        }
    }

    /// Enters what a server's counters say now. `is_idle`: the server works on no request, and no reservation for it is open.
    /// Where an idle server was idle before, or too much has come together, the two sides are balanced: the corrections are to
    /// be added to the requests' usage, and the calibration learns.
    pub fn read(
        &mut self,
        server: &Arc<str>,
        counters: Counters,
        terms: Terms,
        is_idle: bool,
        calibration: &mut Calibration,
        now: SystemTime,
    ) -> Vec<UsageCorrection<W>> {
        let account = self.account(server);
        account.map_or_else(Vec::new, |account| account.read(counters, terms, is_idle, calibration, now))
    }

    /// All rows: server, hour, and what it says.
    pub fn rows(&self) -> impl Iterator<Item = (&Arc<str>, Hour, &BookRow)> {
        self.servers
            .iter()
            .flat_map(|(server, account)| account.rows().map(move |(hour, row)| (server, hour, row)))
    }

    /// Forgets servers that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.servers.retain(|server, _| is_there(server));
    }

    fn account(&mut self, server: &Arc<str>) -> Option<&mut ServerAccount<W>> {
        if self.servers.len() >= MOST_SERVERS && !self.servers.contains_key(server) {
            return None;
        }
        Some(self.servers.entry(Arc::clone(server)).or_default())
    }
}

#[cfg(test)]
mod tests;
