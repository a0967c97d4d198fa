//! The number of requests or tokens allowed in a second, a minute or an hour, and the burst.

use std::{fmt, num::NonZeroU32};

/// A number of requests or tokens per unit of time, with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    amount: NonZeroU32,
    burst: NonZeroU32,
    per: Per,
    unit: Unit,
}

/// The unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Per {
    Second,
    Minute,
    Hour,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Requests, one each.
    Requests,
    /// Tokens, as estimated when a request is admitted.
    Tokens,
    /// What requests cost, in units of 10⁻⁹ of the currency. Only quotas count money.
    Money,
}

/// A rate that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// The amount is out of range.
    #[error("the amount is {0}; it must be from 1 to {max}", max = Rate::MAX)]
    Amount(u32),
    /// The burst is out of range.
    #[error("burst is {0}; it must be from 1 to {max}", max = Rate::MAX)]
    Burst(u32),
    /// Money is spent by the day, week or month, not at a rate.
    #[error("money has no rate; it has a budget")]
    Money,
}

impl Rate {
    /// The largest amount or burst: a million requests a second.
    pub const MAX: u32 = 60_000_000;

    /// An amount per unit of time; without a `burst`, the whole amount may come at once.
    ///
    /// # Errors
    /// If either number is 0 or larger than [`Self::MAX`], or the unit is money.
    pub fn new(amount: u32, unit: Unit, per: Per, burst: Option<u32>) -> Result<Self, InvalidRate> {
        if unit == Unit::Money {
            return Err(InvalidRate::Money);
        }
        let checked = |number: u32| NonZeroU32::new(number).filter(|number| number.get() <= Self::MAX);
        let given = amount;
        let amount = checked(amount).ok_or(InvalidRate::Amount(given))?;
        let burst = match burst {
            Some(burst) => checked(burst).ok_or(InvalidRate::Burst(burst))?,
            None => amount,
        };
        Ok(Self { amount, burst, per, unit })
    }

    /// A number of requests a minute; without a `burst`, all of them may come at once.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn per_minute(requests: u32, burst: Option<u32>) -> Result<Self, InvalidRate> {
        Self::new(requests, Unit::Requests, Per::Minute, burst)
    }

    /// The amount per [`Self::per`].
    pub fn amount(&self) -> u32 {
        self.amount.get()
    }

    /// The amount that may come at once after a pause.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// The unit of time.
    pub fn per(&self) -> Per {
        self.per
    }

    /// What is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The share of it that one replica enforces on its own; at least one.
    #[must_use]
    pub fn shared_by(self, replicas: NonZeroU32) -> Self {
        let part = |whole: NonZeroU32| NonZeroU32::new(whole.get() / replicas).unwrap_or(NonZeroU32::MIN);
        Self { amount: part(self.amount), burst: part(self.burst), ..self }
    }

    /// The time that one request or token uses up, in nanoseconds; rounded up, so that the rate is never exceeded.
    pub(crate) fn interval(&self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        let time = match self.per {
            Per::Second => SECOND,
            Per::Minute => 60 * SECOND,
            Per::Hour => 3600 * SECOND,
        };
        time.div_ceil(u64::from(self.amount.get()))
    }

    /// The time that a full burst uses up, in nanoseconds, capped at 584 years.
    pub(crate) fn burst_time(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.burst.get()))
    }

    /// Distinguishes limits of one subject.
    pub(crate) fn window(&self) -> u8 {
        self.per as u8 * 2 + self.unit as u8
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Money => "money",
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Per::Second => "a second",
            Per::Minute => "a minute",
            Per::Hour => "an hour",
        };
        write!(f, "{} {} {per}", self.amount, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_a_burst_bursts_its_whole_amount() {
        let rate = Rate::per_minute(60, None).expect("a rate");
        assert_eq!((rate.amount(), rate.burst()), (60, 60));
        assert_eq!(rate.interval(), 1_000_000_000);
        assert_eq!(Rate::per_minute(7, Some(2)).expect("a rate").interval(), 8_571_428_572, "rounded up");
        let hourly = Rate::new(10, Unit::Tokens, Per::Hour, None).expect("a rate");
        assert_eq!((hourly.interval(), hourly.to_string().as_str()), (360_000_000_000, "10 tokens an hour"));
    }

    /// A replica on its own enforces its part of the amount and of the burst, and at least one.
    #[test]
    fn a_share_is_a_part_of_both_numbers() {
        let rate = Rate::per_minute(90, Some(5)).expect("a rate");
        for (replicas, amount, burst) in [(1, 90, 5), (2, 45, 2), (9, 10, 1), (100, 1, 1)] {
            let share = rate.shared_by(NonZeroU32::new(replicas).expect("not 0"));
            assert_eq!((share.amount(), share.burst()), (amount, burst), "{replicas}");
            assert_eq!((share.per(), share.unit()), (rate.per(), rate.unit()));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Rate::per_minute(0, None), Err(InvalidRate::Amount(0)));
        assert_eq!(Rate::per_minute(1, Some(0)), Err(InvalidRate::Burst(0)));
        assert_eq!(Rate::per_minute(1, Some(60_000_001)), Err(InvalidRate::Burst(60_000_001)));
        let error = Rate::per_minute(u32::MAX, None).expect_err("too many");
        assert_eq!(error.to_string(), "the amount is 4294967295; it must be from 1 to 60000000");
    }

    #[test]
    fn the_largest_numbers_fit() {
        let slow = Rate::per_minute(1, Some(Rate::MAX)).expect("a rate");
        assert_eq!(slow.burst_time(), 3_600_000_000_000_000_000);
        assert_eq!(Rate::per_minute(Rate::MAX, None).expect("a rate").interval(), 1_000);
        let slowest = Rate::new(1, Unit::Requests, Per::Hour, Some(Rate::MAX)).expect("a rate");
        assert_eq!(slowest.burst_time(), u64::MAX);
    }
}
