//! The budgets of a key or a consumer: what is spent of each, and the forms that add to one or reset it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use accounts::{Account, AccountKind};
use config_reader::ConfigErrors;
use jiff::Timestamp;
use limits::{Calendar, Period, Quota, Reserve, read_money};
use prices::Amount;
use store::{
    BudgetChange, BudgetOf, BudgetOwner, BudgetState, RegistryError, UsageBy, UsageDimension, UsageFilter,
    UsageOrder,
};

use super::form::FormValues;
use crate::{Admin, Operator, api::by_own_model, pages::usage::day_before};

/// For how many models budgets are shown, of those used last.
const MODELS: u32 = 5;
/// How long ago that may be: a month.
const LATELY: Duration = Duration::from_secs(31 * 24 * 3_600);
/// How many budgets of models can be chosen in a form.
const CHOICES: usize = 1_000;

/// The budgets of an account.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    pub(super) rows: Vec<BudgetLine>,
    /// Those that can be changed: the value of the form, and its words.
    pub(super) choices: Vec<(String, String)>,
    /// In which they are.
    pub(super) currency: String,
    /// Why they cannot be shown.
    pub(super) error: Option<String>,
}

/// A budget in the present period.
#[derive(Debug)]
pub(super) struct BudgetLine {
    pub(super) budget: String,
    pub(super) applies: String,
    /// What is spent of it or reserved, and what may be.
    pub(super) spent: u64,
    pub(super) allowed: u64,
    pub(super) spent_of: String,
    pub(super) remaining: String,
    pub(super) resets: String,
}

/// Whose budgets an account has; a plan has none of its own.
fn owner(kind: AccountKind, name: &str) -> Option<BudgetOwner> {
    match kind {
        AccountKind::Key => Some(BudgetOwner::Key(name.to_owned())),
        AccountKind::Consumer => Some(BudgetOwner::Consumer(name.to_owned())),
        AccountKind::Plan => None,
    }
}

/// The budgets of an account; `None` if it has none.
pub(super) async fn of<A: Account>(admin: &Admin, account: &A) -> Option<Budgets> {
    let whose = owner(A::KIND, account.name())?;
    let [of_all, of_models] = admin.registry.budgets(&whose).await.ok()?;
    if of_all.is_empty() && of_models.is_empty() {
        return None;
    }
    let currency = admin.shared.settings().prices.currency().unwrap_or("no currency").to_owned();
    let mut found = Budgets { currency, ..Budgets::default() };
    let (mut asked, mut models) = (Vec::new(), Vec::new());
    asked.extend(of_all.iter().map(|budget| (budget.per(), None)));
    if !of_models.is_empty() {
        models = lately_used(admin, &whose).await;
        let each = models.iter().flat_map(|model| of_models.iter().map(move |budget| (budget.per(), model)));
        asked.extend(each.map(|(per, model)| (per, Some(model.clone()))));
    }
    for (per, model) in asked {
        match state(admin, BudgetOf { whose: whose.clone(), model: model.clone(), per }).await {
            Ok(state) => found.rows.push(line(admin, &state, model.as_deref())),
            Err(error) => {
                found.error = Some(error.to_string());
                break;
            }
        }
    }
    found.choices = choices(admin, (&of_all, &of_models), models);
    Some(found)
}

/// The models that can have a budget of their own, those used last first, and the budgets.
fn choices(
    admin: &Admin,
    (of_all, of_models): (&[Quota], &[Quota]),
    used: Vec<String>,
) -> Vec<(String, String)> {
    let words = |budget: &Quota| match budget.per() {
        Calendar::Ever => "in all".to_owned(),
        per => format!("of the {}", per.name()),
    };
    let all = of_all
        .iter()
        .map(|budget| (budget.per().name().to_owned(), format!("{}, over all models", words(budget))));
    let loaded = admin.shared.catalogue().load().clone();
    let known: BTreeSet<String> = loaded
        .iter()
        .flat_map(|catalogue| catalogue.pools().map(|pool| pool.canonical.as_str().to_owned()))
        .filter(|model| !used.contains(model))
        .collect();
    let models = used.into_iter().chain(known);
    let each = models.flat_map(|model| {
        of_models
            .iter()
            .map(|budget| {
                (format!("{} {model}", budget.per().name()), format!("{}, for {model}", words(budget)))
            })
            .collect::<Vec<_>>()
    });
    all.chain(each).take(CHOICES).collect()
}

async fn lately_used(admin: &Admin, whose: &BudgetOwner) -> Vec<String> {
    let Ok(store) = admin.registry.store() else { return Vec::new() };
    let (key, consumer) = match whose {
        BudgetOwner::Key(name) => (Some(name.clone()), None),
        BudgetOwner::Consumer(name) => (None, Some(name.clone())),
    };
    let from = day_before(admin, LATELY);
    let by = UsageBy::of([UsageDimension::Model]);
    let filter = UsageFilter { key, consumer, from: Some(from), by, ..UsageFilter::default() };
    let filter = UsageFilter { order: UsageOrder::Cost, limit: MODELS, ..filter };
    // The page is useful without usage, too.
    let rows = store.usage(&filter).await.unwrap_or_default();
    rows.into_iter().filter_map(|row| row.model).filter(|model| !model.is_empty()).collect()
}

fn period(admin: &Admin, per: Calendar) -> Period {
    let zone = admin.shared.policy().time_zone().clone();
    Period::of(per, &Timestamp::try_from(SystemTime::now()).unwrap_or_default().to_zoned(zone))
}

async fn state(admin: &Admin, of: BudgetOf) -> Result<BudgetState, RegistryError> {
    let of = by_own_model(admin, of).await?;
    admin.registry.budget(&of, period(admin, of.per)).await
}

fn line(admin: &Admin, state: &BudgetState, model: Option<&str>) -> BudgetLine {
    let money = |amount: u64| Amount(i64::try_from(amount).unwrap_or(i64::MAX)).rounded();
    let zone = admin.shared.policy().time_zone().clone();
    let end = state.period.end(&zone).and_then(|end| Timestamp::try_from(end).ok());
    let mut budget = state.budget.to_string();
    if state.budget.reserve() == Some(Reserve::Hard) {
        budget.push_str(", hard");
    }
    if state.added > 0 {
        budget.push_str(&format!(", and {} added", money(state.added)));
    }
    BudgetLine {
        budget,
        applies: model.map_or_else(|| "all models".to_owned(), str::to_owned),
        spent: state.spent,
        allowed: state.allowed(),
        spent_of: format!("{} of {}", money(state.spent), money(state.allowed())),
        remaining: money(state.allowed().saturating_sub(state.spent)),
        resets: end.map_or_else(
            || "never".to_owned(),
            |end| end.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string(),
        ),
    }
}

/// Does what a form says: adds to a budget, or resets it.
pub(super) async fn change<A: Account>(
    admin: &Admin,
    operator: &Operator,
    name: &str,
    (action, given): (&str, &FormValues),
) -> Result<(), RegistryError> {
    const AMOUNT: &str = "an amount such as 20 or 0.50, above 0 and up to 1000000000";
    let value = |key: &str| given.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value.trim());
    let wrong = |key: &str, allowed: &str| {
        let message = format!("found {:?}; allowed: {allowed}", value(key));
        RegistryError::Invalid(ConfigErrors::one(key, message))
    };
    let Some(whose) = owner(A::KIND, name) else { return Err(wrong("budget", "one of a key or a consumer")) };
    let (per, model) = match value("budget").split_once(' ') {
        Some((per, model)) => (per, Some(model.to_owned())),
        None => (value("budget"), None),
    };
    let is_name = |model: &String| (1..=512).contains(&model.len()) && !model.contains(char::is_control);
    let per = Calendar::find(per).filter(|_| model.as_ref().is_none_or(is_name));
    let per =
        per.ok_or_else(|| wrong("budget", "day, week, month or ever, and for one of a model its name"))?;
    let change = match action {
        "reset" => BudgetChange::Reset,
        _ => {
            let amount = read_money(value("amount")).filter(|amount| *amount > 0);
            BudgetChange::TopUp(amount.ok_or_else(|| wrong("amount", AMOUNT))?)
        }
    };
    let of = by_own_model(admin, BudgetOf { whose, model, per }).await?;
    admin.registry.change_budget(&of, period(admin, per), change, &operator.actor()).await?;
    Ok(())
}
