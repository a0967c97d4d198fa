//! Numeric ids of limits and their subjects. The store and Redis hold them, so they never change.

use std::hash::{DefaultHasher, Hash, Hasher};

use sha2::{Digest, Sha256};

use crate::{
    period::Period,
    quota::{ADDED, BUDGETS, Calendar, FORGIVEN, Quota, SETTLED},
    rate::Rate,
};

/// The subject of limits: a key or a consumer, a model, or both together. Halves of SHA-256 digests, so that a look-up
/// allocates nothing; an absent half is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    who: u128,
    model: u128,
}

/// The id of a rate: its subject, unit and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitId {
    /// The key or consumer; zero for everybody.
    pub who: u128,
    /// The model; zero for all.
    pub model: u128,
    /// Distinguishes the limits of one subject.
    pub window: u8,
}

/// The id of a quota's count: of a key or a consumer, of a model, or of both, for one unit and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuotaId {
    id: LimitId,
    period: Period,
}

/// A text that is not a [`QuotaId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not the name of a quota's count")]
pub struct InvalidQuotaId;

impl Subject {
    /// A key or a consumer, by its number.
    pub fn of(who: u128) -> Self {
        Self { who, model: 0 }
    }

    /// A model, over all keys.
    pub fn of_model(model: &str) -> Self {
        Self { who: 0, model: half_of_digest(model) }
    }

    /// A client that fails to authenticate, by its address.
    pub(crate) fn of_address(address: &str) -> Self {
        Self { who: half_of_digest(&format!("address\n{address}")), model: 0 }
    }

    /// This subject for one model only.
    #[must_use]
    pub fn for_model(self, model: Self) -> Self {
        Self { model: model.model, ..self }
    }

    /// The id of its limit at this rate.
    pub(crate) fn rate(self, rate: &Rate) -> LimitId {
        LimitId { who: self.who, model: self.model, window: rate.window() }
    }

    /// The id of its count for a budget in this period.
    #[must_use]
    pub fn budget(self, per: Calendar, period: Period) -> QuotaId {
        QuotaId { id: LimitId { who: self.who, model: self.model, window: BUDGETS + per as u8 }, period }
    }

    /// The id of its count for a quota in this period.
    pub(crate) fn quota(self, quota: &Quota, period: Period) -> QuotaId {
        QuotaId { id: LimitId { who: self.who, model: self.model, window: quota.window() }, period }
    }
}

/// The first half of a text's SHA-256 digest, which is enough to distinguish texts.
fn half_of_digest(text: &str) -> u128 {
    Sha256::digest(text).iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

impl QuotaId {
    /// Its day, week or month.
    pub fn period(&self) -> Period {
        self.period
    }

    /// A number that tells it from others within this process, as far as 64 bits can.
    pub fn tag(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The count of what was added to a budget for this period; `None` if it is not the count of a budget.
    pub fn added(&self) -> Option<Self> {
        self.beside(ADDED)
    }

    /// The count of what was spent of a budget and does not count any more; `None` if it is not the count of a budget.
    pub fn forgiven(&self) -> Option<Self> {
        self.beside(FORGIVEN)
    }

    /// The count of what requests have cost that are settled, which is part of what was taken of a budget; `None` if it is not the count
    /// of a budget. Only this does a reset forgive: the rest is reserved, and may be given back.
    pub fn settled(&self) -> Option<Self> {
        self.beside(SETTLED)
    }

    fn beside(&self, windows: u8) -> Option<Self> {
        let per = self.id.window.checked_sub(BUDGETS).filter(|per| *per < ADDED - BUDGETS)?;
        Some(Self { id: LimitId { window: windows + per, ..self.id }, ..*self })
    }

    /// Its name without the period, of letters and digits only.
    pub fn subject(&self) -> String {
        let LimitId { who, model, window } = self.id;
        format!("{who:032x}{model:032x}{window:02x}")
    }

    /// Parses what [`Self::subject`] and [`Period`] have written.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn parse(subject: &str, period: &str) -> Result<Self, InvalidQuotaId> {
        let part = |range| subject.get(range).ok_or(InvalidQuotaId);
        if subject.len() != 66 {
            return Err(InvalidQuotaId);
        }
        let half = |text| u128::from_str_radix(text, 16).map_err(|_| InvalidQuotaId);
        let (who, model) = (half(part(0..32)?)?, half(part(32..64)?)?);
        let window = u8::from_str_radix(part(64..66)?, 16).map_err(|_| InvalidQuotaId)?;
        let period = period.parse().map_err(|_| InvalidQuotaId)?;
        Ok(Self { id: LimitId { who, model, window }, period })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::rate::{Per, Unit};

    /// The store and Redis hold these ids: changing them would lose all counts.
    #[test]
    fn ids_are_what_they_have_always_been() {
        let quota = Quota::new(1, Unit::Requests, Calendar::Day).expect("a quota");
        let day = "2026-11-21".parse().expect("a day");
        let rate = Rate::per_minute(1, None).expect("a rate");
        let both = Subject::of(1).for_model(Subject::of_model("llama"));
        // From `printf llama | sha256sum`.
        let llama = 0xfc5a_1047_f591_9892_fcdf_8aa7_9ea5_d6bb_u128;
        assert_eq!(both.rate(&rate), LimitId { who: 1, model: llama, window: 2 });
        let id = both.quota(&quota, day);
        assert_eq!(id.subject(), format!("{:032x}{llama:032x}64", 1));
        let quotas = [Calendar::Day, Calendar::Month].map(|per| {
            [Unit::Requests, Unit::Tokens].map(|unit| Quota::new(1, unit, per).expect("a quota").window())
        });
        assert_eq!(quotas, [[100, 101], [102, 103]]);
        let budgets = Calendar::ALL.map(|per| {
            let id = both.quota(&Quota::new(1, Unit::Money, per).expect("a budget"), day);
            assert_eq!(id, both.budget(per, day));
            let window = |id: Option<QuotaId>| id.map(|id| id.id.window);
            (id.id.window, window(id.added()), window(id.forgiven()), window(id.settled()))
        });
        let expected = [0, 1, 2, 3].map(|per| (120 + per, Some(130 + per), Some(140 + per), Some(150 + per)));
        assert_eq!(budgets, expected, "day, month, week, ever");
        let besides = |id: QuotaId| [id.added(), id.forgiven(), id.settled()];
        assert_eq!(besides(id), [None; 3]);
        for beside in besides(both.budget(Calendar::Day, day)).map(|beside| beside.expect("a budget's")) {
            assert_eq!(besides(beside), [None; 3], "what was added to a budget is no budget itself");
        }
        let rates = [Per::Second, Per::Minute, Per::Hour].map(|per| {
            [Unit::Requests, Unit::Tokens].map(|unit| Rate::new(1, unit, per, None).expect("a rate").window())
        });
        assert_eq!(rates, [[0, 1], [2, 3], [4, 5]]);
        let address = Subject::of_address("192.0.2.1").rate(&rate);
        assert_eq!((address.who >> 96, address.model, address.window), (0x1684_84ec, 0, 2));
    }

    #[test]
    fn names_of_counts_survive_being_written_and_read() {
        let quota = Quota::new(1, Unit::Requests, Calendar::Day).expect("a quota");
        let id = Subject::of_model("a").quota(&quota, "2026-11-21".parse().expect("a day"));
        assert_eq!(QuotaId::parse(&id.subject(), &id.period().to_string()), Ok(id));
        for (subject, period) in [
            ("", "2026-11"),
            (&id.subject()[1..], "2026-11"),
            (&*id.subject(), "2026-13"),
            (&*id.subject(), "x"),
        ] {
            assert_eq!(QuotaId::parse(subject, period), Err(InvalidQuotaId), "{subject} {period}");
        }
    }

    #[test]
    fn subjects_are_told_apart() {
        let (a, b) = (Subject::of(1), Subject::of(2));
        let [model_a, model_b] = ["a", "b"].map(Subject::of_model);
        let pairs = [a.for_model(model_a), a.for_model(model_b), b.for_model(model_a)];
        let all = [[a, b, model_a], pairs, [model_b, Subject::of_address("a"), Subject::of_address("b")]];
        assert_eq!(all.as_flattened().iter().collect::<HashSet<_>>().len(), 9);
        // The alerts of budgets know them by their tags.
        let day = "2026-11-21".parse().expect("a day");
        let tags = all.as_flattened().iter().map(|subject| subject.budget(Calendar::Day, day).tag());
        assert_eq!(tags.collect::<HashSet<_>>().len(), 9);
    }
}
