//! Statistics for the tests and benchmarks.

use std::time::Duration;

/// The value below which `percent` of the values lie (nearest rank), `Duration::ZERO` for no values.
#[must_use]
pub fn percentile(values: &[Duration], percent: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

/// The middle value, [`percentile`] 50.
#[must_use]
pub fn median(values: &[Duration]) -> Duration {
    percentile(values, 50.0)
}

/// The cost of the first of two things as a share of the cost of the second, measured in alternating rounds: above 1 if the
/// second is cheaper; 0 without rounds. Other activity on the machine only adds to a cost, so each cost is estimated as the mean
/// of the cheaper half of its rounds.
#[must_use]
pub fn cost_ratio(rounds: &[[f64; 2]]) -> f64 {
    let cost = |which: usize| {
        let mut costs: Vec<f64> = rounds.iter().map(|round| round[which]).collect();
        costs.sort_by(f64::total_cmp);
        costs.iter().take(costs.len().div_ceil(2)).sum::<f64>()
    };
    if rounds.is_empty() { 0.0 } else { cost(0) / cost(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_rank_of_unsorted_values() {
        let values: Vec<Duration> = [5, 1, 4, 2, 3].map(Duration::from_millis).to_vec();
        assert_eq!(median(&values), Duration::from_millis(3));
        assert_eq!(percentile(&values, 80.0), Duration::from_millis(4));
        assert_eq!(percentile(&values, 100.0), Duration::from_millis(5));
        assert_eq!(percentile(&values, 0.0), Duration::from_millis(1));
        assert_eq!(percentile(&[], 99.0), Duration::ZERO);
    }

    #[test]
    fn what_costs_more_shows_in_spite_of_disturbed_rounds() {
        assert_eq!(cost_ratio(&[]), 0.0);
        // The second costs a quarter more; single rounds of either were disturbed.
        let rounds = [[40.0, 50.0], [80.0, 50.0], [40.0, 90.0], [44.0, 55.0], [40.0, 50.0]];
        assert_eq!(cost_ratio(&rounds), 0.8);
        // Both cost the same, in rounds that vary; both were disturbed equally often, but in different rounds.
        assert_eq!(cost_ratio(&[[39.0, 70.0], [90.0, 41.0], [41.0, 40.0], [60.0, 39.0], [40.0, 80.0]]), 1.0);
    }
}
