//! The last hour, by the second and by the minute.
//!
//! Writers only ever increment. The collector reads the counters repeatedly, and assigns what was added in between to the second
//! in which it reads. So counters are never reset while others write, and the points always add up to the totals.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{counters::Counts, histogram::Latencies};

/// How many seconds are kept.
pub(crate) const SECONDS: usize = 3600;
/// How many minutes are kept, including the current one.
pub(crate) const MINUTES: usize = 60;
/// The window of the present latency, in seconds.
const LATELY: usize = 60;
/// A clock that is set back by less, in seconds, is waited for.
const STEP: u64 = 2;

/// The decisions in a stretch of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// When it begins.
    pub start: SystemTime,
    /// How much of it has passed, in whole seconds: all of it, except for the current minute. Zero for a time about which nothing
    /// is known, such as before the start of the program.
    pub span: Duration,
    /// Requests that were allowed.
    pub allowed: u64,
    /// Requests that were refused, by reason; those that did not occur are left out.
    pub refused: Vec<(&'static str, u64)>,
    /// The median latency.
    pub p50: Option<Duration>,
    /// The 99th percentile of the latency.
    pub p99: Option<Duration>,
}

impl Point {
    fn unknown(start: u64) -> Self {
        Self {
            start: time(start),
            span: Duration::ZERO,
            allowed: 0,
            refused: Vec::new(),
            p50: None,
            p99: None,
        }
    }

    /// Requests that were refused, for any reason.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }

    /// The rate per second for a count of this point.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.span.is_zero() { 0.0 } else { count as f64 / self.span.as_secs_f64() }
    }
}

/// All counts up to some moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) counts: Counts,
    pub(crate) latencies: Latencies,
}

impl Snapshot {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            counts: self.counts.since(&earlier.counts),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }

    fn add(&mut self, more: &Self) {
        self.counts.add(&more.counts);
        self.latencies.add(&more.latencies);
    }

    fn point(&self, start: u64, seconds: u64) -> Point {
        Point {
            start: time(start),
            span: Duration::from_secs(seconds),
            allowed: self.counts.allowed,
            refused: self.counts.refused(),
            p50: self.latencies.percentile(50.0),
            p99: self.latencies.percentile(99.0),
        }
    }
}

/// Times are seconds and minutes since 1970.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// The counts at the last reading.
    last: Snapshot,
    /// Complete seconds, without gaps.
    seconds: VecDeque<Point>,
    /// Complete minutes, without gaps.
    minutes: VecDeque<Point>,
    /// The latencies of the last complete seconds.
    lately: VecDeque<Latencies>,
    open: Option<Open>,
}

/// The current second and minute.
#[derive(Debug)]
struct Open {
    second: u64,
    in_second: Snapshot,
    /// The counts of the minute's complete seconds.
    in_minute: Snapshot,
    /// How many complete seconds the minute has.
    seconds_of_minute: u64,
}

impl Open {
    fn at(second: u64) -> Self {
        Self { second, in_second: Snapshot::default(), in_minute: Snapshot::default(), seconds_of_minute: 0 }
    }

    fn minute_start(&self) -> u64 {
        self.second - self.second % 60
    }
}

impl Series {
    /// Takes a reading of the counters: what was added since the last one belongs to the second `now`.
    pub(crate) fn read(&mut self, now: SystemTime, all: Snapshot) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let came = all.since(&self.last);
        self.last = all;
        self.go_to(now);
        if let Some(open) = &mut self.open {
            open.in_second.add(&came);
        }
    }

    /// Completes the seconds and minutes before `now`.
    fn go_to(&mut self, now: u64) {
        let Some(open) = &self.open else {
            self.open = Some(Open::at(now));
            return;
        };
        let second = open.second;
        if now + STEP < second || now > second + SECONDS as u64 {
            // The clock was set, or the machine slept: the series starts again.
            *self =
                Self { last: std::mem::take(&mut self.last), open: Some(Open::at(now)), ..Self::default() };
            return;
        }
        for _ in second..now {
            self.close_second();
        }
    }

    fn close_second(&mut self) {
        let Some(open) = &mut self.open else { return };
        let finished = std::mem::take(&mut open.in_second);
        push(&mut self.seconds, SECONDS, finished.point(open.second, 1));
        open.in_minute.add(&finished);
        open.seconds_of_minute += 1;
        push(&mut self.lately, LATELY, finished.latencies);
        let minute = open.minute_start();
        open.second += 1;
        if open.second.is_multiple_of(60) {
            let finished = std::mem::take(&mut open.in_minute);
            let seconds = std::mem::take(&mut open.seconds_of_minute);
            push(&mut self.minutes, MINUTES - 1, finished.point(minute, seconds));
        }
    }

    /// The last `count` complete seconds, oldest first; at most an hour.
    pub(crate) fn seconds(&self, count: usize) -> Vec<Point> {
        let Some(open) = &self.open else { return Vec::new() };
        let count = count.min(SECONDS);
        let missing = count.saturating_sub(self.seconds.len());
        let first = open.second.saturating_sub(count as u64);
        let unknown = (0..missing as u64).map(|i| Point::unknown(first + i));
        let known = self.seconds.iter().skip(self.seconds.len().saturating_sub(count)).cloned();
        unknown.chain(known).collect()
    }

    /// An hour in minutes, oldest first; the last one is the current minute.
    pub(crate) fn minutes(&self) -> Vec<Point> {
        let Some(open) = &self.open else { return Vec::new() };
        let start = open.minute_start();
        let missing = (MINUTES - 1).saturating_sub(self.minutes.len());
        let first = start.saturating_sub(60 * (MINUTES as u64 - 1));
        let unknown = (0..missing as u64).map(|i| Point::unknown(first + 60 * i));
        let under_way = open.in_minute.point(start, open.seconds_of_minute);
        unknown.chain(self.minutes.iter().cloned()).chain([under_way]).collect()
    }

    /// The latencies of about the last minute, including the current second.
    pub(crate) fn lately(&self) -> Latencies {
        let mut sum = Latencies::default();
        let under_way = self.open.iter().map(|open| &open.in_second.latencies);
        self.lately.iter().chain(under_way).for_each(|latencies| sum.add(latencies));
        sum
    }
}

fn push<T>(ring: &mut VecDeque<T>, max: usize, item: T) {
    if ring.len() == max {
        ring.pop_front();
    }
    ring.push_back(item);
}

fn time(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

#[cfg(test)]
mod tests;
