//! Sums of usage by month, and of all keys together.
//!
//! Each batch is added to them as to the days, so they are right at any time. What a replica of an older Modelgate counts is in the
//! days alone, until the month is summed up anew.

use sqlx::AssertSqlSafe;

use super::{UsageTable, sums};
use crate::{Store, StoreError, StoreUrl};

impl Store {
    /// Sums up anew what was used in this month (`2026-11`). A month of which some days may already be deleted is left as it is.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn sum_up(&self, month: &str) -> Result<(), StoreError> {
        match self.oldest_day().await? {
            Some(oldest) if UsageTable::Months.period_of(&oldest) < month => {}
            _ => return Ok(()),
        }
        let month_of = "substr(day, 1, 7)";
        let tables = [
            (UsageTable::Months, month_of, "key_name, consumer"),
            (UsageTable::Models, "day", "'', ''"),
            (UsageTable::ModelMonths, month_of, "'', ''"),
        ];
        let statements = tables.map(|(table, time, names)| {
            let period = table.period();
            // A month is the beginning of each of its days.
            let delete = format!("DELETE FROM {} WHERE {period} >= substr($1, 1, 7) AND {period} <= $2", table.name());
            let groups = if table == UsageTable::Months { "key_name, consumer, model" } else { "model" };
            let insert = format!(
                "{} SELECT {time}, {names}, model, {} FROM usage WHERE day >= $1 AND day <= $2 GROUP BY {time}, {groups}",
                table.insert(),
                sums()
            );
            [delete, insert]
        });
        let mut transaction = self.begin().await?;
        if let StoreUrl::Postgres(_) = self.url {
            // Nothing may be added to a day while it is summed up; what is counted meanwhile waits.
            sqlx::query("LOCK TABLE usage IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
        }
        let (first, last) = (format!("{month}-01"), format!("{month}-31"));
        for statement in statements.into_iter().flatten() {
            sqlx::query(AssertSqlSafe(statement)).bind(&first).bind(&last).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
