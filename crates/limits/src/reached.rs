//! A limit that is used up, described for the client that has to wait.

use std::{fmt, num::NonZeroU64, time::Duration};

use crate::{
    limit::Limit,
    money::write_money,
    quota::{Calendar, Quota, Reserve},
    rate::Unit,
};

/// The kind of subject that a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The key's, over all models.
    Key,
    /// The key's, for this one model.
    KeyAndModel,
    /// The consumer's, over all its keys and models.
    Consumer,
    /// The consumer's, for this one model.
    ConsumerAndModel,
    /// The address's, for failed authentication.
    Address,
    /// The model's, over all keys.
    Model,
}

/// A limit that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct LimitReached {
    /// Whose limit it is.
    pub scope: Scope,
    /// The limit.
    pub limit: Limit,
    /// The amount that the request would have taken.
    pub cost: u64,
    /// The amount left, which is less than `cost`.
    pub remaining: u64,
    /// The time until this request would pass; for a quota, until its period ends.
    pub retry_after: Duration,
    /// The time until a full burst passes again; for a quota, until its period ends.
    pub reset_after: Duration,
    /// More about it, if it is a quota.
    pub quota: Option<ReachedQuota>,
}

/// What is known of a quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachedQuota {
    /// The [tag](crate::QuotaId::tag) of its count.
    pub tag: NonZeroU64,
    /// What operators have added to it for its period: of a budget, in units of 10⁻⁹ of the currency.
    pub added: u64,
}

impl LimitReached {
    /// Whether waiting does not help: the request is larger than the burst.
    pub fn never_passes(&self) -> bool {
        // A budget can be added to.
        self.limit.unit() != Unit::Money && self.cost > self.limit.at_once()
    }

    /// Whether it costs more than the whole budget, with what was added to it: to wait does not help, a smaller request may pass.
    pub fn exceeds_budget(&self) -> bool {
        let added = self.quota.map_or(0, |quota| quota.added);
        self.limit.unit() == Unit::Money && self.cost > self.limit.at_once().saturating_add(added)
    }

    /// Whether a client should not simply wait: it would have to wait for hours, or for ever.
    pub fn is_lasting(&self) -> bool {
        self.never_passes() || matches!(self.limit, Limit::Quota(_))
    }

    /// Whether the limit never starts again: a budget in all.
    pub fn never_resets(&self) -> bool {
        matches!(self.limit, Limit::Quota(quota) if quota.per() == Calendar::Ever)
    }

    fn words(&self) -> String {
        self.words_in(None)
    }

    /// What it says, with this currency after each amount of money.
    pub fn words_in(&self, currency: Option<&str>) -> String {
        let Self { limit, scope, cost, remaining, .. } = self;
        if let Limit::Quota(quota) = limit
            && let Some(reserve) = quota.reserve()
        {
            return self.words_of_budget(quota, reserve, currency);
        }
        let what = match limit {
            Limit::Rate(_) => "limit",
            Limit::Quota(_) => "quota",
        };
        match (self.never_passes(), limit.unit()) {
            (true, _) => format!(
                "this request is estimated at {cost} tokens, and no more than {} at once are allowed {scope} ({limit})",
                limit.at_once()
            ),
            (false, Unit::Tokens) => format!(
                "the {what} of {limit} {scope} is used up but for {remaining}; this request is estimated at {cost} tokens"
            ),
            (false, Unit::Requests | Unit::Money) => format!("the {what} of {limit} {scope} is used up"),
        }
    }

    fn words_of_budget(&self, quota: &Quota, reserve: Reserve, currency: Option<&str>) -> String {
        let Self { scope, cost, remaining, .. } = self;
        let money = |amount: u64| match currency {
            Some(currency) => format!("{} {currency}", write_money(amount)),
            None => write_money(amount),
        };
        let added = match self.quota {
            Some(ReachedQuota { added: added @ 1.., .. }) => format!(", and {} added to it,", money(added)),
            _ => String::new(),
        };
        let may = match reserve {
            Reserve::Usual => "is estimated to cost",
            Reserve::Hard => "may cost",
        };
        let more = if self.exceeds_budget() { ", more than the whole budget" } else { "" };
        format!(
            "the budget of {} {}{added} {scope} is spent but for {}; this request {may} {}{more}",
            money(quota.amount()),
            quota.per().words(),
            money(*remaining),
            money(*cost)
        )
    }
}

/// The exhausted limit with the longest wait, after which the request passes. A limit that the request can never pass comes
/// before all others. Among equals the first is returned, as the more specific.
pub(crate) fn longest(reached: impl DoubleEndedIterator<Item = LimitReached>) -> Option<LimitReached> {
    // Among equals, `max_by_key` returns the last one.
    reached.rev().max_by_key(|reached| (reached.never_passes(), reached.retry_after))
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "for this API key",
            Self::KeyAndModel => "for this API key and model",
            Self::Consumer => "for this consumer",
            Self::ConsumerAndModel => "for this consumer and model",
            Self::Address => "of failed attempts from this address",
            Self::Model => "for this model",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        quota::{Calendar, Quota},
        rate::{Per, Rate},
    };

    /// What a client reads, and whether it should wait.
    #[test]
    fn a_refusal_says_whose_limit_it_is_and_whether_waiting_helps() {
        let requests = Rate::per_minute(60, Some(5)).expect("a rate");
        let tokens = Rate::new(1000, Unit::Tokens, Per::Minute, None).expect("a rate");
        let quota = Quota::new(10, Unit::Requests, Calendar::Day).expect("a quota");
        let many = Quota::new(1000, Unit::Tokens, Calendar::Month).expect("a quota");
        for (limit, scope, cost, lasting, words) in [
            (
                Limit::from(requests),
                Scope::Key,
                1,
                false,
                "the limit of 60 requests a minute for this API key is used up",
            ),
            (
                tokens.into(),
                Scope::Consumer,
                1000,
                false,
                "the limit of 1000 tokens a minute for this consumer is used up but for 7; \
                 this request is estimated at 1000 tokens",
            ),
            (
                tokens.into(),
                Scope::Model,
                1001,
                true,
                "this request is estimated at 1001 tokens, and no more than 1000 at once are allowed for this model \
                 (1000 tokens a minute)",
            ),
            (
                quota.into(),
                Scope::KeyAndModel,
                1,
                true,
                "the quota of 10 requests a day for this API key and model is used up",
            ),
            (
                many.into(),
                Scope::ConsumerAndModel,
                8,
                true,
                "the quota of 1000 tokens a month for this consumer and model is used up but for 7; \
                 this request is estimated at 8 tokens",
            ),
        ] {
            let (retry_after, reset_after) = (Duration::from_secs(1), Duration::from_secs(2));
            let reached =
                LimitReached { scope, limit, cost, remaining: 7, retry_after, reset_after, quota: None };
            assert_eq!((reached.to_string().as_str(), reached.is_lasting()), (words, lasting));
            assert_eq!(reached.never_passes(), cost == 1001);
        }
        assert_eq!(Scope::Address.to_string(), "of failed attempts from this address");
        let (retry_after, reset_after) = (Duration::MAX, Duration::MAX);
        let never_resets = |limit| {
            LimitReached {
                scope: Scope::Key,
                limit,
                cost: 1,
                remaining: 0,
                retry_after,
                reset_after,
                quota: None,
            }
            .never_resets()
        };
        let budget = |per| Limit::from(Quota::budget(5, per, Reserve::Usual).expect("a budget"));
        assert!(never_resets(budget(Calendar::Ever)), "nobody may tell the client to wait");
        assert!(![budget(Calendar::Month), quota.into(), requests.into()].into_iter().any(never_resets));
    }

    #[test]
    fn a_budget_is_told_in_its_currency_and_with_what_was_added() {
        let budget = Quota::budget(5_000_000_000, Calendar::Month, Reserve::Hard).expect("a budget");
        let written = [Some("EUR"), None].map(|currency| crate::write_money_in(1_500_000_000, currency));
        assert_eq!(written, ["1.5 EUR", "1.5 (no currency)"]);
        let reached = |cost, added, currency| {
            LimitReached {
                scope: Scope::Key,
                limit: budget.into(),
                cost,
                remaining: 200_000_000,
                retry_after: Duration::ZERO,
                reset_after: Duration::ZERO,
                quota: Some(ReachedQuota { tag: NonZeroU64::MIN, added }),
            }
            .words_in(currency)
        };
        let told = |added, currency| reached(500_000_000, added, currency);
        assert_eq!(
            told(20_000_000_000, Some("EUR")),
            "the budget of 5 EUR a month, and 20 EUR added to it, for this API key is spent but for 0.2 EUR; \
             this request may cost 0.5 EUR"
        );
        assert_eq!(
            told(0, None),
            "the budget of 5 a month for this API key is spent but for 0.2; this request may cost 0.5"
        );
        // Who waits for the next month waits in vain.
        let whole = ", more than the whole budget";
        for (cost, added, expected) in [
            (5_000_000_000, 0, false),
            (5_000_000_001, 0, true),
            (5_000_000_001, 1, false),
            (5_000_000_002, 1, true),
        ] {
            assert_eq!(reached(cost, added, None).ends_with(whole), expected, "{cost} {added}");
        }
    }
}
