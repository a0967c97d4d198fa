//! Budgets that are spent to 50, 80 or 100 %.
//!
//! A budget at 80 % is at 50 % as well: each level is a condition of its own, so that each is told once, and all of them are over when
//! the budget begins anew, is reset or added to, or is gone. Each knows the higher ones: if several are reached at once, only the
//! highest is told.

use alerts::{Condition, ConditionId};
use limits::{Calendar, write_money};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use web::{BUDGET_LEVELS, BudgetUsed, NamedBudget, Shared};

/// What to tell about the budgets of which something is spent.
pub(super) fn conditions(shared: &Shared, used: &[BudgetUsed]) -> Vec<Condition> {
    let settings = shared.settings();
    let currency = settings.prices.currency().unwrap_or_default();
    used.iter().flat_map(|used| of(used, currency)).collect()
}

/// A condition for each level that a budget has come to.
fn of(used: &BudgetUsed, currency: &str) -> Vec<Condition> {
    let percent = u128::from(used.spent) * 100 / u128::from(used.allowed.max(1));
    let rest = if percent < 100 && used.level == 100 { "; requests that cost more are refused" } else { "" };
    let about = about(used);
    let id = |level: u8| ConditionId { code: code(level), about: about.clone() };
    let reached = || BUDGET_LEVELS.into_iter().filter(|level| *level <= used.level);
    let condition = |level: u8| Condition {
        id: id(level),
        is_bad: level == 100,
        what: format!(
            "{} of {} {currency} are spent or reserved ({percent} %){rest}",
            write_money(used.spent),
            write_money(used.allowed)
        ),
        advice: (level == 100).then(|| "Add to it or reset it, if there should be more.".to_owned()),
        page: Some(page(used)),
        owner: Some(owner(used)),
        higher: reached().filter(|higher| *higher > level).map(id).collect(),
    };
    reached().map(condition).collect()
}

pub(super) fn code(level: u8) -> &'static str {
    match level {
        50 => "budget_50",
        80 => "budget_80",
        _ => "budget_100",
    }
}

/// The level that a code is about, if it is about a budget.
pub(super) fn level_of(of: &str) -> Option<u8> {
    BUDGET_LEVELS.into_iter().find(|level| code(*level) == of)
}

/// The lower levels.
pub(super) fn below(level: u8) -> impl Iterator<Item = u8> {
    BUDGET_LEVELS.into_iter().filter(move |lower| *lower < level)
}

/// `key alice`
fn owner(used: &BudgetUsed) -> String {
    let (kind, name) = used.owner();
    format!("{kind} {name}")
}

/// `monthly budget of key alice for llama`
pub(super) fn about(used: &BudgetUsed) -> String {
    let model = used.of_model().map(|model| format!("{FOR}{model}")).unwrap_or_default();
    format!("{} of {}{model}", words(used.budget.per()), owner(used))
}

const FOR: &str = " for ";

/// Which budget that was about, of this owner.
pub(super) fn named<'a>(about: &'a str, owner: &'a str) -> Option<(Calendar, NamedBudget<'a>)> {
    let (kind, name) = owner.split_once(' ')?;
    let of = |per: Calendar| Some((per, about.strip_prefix(words(per))?.strip_prefix(" of ")?));
    let (per, rest) = Calendar::ALL.into_iter().find_map(of)?;
    let of_model = match rest.strip_prefix(owner)? {
        "" => None,
        model => Some(model.strip_prefix(FOR)?),
    };
    Some((per, NamedBudget { kind, name, of_model }))
}

fn words(per: Calendar) -> &'static str {
    match per {
        Calendar::Day => "daily budget",
        Calendar::Week => "weekly budget",
        Calendar::Month => "monthly budget",
        Calendar::Ever => "budget",
    }
}

fn page(used: &BudgetUsed) -> String {
    let (kind, name) = used.owner();
    format!("/{kind}s/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

#[cfg(test)]
mod tests {
    use limits::{Quota, Reserve, Scope};

    use super::*;

    #[test]
    fn each_level_is_a_condition_and_only_the_last_one_is_bad() {
        let budget = Quota::budget(50_000_000_000, Calendar::Month, Reserve::Hard).expect("a budget");
        let used = |scope, spent, level| BudgetUsed {
            scope,
            key: "alice laptop".into(),
            consumer: "team".into(),
            model: Some("llama".into()),
            budget,
            allowed: 50_000_000_000,
            spent,
            level,
            refused: None,
        };
        let told = |used: &BudgetUsed| -> Vec<_> {
            of(used, "EUR")
                .into_iter()
                .map(|told| (told.id.code, told.id.about, told.is_bad, told.what))
                .collect()
        };
        assert_eq!(told(&used(Scope::Key, 24_000_000_000, 0)), []);
        let team = "monthly budget of consumer team for llama".to_owned();
        let what = "41.25 of 50 EUR are spent or reserved (82 %)".to_owned();
        assert_eq!(
            told(&used(Scope::ConsumerAndModel, 41_250_000_000, 80)),
            [("budget_50", team.clone(), false, what.clone()), ("budget_80", team, false, what)]
        );
        let all = of(&used(Scope::Key, 49_900_000_000, 100), "EUR");
        let codes: Vec<_> = all.iter().map(|told| (told.id.code, told.is_bad)).collect();
        assert_eq!(codes, [("budget_50", false), ("budget_80", false), ("budget_100", true)]);
        let higher: Vec<Vec<&str>> =
            all.iter().map(|told| told.higher.iter().map(|id| id.code).collect()).collect();
        assert_eq!(higher, [vec!["budget_80", "budget_100"], vec!["budget_100"], vec![]]);
        let last = all.last().expect("three");
        assert!(last.what.ends_with("(99 %); requests that cost more are refused"), "{}", last.what);
        assert_eq!(
            (&*last.id.about, last.page.as_deref()),
            ("monthly budget of key alice laptop for llama", Some("/keys/alice%20laptop"))
        );
        assert_eq!(about(&used(Scope::Model, 0, 0)), "monthly budget of model llama");
        for scope in [Scope::Key, Scope::ConsumerAndModel, Scope::Model] {
            let used = used(scope, 0, 0);
            let (about, owner) = (about(&used), owner(&used));
            let (per, NamedBudget { kind, name, of_model }) = named(&about, &owner).expect("its name");
            assert_eq!((per, (kind, name), of_model), (budget.per(), used.owner(), used.of_model()));
        }
    }
}
