//! How many requests or tokens are allowed, and how fast.

use std::{fmt, num::NonZeroU32, sync::Arc};

use crate::{KeyDigest, Quota};

/// A number of requests or tokens in some time, of which some may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    amount: NonZeroU32,
    burst: NonZeroU32,
    per: Per,
    unit: Unit,
}

/// In how much time.
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
    /// Tokens, as [estimated](crate::estimate) when a request is let pass.
    Tokens,
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
}

/// Limits that hold together: a request passes all of them, or none is debited. Clones share them: of 100,000 keys most
/// have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Limits(Option<Arc<AtLeastOne>>);

/// At least one limit.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AtLeastOne {
    rates: Vec<Rate>,
    quotas: Vec<Quota>,
}

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It recovers all the time.
    Rate(Rate),
    /// It begins anew with each day or month.
    Quota(Quota),
}

/// Who owns keys: a person, a team, a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// What people call it; unique.
    pub name: String,
    /// Its limits over all its keys and models.
    pub limits: Limits,
    /// Its limits for each model on its own, over all its keys.
    pub limits_per_model: Limits,
    /// Its keys are refused.
    pub disabled: bool,
    /// Stands for it where what was taken is kept.
    pub(crate) id: u128,
}

impl Rate {
    /// The most that either number can be: a million requests a second.
    pub const MAX: u32 = 60_000_000;

    /// An amount in some time; without a burst, that much may come at once.
    ///
    /// # Errors
    /// If either number is 0 or larger than [`Self::MAX`].
    pub fn new(amount: u32, unit: Unit, per: Per, burst: Option<u32>) -> Result<Self, InvalidRate> {
        let checked = |number: u32| NonZeroU32::new(number).filter(|number| number.get() <= Self::MAX);
        let given = amount;
        let amount = checked(amount).ok_or(InvalidRate::Amount(given))?;
        let burst = match burst {
            Some(burst) => checked(burst).ok_or(InvalidRate::Burst(burst))?,
            None => amount,
        };
        Ok(Self { amount, burst, per, unit })
    }

    /// A number of requests a minute; without a burst, that many may come at once.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn per_minute(requests: u32, burst: Option<u32>) -> Result<Self, InvalidRate> {
        Self::new(requests, Unit::Requests, Per::Minute, burst)
    }

    /// How many in the time of [`Self::per`].
    pub fn amount(&self) -> u32 {
        self.amount.get()
    }

    /// How many may come at once after a pause.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// In how much time.
    pub fn per(&self) -> Per {
        self.per
    }

    /// What is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The part of it that one of several Modelgates enforces on its own; at least one.
    #[must_use]
    pub fn shared_by(self, replicas: NonZeroU32) -> Self {
        let part = |whole: NonZeroU32| NonZeroU32::new(whole.get() / replicas).unwrap_or(NonZeroU32::MIN);
        Self { amount: part(self.amount), burst: part(self.burst), ..self }
    }

    /// The time that one request or token uses up, in nanoseconds. Rounded up: never more than the rate.
    pub(crate) fn interval(&self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        let time = match self.per {
            Per::Second => SECOND,
            Per::Minute => 60 * SECOND,
            Per::Hour => 3600 * SECOND,
        };
        time.div_ceil(u64::from(self.amount.get()))
    }

    /// The time that a full burst uses up, in nanoseconds; more than 584 years count as that.
    pub(crate) fn burst_time(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.burst.get()))
    }

    /// Tells limits of one subject apart.
    pub(crate) fn window(&self) -> u8 {
        self.per as u8 * 2 + self.unit as u8
    }
}

impl Limits {
    /// Puts limits together; of two for the same unit and time the first counts.
    pub fn new(mut rates: Vec<Rate>, mut quotas: Vec<Quota>) -> Self {
        let mut seen = Vec::new();
        let mut is_new = |window: u8| {
            !seen.contains(&window) && {
                seen.push(window);
                true
            }
        };
        rates.retain(|rate| is_new(rate.window()));
        quotas.retain(|quota| is_new(quota.window()));
        let is_empty = rates.is_empty() && quotas.is_empty();
        Self((!is_empty).then(|| Arc::new(AtLeastOne { rates, quotas })))
    }

    /// Those that recover all the time.
    pub fn rates(&self) -> &[Rate] {
        self.0.as_ref().map_or(&[], |limits| &limits.rates)
    }

    /// Those that begin anew with each day or month.
    pub fn quotas(&self) -> &[Quota] {
        self.0.as_ref().map_or(&[], |limits| &limits.quotas)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl From<Rate> for Limits {
    fn from(rate: Rate) -> Self {
        Self::new(vec![rate], Vec::new())
    }
}

impl From<Quota> for Limits {
    fn from(quota: Quota) -> Self {
        Self::new(Vec::new(), vec![quota])
    }
}

impl Limit {
    /// What is counted.
    pub fn unit(&self) -> Unit {
        match self {
            Self::Rate(rate) => rate.unit(),
            Self::Quota(quota) => quota.unit(),
        }
    }

    /// How many in its time.
    pub fn amount(&self) -> u64 {
        match self {
            Self::Rate(rate) => rate.amount().into(),
            Self::Quota(quota) => quota.amount(),
        }
    }

    /// How many pass at once if nothing has been used.
    pub fn at_once(&self) -> u64 {
        match self {
            Self::Rate(rate) => rate.burst().into(),
            Self::Quota(quota) => quota.amount(),
        }
    }
}

impl From<Rate> for Limit {
    fn from(rate: Rate) -> Self {
        Self::Rate(rate)
    }
}

impl From<Quota> for Limit {
    fn from(quota: Quota) -> Self {
        Self::Quota(quota)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => rate.fmt(f),
            Self::Quota(quota) => quota.fmt(f),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}

impl Consumer {
    /// A consumer without limits.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let id = KeyDigest::of(&format!("consumer\n{name}")).prefix();
        Self { name, limits: Limits::default(), limits_per_model: Limits::default(), disabled: false, id }
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

    #[test]
    fn of_two_limits_for_the_same_time_the_first_counts() {
        let of = |amount| Rate::per_minute(amount, None).expect("a rate");
        let tokens = Rate::new(5, Unit::Tokens, Per::Minute, None).expect("a rate");
        assert_eq!(Limits::new(vec![of(1), tokens, of(2)], Vec::new()).rates(), [of(1), tokens]);
    }
}
