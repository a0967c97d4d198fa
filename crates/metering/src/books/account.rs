//! One server's account: the requests since its last balance, and how they are balanced with what it has counted.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::{
    BookRow, Counters, Hour, Terms, UsageCorrection,
    counters::{Counted, Since},
    share,
    teach::LastFactors,
};
use crate::{
    Calibration, Ending, RequestId, RequestSettlement, RequestShape, ReservedTokens, UsageKind, UsedTokens,
};

/// The number of requests between two balances. A server that is never idle is balanced after so many; what it works on at that
/// moment is then counted on one side only, and evens out with the next balance.
pub(super) const MOST_LINES: usize = 4_096;
/// The number of hours that are kept for each.
pub(super) const MOST_HOURS: usize = 48;

/// One server's.
#[derive(Debug)]
pub(super) struct ServerAccount<W> {
    counted: Counted,
    /// Requests since the last balance.
    lines: Vec<BookLine<W>>,
    /// What was counted since then.
    since: Counters,
    /// Tokens of requests since then that are not among the lines.
    beyond: Counters,
    /// All that the server has counted since then is known: it did not start again.
    is_counted: bool,
    /// Besides, it was idle at the last balance, and all requests since then are among the lines.
    is_whole: bool,
    hours: BTreeMap<Hour, BookRow>,
    factors: LastFactors,
}

/// A settled request.
#[derive(Debug)]
pub(super) struct BookLine<W> {
    request: RequestId,
    whose: W,
    pub(super) model: Arc<str>,
    pub(super) shape: RequestShape,
    pub(super) reserved: ReservedTokens,
    pub(super) kind: UsageKind,
    pub(super) ending: Ending,
    pub(super) used: UsedTokens,
    pub(super) answer_bytes: Option<u64>,
}

impl<W> Default for ServerAccount<W> {
    fn default() -> Self {
        Self {
            counted: Counted::default(),
            lines: Vec::new(),
            since: Counters::default(),
            beyond: Counters::default(),
            is_counted: false,
            is_whole: false,
            hours: BTreeMap::new(),
            factors: LastFactors::default(),
        }
    }
}

impl<W> BookLine<W> {
    fn of<T>(whose: W, settlement: &RequestSettlement<T>) -> Self {
        Self {
            request: settlement.request,
            whose,
            model: Arc::clone(&settlement.model),
            shape: settlement.shape,
            reserved: settlement.reserved,
            kind: settlement.kind,
            ending: settlement.ending,
            used: settlement.used,
            answer_bytes: settlement.answer_bytes,
        }
    }

    /// Only what nobody knows exactly is corrected. A refusal has used nothing.
    pub(super) fn is_correctable(&self) -> bool {
        self.kind != UsageKind::Exact && self.ending != Ending::Refused
    }
}

impl<W: Clone> ServerAccount<W> {
    pub(super) fn rows(&self) -> impl Iterator<Item = (Hour, &BookRow)> {
        self.hours.iter().map(|(hour, row)| (*hour, row))
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn settled<T>(&mut self, whose: W, settlement: &RequestSettlement<T>, now: SystemTime) {
        let line = BookLine::of(whose, settlement);
        self.hour(now).add(line.used, 1);
        if self.lines.len() < MOST_LINES {
            self.lines.push(line);
        } else {
            self.beyond.add(Counters { prompt: line.used.prompt, completion: line.used.completion });
            self.is_whole = false;
        }
    }

    pub(super) fn read(
        &mut self,
        counters: Counters,
        terms: Terms,
        is_idle: bool,
        calibration: &mut Calibration,
        now: SystemTime,
    ) -> Vec<UsageCorrection<W>> {
        let since = self.counted.since_last(counters);
        if let Since::Last(more) | Since::Restart(more) = since {
            self.since.add(more);
            let row = self.hour(now);
            row.counted.add(more);
            row.leaves_out_cached = terms.leaves_out_cached;
        }
        self.is_counted &= matches!(since, Since::Last(_));
        if !is_idle && since != Since::Unknown && self.lines.len() < MOST_LINES {
            return Vec::new();
        }
        if is_idle && self.is_counted && self.is_whole {
            self.factors.teach(&self.lines, self.since, terms, calibration);
        }
        let is_correct = terms.exclusive && self.is_counted;
        let corrections = if is_correct { self.correct(terms, now) } else { Vec::new() };
        self.begin(is_idle);
        corrections
    }

    fn hour(&mut self, now: SystemTime) -> &mut BookRow {
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
        self.is_counted = true;
        self.is_whole = is_idle;
    }

    fn correct(&mut self, terms: Terms, now: SystemTime) -> Vec<UsageCorrection<W>> {
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
        let most =
            |(line, completion): (&&BookLine<W>, &u64)| (line.used.prompt, line.most_prompt(*completion));
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

impl<W: Clone> BookLine<W> {
    /// What was measured may already be more than what was reserved, if the request left its length open.
    fn most_completion(&self) -> u64 {
        u64::from(self.reserved.completion).max(self.used.completion)
    }

    fn most_prompt(&self, completion: u64) -> u64 {
        self.reserved.total().saturating_sub(completion).max(self.used.prompt)
    }

    /// A counter that leaves cached tokens out and says less than the prompt has: the rest was cached.
    fn change(&self, computed: u64, completion: u64, terms: Terms) -> UsageCorrection<W> {
        let before = self.used;
        let (prompt, cached) = match terms.leaves_out_cached && computed < before.prompt {
            true => (before.prompt, before.prompt - computed),
            false => (computed, before.cached.unwrap_or(0).min(computed)),
        };
        UsageCorrection {
            request: self.request,
            whose: self.whose.clone(),
            prompt: difference(prompt, before.prompt),
            cached: difference(cached, before.cached.unwrap_or(0)),
            completion: difference(completion, before.completion),
        }
    }
}

impl<W> UsageCorrection<W> {
    fn is_empty(&self) -> bool {
        (self.prompt, self.cached, self.completion) == (0, 0, 0)
    }
}

impl BookRow {
    fn correct<W>(&mut self, change: &UsageCorrection<W>) {
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
