//! Sets of rates and quotas that apply together.

use std::{fmt, sync::Arc};

use crate::{
    quota::Quota,
    rate::{Rate, Unit},
};

/// Limits that apply together: a request passes all of them, or none is debited. Clones share them, since most of 100,000 keys
/// have equal limits.
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
    /// It recovers continuously.
    Rate(Rate),
    /// It starts from zero each day or month.
    Quota(Quota),
}

impl Limits {
    /// Whether there is a budget among them.
    pub fn has_budget(&self) -> bool {
        self.quotas().iter().any(|quota| quota.unit() == Unit::Money)
    }

    /// Combines limits; if two have the same unit and time, the first is used.
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

    /// The rates.
    pub fn rates(&self) -> &[Rate] {
        self.0.as_ref().map_or(&[], |limits| &limits.rates)
    }

    /// The quotas.
    pub fn quotas(&self) -> &[Quota] {
        self.0.as_ref().map_or(&[], |limits| &limits.quotas)
    }

    /// Whether there are no limits.
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

    /// The amount allowed in its time.
    pub fn amount(&self) -> u64 {
        match self {
            Self::Rate(rate) => rate.amount().into(),
            Self::Quota(quota) => quota.amount(),
        }
    }

    /// The amount that passes at once if nothing has been used.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{quota::Calendar, rate::Per};

    #[test]
    fn a_limit_is_a_set_of_one_and_is_told_by_its_amount() {
        let rate = Rate::per_minute(60, Some(5)).expect("a rate");
        let quota = Quota::new(9, Unit::Tokens, Calendar::Day).expect("a quota");
        let (of_rate, of_quota) = (Limits::from(rate), Limits::from(quota));
        assert_eq!((of_rate.rates(), of_rate.quotas()), ([rate].as_slice(), [].as_slice()));
        assert_eq!((of_quota.rates(), of_quota.quotas()), ([].as_slice(), [quota].as_slice()));
        assert!(!of_rate.is_empty() && !of_quota.is_empty() && Limits::default().is_empty());
        let told = |limit: Limit| (limit.amount(), limit.at_once(), limit.unit(), limit.to_string());
        assert_eq!(told(rate.into()), (60, 5, Unit::Requests, "60 requests a minute".to_owned()));
        assert_eq!(told(quota.into()), (9, 9, Unit::Tokens, "9 tokens a day".to_owned()));
    }

    #[test]
    fn of_two_limits_for_the_same_time_the_first_counts() {
        let of = |amount| Rate::per_minute(amount, None).expect("a rate");
        let tokens = Rate::new(5, Unit::Tokens, Per::Minute, None).expect("a rate");
        assert_eq!(Limits::new(vec![of(1), tokens, of(2)], Vec::new()).rates(), [of(1), tokens]);
    }
}
