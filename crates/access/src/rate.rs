//! How many requests are allowed, and how fast.

use std::num::NonZeroU32;

/// A number of requests a minute, of which some may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests_per_minute: NonZeroU32,
    burst: NonZeroU32,
}

/// A rate that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// The number of requests is out of range.
    #[error("requests_per_minute is {0}; it must be from 1 to {max}", max = Rate::MAX)]
    Requests(u32),
    /// The burst is out of range.
    #[error("burst is {0}; it must be from 1 to {max}", max = Rate::MAX)]
    Burst(u32),
}

impl Rate {
    /// The most that either number can be: a million requests a second. It keeps all times within
    /// 64 bits of nanoseconds.
    pub const MAX: u32 = 60_000_000;

    /// A number of requests a minute; without a burst, that many may come at once.
    ///
    /// # Errors
    /// If either number is 0 or larger than [`Self::MAX`].
    pub fn per_minute(requests: u32, burst: Option<u32>) -> Result<Self, InvalidRate> {
        let checked = |number: u32| NonZeroU32::new(number).filter(|number| number.get() <= Self::MAX);
        let requests_per_minute = checked(requests).ok_or(InvalidRate::Requests(requests))?;
        let burst = match burst {
            Some(burst) => checked(burst).ok_or(InvalidRate::Burst(burst))?,
            None => requests_per_minute,
        };
        Ok(Self { requests_per_minute, burst })
    }

    /// The number of requests a minute.
    pub fn requests_per_minute(&self) -> u32 {
        self.requests_per_minute.get()
    }

    /// How many may come at once after a pause.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// The time that one request uses up, in nanoseconds. Rounded up: never more than the rate.
    pub(crate) fn interval(&self) -> u64 {
        const MINUTE: u64 = 60_000_000_000;
        MINUTE.div_ceil(u64::from(self.requests_per_minute.get()))
    }

    /// The time that a full burst uses up, in nanoseconds: at most 60 s × 60,000,000, 114 years.
    pub(crate) fn burst_time(&self) -> u64 {
        self.interval() * u64::from(self.burst.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_a_burst_bursts_a_minute() {
        let rate = Rate::per_minute(60, None).expect("a rate");
        assert_eq!((rate.requests_per_minute(), rate.burst()), (60, 60));
        assert_eq!(rate.interval(), 1_000_000_000);
        assert_eq!(Rate::per_minute(7, Some(2)).expect("a rate").interval(), 8_571_428_572, "rounded up");
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Rate::per_minute(0, None), Err(InvalidRate::Requests(0)));
        assert_eq!(Rate::per_minute(1, Some(0)), Err(InvalidRate::Burst(0)));
        assert_eq!(Rate::per_minute(1, Some(60_000_001)), Err(InvalidRate::Burst(60_000_001)));
        let error = Rate::per_minute(u32::MAX, None).expect_err("too many");
        assert_eq!(error.to_string(), "requests_per_minute is 4294967295; it must be from 1 to 60000000");
    }

    #[test]
    fn the_largest_numbers_fit() {
        let slow = Rate::per_minute(1, Some(Rate::MAX)).expect("a rate");
        assert_eq!(slow.burst_time(), 3_600_000_000_000_000_000);
        assert_eq!(Rate::per_minute(Rate::MAX, None).expect("a rate").interval(), 1_000);
    }
}
