//! Books that balance: what the servers' own counters say, beside what was settled, for each server and hour.
//!
//! ```text
//! RequestSettlement ─ settled() ─▶ lines ┐
//! Counters ─────────── read() ────▶ sums  ┴─ when the server is idle ─▶ BookRow (the difference, named), corrections, calibration
//! ```
//!
//! A server's counters also count what others have asked it for, and the requests that it works on now. So the two are compared
//! over spans of time that begin and end with an idle server. Only where Modelgate is the server's only user
//! ([`Terms::exclusive`]) are receipts that are not exact corrected, so that their sum is what the server has counted; no
//! answer beyond what was reserved for it, and no prompt beyond what then is left, if they were not measured to be longer.

mod account;
mod counters;
mod line;
mod share;
mod teach;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use account::ServerAccount;
pub use counters::{Counters, Terms};

use crate::{Calibration, RequestId, RequestSettlement, UsageKind};

/// The number of servers that have books.
const MOST_SERVERS: usize = 1_024;

/// The number of requests of all servers that wait for a balance; each takes some 300 bytes.
const MOST_LINES_OF_ALL: usize = 65_536;

/// What servers have counted and what was settled. `W` says whose a request is; it comes back in [`UsageCorrection`]s.
#[derive(Debug)]
pub struct Books<W> {
    servers: HashMap<Arc<str>, ServerAccount<W>>,
    /// Of all servers.
    lines: usize,
}

/// Hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub u64);

/// One server and hour, or one balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BookRow {
    /// What the server has counted.
    pub counted: Counters,
    /// What was settled, corrections included, as the server would count it.
    pub settled: Counters,
    /// Requests that were settled.
    pub requests: u64,
    /// How often the server was started again. Each time it loses what it has counted since the last reading.
    pub restarts: u32,
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

/// What came of a balance.
#[derive(Debug)]
pub struct Balance<W> {
    /// Both sides since the last balance.
    pub row: BookRow,
    /// What to add to requests that were settled since then.
    pub corrections: Vec<UsageCorrection<W>>,
}

/// What to add to a request that was settled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageCorrection<W> {
    /// The request.
    pub request: RequestId,
    /// As it was in the settlement.
    pub whose: W,
    /// Its model.
    pub model: Arc<str>,
    /// As what it was settled. Corrected, it is measured.
    pub kind: UsageKind,
    /// The tokens with which it was settled.
    pub settled: u64,
    /// Tokens of the prompt.
    pub prompt: i64,
    /// Of those, cached ones.
    pub cached: i64,
    /// Tokens of the answers.
    pub completion: i64,
}

impl<W> UsageCorrection<W> {
    /// Tokens in all.
    pub fn difference(&self) -> i64 {
        self.prompt.saturating_add(self.completion)
    }
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
        BookDifference::between(self.counted.prompt, self.settled.prompt)
    }

    /// Adds another row to this one.
    pub fn add(&mut self, more: Self) {
        self.counted.add(more.counted);
        self.settled.add(more.settled);
        self.requests += more.requests;
        self.restarts = self.restarts.saturating_add(more.restarts);
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
        Self { servers: HashMap::new(), lines: 0 }
    }
}

impl<W> Books<W> {
    /// Empty books.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a request that this server has worked on. Servers whose counters were never read have no books.
    pub fn settled(&mut self, server: &str, settlement: RequestSettlement<W>) {
        let has_room = self.lines < MOST_LINES_OF_ALL;
        let Some(account) = self.servers.get_mut(server) else { return };
        let before = account.lines();
        account.settled(settlement, has_room);
        self.lines += account.lines() - before;
    }

    /// Nobody has told which server has worked on a request. None of those that may have is corrected at the next balance: what it
    /// has counted for this request would be taken from others.
    pub fn settled_somewhere(&mut self, may_have: impl Fn(&str) -> bool) {
        for (_, account) in self.servers.iter_mut().filter(|(server, _)| may_have(server)) {
            account.misses_one();
        }
    }

    /// Enters what a server's counters say now. `is_idle`: the server works on no request, and no reservation for it is open.
    ///
    /// Where an idle server was idle before, the two sides are balanced: the calibration learns, and of an exclusive server's
    /// requests those that are not exact are corrected. A busy server is balanced after thousands of requests, and each hour.
    pub fn read(
        &mut self,
        server: &Arc<str>,
        counters: Counters,
        terms: Terms,
        is_idle: bool,
        calibration: &mut Calibration,
        now: SystemTime,
    ) -> Option<Balance<W>> {
        if self.servers.len() >= MOST_SERVERS && !self.servers.contains_key(server) {
            return None;
        }
        let account = self.servers.entry(Arc::clone(server)).or_insert_with(|| ServerAccount::new(terms));
        let before = account.lines();
        let balance = account.read(counters, terms, is_idle, calibration, now);
        self.lines -= before - account.lines();
        balance
    }

    /// The rows of a server, oldest first.
    pub fn rows(&self, server: &str) -> impl Iterator<Item = (Hour, &BookRow)> {
        self.servers.get(server).into_iter().flat_map(ServerAccount::rows)
    }

    /// Forgets servers that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.servers.retain(|server, _| is_there(server));
        self.lines = self.servers.values().map(ServerAccount::lines).sum();
    }
}

#[cfg(test)]
mod tests;
