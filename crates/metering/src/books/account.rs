//! One server's account: the requests since its last balance, and how they are balanced with what it has counted.

use std::{collections::BTreeMap, mem, time::SystemTime};

use super::{
    Balance, BookRow, Counters, Hour, Terms,
    counters::{Counted, Since},
    line::{self, BookLine},
    teach::LastFactors,
};
use crate::{Calibration, RequestSettlement};

/// The number of requests that are kept until a balance. A server that is never idle is balanced at the first reading after
/// half of them; what it works on at that moment is then counted on one side only, and evens out with the next balance.
pub(super) const MOST_LINES: usize = 4_096;
/// With this number of requests, what a busy server works on at the moment of a balance makes little difference. An exclusive
/// server is balanced as soon as they are there.
const ENOUGH_LINES: usize = 512;
/// The number of hours that are kept for each.
pub(super) const MOST_HOURS: usize = 48;

/// One server's. It is made at the first reading.
#[derive(Debug)]
pub(super) struct ServerAccount<W> {
    counted: Counted,
    terms: Terms,
    /// Requests since the last balance.
    lines: Vec<BookLine<W>>,
    /// The sums since then.
    since: BookRow,
    /// The hour of the last balance.
    began: Hour,
    /// It was idle then.
    began_idle: bool,
    /// All that the server has counted since then is known, because it did not start again; and all requests are among the lines.
    is_whole: bool,
    hours: BTreeMap<Hour, BookRow>,
    factors: LastFactors,
}

impl<W> ServerAccount<W> {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            counted: Counted::default(),
            terms,
            lines: Vec::new(),
            since: BookRow::default(),
            began: Hour(0),
            began_idle: false,
            is_whole: false,
            hours: BTreeMap::new(),
            factors: LastFactors::default(),
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (Hour, &BookRow)> {
        self.hours.iter().map(|(hour, row)| (*hour, row))
    }

    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// `has_room`: one more line may be kept.
    pub(super) fn settled(&mut self, settlement: RequestSettlement<W>, has_room: bool) {
        let line = BookLine::of(settlement);
        self.since.settled.add(line.as_counted(self.terms));
        self.since.requests += 1;
        if has_room && self.lines.len() < MOST_LINES {
            self.lines.push(line);
        } else {
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
    ) -> Option<Balance<W>> {
        self.terms = terms;
        let hour = Hour::of(now);
        match self.counted.since_last(counters) {
            Since::Unknown => {
                // Of what was settled before, it is not known what the server has counted.
                self.begin(is_idle, hour);
                return None;
            }
            Since::Last(more) => self.since.counted.add(more),
            Since::Restart(more) => {
                self.since.counted.add(more);
                self.since.restarts += 1;
                self.is_whole = false;
            }
        }
        let enough = if terms.exclusive { ENOUGH_LINES } else { MOST_LINES / 2 };
        let is_due = is_idle || hour != self.began || self.lines.len() >= enough;
        is_due.then(|| self.balance(is_idle, calibration, hour))
    }

    /// A request that it may have worked on is not among the lines.
    pub(super) fn misses_one(&mut self) {
        self.is_whole = false;
    }

    fn balance(&mut self, is_idle: bool, calibration: &mut Calibration, hour: Hour) -> Balance<W> {
        let (terms, mut row) = (self.terms, self.since);
        let is_exact = is_idle && self.began_idle && self.is_whole;
        if is_exact {
            self.factors.teach(&self.lines, row.counted, terms, calibration);
        }
        let is_corrected = terms.exclusive && (is_exact || self.is_whole && self.lines.len() >= ENOUGH_LINES);
        let began = self.began;
        let mut lines = self.begin(is_idle, hour);
        let mut corrections = Vec::new();
        if is_corrected {
            line::correct(&mut lines, row.counted, terms);
            row.settled = Counters::default();
            lines.iter().for_each(|line| row.settled.add(line.as_counted(terms)));
            corrections = lines.into_iter().filter_map(BookLine::correction).collect();
        }
        self.enter(began, row);
        Balance { row, corrections }
    }

    /// Begins the time until the next balance. Returns the lines of the last one.
    fn begin(&mut self, is_idle: bool, hour: Hour) -> Vec<BookLine<W>> {
        self.since = BookRow::default();
        self.began = hour;
        (self.began_idle, self.is_whole) = (is_idle, true);
        mem::take(&mut self.lines)
    }

    fn enter(&mut self, hour: Hour, row: BookRow) {
        while self.hours.len() >= MOST_HOURS && !self.hours.contains_key(&hour) {
            self.hours.pop_first();
        }
        self.hours.entry(hour).or_default().add(row);
    }
}
