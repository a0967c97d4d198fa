//! The number of requests or tokens, or the money, allowed in a calendar day, week or month, or in all.

use std::{fmt, num::NonZeroU64};

use crate::{money::write_money, rate::Unit};

/// A number of requests or tokens, or an amount of money, per calendar period. One of money is called a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    amount: NonZeroU64,
    unit: Unit,
    per: Calendar,
    reserve: Reserve,
}

/// The period of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Calendar {
    Day,
    Month,
    /// It begins on Monday.
    Week,
    /// All time: it never ends.
    Ever,
}

/// What a request takes from a budget until it is known what it has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reserve {
    /// Its estimated cost. Requests that are under way may together cost more than is left.
    #[default]
    Usual,
    /// The most that it can cost, so that the budget is never exceeded.
    Hard,
}

/// An amount that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the amount is {0}; it must be from 1 to {max}", max = Quota::MAX)]
pub struct InvalidQuota(u64);

impl Calendar {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Day, Self::Month, Self::Week, Self::Ever];

    /// Its name: `day`, `week`, `month` or `ever`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Ever => "ever",
        }
    }

    /// How often it begins anew: `a day`, or `in all` if it never does.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Day => "a day",
            Self::Week => "a week",
            Self::Month => "a month",
            Self::Ever => "in all",
        }
    }

    /// Finds a period by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|per| per.name() == name)
    }
}

impl Quota {
    /// The largest quota of requests or tokens: far more than a data centre generates in a month.
    pub const MAX: u64 = 1_000_000_000_000_000;
    /// The largest budget, in units of 10⁻⁹ of the currency.
    pub const MAX_BUDGET: u64 = 1_000_000_000_000_000_000;

    /// An amount for each day or month.
    ///
    /// # Errors
    /// If it is 0 or larger than [`Self::MAX`].
    pub fn new(amount: u64, unit: Unit, per: Calendar) -> Result<Self, InvalidQuota> {
        let most = if unit == Unit::Money { Self::MAX_BUDGET } else { Self::MAX };
        let checked = NonZeroU64::new(amount).filter(|amount| amount.get() <= most);
        let amount = checked.ok_or(InvalidQuota(amount))?;
        Ok(Self { amount, unit, per, reserve: Reserve::Usual })
    }

    /// A budget, in units of 10⁻⁹ of the currency.
    ///
    /// # Errors
    /// If it is 0 or larger than [`Self::MAX_BUDGET`].
    pub fn budget(amount: u64, per: Calendar, reserve: Reserve) -> Result<Self, InvalidQuota> {
        Ok(Self { reserve, ..Self::new(amount, Unit::Money, per)? })
    }

    /// The amount; of a budget in units of 10⁻⁹ of the currency.
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

    /// What a request takes from it until it is known what it has cost, if it is a budget.
    pub fn reserve(&self) -> Option<Reserve> {
        (self.unit == Unit::Money).then_some(self.reserve)
    }

    /// Distinguishes quotas of one subject. A budget that becomes hard keeps its count.
    pub(crate) fn window(&self) -> u8 {
        match self.unit {
            Unit::Requests | Unit::Tokens => 100 + self.per as u8 * 2 + self.unit as u8,
            Unit::Money => BUDGETS + self.per as u8,
        }
    }
}

/// The windows of budgets begin here, and those of what was [added](crate::QuotaId::added) to them, [forgiven](crate::QuotaId::forgiven) and
/// [settled](crate::QuotaId::settled).
pub(crate) const BUDGETS: u8 = 120;
pub(crate) const ADDED: u8 = 130;
pub(crate) const FORGIVEN: u8 = 140;
pub(crate) const SETTLED: u8 = 150;

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = self.per.words();
        match self.unit {
            Unit::Money => write!(f, "{} {per}", write_money(self.amount.get())),
            unit => write!(f, "{} {unit} {per}", self.amount),
        }
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
        let budget = |amount| Quota::budget(amount, Calendar::Ever, Reserve::Hard);
        assert_eq!(budget(Quota::MAX_BUDGET + 1), Err(InvalidQuota(Quota::MAX_BUDGET + 1)));
        assert_eq!(budget(2_500_000_000).map(|budget| budget.to_string()), Ok("2.5 in all".into()));
        assert_eq!(new(5).expect("a quota").reserve(), None);
    }

    /// Operators name the budget that they reset or add to by its period.
    #[test]
    fn periods_are_found_by_their_names() {
        let names = ["day", "month", "week", "ever"];
        assert_eq!(Calendar::ALL.map(Calendar::name), names);
        assert_eq!(names.map(Calendar::find), Calendar::ALL.map(Some));
        assert_eq!(Calendar::find("year"), None);
    }
}
