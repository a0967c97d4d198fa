//! Computes anew what usage has cost, for those who got a price wrong.

use limits::MOST_COST;
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _, any::AnyRow};

use crate::{
    Audit, Store, StoreError, StoreUrl, UsageRow,
    usage::{NUMBERS, UsageTable, read_counts},
};

/// Which days are computed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecostDays {
    /// The first day: `2026-11-21`.
    pub from: String,
    /// The last day, inclusive.
    pub to: Option<String>,
    /// Whether it is only found out what would change.
    pub dry_run: bool,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recosted {
    /// Rows of usage by day whose cost is another one now.
    pub rows: u64,
    /// Those of them that cost nothing before: from before their model had a price, for example.
    pub free_before: u64,
    /// What all usage of those days cost before, in units of 10⁻⁹ of the currency.
    pub before: i64,
    /// What it costs now.
    pub after: i64,
}

impl Store {
    /// Sets the cost of each row of usage to what `cost` says of its day, model and counts. `audit` says who does it. If it fails
    /// in the middle, it can be done again. With `dry_run` nothing is set.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn recost(
        &self,
        days: &RecostDays,
        cost: impl Fn(&UsageRow) -> i64,
        audit: Audit,
    ) -> Result<Recosted, StoreError> {
        let mut recosted = Recosted::default();
        for table in [UsageTable::Days, UsageTable::Hours] {
            for day in self.days_between(table, days).await? {
                let of_day = self.recost_day(table, (&day, days.dry_run), &cost).await?;
                if table == UsageTable::Days {
                    recosted.rows += of_day.rows;
                    recosted.free_before += of_day.free_before;
                    recosted.before = recosted.before.saturating_add(of_day.before);
                    recosted.after = recosted.after.saturating_add(of_day.after);
                }
            }
        }
        if days.dry_run {
            return Ok(recosted);
        }
        let mut transaction = self.begin().await?;
        let Recosted { rows, free_before, before, after } = recosted;
        let details = json!({
            "from": days.from, "to": days.to, "rows_of_usage": rows, "rows_that_cost_nothing_before": free_before,
            "cost": { "before_in_billionths": before, "after_in_billionths": after },
        });
        audit.about("usage".to_owned()).with(details).insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(recosted)
    }

    async fn days_between(&self, table: UsageTable, days: &RecostDays) -> Result<Vec<String>, StoreError> {
        let name = table.name();
        let statement = format!(
            "SELECT DISTINCT day FROM {name} WHERE day >= $1 AND (day <= $2 OR $2 = '') ORDER BY day"
        );
        let query = sqlx::query(AssertSqlSafe(statement)).bind(&days.from);
        let rows = query.bind(days.to.as_deref().unwrap_or_default()).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn recost_day(
        &self,
        table: UsageTable,
        (day, dry_run): (&str, bool),
        cost: impl Fn(&UsageRow) -> i64,
    ) -> Result<Recosted, StoreError> {
        let (name, time) = (table.name(), table.time());
        let mut transaction = self.begin().await?;
        if let StoreUrl::Postgres(_) = self.url {
            // Nothing may be added to a row between its reading and its change; what is counted meanwhile waits.
            let lock = format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE");
            sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
        }
        let statement = format!(
            "SELECT {}, key_name, consumer, model, {time} FROM {name} WHERE day = $1",
            NUMBERS.join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(statement)).bind(day).fetch_all(&mut *transaction).await?;
        let update = format!(
            "UPDATE {name} SET cost = $1 WHERE key_name = $2 AND consumer = $3 AND model = $4 AND {time} = $5"
        );
        let mut recosted = Recosted::default();
        for row in rows {
            let read = read_row(&row, table, day)?;
            let (before, after) = (read.counts.cost, cost(&read).clamp(-MOST_COST, MOST_COST));
            recosted.before = recosted.before.saturating_add(before);
            recosted.after = recosted.after.saturating_add(after);
            if before != after {
                recosted.rows += 1;
                recosted.free_before += u64::from(before == 0);
            }
            if before != after && !dry_run {
                let sums_of = read.clone();
                let query = sqlx::query(AssertSqlSafe(update.clone())).bind(after);
                let query = query.bind(read.key).bind(read.consumer).bind(read.model);
                let query = match read.hour {
                    Some(hour) => query.bind(hour),
                    None => query.bind(day),
                };
                query.execute(&mut *transaction).await?;
                if table == UsageTable::Days {
                    add_to_sums(&mut transaction, &sums_of, after.saturating_sub(before)).await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(recosted)
    }
}

/// Adds to the costs of the sums that a row by day is part of.
async fn add_to_sums(connection: &mut AnyConnection, row: &UsageRow, more: i64) -> Result<(), StoreError> {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    let (day, key, consumer, model) = (of(&row.day), of(&row.key), of(&row.consumer), of(&row.model));
    let month = UsageTable::Months.period_of(&day).to_owned();
    let nobody = String::new;
    let sums = [
        (UsageTable::Months, month.clone(), key, consumer),
        (UsageTable::Models, day, nobody(), nobody()),
        (UsageTable::ModelMonths, month, nobody(), nobody()),
    ];
    for (table, period, key, consumer) in sums {
        let statement = format!(
            "UPDATE {} SET cost = cost + $1 WHERE key_name = $2 AND {} = $3 AND model = $4 AND consumer = $5",
            table.name(),
            table.period()
        );
        let query = sqlx::query(AssertSqlSafe(statement)).bind(more).bind(key);
        query.bind(period).bind(&model).bind(consumer).execute(&mut *connection).await?;
    }
    Ok(())
}

fn read_row(row: &AnyRow, table: UsageTable, day: &str) -> Result<UsageRow, StoreError> {
    let name = |place: usize| row.try_get(NUMBERS.len() + place);
    let hour = match table {
        UsageTable::Hours => Some(row.try_get(NUMBERS.len() + 3)?),
        _ => None,
    };
    Ok(UsageRow {
        hour,
        day: Some(day.to_owned()),
        key: Some(name(0)?),
        consumer: Some(name(1)?),
        model: Some(name(2)?),
        counts: read_counts(row, 0)?,
        ..UsageRow::default()
    })
}
