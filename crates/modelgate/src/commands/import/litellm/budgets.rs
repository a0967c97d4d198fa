//! The budget of a row, with LiteLLM's forms of its period
//! (<https://docs.litellm.ai/docs/proxy/users#reset-budgets>; `litellm/litellm_core_utils/duration_parser.py`).

use limits::read_money;
use serde_json::{Map, Value};

use super::values::{text, time};
use crate::commands::import::found::{BudgetSpent, Findings, Limit, Per};

/// The name under which a budget holds a key.
const MAX_BUDGET: &str = "max_budget";

/// Adds the budget of a row or of its budget's table. `row` is where it is said what is spent.
pub(super) fn add(
    limit: &mut Limit,
    (whose, budget): (&str, &Map<String, Value>),
    row: &Map<String, Value>,
    findings: &mut Findings,
) -> Result<(), String> {
    let Some(given) = budget.get(MAX_BUDGET).filter(|value| !value.is_null()) else { return Ok(()) };
    let written = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
    let amount = match read_money(&written) {
        // In LiteLLM nothing may be spent then; here there is no such budget.
        Some(0) => {
            findings.hold(MAX_BUDGET, format!("its {whose}max_budget is 0, so nothing may be spent"));
            return Ok(());
        }
        Some(amount) => amount,
        None => {
            let what = "is no amount from 0 to 1000000000 with at most 9 decimals and 15 digits";
            findings.hold(MAX_BUDGET, format!("its {whose}max_budget ({written}) {what}"));
            return Ok(());
        }
    };
    let duration = text(budget, "budget_duration")?.or(text(row, "budget_duration")?);
    let Some(per) = duration.map_or(Some(Per::BudgetTotal), period) else {
        let duration = duration.unwrap_or_default();
        findings.hold(
            MAX_BUDGET,
            format!("its {whose}max_budget begins anew every {duration}; here a budget is of a day, a week or a month, or in all"),
        );
        return Ok(());
    };
    limit.add(per, amount);
    let reset =
        [budget, row].into_iter().find_map(|row| row.get("budget_reset_at").filter(|at| !at.is_null()));
    let reset = reset.filter(|_| per != Per::BudgetTotal);
    let until = reset.and_then(|at| at.as_str().and_then(|at| time(at).ok()));
    if let (Some(written), None) = (reset, until) {
        findings.say(format!("its budget_reset_at ({written}) is no time in UTC"));
    } else if let Some(written) = reset.and_then(Value::as_str) {
        findings.differ(format!(
            "its {whose}max_budget begins anew at {written} there, and with the calendar of time_zone here"
        ));
    }
    if let Some(amount) = spent(row, findings) {
        limit.spend(per, BudgetSpent { amount, until });
    }
    Ok(())
}

/// The period of a duration; `None` if there is none of that length. LiteLLM begins those of whole days at midnight, of 7 days on
/// Monday and of 30 days or a month on the first.
fn period(duration: &str) -> Option<Per> {
    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * HOUR;
    let digits = duration.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = duration.split_at(digits);
    // "daily" and the like are what its own interface sends.
    match duration {
        "daily" => return Some(Per::BudgetPerDay),
        "weekly" => return Some(Per::BudgetPerWeek),
        "monthly" => return Some(Per::BudgetPerMonth),
        _ => {}
    }
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "mo" => return (number == 1).then_some(Per::BudgetPerMonth),
        "s" => number,
        "m" => number.checked_mul(60)?,
        "h" => number.checked_mul(HOUR)?,
        "d" => number.checked_mul(DAY)?,
        "w" => number.checked_mul(7 * DAY)?,
        _ => return None,
    };
    match seconds / DAY {
        _ if seconds % DAY != 0 => None,
        1 => Some(Per::BudgetPerDay),
        7 => Some(Per::BudgetPerWeek),
        30 => Some(Per::BudgetPerMonth),
        _ => None,
    }
}

/// What is spent in the running period, in units of 10⁻⁹, rounded up: LiteLLM adds floats. What is no amount is named.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn spent(row: &Map<String, Value>, findings: &mut Findings) -> Option<u64> {
    let written = row.get("spend").filter(|value| !value.is_null())?;
    let number = match written {
        Value::String(text) => text.trim().parse::<f64>().ok(),
        other => other.as_f64(),
    };
    // A thousandth of a unit is what such sums are wrong by.
    let units = number.map(|number| (number * 1e9 - 1e-3).ceil().max(0.0));
    match units.filter(|units| (0.0..=limits::Quota::MAX_BUDGET as f64).contains(units)) {
        Some(units) if number.is_some_and(|number| number >= 0.0) => Some(units as u64),
        _ => {
            findings.say(format!(
                "its spend ({written}) is no amount from 0 to 1000000000: nothing of its budget counts as spent"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_an_amount_or_is_named() {
        let spent = |value: Value| {
            let mut findings = Findings::default();
            let row = Map::from_iter([("spend".to_owned(), value)]);
            let spent = spent(&row, &mut findings);
            (spent, findings.is_empty())
        };
        for (value, expected) in [
            (Value::Null, (None, true)),
            (0.into(), (Some(0), true)),
            (0.1.into(), (Some(100_000_000), true)),
            (4.2e-7.into(), (Some(420), true)),
            (1.23e-10.into(), (Some(1), true)),
            ("12.5".into(), (Some(12_500_000_000), true)),
            (1_000_000_000.into(), (Some(1_000_000_000_000_000_000), true)),
            ((-0.5).into(), (None, false)),
            (2e9.into(), (None, false)),
            ("much".into(), (None, false)),
            ("NaN".into(), (None, false)),
            (true.into(), (None, false)),
            (serde_json::json!([1]), (None, false)),
        ] {
            assert_eq!(spent(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn durations_are_days_weeks_or_months_or_none() {
        for (duration, expected) in [
            ("24h", Some(Per::BudgetPerDay)),
            ("1d", Some(Per::BudgetPerDay)),
            ("86400s", Some(Per::BudgetPerDay)),
            ("1440m", Some(Per::BudgetPerDay)),
            ("daily", Some(Per::BudgetPerDay)),
            ("7d", Some(Per::BudgetPerWeek)),
            ("1w", Some(Per::BudgetPerWeek)),
            ("30d", Some(Per::BudgetPerMonth)),
            ("1mo", Some(Per::BudgetPerMonth)),
            ("monthly", Some(Per::BudgetPerMonth)),
            ("2mo", None),
            ("90d", None),
            ("1h", None),
            ("25h", None),
            ("0d", None),
            ("1y", None),
            ("d", None),
            ("99999999999999999999d", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(period(duration), expected, "{duration}");
        }
    }
}
