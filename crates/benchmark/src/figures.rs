//! The results: medians of rates and costs, and ratios within a turn, each with an interval.

use std::fmt::Write as _;

use crate::work::{Case, Turn};

/// All turns of one case.
pub(crate) struct Figures {
    case: Case,
    contenders: Vec<(&'static str, Vec<Turn>)>,
}

impl Figures {
    pub(crate) fn new(case: &Case, names: impl Iterator<Item = &'static str>) -> Self {
        Self { case: *case, contenders: names.map(|name| (name, Vec::new())).collect() }
    }

    pub(crate) fn add(&mut self, contender: usize, turn: Turn) {
        self.contenders[contender].1.push(turn);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.case.bytes
    }

    pub(crate) fn connections(&self) -> u32 {
        self.case.connections
    }

    /// Each contender's requests per second as a share of those of Traefik alone, which is the first contender.
    pub(crate) fn of_traefik_alone(&self) -> impl Iterator<Item = (&'static str, Interval)> {
        (0..self.contenders.len()).map(|number| (self.contenders[number].0, self.ratio(number, 0)))
    }

    fn ratio(&self, ours: usize, theirs: usize) -> Interval {
        let pairs = self.contenders[ours].1.iter().zip(&self.contenders[theirs].1);
        Interval::of(pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second))
    }

    fn of_one(&self, number: usize, figure: fn(&Turn) -> f64) -> f64 {
        Interval::of(self.contenders[number].1.iter().map(figure)).median
    }

    /// The rows of a Markdown table, to follow [`head`].
    pub(crate) fn rows(&self) -> String {
        let baseline = self.contenders.iter().position(|(name, _)| *name == "nothing");
        let mut rows = String::new();
        for (number, (name, _)) in self.contenders.iter().enumerate() {
            let of_baseline =
                baseline.map_or_else(String::new, |baseline| self.ratio(number, baseline).to_string());
            let _ = writeln!(
                rows,
                "| {} | {} | {name} | {:.0} | {} | {of_baseline} | {:.0} | {:.1} |",
                self.case.bytes,
                self.case.connections,
                self.of_one(number, |turn| turn.per_second),
                self.ratio(number, 0),
                self.of_one(number, |turn| turn.cpu),
                self.of_one(number, |turn| turn.p99),
            );
        }
        rows.truncate(rows.trim_end().len());
        rows
    }
}

/// The first two lines of the table.
pub(crate) fn head(what: &str) -> String {
    format!(
        "| bytes | connections | contender | {what}/s | of Traefik alone | of the one that decides nothing | CPU, µs | p99, ms |\n\
         |---|---|---|---|---|---|---|---|"
    )
}

/// A median with its 95 % confidence interval; with fewer than six values, the interval is their range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |number: usize| values.get(number).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) && middle > 0 {
            (at(middle - 1) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        let left_out = left_out(values.len());
        Self { median, low: at(left_out), high: at(values.len().saturating_sub(1 + left_out)) }
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({:.3}–{:.3})", self.median, self.low, self.high)
    }
}

/// How many values can be left out at each end so that the rest contains the median with 95 %: each value is above or below the
/// median with equal probability (<https://en.wikipedia.org/wiki/Sign_test>).
fn left_out(values: usize) -> usize {
    let (mut outside, mut ways) = (0.0, 0.5_f64.powi(i32::try_from(values).unwrap_or(i32::MAX)));
    let mut left_out: usize = 0;
    for below in 0..values {
        outside += 2.0 * ways;
        if outside > 0.05 {
            break;
        }
        left_out = below + 1;
        ways *= (values - below) as f64 / (below + 1) as f64;
    }
    left_out.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_leaves_out_what_a_coin_would_rarely_show() {
        // From a table of the sign test at 5 %: none of 6 values, one at each end of 9, five of 20.
        assert_eq!([3, 5, 6, 9, 12, 20].map(left_out), [0, 0, 0, 1, 2, 5]);
        let values = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0];
        assert_eq!(Interval::of(values.into_iter()), Interval { median: 5.0, low: 2.0, high: 8.0 });
        assert_eq!(Interval::of([1.0, 4.0].into_iter()).to_string(), "2.500 (1.000–4.000)");
    }
}
