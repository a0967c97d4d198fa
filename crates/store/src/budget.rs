//! What operators give on top of budgets: amounts that are added for the present period, and resets.
//!
//! Both are counts beside that of the budget, and only ever grow: so they add up with what replicas count meanwhile, and reach every
//! replica as other counts do.

use std::{fmt, sync::Arc};

use access::{Consumer, Key, KeyDigest};
use accounts::{ConsumerSpec, KeySpec, Plan};
use config_reader::ConfigErrors;
use limits::{Calendar, Limits, Period, Quota, QuotaId, Subject, Unit, write_money};
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
    /// The model, by its own name, if the budget is one per model.
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
    /// What is spent or reserved until now does not count any more.
    Reset,
}

/// A budget and its counts, in units of 10⁻⁹ of the currency, as of the store: replicas write theirs twice a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Quota,
    /// The present period.
    pub period: Period,
    /// What was added to it.
    pub added: u64,
    /// What is spent or reserved, without what does not count any more.
    pub spent: u64,
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
        let [used, added, forgiven] = counts(&mut connection, of.id(period)).await?;
        Ok(BudgetState { budget, period, added, spent: used.saturating_sub(forgiven) })
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

    async fn find_budget(&self, of: &BudgetOf) -> Result<Quota, RegistryError> {
        let (own, plan) = match &of.whose {
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
            Some(plan) => self
                .get::<Plan>(&plan)
                .await?
                .map(|plan| [plan.account.limits, plan.account.limits_per_model]),
            None => None,
        };
        let which = usize::from(of.model.is_some());
        let of_plan = || plan.as_ref().and_then(|plan| plan[which].as_ref());
        let found = own[which].as_ref().or_else(of_plan).and_then(|limits| budget_in(limits, of.per));
        found.ok_or_else(|| {
            let limit = if of.model.is_some() { "limit_per_model" } else { "limit" };
            let field = limits::Field::budget(of.per).name();
            RegistryError::NoBudget(of.whose.to_string(), format!("{limit}.{field}"))
        })
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
        let (Some(added), Some(forgiven)) = (id.added(), id.forgiven()) else { return Ok(()) };
        let mut transaction = self.begin().await?;
        // From here on other writers wait.
        let row = sqlx::query("UPDATE counting SET batch = batch + 1 WHERE only_row = 1 RETURNING batch")
            .fetch_one(&mut *transaction)
            .await?;
        let number: i64 = row.try_get(0)?;
        let [used, _, hidden] = counts(&mut transaction, id).await?;
        let spent = used.saturating_sub(hidden);
        let (count, by, action) = match change {
            BudgetChange::TopUp(amount) => (added, amount, "budget topped up"),
            BudgetChange::Reset => (forgiven, spent, "budget reset"),
        };
        let by_signed = i64::try_from(by).unwrap_or(i64::MAX);
        add_counts(&mut transaction, number, &[(count, by_signed)]).await?;
        let mut details =
            json!({ "per": of.per.name(), "period": period.to_string(), "spent": write_money(spent) });
        if let Some(model) = &of.model {
            details["model"] = model.as_str().into();
        }
        if let BudgetChange::TopUp(amount) = change {
            details["added"] = write_money(amount).into();
        }
        let audit = Audit::new(actor, action).about(of.whose.to_string()).with(details);
        audit.insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// What was taken of a budget, added to it, and forgiven.
async fn counts(connection: &mut sqlx::AnyConnection, id: QuotaId) -> Result<[u64; 3], StoreError> {
    let ids = [Some(id), id.added(), id.forgiven()];
    let asked: Vec<_> = ids.into_iter().flatten().map(|id| (id, 0)).collect();
    let found = counts_of(connection, &asked).await?;
    let count = |id: Option<QuotaId>| {
        found.iter().find(|(other, _)| Some(*other) == id).map_or(0, |(_, count)| *count)
    };
    Ok(ids.map(count))
}
