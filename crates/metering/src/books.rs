//! Books that balance: what the servers' own counters say, beside what was settled, for each server and hour.
//!
//! ```text
//! Settlement ─ settled() ─▶ lines ┐
//! Counters ─── read() ─────▶ sums ┴─ when the server is idle ─▶ Row (the difference, named), Corrections, calibration
//! ```
//!
//! A server's counters also count what others have asked it for, and the requests that it works on now. So the two are compared
//! over spans of time that begin and end with an idle server. Only where Modelgate is the server's only user
//! ([`Terms::exclusive`]) are receipts that are not exact corrected, so that their sum is what the server has counted; never
//! above what was reserved for each.

mod counters;
mod share;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use counters::{Counted, Since};
pub use counters::{Counters, Terms};

use crate::{Calibration, Call, Kind, Outcome, RequestId, Reserved, Settlement, Used};

/// The number of servers that have books.
const MOST_SERVERS: usize = 1_024;
/// The number of hours that are kept for each.
const MOST_HOURS: usize = 48;
/// The number of requests between two balances. A server that is never idle is balanced after so many; what it works on at that
/// moment is then counted on one side only, and evens out with the next balance.
const MOST_LINES: usize = 4_096;
/// The number of balances by which unusual ones are told.
const MOST_FACTORS: usize = 16;

/// What servers have counted and what was settled. `W` says whose a request is; it comes back in [`Correction`]s.
#[derive(Debug)]
pub struct Books<W> {
    servers: HashMap<Arc<str>, Account<W>>,
}

/// One server's.
#[derive(Debug)]
struct Account<W> {
    counted: Counted,
    /// Requests since the last balance.
    lines: Vec<Line<W>>,
    /// What was counted since then.
    since: Counters,
    /// Tokens of requests since then that are not among the lines.
    beyond: Counters,
    /// The server was idle at the last balance, and its counters and all requests since then are known.
    is_whole: bool,
    hours: BTreeMap<Hour, Row>,
    /// Of the last balances, how much more was counted than the defaults make of the bytes.
    factors: Vec<f64>,
}

/// A settled request.
#[derive(Debug)]
struct Line<W> {
    request: RequestId,
    whose: W,
    model: Arc<str>,
    call: Call,
    reserved: Reserved,
    kind: Kind,
    outcome: Outcome,
    used: Used,
    answer_bytes: Option<u64>,
}

/// Hours since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub u64);

/// One server and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
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
pub enum Difference {
    /// They agree to 1 %, or to 16 tokens.
    None,
    /// The server has counted more: it has other users, or worked on what nobody has told.
    NotOurs(u64),
    /// The server has counted less: receipts that were measured or estimated say too much, or its counter was lost.
    Missing(u64),
}

/// What to add to a request that was settled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction<W> {
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

impl Row {
    /// The difference in tokens of answers.
    pub fn completion_difference(&self) -> Difference {
        Difference::between(self.counted.completion, self.settled.completion)
    }

    /// The difference in tokens of prompts.
    pub fn prompt_difference(&self) -> Difference {
        let cached = if self.leaves_out_cached { self.cached } else { 0 };
        Difference::between(self.counted.prompt, self.settled.prompt.saturating_sub(cached))
    }

    fn add(&mut self, used: Used, requests: u64) {
        self.settled.prompt += used.prompt;
        self.settled.completion += used.completion;
        self.cached += used.cached.unwrap_or(0);
        self.requests += requests;
    }
}

impl Difference {
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
    pub fn settled<T>(&mut self, server: &Arc<str>, whose: W, settlement: &Settlement<T>, now: SystemTime) {
        let Some(account) = self.account(server) else { return };
        let line = Line::of(whose, settlement);
        account.hour(now).add(line.used, 1);
        if account.lines.len() < MOST_LINES {
            account.lines.push(line);
        } else {
            account.beyond.add(Counters { prompt: line.used.prompt, completion: line.used.completion });
            account.is_whole = false;
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
    ) -> Vec<Correction<W>> {
        let Some(account) = self.account(server) else { return Vec::new() };
        let since = account.counted.since_last(counters);
        if let Since::Last(more) | Since::Restart(more) = since {
            account.since.add(more);
            let row = account.hour(now);
            row.counted.add(more);
            row.leaves_out_cached = terms.leaves_out_cached;
        }
        account.is_whole &= matches!(since, Since::Last(_));
        if !is_idle && since != Since::Unknown && account.lines.len() < MOST_LINES {
            return Vec::new();
        }
        if is_idle && account.is_whole {
            account.teach(calibration);
        }
        let is_known = matches!(since, Since::Last(_));
        let corrections = if terms.exclusive && is_known { account.correct(terms, now) } else { Vec::new() };
        account.begin(is_idle);
        corrections
    }

    /// All rows: server, hour, and what it says.
    pub fn rows(&self) -> impl Iterator<Item = (&Arc<str>, Hour, &Row)> {
        self.servers
            .iter()
            .flat_map(|(server, account)| account.hours.iter().map(move |(hour, row)| (server, *hour, row)))
    }

    /// Forgets servers that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.servers.retain(|server, _| is_there(server));
    }

    fn account(&mut self, server: &Arc<str>) -> Option<&mut Account<W>> {
        if self.servers.len() >= MOST_SERVERS && !self.servers.contains_key(server) {
            return None;
        }
        Some(self.servers.entry(Arc::clone(server)).or_default())
    }
}

impl<W> Default for Account<W> {
    fn default() -> Self {
        Self {
            counted: Counted::default(),
            lines: Vec::new(),
            since: Counters::default(),
            beyond: Counters::default(),
            is_whole: false,
            hours: BTreeMap::new(),
            factors: Vec::new(),
        }
    }
}

impl<W> Line<W> {
    fn of<T>(whose: W, settlement: &Settlement<T>) -> Self {
        Self {
            request: settlement.request,
            whose,
            model: Arc::clone(&settlement.model),
            call: settlement.call,
            reserved: settlement.reserved,
            kind: settlement.kind,
            outcome: settlement.outcome,
            used: settlement.used,
            answer_bytes: settlement.answer_bytes,
        }
    }

    /// Only what nobody knows exactly is corrected. A refusal has used nothing.
    fn is_correctable(&self) -> bool {
        self.kind != Kind::Exact && self.outcome != Outcome::Refused
    }
}

impl<W> Account<W> {
    fn hour(&mut self, now: SystemTime) -> &mut Row {
        let hour = Hour::of(now);
        while self.hours.len() >= MOST_HOURS && !self.hours.contains_key(&hour) {
            self.hours.pop_first();
        }
        self.hours.entry(hour).or_default()
    }

    /// Begins the time until the next balance.
    fn begin(&mut self, is_idle: bool) {
        self.lines.clear();
        self.since = Counters::default();
        self.beyond = Counters::default();
        self.is_whole = is_idle;
    }

    /// Learns tokens per byte from a balance in which all requests were measured and answered. Other users only make the counters
    /// say more: a balance that says much more than the lower quarter of the last ones is not believed.
    fn teach(&mut self, calibration: &mut Calibration) {
        let is_plain = |line: &Line<W>| {
            line.outcome == Outcome::Refused
                || line.kind == Kind::Measured && line.outcome == Outcome::Finished
        };
        if !self.lines.iter().all(is_plain) {
            return;
        }
        let mut sums: HashMap<(Arc<str>, Call), (u32, u64, u64)> = HashMap::new();
        for line in self.lines.iter().filter(|line| line.is_correctable() && line.reserved.completion > 0) {
            let (requests, bytes, tokens) = sums.entry((Arc::clone(&line.model), line.call)).or_default();
            *requests += 1;
            *bytes += line.answer_bytes.unwrap_or(0);
            *tokens += line.used.completion;
        }
        let defaults = Calibration::default();
        let by_default = |((model, call), (_, bytes, _)): (&(Arc<str>, Call), &(u32, u64, u64))| {
            defaults.completion(model, *call, *bytes)
        };
        let expected: u64 = sums.iter().map(by_default).sum();
        let measured: u64 = sums.values().map(|(_, _, tokens)| tokens).sum();
        if expected == 0 || measured == 0 || !self.is_usual(self.since.completion, expected) {
            return;
        }
        for ((model, call), (requests, bytes, tokens)) in &sums {
            let share = share::part(self.since.completion, *tokens, measured);
            calibration.learn_completion(model, *call, *requests, *bytes, share);
        }
    }

    fn is_usual(&mut self, counted: u64, expected: u64) -> bool {
        let factor = crate::calibration::real(counted) / crate::calibration::real(expected);
        if self.factors.len() >= MOST_FACTORS {
            self.factors.remove(0);
        }
        self.factors.push(factor);
        let mut sorted = self.factors.clone();
        sorted.sort_by(f64::total_cmp);
        factor <= sorted[sorted.len() / 4] * 1.25
    }

    fn correct(&mut self, terms: Terms, now: SystemTime) -> Vec<Correction<W>>
    where
        W: Clone,
    {
        let exact = self.lines.iter().filter(|line| !line.is_correctable());
        let known = exact.fold(self.beyond, |mut sum, line| {
            let cached = if terms.leaves_out_cached { line.used.cached.unwrap_or(0) } else { 0 };
            let prompt = line.used.prompt.saturating_sub(cached);
            sum.add(Counters { prompt, completion: line.used.completion });
            sum
        });
        let lines: Vec<_> = self.lines.iter().filter(|line| line.is_correctable()).collect();
        let completions = share::shared(
            self.since.completion.saturating_sub(known.completion),
            &lines.iter().map(|line| (line.used.completion, line.most_completion())).collect::<Vec<_>>(),
        );
        let most = |(line, completion): (&&Line<W>, &u64)| (line.used.prompt, line.most_prompt(*completion));
        let prompts = share::shared(
            self.since.prompt.saturating_sub(known.prompt),
            &lines.iter().zip(&completions).map(most).collect::<Vec<_>>(),
        );
        let changes = lines.iter().zip(completions.into_iter().zip(prompts));
        let changes: Vec<_> =
            changes.map(|(line, (completion, prompt))| line.change(prompt, completion, terms)).collect();
        for change in &changes {
            self.hour(now).correct(change);
        }
        changes.into_iter().filter(|change| !change.is_empty()).collect()
    }
}

impl<W: Clone> Line<W> {
    /// What was measured may already be more than what was reserved, if the request left its length open.
    fn most_completion(&self) -> u64 {
        u64::from(self.reserved.completion).max(self.used.completion)
    }

    fn most_prompt(&self, completion: u64) -> u64 {
        self.reserved.total().saturating_sub(completion).max(self.used.prompt)
    }

    /// A counter that leaves cached tokens out and says less than the prompt has: the rest was cached.
    fn change(&self, computed: u64, completion: u64, terms: Terms) -> Correction<W> {
        let before = self.used;
        let (prompt, cached) = match terms.leaves_out_cached && computed < before.prompt {
            true => (before.prompt, before.prompt - computed),
            false => (computed, before.cached.unwrap_or(0).min(computed)),
        };
        Correction {
            request: self.request,
            whose: self.whose.clone(),
            prompt: difference(prompt, before.prompt),
            cached: difference(cached, before.cached.unwrap_or(0)),
            completion: difference(completion, before.completion),
        }
    }
}

impl<W> Correction<W> {
    fn is_empty(&self) -> bool {
        (self.prompt, self.cached, self.completion) == (0, 0, 0)
    }
}

impl Row {
    fn correct<W>(&mut self, change: &Correction<W>) {
        let add = |sum: &mut u64, by: i64| *sum = sum.saturating_add_signed(by);
        add(&mut self.settled.prompt, change.prompt);
        add(&mut self.settled.completion, change.completion);
        add(&mut self.cached, change.cached);
    }
}

fn difference(now: u64, before: u64) -> i64 {
    let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    signed(now) - signed(before)
}

#[cfg(test)]
mod tests;
