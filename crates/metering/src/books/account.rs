//! One server's account: the requests since its last balance, and how they are balanced with what it has counted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use super::{
    Correction, Counters, Hour, Row, Terms,
    counters::{Counted, Since},
    share,
};
use crate::{Calibration, Call, Kind, Outcome, RequestId, Reserved, Settlement, Used, calibration::real};

/// The number of requests between two balances. A server that is never idle is balanced after so many; what it works on at that
/// moment is then counted on one side only, and evens out with the next balance.
pub(super) const MOST_LINES: usize = 4_096;
/// The number of hours that are kept for each.
pub(super) const MOST_HOURS: usize = 48;
/// The number of balances by which unusual ones are told.
const MOST_FACTORS: usize = 16;

/// One server's.
#[derive(Debug)]
pub(super) struct Account<W> {
    counted: Counted,
    /// Requests since the last balance.
    lines: Vec<Line<W>>,
    /// What was counted since then.
    since: Counters,
    /// Tokens of requests since then that are not among the lines.
    beyond: Counters,
    /// All that the server has counted since then is known: it did not start again.
    is_counted: bool,
    /// Besides, it was idle at the last balance, and all requests since then are among the lines.
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

impl<W> Default for Account<W> {
    fn default() -> Self {
        Self {
            counted: Counted::default(),
            lines: Vec::new(),
            since: Counters::default(),
            beyond: Counters::default(),
            is_counted: false,
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

impl<W: Clone> Account<W> {
    pub(super) fn rows(&self) -> impl Iterator<Item = (Hour, &Row)> {
        self.hours.iter().map(|(hour, row)| (*hour, row))
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn settled<T>(&mut self, whose: W, settlement: &Settlement<T>, now: SystemTime) {
        let line = Line::of(whose, settlement);
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
    ) -> Vec<Correction<W>> {
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
            self.teach(calibration);
        }
        let is_correct = terms.exclusive && self.is_counted;
        let corrections = if is_correct { self.correct(terms, now) } else { Vec::new() };
        self.begin(is_idle);
        corrections
    }

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
        self.is_counted = true;
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
        let factor = real(counted) / real(expected);
        if self.factors.len() >= MOST_FACTORS {
            self.factors.remove(0);
        }
        self.factors.push(factor);
        let mut sorted = self.factors.clone();
        sorted.sort_by(f64::total_cmp);
        factor <= sorted[sorted.len() / 4] * 1.25
    }

    fn correct(&mut self, terms: Terms, now: SystemTime) -> Vec<Correction<W>> {
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
