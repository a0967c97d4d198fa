//! How much of budgets is spent or reserved.

use std::time::SystemTime;

use super::Family;
use crate::{BUDGET_LEVELS, Shared};

/// So many budgets have a series; further ones are counted together, by level.
const MOST: usize = 1_000;

/// Nothing until a request has taken from a budget.
pub(super) fn families(shared: &Shared) -> Vec<Family> {
    let used = shared.budgets_used(SystemTime::now());
    if used.is_empty() {
        return Vec::new();
    }
    let help = "How much of a budget is spent or reserved in its present period, 1 being all of it and of what was added. Budgets of which \
                something was spent in their period, at most a thousand";
    let ratio =
        used.iter().take(MOST).fold(Family::gauge("modelgate_budget_used_ratio", help), |family, used| {
            let (kind, name) = used.owner();
            let labels = [
                ("owner", kind),
                ("name", name),
                ("model", used.of_model().unwrap_or_default()),
                ("per", used.budget.per().name()),
            ];
            family.with(&labels, used.spent as f64 / used.allowed.max(1) as f64)
        });
    let help = "Budgets that are spent or reserved to at least a level, in percent; those from which a request was refused lately \
                are at 100";
    let counted =
        BUDGET_LEVELS.iter().fold(Family::gauge("modelgate_budgets_at_level", help), |family, level| {
            let count = used.iter().filter(|used| used.level >= *level).count();
            family.with(&[("percent", &level.to_string())], count as f64)
        });
    vec![ratio, counted]
}
