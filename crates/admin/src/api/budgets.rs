//! What is added to budgets, and their resets.

use std::time::SystemTime;

use axum::{Json, extract::State};
use config_reader::{ConfigError, ConfigErrors};
use jiff::{Timestamp, tz::TimeZone};
use limits::{Calendar, Period, read_money, write_money};
use serde_json::{Value, json};
use store::{BudgetChange, BudgetOf, BudgetOwner, BudgetState, RegistryError};

use super::{
    Problem,
    extract::{Document, Query},
    problem::error,
};
use crate::{Admin, Operator};

const AMOUNT: &str = "an amount as text, such as \"20\" or \"0.50\", above 0 and up to 1000000000";

/// `POST /budgets/top-up`
pub(crate) async fn top_up(
    State(admin): State<Admin>,
    operator: Operator,
    query: Query,
    Document(json): Document,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let (of, amount) = budget(&json, true).map_err(Problem::invalid)?;
    change(&admin, &operator, of, BudgetChange::TopUp(amount.unwrap_or_default())).await
}

/// `POST /budgets/reset`
pub(crate) async fn reset(
    State(admin): State<Admin>,
    operator: Operator,
    query: Query,
    Document(json): Document,
) -> Result<Json<Value>, Problem> {
    query.finish()?;
    let (of, _) = budget(&json, false).map_err(Problem::invalid)?;
    change(&admin, &operator, of, BudgetChange::Reset).await
}

async fn change(
    admin: &Admin,
    operator: &Operator,
    of: BudgetOf,
    change: BudgetChange,
) -> Result<Json<Value>, Problem> {
    let policy = admin.shared.policy().clone();
    let zone = policy.time_zone();
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default().to_zoned(zone.clone());
    let period = Period::of(of.per, &now);
    let of = by_own_model(admin, of).await?;
    let state = admin.registry.change_budget(&of, period, change, &operator.actor()).await?;
    Ok(Json(budget_to_json(&of, &state, admin.shared.settings().prices.currency(), zone)))
}

/// The same budget by its model's own name: budgets are counted by it.
pub(crate) async fn by_own_model(admin: &Admin, of: BudgetOf) -> Result<BudgetOf, RegistryError> {
    let loaded = admin.shared.catalogue().load().clone();
    let served = |model: &str| Some(loaded.as_deref()?.pool(model)?.canonical.as_str().to_owned());
    admin.registry.by_own_model(of, served).await
}

/// Reads which budget a document is about, and with `has_amount` what is added to it.
fn budget(json: &Value, has_amount: bool) -> Result<(BudgetOf, Option<u64>), ConfigErrors> {
    let mut errors: Vec<ConfigError> = Vec::new();
    let mut text = |key: &str, allowed: &str, fits: &dyn Fn(&str) -> bool| match json.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if fits(text) => Some(text.clone()),
        Some(found) => {
            errors.push(error(key, format!("found {found}; allowed: {allowed}")));
            None
        }
    };
    let is_name = |text: &str| accounts::name(text).is_some();
    let (key, consumer) = (text("key", accounts::NAME, &is_name), text("consumer", accounts::NAME, &is_name));
    let is_model = |text: &str| (1..=512).contains(&text.len()) && !text.contains(char::is_control);
    let model = text("model", "the name of a model, up to 512 bytes", &is_model);
    let per = text("per", "day, week, month or ever", &|text| Calendar::find(text).is_some());
    let amount = match has_amount {
        true => text("amount", AMOUNT, &|text| read_money(text).is_some_and(|amount| amount > 0)),
        false => None,
    };
    let known = ["key", "consumer", "model", "per", "amount"];
    let known = if has_amount { &known[..] } else { &known[..4] };
    for key in json.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !known.contains(&key.as_str()) {
            let message = format!("unknown key; allowed here: {}", known.join(", "));
            errors.push(error(key, message));
        }
    }
    let is_given = |key: &str| json.get(key).is_some_and(|value| !value.is_null());
    if is_given("key") == is_given("consumer") {
        errors.push(error("key", "allowed: key or consumer, one of both"));
    }
    for (name, allowed) in [("per", "day, week, month or ever"), ("amount", AMOUNT)] {
        if !is_given(name) && known.contains(&name) {
            errors.push(error(name, format!("is missing; allowed: {allowed}")));
        }
    }
    let whose = key.map(BudgetOwner::Key).or(consumer.map(BudgetOwner::Consumer));
    match (whose, per.as_deref().and_then(Calendar::find)) {
        (Some(whose), Some(per)) if errors.is_empty() => {
            Ok((BudgetOf { whose, model, per }, amount.as_deref().and_then(read_money)))
        }
        _ => Err(ConfigErrors(errors)),
    }
}

/// The representation of a budget. Amounts are text: most programs read numbers as floats.
pub fn budget_to_json(of: &BudgetOf, state: &BudgetState, currency: Option<&str>, zone: &TimeZone) -> Value {
    let (kind, name) = match &of.whose {
        BudgetOwner::Key(name) => ("key", name),
        BudgetOwner::Consumer(name) => ("consumer", name),
    };
    let ends = state.period.end(zone).and_then(|end| Timestamp::try_from(end).ok());
    let mut json = json!({
        "per": of.per.name(),
        "period": state.period.to_string(),
        "budget": write_money(state.budget.amount()),
        "added": write_money(state.added),
        "spent": write_money(state.spent),
        "remaining": write_money(state.allowed().saturating_sub(state.spent)),
        "resets": ends.map(|end| end.to_string()),
        "currency": currency,
    });
    json[kind] = name.as_str().into();
    if let Some(model) = &state.model {
        json["model"] = model.as_str().into();
    }
    json
}
