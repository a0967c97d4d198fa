//! The limits of a row and of its budget.

use serde_json::{Map, Value};

use super::{
    budgets,
    values::{number, object},
};
use crate::commands::import::found::{Findings, Limit, Per};

/// The limits of a row and of its budget; the smaller ones apply.
pub(super) fn of_row(row: &Map<String, Value>, findings: &mut Findings) -> Result<Limit, String> {
    const FIELDS: [(&str, Per); 3] = [
        ("rpm_limit", Per::RequestsPerMinute),
        ("tpm_limit", Per::TokensPerMinute),
        ("tpd_limit", Per::TokensPerDay),
    ];
    let budget = object(row, "litellm_budget_table")?.unwrap_or_default();
    let mut limit = Limit::default();
    for (field, per) in FIELDS {
        let of_budget = number(budget.get(field), &format!("budget's {field}"))?;
        for amount in number(row.get(field), field)?.into_iter().chain(of_budget) {
            limit.add(per, amount);
            if amount > per.most() {
                findings.differ(format!(
                    "its {field}, which is more than can be written; {} is taken",
                    per.most()
                ));
            }
        }
    }
    budgets::add(&mut limit, ("", row), row, findings)?;
    budgets::add(&mut limit, ("budget's ", &budget), row, findings)?;
    Ok(limit)
}
