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
        let days = "FROM usage WHERE day >= $1 AND day <= $2 GROUP BY";
        let models = UsageTable::Models;
        let months = UsageTable::Months;
        let statements = [
            (
                format!("DELETE FROM {} WHERE month || '-01' >= $1 AND month || '-01' <= $2", months.name()),
                format!(
                    "{} SELECT substr(day, 1, 7), key_name, consumer, model, {} {days} substr(day, 1, 7), key_name, \
                     consumer, model",
                    months.insert(),
                    sums()
                ),
            ),
            (
                format!("DELETE FROM {} WHERE day >= $1 AND day <= $2", models.name()),
                format!("{} SELECT day, '', '', model, {} {days} day, model", models.insert(), sums()),
            ),
        ];
        let mut transaction = self.begin().await?;
        if let StoreUrl::Postgres(_) = self.url {
            // Nothing may be added to a day while it is summed up; what is counted meanwhile waits.
            sqlx::query("LOCK TABLE usage IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
        }
        let (first, last) = (format!("{month}-01"), format!("{month}-31"));
        for statement in statements.into_iter().flat_map(|(delete, insert)| [delete, insert]) {
            sqlx::query(AssertSqlSafe(statement)).bind(&first).bind(&last).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
