//! The two figures that the tests and benchmarks report of a set of durations.

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
}
