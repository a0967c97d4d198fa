//! The budget of a row, with LiteLLM's forms of its period
//! (<https://docs.litellm.ai/docs/proxy/users#reset-budgets>; `litellm/litellm_core_utils/duration_parser.py`).

use limits::read_money;
use serde_json::{Map, Value};

use super::values::text;
use crate::commands::import::found::{Findings, Limit, Per};

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
    note(per, (whose, budget), row, findings);
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

/// Says what is not taken over exactly: what is spent already, and when the budget begins anew.
fn note(
    per: Per,
    (whose, budget): (&str, &Map<String, Value>),
    row: &Map<String, Value>,
    findings: &mut Findings,
) {
    let spent = row.get("spend").and_then(Value::as_f64).filter(|spent| *spent > 0.0);
    let reset = [budget, row].into_iter().find_map(|row| row.get("budget_reset_at")?.as_str());
    let mut parts = Vec::new();
    if let Some(spent) = spent {
        parts.push(format!("{spent} of it is spent there, and nothing here"));
    }
    if let Some(reset) = reset.filter(|_| per != Per::BudgetTotal) {
        parts.push(format!("it begins anew at {reset} there, and with the calendar of time_zone here"));
    }
    if !parts.is_empty() {
        findings.say(format!("its {whose}max_budget is taken over, but {}", parts.join("; ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
