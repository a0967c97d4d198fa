//! What webhooks and mailboxes were told, so that a restart tells nothing twice.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{AnyConnection, AssertSqlSafe, Row as _, any::AnyRow};

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters, rows},
};

/// An alert that was told, and that is not known to be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldAlert {
    /// The webhook's name.
    pub receiver: String,
    /// The alert's code.
    pub code: String,
    /// What it is about.
    pub about: String,
    /// Whose name that has: `key alice`.
    pub owner: String,
    /// Its words.
    pub what: String,
    /// The dashboard's page.
    pub page: String,
    /// When it was told.
    pub at: SystemTime,
    /// When the budget that it is about has refused a request last, and what was left then, in units of 10⁻⁹ of the currency.
    pub refused: Option<(SystemTime, u64)>,
}

impl Store {
    /// All that was told and is not known to be over.
    ///
    /// # Errors
    /// If the database does not answer as it should.
    pub async fn told_alerts(&self) -> Result<Vec<ToldAlert>, StoreError> {
        let read = |row: &AnyRow| {
            let time = |millis: i64| UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            let (refused_at, refused_with): (i64, i64) = (row.try_get(7)?, row.try_get(8)?);
            let refused_with = u64::try_from(refused_with).unwrap_or(0);
            Ok(ToldAlert {
                receiver: row.try_get(0)?,
                code: row.try_get(1)?,
                about: row.try_get(2)?,
                owner: row.try_get(3)?,
                what: row.try_get(4)?,
                page: row.try_get(5)?,
                at: time(row.try_get(6)?),
                refused: (refused_at > 0).then(|| (time(refused_at), refused_with)),
            })
        };
        let statement = "SELECT receiver, code, about, owner, what, page, told_at, refused_at, refused_with \
                         FROM told_alerts ORDER BY receiver, code, about";
        sqlx::query(statement).fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Notes what was told, and forgets what is over, by receiver, code and what it is about. No two that were told may be the same in
    /// these three.
    ///
    /// # Errors
    /// If the database does not answer as it should; then nothing was noted.
    pub async fn note_told_alerts(&self, told: &[ToldAlert], over: &[[String; 3]]) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        for some in over.chunks(AT_ONCE) {
            let statement = format!(
                "DELETE FROM told_alerts WHERE (receiver, code, about) IN (VALUES {})",
                rows(some.len(), 3)
            );
            let query = some
                .iter()
                .flatten()
                .fold(sqlx::query(AssertSqlSafe(statement)), |query, part| query.bind(part.clone()));
            query.execute(&mut *transaction).await?;
        }
        for some in told.chunks(AT_ONCE) {
            write(&mut transaction, some).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn write(connection: &mut AnyConnection, told: &[ToldAlert]) -> Result<(), StoreError> {
    let statement = format!(
        "INSERT INTO told_alerts (receiver, code, about, owner, what, page, told_at, refused_at, refused_with) VALUES {}
         ON CONFLICT (receiver, code, about) DO UPDATE SET owner = excluded.owner, what = excluded.what,
         page = excluded.page, told_at = excluded.told_at, refused_at = excluded.refused_at,
         refused_with = excluded.refused_with",
        rows(told.len(), 9)
    );
    let query = told.iter().cloned().fold(sqlx::query(AssertSqlSafe(statement)), |query, told| {
        let ToldAlert { receiver, code, about, owner, what, page, at, refused } = told;
        let (refused_at, refused_with) = refused.map_or((0, 0), |(at, with)| (millis(at), with));
        let refused_with = i64::try_from(refused_with).unwrap_or(i64::MAX);
        let query = query.bind(receiver).bind(code).bind(about).bind(owner).bind(what).bind(page);
        query.bind(millis(at)).bind(refused_at).bind(refused_with)
    });
    query.execute(connection).await?;
    Ok(())
}

/// Forgets what was told of at most [`AT_ONCE`] owners: `key alice`.
pub(crate) async fn forget_told_alerts(
    connection: &mut AnyConnection,
    owners: &[String],
) -> Result<(), StoreError> {
    let statement = format!("DELETE FROM told_alerts WHERE owner IN ({})", parameters(1, owners.len()));
    let query =
        owners.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, owner| query.bind(owner.clone()));
    query.execute(connection).await?;
    Ok(())
}
