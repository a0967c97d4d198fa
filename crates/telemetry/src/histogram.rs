//! A log-linear histogram of times: each power of two is divided into 16 equal buckets, so a bucket's width is at most a
//! sixteenth of its value (the idea of <https://hdrhistogram.github.io/HdrHistogram/>).
//!
//! Adding a time is one atomic increment. Readers do not block writers, so one value that they see may be slightly newer than
//! another.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets per power of two, as a power of two.
const FINE: u32 = 4;
/// All times below 2^10 ns, about a microsecond, share one bucket.
const LOWEST: u32 = 10;
/// All times from 2^40 ns on, about 18 minutes, share one bucket. Decisions take 30 s at most, since Traefik then gives up;
/// a first token may take longer.
const HIGHEST: u32 = 40;
/// The number of buckets: one at each end, and the fine ones in between.
pub(crate) const BUCKETS: usize = ((HIGHEST - LOWEST) as usize) * (1 << FINE) + 2;

/// A histogram of times.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
    /// The sum of all times, in nanoseconds.
    nanos: AtomicU64,
}

/// A histogram at some moment, or the difference between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    buckets: Box<[u64]>,
    nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn add(&self, time: Duration) {
        // Times are capped at a day, so that the sum cannot overflow in practice.
        let nanos = u64::try_from(time.min(Duration::from_secs(24 * 3600)).as_nanos()).unwrap_or(u64::MAX);
        // `index` is always in range.
        if let Some(bucket) = self.buckets.get(index(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Latencies {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Latencies { buckets, nanos: self.nanos.load(Ordering::Relaxed) }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), nanos: 0 }
    }
}

impl Latencies {
    /// The number of times.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all times.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// The time that `percent` of 100 of them do not exceed (nearest rank), rounded up to the bucket's border: at most a
    /// sixteenth, or a microsecond, too large. Times of more than 18 minutes are not told apart. `None` if there are none.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        percentile(self.buckets.iter().copied().enumerate(), self.count(), percent)
    }

    /// Cumulative counts, for metrics: how many times are at most each of some rising limits. The last entry counts all, and its
    /// limit is `None`. The limits are powers of two of nanoseconds, from about 33 µs to 4.3 s, because the buckets' borders are
    /// there.
    pub fn up_to(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let up_to = |power: u32| {
            let above = index(1 << power);
            (Some(Duration::from_nanos(1 << power)), self.buckets.iter().take(above).sum())
        };
        (15..=32).map(up_to).chain([(None, self.count())])
    }

    /// The difference from an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| now.saturating_sub(*then));
        Self { buckets: buckets.collect(), nanos: self.nanos.wrapping_sub(earlier.nanos) }
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.buckets.iter_mut().zip(&more.buckets).for_each(|(sum, more)| *sum += more);
        self.nanos = self.nanos.wrapping_add(more.nanos);
    }
}

/// The time that `percent` of 100 do not exceed (nearest rank), rounded up to the border of its bucket. `buckets` are some
/// buckets' indices, rising, and how many times each has; `count` times in all.
pub(crate) fn percentile(
    buckets: impl Iterator<Item = (usize, u64)>,
    count: u64,
    percent: f64,
) -> Option<Duration> {
    let rank = ((percent / 100.0 * count as f64).ceil() as u64).clamp(1, count.max(1));
    let mut below = 0;
    let mut reached = buckets.skip_while(|(_, in_bucket)| {
        below += in_bucket;
        below < rank
    });
    reached.next().map(|(index, _)| Duration::from_nanos(border(index)))
}

/// The bucket of a time, in nanoseconds.
pub(crate) fn index(nanos: u64) -> usize {
    if nanos < 1 << LOWEST {
        return 0;
    }
    let power = nanos.ilog2();
    if power >= HIGHEST {
        return BUCKETS - 1;
    }
    let within = (nanos >> (power - FINE)) & ((1 << FINE) - 1);
    (((power - LOWEST) as usize) << FINE) + within as usize + 1
}

/// The upper border of a bucket (exclusive), in nanoseconds; for the last one, where it begins.
fn border(index: usize) -> u64 {
    let Some(fine) = index.checked_sub(1) else { return 1 << LOWEST };
    if index >= BUCKETS - 1 {
        return 1 << HIGHEST;
    }
    let power = LOWEST + u32::try_from(fine >> FINE).unwrap_or(HIGHEST);
    let within = (fine & ((1 << FINE) - 1)) as u64;
    ((1 << FINE) + within + 1) << (power - FINE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_touch_each_other() {
        for below in 0..BUCKETS - 1 {
            let border = border(below);
            assert_eq!((index(border - 1), index(border)), (below, below + 1), "{border}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_has_no_percentile() {
        assert_eq!(Histogram::default().read().percentile(50.0), None);
    }

    #[test]
    fn the_longest_are_one_bucket() {
        let histogram = Histogram::default();
        histogram.add(Duration::MAX);
        let longest = histogram.read().percentile(99.0).expect("a value");
        assert_eq!(longest.as_secs(), 1_099);
    }

    #[test]
    fn counts_up_to_a_limit() {
        let histogram = Histogram::default();
        for micros in [1, 32, 33, 1_000, 90_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let all = histogram.read();
        let up_to: Vec<_> = all.up_to().collect();
        assert_eq!(up_to.len(), 19);
        assert_eq!(up_to[0], (Some(Duration::from_nanos(1 << 15)), 2));
        assert_eq!(up_to[1].1, 3);
        assert_eq!(up_to[17], (Some(Duration::from_nanos(1 << 32)), 4));
        assert_eq!(up_to[18], (None, 5));
        assert_eq!(all.sum(), Duration::from_micros(90_001_066));
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_values(
            mut nanos in prop::collection::vec(0_u64..1 << HIGHEST, 1..300),
            percent in 0.0..=100.0_f64,
        ) {
            let histogram = Histogram::default();
            nanos.iter().for_each(|n| histogram.add(Duration::from_nanos(*n)));
            nanos.sort_unstable();
            let rank = ((percent / 100.0 * nanos.len() as f64).ceil() as usize).clamp(1, nanos.len());
            let exact = nanos[rank - 1];
            let found = histogram.read().percentile(percent).expect("there are values").as_nanos() as u64;
            prop_assert!(found > exact, "{found} is the border above {exact}");
            prop_assert!(found <= exact + (exact / 16).max(1 << LOWEST), "{found} is too far above {exact}");
        }

        #[test]
        fn what_came_since_is_what_was_added_since(
            before in prop::collection::vec(any::<u32>(), 0..50),
            after in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let (all, only_after) = (Histogram::default(), Histogram::default());
            let time = |nanos: &u32| Duration::from_nanos((*nanos).into());
            before.iter().for_each(|n| all.add(time(n)));
            let then = all.read();
            for nanos in &after {
                all.add(time(nanos));
                only_after.add(time(nanos));
            }
            prop_assert_eq!(all.read().since(&then), only_after.read());
            let mut sum = then;
            sum.add(&only_after.read());
            prop_assert_eq!(sum, all.read());
        }
    }
}
