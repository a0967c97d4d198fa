//! The number of requests or tokens allowed in a calendar day or month.

use std::{fmt, num::NonZeroU64};

use crate::rate::Unit;

/// A number of requests or tokens per day or month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    amount: NonZeroU64,
    unit: Unit,
    per: Calendar,
}

/// The period of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Calendar {
    Day,
    Month,
}

/// An amount that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amount is {0}; it must be from 1 to {max}", max = Quota::MAX)]
pub struct InvalidQuota(u64);

impl Quota {
    /// The largest quota: far more than a data centre generates in a month.
    pub const MAX: u64 = 1_000_000_000_000_000;

    /// An amount for each day or month.
    ///
    /// # Errors
    /// If it is 0 or larger than [`Self::MAX`].
    pub fn new(amount: u64, unit: Unit, per: Calendar) -> Result<Self, InvalidQuota> {
        let checked = NonZeroU64::new(amount).filter(|amount| amount.get() <= Self::MAX);
        Ok(Self { amount: checked.ok_or(InvalidQuota(amount))?, unit, per })
    }

    /// The amount.
    pub fn amount(&self) -> u64 {
        self.amount.get()
    }

    /// What is counted.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The period.
    pub fn per(&self) -> Calendar {
        self.per
    }

    /// Distinguishes quotas of one subject.
    pub(crate) fn window(&self) -> u8 {
        100 + self.per as u8 * 2 + self.unit as u8
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Calendar::Day => "a day",
            Calendar::Month => "a month",
        };
        write!(f, "{} {} {per}", self.amount, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_checked() {
        let new = |amount| Quota::new(amount, Unit::Tokens, Calendar::Month);
        assert_eq!(new(0), Err(InvalidQuota(0)));
        assert_eq!(new(Quota::MAX + 1), Err(InvalidQuota(Quota::MAX + 1)));
        assert_eq!(new(5).map(|quota| quota.to_string()), Ok("5 tokens a month".into()));
    }
}
