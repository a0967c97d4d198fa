//! Parses `limit:` as operators write it: in labels, for models and servers of the configuration file, and in accounts.
//!
//! ```text
//! label, section ─ Field::read ─▶ LimitSpec (numbers by field) ─ limits() ─▶ Limits
//! ```

use crate::{
    limit::Limits,
    money::{read_money, write_money},
    quota::{Calendar, Quota, Reserve},
    rate::{Per, Rate, Unit},
};

/// A key below `limit:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Field {
    /// The burst of requests, for the shortest time for which requests are limited.
    Burst,
    RequestsPerSecond,
    RequestsPerMinute,
    RequestsPerHour,
    TokensPerMinute,
    /// The burst of tokens.
    TokensBurst,
    RequestsPerDay,
    RequestsPerMonth,
    TokensPerDay,
    TokensPerMonth,
    /// Money, as in all budgets.
    BudgetPerDay,
    BudgetPerWeek,
    BudgetPerMonth,
    /// A budget that never starts again.
    BudgetTotal,
    /// What requests take from the budgets until it is known what they have cost.
    BudgetKind,
}

/// Allowed numbers for [`Field`]s, not yet checked for whether they fit together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSpec([Option<u64>; Field::ALL.len()]);

/// A field without the one that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lone {
    /// [`Field::Burst`] without requests per second, minute or hour.
    Burst,
    /// [`Field::TokensBurst`] without [`Field::TokensPerMinute`].
    TokensBurst,
    /// [`Field::BudgetKind`] without a budget.
    BudgetKind,
}

/// What a field sets.
enum Meaning {
    Rate(Unit, Per),
    Burst,
    Quota(Unit, Calendar),
    BudgetKind,
}

const USUAL: u64 = 0;
const HARD: u64 = 1;

impl Field {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Burst,
        Self::RequestsPerSecond,
        Self::RequestsPerMinute,
        Self::RequestsPerHour,
        Self::TokensPerMinute,
        Self::TokensBurst,
        Self::RequestsPerDay,
        Self::RequestsPerMonth,
        Self::TokensPerDay,
        Self::TokensPerMonth,
        Self::BudgetPerDay,
        Self::BudgetPerWeek,
        Self::BudgetPerMonth,
        Self::BudgetTotal,
        Self::BudgetKind,
    ];

    /// Finds a field by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Its name below `limit:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::RequestsPerSecond => "requests_per_second",
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RequestsPerHour => "requests_per_hour",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensBurst => "tokens_burst",
            Self::RequestsPerDay => "requests_per_day",
            Self::RequestsPerMonth => "requests_per_month",
            Self::TokensPerDay => "tokens_per_day",
            Self::TokensPerMonth => "tokens_per_month",
            Self::BudgetPerDay => "budget_per_day",
            Self::BudgetPerWeek => "budget_per_week",
            Self::BudgetPerMonth => "budget_per_month",
            Self::BudgetTotal => "budget_total",
            Self::BudgetKind => "budget_kind",
        }
    }

    /// The allowed values, in words.
    #[must_use]
    pub const fn allowed(self) -> &'static str {
        match self.meaning() {
            Meaning::Rate(..) | Meaning::Burst => "a whole number from 1 to 60000000",
            Meaning::Quota(Unit::Money, _) => {
                "an amount such as 49.50, above 0 and up to 1000000000, with at most 9 decimals and 15 digits"
            }
            Meaning::Quota(..) => "a whole number from 1 to 1000000000000000",
            Meaning::BudgetKind => "usual or hard",
        }
    }

    /// Parses a value: digits only, but for money, which may have decimals, and the kind of budgets.
    #[must_use]
    pub fn read(self, text: &str) -> Option<u64> {
        match self.meaning() {
            Meaning::Quota(Unit::Money, _) => return read_money(text).filter(|amount| *amount > 0),
            Meaning::BudgetKind => {
                return match text {
                    "usual" => Some(USUAL),
                    "hard" => Some(HARD),
                    _ => None,
                };
            }
            _ => {}
        }
        let is_plain = text.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = text.parse().ok().filter(|_| is_plain)?;
        (1..=self.most()).contains(&number).then_some(number)
    }

    /// A value as [`read`](Self::read) parses it.
    #[must_use]
    pub fn write(self, number: u64) -> String {
        match self.meaning() {
            Meaning::Quota(Unit::Money, _) => write_money(number),
            Meaning::BudgetKind => if number == HARD { "hard" } else { "usual" }.to_owned(),
            Meaning::Rate(..) | Meaning::Burst | Meaning::Quota(..) => number.to_string(),
        }
    }

    /// Whether its values are numbers.
    #[must_use]
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::BudgetKind)
    }

    const fn most(self) -> u64 {
        match self.meaning() {
            Meaning::Quota(Unit::Money, _) => Quota::MAX_BUDGET,
            Meaning::BudgetKind => HARD,
            Meaning::Rate(..) | Meaning::Burst => Rate::MAX as u64,
            Meaning::Quota(..) => Quota::MAX,
        }
    }

    const fn meaning(self) -> Meaning {
        match self {
            Self::Burst | Self::TokensBurst => Meaning::Burst,
            Self::RequestsPerSecond => Meaning::Rate(Unit::Requests, Per::Second),
            Self::RequestsPerMinute => Meaning::Rate(Unit::Requests, Per::Minute),
            Self::RequestsPerHour => Meaning::Rate(Unit::Requests, Per::Hour),
            Self::TokensPerMinute => Meaning::Rate(Unit::Tokens, Per::Minute),
            Self::RequestsPerDay => Meaning::Quota(Unit::Requests, Calendar::Day),
            Self::RequestsPerMonth => Meaning::Quota(Unit::Requests, Calendar::Month),
            Self::TokensPerDay => Meaning::Quota(Unit::Tokens, Calendar::Day),
            Self::TokensPerMonth => Meaning::Quota(Unit::Tokens, Calendar::Month),
            Self::BudgetPerDay => Meaning::Quota(Unit::Money, Calendar::Day),
            Self::BudgetPerWeek => Meaning::Quota(Unit::Money, Calendar::Week),
            Self::BudgetPerMonth => Meaning::Quota(Unit::Money, Calendar::Month),
            Self::BudgetTotal => Meaning::Quota(Unit::Money, Calendar::Ever),
            Self::BudgetKind => Meaning::BudgetKind,
        }
    }

    /// The burst field of a unit.
    fn burst_of(unit: Unit) -> Self {
        match unit {
            Unit::Requests | Unit::Money => Self::Burst,
            Unit::Tokens => Self::TokensBurst,
        }
    }

    /// The budget of a period.
    #[must_use]
    pub const fn budget(per: Calendar) -> Self {
        match per {
            Calendar::Day => Self::BudgetPerDay,
            Calendar::Week => Self::BudgetPerWeek,
            Calendar::Month => Self::BudgetPerMonth,
            Calendar::Ever => Self::BudgetTotal,
        }
    }
}

impl FromIterator<(Field, u64)> for LimitSpec {
    /// If a field is given twice, the last number is used.
    fn from_iter<I: IntoIterator<Item = (Field, u64)>>(numbers: I) -> Self {
        let mut spec = Self::default();
        for (field, number) in numbers {
            spec.0[field as usize] = Some(number);
        }
        spec
    }
}

impl LimitSpec {
    /// The given fields, each once.
    pub fn iter(&self) -> impl Iterator<Item = (Field, u64)> {
        Field::ALL.into_iter().filter_map(|field| Some((field, self.0[field as usize]?)))
    }

    /// Checks that the fields fit together.
    ///
    /// # Errors
    /// A field lacks the one that it belongs to; of several the first is named.
    pub fn check(&self) -> Result<(), Lone> {
        let is_of = |field: Field, unit| matches!(field.meaning(), Meaning::Rate(of, _) if of == unit);
        let is_lone = |unit: Unit| {
            self.0[Field::burst_of(unit) as usize].is_some()
                && !self.iter().any(|(field, _)| is_of(field, unit))
        };
        let has_budget =
            || self.iter().any(|(field, _)| matches!(field.meaning(), Meaning::Quota(Unit::Money, _)));
        match (is_lone(Unit::Requests), is_lone(Unit::Tokens)) {
            (true, _) => Err(Lone::Burst),
            (_, true) => Err(Lone::TokensBurst),
            _ if self.0[Field::BudgetKind as usize].is_some() && !has_budget() => Err(Lone::BudgetKind),
            _ => Ok(()),
        }
    }

    /// The resulting limits. A burst applies to the shortest time of its unit; one without a rate is ignored.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let (mut rates, mut quotas) = (Vec::new(), Vec::new());
        let reserve = match self.0[Field::BudgetKind as usize] {
            Some(HARD) => Reserve::Hard,
            _ => Reserve::Usual,
        };
        for (field, number) in self.iter() {
            match field.meaning() {
                Meaning::Burst | Meaning::BudgetKind => {}
                Meaning::Rate(unit, per) => rates.extend(self.rate(number, unit, per, &rates)),
                Meaning::Quota(Unit::Money, per) => quotas.extend(Quota::budget(number, per, reserve).ok()),
                Meaning::Quota(unit, per) => quotas.extend(Quota::new(number, unit, per).ok()),
            }
        }
        Limits::new(rates, quotas)
    }

    /// A rate with its unit's burst, unless a rate in `before`, which have shorter times, has it already.
    fn rate(&self, amount: u64, unit: Unit, per: Per, before: &[Rate]) -> Option<Rate> {
        let is_shortest = before.iter().all(|rate| rate.unit() != unit);
        let burst = self.0[Field::burst_of(unit) as usize].filter(|_| is_shortest);
        let small = |number: u64| u32::try_from(number).ok();
        Rate::new(small(amount)?, unit, per, burst.and_then(small)).ok()
    }
}

impl From<&Limits> for LimitSpec {
    /// The inverse of [`limits`](Self::limits). A burst equal to the amount is left out, and so is the usual kind of budget.
    fn from(limits: &Limits) -> Self {
        let field =
            |meant: &dyn Fn(Meaning) -> bool| Field::ALL.into_iter().find(|field| meant(field.meaning()));
        let rate = |rate: &Rate| {
            let is_it = |meaning| matches!(meaning, Meaning::Rate(unit, per) if (unit, per) == (rate.unit(), rate.per()));
            let burst =
                (rate.burst() != rate.amount()).then(|| (Field::burst_of(rate.unit()), rate.burst().into()));
            field(&is_it).map(|field| (field, rate.amount().into())).into_iter().chain(burst)
        };
        let quota = |quota: &Quota| {
            let is_it = |meaning| matches!(meaning, Meaning::Quota(unit, per) if (unit, per) == (quota.unit(), quota.per()));
            field(&is_it).map(|field| (field, quota.amount()))
        };
        let is_hard = limits.quotas().iter().any(|quota| quota.reserve() == Some(Reserve::Hard));
        let kind = is_hard.then_some((Field::BudgetKind, HARD));
        let quotas = limits.quotas().iter().filter_map(quota);
        limits.rates().iter().flat_map(rate).chain(quotas).chain(kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(fields: &[(&str, &str)]) -> LimitSpec {
        let read = |(name, text): &(&str, &str)| {
            let field = Field::find(name).expect("a field");
            (field, field.read(text).expect("a number"))
        };
        fields.iter().map(read).collect()
    }

    #[test]
    fn each_field_reads_what_it_says_is_allowed() {
        for (place, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!((field as usize, Field::find(field.name())), (place, Some(field)));
            assert_eq!(field.is_number(), field.read("7").is_some());
            let is_whole = matches!(
                field.meaning(),
                Meaning::Rate(..) | Meaning::Burst | Meaning::Quota(Unit::Requests | Unit::Tokens, _)
            );
            if !is_whole {
                continue;
            }
            assert_eq!(field.allowed(), format!("a whole number from 1 to {}", field.most()));
            let most = field.most();
            for (text, number) in [
                ("1", Some(1)),
                ("007", Some(7)),
                (&*most.to_string(), Some(most)),
                (&*(most + 1).to_string(), None),
                ("0", None),
                ("", None),
                ("+5", None),
                ("-5", None),
                ("5.0", None),
                ("5 ", None),
                ("18446744073709551616", None),
            ] {
                assert_eq!(field.read(text), number, "{field:?} {text:?}");
            }
        }
        for (field, text, number) in [
            (Field::BudgetPerDay, "49.50", Some(49_500_000_000)),
            (Field::BudgetPerWeek, "1e-9", Some(1)),
            (Field::BudgetTotal, "1000000000", Some(Quota::MAX_BUDGET)),
            (Field::BudgetTotal, "1000000001", None),
            (Field::BudgetPerMonth, "0", None),
            (Field::BudgetPerMonth, "0.00", None),
            (Field::BudgetPerMonth, "-5", None),
            (Field::BudgetPerMonth, "50 EUR", None),
            (Field::BudgetKind, "usual", Some(USUAL)),
            (Field::BudgetKind, "hard", Some(HARD)),
            (Field::BudgetKind, "Hard", None),
            (Field::BudgetKind, "1", None),
        ] {
            assert_eq!(field.read(text), number, "{field:?} {text:?}");
            assert_eq!(number.map(|number| field.read(&field.write(number))), number.map(Some));
        }
        assert_eq!(Field::find("tokens_per_second"), None);
    }

    #[test]
    fn a_burst_is_that_of_the_shortest_time() {
        let limits = |fields: &[(&str, &str)]| {
            let limits = spec(fields).limits();
            let rates = limits.rates().iter().map(|rate| (rate.to_string(), rate.burst()));
            rates.collect::<Vec<_>>()
        };
        let expected = [("9 requests a minute".into(), 2), ("90 requests an hour".into(), 90)];
        assert_eq!(
            limits(&[("requests_per_hour", "90"), ("burst", "2"), ("requests_per_minute", "9")]),
            expected
        );
        let expected = [("9 requests a second".into(), 9), ("5 tokens a minute".into(), 3)];
        assert_eq!(
            limits(&[("tokens_burst", "3"), ("tokens_per_minute", "5"), ("requests_per_second", "9")]),
            expected
        );
    }

    #[test]
    fn a_burst_of_nothing_is_named() {
        let both = [("burst", "1"), ("tokens_burst", "1")];
        assert_eq!(spec(&both).check(), Err(Lone::Burst));
        assert_eq!(spec(&[both[0], both[1], ("requests_per_hour", "5")]).check(), Err(Lone::TokensBurst));
        assert_eq!(
            spec(&[both[0], ("tokens_per_minute", "5"), ("requests_per_day", "5")]).check(),
            Err(Lone::Burst)
        );
        assert_eq!(spec(&[both[1], ("tokens_per_day", "5")]).check(), Err(Lone::TokensBurst));
        assert_eq!(spec(&[both[1], ("tokens_per_minute", "5")]).check(), Ok(()));
        assert!(spec(&both).limits().is_empty());
        assert_eq!(spec(&[("budget_kind", "hard"), ("tokens_per_day", "5")]).check(), Err(Lone::BudgetKind));
        let budget = spec(&[("budget_kind", "hard"), ("budget_per_week", "5")]);
        assert_eq!(
            (budget.check(), budget.limits().quotas()),
            (
                Ok(()),
                [Quota::budget(5_000_000_000, Calendar::Week, Reserve::Hard).expect("a budget")].as_slice()
            )
        );
        assert_eq!(LimitSpec::default().check(), Ok(()));
    }

    proptest! {
        #[test]
        fn limits_are_written_as_they_are_read(numbers in prop::array::uniform15(prop::option::of(1..=60_000_000_u64))) {
            let limits = LimitSpec(numbers).limits();
            prop_assert_eq!(LimitSpec::from(&limits).limits(), limits);
        }
    }
}
