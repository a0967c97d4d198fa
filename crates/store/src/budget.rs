//! What operators give on top of budgets: amounts that are added for the present period, and resets.
//!
//! Both are counts beside that of the budget, and only ever grow: so they add up with what replicas count meanwhile, and reach every
//! replica as other counts do.

use std::{fmt, sync::Arc};

use access::{Consumer, Key, KeyDigest};
use accounts::{ConsumerSpec, KeySpec, Plan};
use config_reader::ConfigErrors;
use limits::{BudgetCounts, Calendar, Granted, Limits, Period, Quota, QuotaId, Subject, Unit, write_money};
use serde_json::json;
use sqlx::Row as _;

use crate::{
    Actor, Audit, Conflict, Registry, RegistryError, Store, StoreError,
    counts::{add_counts, counts_of},
};

/// A budget of a key or a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetOf {
    /// Whose it is.
    pub whose: BudgetOwner,
    /// The model, if the budget is one per model: by its own name, or by any until [`Registry::by_own_model`] has found that out.
    pub model: Option<String>,
    /// Its period.
    pub per: Calendar,
}

/// Whose budget it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetOwner {
    /// A key's, by its name.
    Key(String),
    /// A consumer's, by its name.
    Consumer(String),
}

/// What an operator does with a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetChange {
    /// Adds this amount for the present period, in units of 10⁻⁹ of the currency.
    TopUp(u64),
    /// What is spent until now does not count any more. What requests have reserved that are under way stays reserved.
    Reset,
    /// Counts this amount as spent, in units of 10⁻⁹ of the currency: that was done elsewhere.
    Spent(u64),
}

/// A budget and its counts, in units of 10⁻⁹ of the currency, as of the store: replicas write theirs twice a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Quota,
    /// The present period.
    pub period: Period,
    /// What was added to it.
    pub added: u64,
    /// What is spent or reserved, without what does not count any more.
    pub spent: u64,
    /// The model's own name, if the budget is one per model.
    pub model: Option<String>,
}

impl BudgetState {
    /// What may be spent in the period in all.
    pub fn allowed(&self) -> u64 {
        self.budget.amount().saturating_add(self.added)
    }
}

impl fmt::Display for BudgetOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key {name}"),
            Self::Consumer(name) => write!(f, "consumer {name}"),
        }
    }
}

impl BudgetOf {
    /// The id of its count in a period.
    fn id(&self, period: Period) -> QuotaId {
        let who = match &self.whose {
            BudgetOwner::Key(name) => Key::new(name, Arc::new(Consumer::new(name)), KeyDigest::of("")).id,
            BudgetOwner::Consumer(name) => Consumer::new(name).id,
        };
        let subject = Subject::of(who);
        let subject = match &self.model {
            Some(model) => subject.for_model(Subject::of_model(model)),
            None => subject,
        };
        subject.budget(self.per, period)
    }
}

impl Registry {
    /// A budget, and what is spent of it.
    ///
    /// # Errors
    /// There is no such key or consumer, or it has no such budget; or there is no store, or it does not answer.
    pub async fn budget(&self, of: &BudgetOf, period: Period) -> Result<BudgetState, RegistryError> {
        let budget = self.find_budget(of).await?;
        let store = self.store()?;
        let mut connection = store.pool.acquire().await.map_err(StoreError::from)?;
        let counts = counts(&mut connection, of.id(period)).await?;
        let Granted { added, .. } = counts.granted;
        Ok(BudgetState { budget, period, added, spent: counts.spent(), model: of.model.clone() })
    }

    /// Adds to a budget, or resets it. Returns its state after that.
    ///
    /// # Errors
    /// See [`Registry::budget`]; or what was added in all would be more than any budget may be.
    pub async fn change_budget(
        &self,
        of: &BudgetOf,
        period: Period,
        change: BudgetChange,
        actor: &Actor,
    ) -> Result<BudgetState, RegistryError> {
        let before = self.budget(of, period).await?;
        if let BudgetChange::TopUp(amount) = change
            && before.allowed().saturating_add(amount) > Quota::MAX_BUDGET
        {
            let message =
                format!("found {}; allowed: up to 1000000000 together with the budget", write_money(amount));
            return Err(RegistryError::Invalid(ConfigErrors::one("amount", message)));
        }
        self.store()?.change_budget(of, period, change, actor).await?;
        self.budget(of, period).await
    }

    /// The budgets of a key or a consumer, its own or those of its plan: over all models, and for each model.
    ///
    /// # Errors
    /// There is no such key or consumer; or the store does not answer.
    pub async fn budgets(&self, whose: &BudgetOwner) -> Result<[Vec<Quota>; 2], RegistryError> {
        let is_budget = |quota: &Quota| quota.unit() == Unit::Money;
        let of = |limits: Limits| limits.quotas().iter().copied().filter(is_budget).collect();
        Ok(self.limits_of(whose).await?.map(|limits| limits.map(of).unwrap_or_default()))
    }

    /// The same budget by its model's own name: those of aliases are never used. `served` tells the own name of a model that servers
    /// have now, if that is known; otherwise it is as the store remembers.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn by_own_model(
        &self,
        of: BudgetOf,
        served: impl FnOnce(&str) -> Option<String>,
    ) -> Result<BudgetOf, RegistryError> {
        let Some(model) = &of.model else { return Ok(of) };
        let own = match (served(model), self.store()) {
            (Some(own), _) => Some(own),
            (None, Ok(store)) => store.own_model_name(model).await?,
            // What is done with the budget says so.
            (None, Err(_)) => None,
        };
        Ok(BudgetOf { model: own.or_else(|| of.model.clone()), ..of })
    }

    async fn find_budget(&self, of: &BudgetOf) -> Result<Quota, RegistryError> {
        let [of_all, of_models] = self.limits_of(&of.whose).await?;
        let limits = if of.model.is_some() { of_models } else { of_all };
        limits.and_then(|limits| budget_in(&limits, of.per)).ok_or_else(|| {
            let limit = if of.model.is_some() { "limit_per_model" } else { "limit" };
            let field = limits::Field::budget(of.per).name();
            RegistryError::NoBudget(of.whose.to_string(), format!("{limit}.{field}"))
        })
    }

    /// The limits over all models and those for each model, its own or those of its plan.
    async fn limits_of(&self, whose: &BudgetOwner) -> Result<[Option<Limits>; 2], RegistryError> {
        let ([all, each], plan) = match whose {
            BudgetOwner::Key(name) => {
                let missing = || Conflict::Missing(accounts::AccountKind::Key, name.clone());
                let key = self.get::<KeySpec>(name).await?.ok_or_else(missing)?.account;
                ([key.limits, key.limits_per_model], key.plan)
            }
            BudgetOwner::Consumer(name) => {
                let missing = || Conflict::Missing(accounts::AccountKind::Consumer, name.clone());
                let consumer = self.get::<ConsumerSpec>(name).await?.ok_or_else(missing)?.account;
                ([consumer.limits, consumer.limits_per_model], consumer.plan)
            }
        };
        let plan = match plan {
            Some(plan) => self.get::<Plan>(&plan).await?.map(|plan| plan.account),
            None => None,
        };
        let [of_plan, of_plan_each] =
            plan.map(|plan| [plan.limits, plan.limits_per_model]).unwrap_or_default();
        Ok([all.or(of_plan), each.or(of_plan_each)])
    }
}

fn budget_in(limits: &Limits, per: Calendar) -> Option<Quota> {
    limits.quotas().iter().find(|quota| quota.unit() == Unit::Money && quota.per() == per).copied()
}

impl Store {
    async fn change_budget(
        &self,
        of: &BudgetOf,
        period: Period,
        change: BudgetChange,
        actor: &Actor,
    ) -> Result<(), StoreError> {
        let id = of.id(period);
        let given = (id.added(), id.forgiven(), id.settled());
        let (Some(added), Some(forgiven), Some(settled)) = given else { return Ok(()) };
        let mut transaction = self.begin().await?;
        // From here on other writers wait.
        let row = sqlx::query("UPDATE counting SET batch = batch + 1 WHERE only_row = 1 RETURNING batch")
            .fetch_one(&mut *transaction)
            .await?;
        let number: i64 = row.try_get(0)?;
        let counts = counts(&mut transaction, id).await?;
        let signed = |by: u64| i64::try_from(by).unwrap_or(i64::MAX);
        let (by, action) = match change {
            BudgetChange::TopUp(amount) => (vec![(added, signed(amount))], "budget topped up"),
            BudgetChange::Reset => (vec![(forgiven, signed(counts.to_forgive()))], "budget reset"),
            BudgetChange::Spent(amount) => {
                (vec![(id, signed(amount)), (settled, signed(amount))], "budget spent elsewhere")
            }
        };
        add_counts(&mut transaction, number, &by).await?;
        let (per, spent) = (of.per.name(), write_money(counts.spent()));
        let mut details = json!({ "per": per, "period": period.to_string(), "spent": spent });
        if let Some(model) = &of.model {
            details["model"] = model.as_str().into();
        }
        match change {
            BudgetChange::TopUp(amount) => details["added"] = write_money(amount).into(),
            BudgetChange::Spent(amount) => details["spent_elsewhere"] = write_money(amount).into(),
            BudgetChange::Reset => {
                let reserved = counts.spent() - counts.to_forgive();
                details["still_reserved"] = write_money(reserved).into();
            }
        }
        let audit = Audit::new(actor, action).about(of.whose.to_string()).with(details);
        audit.insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn counts(connection: &mut sqlx::AnyConnection, id: QuotaId) -> Result<BudgetCounts, StoreError> {
    let ids = [Some(id), id.added(), id.forgiven(), id.settled()];
    let asked: Vec<_> = ids.into_iter().flatten().map(|id| (id, 0)).collect();
    let found = counts_of(connection, &asked).await?;
    let count = |id: &QuotaId| found.iter().find(|(other, _)| other == id).map_or(0, |(_, count)| *count);
    Ok(BudgetCounts::of(id, count))
}
