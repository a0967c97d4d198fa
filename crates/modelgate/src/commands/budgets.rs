//! `modelgate budgets`.

use std::time::SystemTime;

use jiff::{Timestamp, tz::TimeZone};
use limits::{Period, write_money, write_money_in};
use store::{BudgetChange, Registry};

use super::{
    registry::{ACTOR, CommandFailure, answer},
    table,
};
use crate::{arguments::budgets::Budgets, output::say};

/// Shows or changes a budget.
pub(crate) async fn budgets(
    registry: &Registry,
    (currency, zone): (Option<&str>, &TimeZone),
    what: &Budgets,
) -> Result<(), CommandFailure> {
    let (budget, change) = match what {
        Budgets::Show(budget) => (budget, None),
        Budgets::TopUp { amount, budget } => (budget, Some(BudgetChange::TopUp(*amount))),
        Budgets::Reset(budget) => (budget, Some(BudgetChange::Reset)),
    };
    let of = budget.of();
    // What is served now, a command does not know.
    let own = answer(registry.by_own_model(of.clone(), |_| None)).await?;
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default().to_zoned(zone.clone());
    let period = Period::of(of.per, &now);
    let state = match change {
        None => answer(registry.budget(&own, period)).await?,
        Some(change) => answer(registry.change_budget(&own, period, change, &ACTOR)).await?,
    };
    if budget.output.json {
        table::print_json(&admin::budget_to_json(&of, &state, currency, zone));
        return Ok(());
    }
    let of_model = match (&of.model, &state.model) {
        (Some(asked), Some(own)) if asked != own => format!(" for {own}, which is the own name of {asked}"),
        (_, own) => own.as_ref().map(|model| format!(" for {model}")).unwrap_or_default(),
    };
    let resets = match state.period.end(zone).map(Timestamp::try_from) {
        Some(Ok(end)) => format!("begins anew at {}", end.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M")),
        _ => "never begins anew".to_owned(),
    };
    say!(
        "{}{of_model}: {} of {} spent or reserved in {}; it {resets}",
        of.whose,
        write_money(state.spent),
        write_money_in(state.allowed(), currency),
        state.period,
    );
    Ok(())
}
