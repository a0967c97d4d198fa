//! Computes anew what usage has cost, for those who got a price wrong.
//!
//! A request is counted by its estimate, and up to `metering.wait` later its settlement adds the difference, both at the price at which
//! the request came. If its row were computed anew in between, the row would have the estimate at the new price and the difference at
//! the old one. No lock helps against that. So only hours are computed anew whose requests are all settled:
//!
//! - If that is true of all hours of a day, its rows are computed anew from the counts of the day, and the rows of its hours from theirs.
//! - Otherwise the hours are computed anew of which it is true, and what they differ by is added to the day's rows as well.
//!
//! Like a settlement, a difference is added to all sums that it is part of. Each day is done in a transaction of its own in which
//! nobody else counts, together with the audit entry about what is done so far: so nothing is done twice or by half, wherever it stops.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    time::{Duration, SystemTime},
};

use access::{UsageHour, Used, UsedCounts};
use limits::MOST_COST;
use serde_json::{Value, json};
use sqlx::{AnyConnection, AssertSqlSafe, Row as _, any::AnyRow};

use crate::{
    Audit, Store, StoreError, StoreUrl, UsageRow,
    usage::{self, NUMBERS, UsageTable, UsedOn, read_counts},
};

/// Which days are computed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecostDays {
    /// The first day: `2026-11-21`.
    pub from: String,
    /// The last day, inclusive.
    pub to: Option<String>,
    /// All requests that came before this are settled, and the store has their settlements. Hours that end later are left out.
    pub settled_until: SystemTime,
    /// Whether it is only found out what would change.
    pub dry_run: bool,
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recosted {
    /// Rows of usage by day whose cost is another one now.
    pub rows: u64,
    /// Those of them that cost nothing before, or an hour of theirs: from before their model had a price, for example.
    pub free_before: u64,
    /// What all usage of those days cost before, in units of 10⁻⁹ of the currency.
    pub before: i64,
    /// What it costs now.
    pub after: i64,
    /// The hours that were left out; `None` if those days have no usage of such hours.
    pub left_out: Option<LeftOutHours>,
}

/// Hours of which nothing was computed anew, because their requests may not be settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOutHours {
    /// When the first of them began.
    pub from: SystemTime,
    /// When the last of them ends.
    pub to: SystemTime,
}

/// By what the cost of a row changes.
struct CostChange {
    more: UsedOn,
    was_free: bool,
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Store {
    /// Sets the cost of each row of usage to what `cost` says of its day, model and counts, except in hours whose requests may not be
    /// settled yet. `audit` says who does it. If it fails in the middle, the days before are done and in the audit log, and it can be
    /// done again. With `dry_run` nothing is set.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn recost(
        &self,
        days: &RecostDays,
        cost: impl Fn(&UsageRow) -> i64,
        audit: Audit,
    ) -> Result<Recosted, StoreError> {
        let audit = audit.about("usage");
        let mut recosted = Recosted::default();
        let found = self.days_between(days).await?;
        for day in &found {
            let mut transaction = self.begin().await?;
            if matches!(self.url, StoreUrl::Postgres(_)) && !days.dry_run {
                // Nothing may be added to a row between its reading and its change; what is counted meanwhile waits.
                let lock = "LOCK TABLE usage, usage_hours IN SHARE ROW EXCLUSIVE MODE";
                sqlx::query(lock).execute(&mut *transaction).await?;
            }
            recosted += recost_day(&mut transaction, (day, days), &cost).await?;
            if !days.dry_run {
                audit.clone().with(details(days, Some(day), &recosted)).put(&mut transaction).await?;
            }
            transaction.commit().await?;
        }
        if found.is_empty() && !days.dry_run {
            let mut transaction = self.begin().await?;
            audit.with(details(days, None, &recosted)).put(&mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(recosted)
    }

    async fn days_between(&self, days: &RecostDays) -> Result<Vec<String>, StoreError> {
        let of = |table: UsageTable| {
            format!("SELECT day FROM {} WHERE day >= $1 AND (day <= $2 OR $2 = '')", table.name())
        };
        let statement = format!("{} UNION {} ORDER BY day", of(UsageTable::Days), of(UsageTable::Hours));
        let query = sqlx::query(AssertSqlSafe(statement)).bind(&days.from);
        let rows = query.bind(days.to.as_deref().unwrap_or_default()).fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

/// What the audit log says of what is done so far.
fn details(days: &RecostDays, last_day: Option<&String>, recosted: &Recosted) -> Value {
    let Recosted { rows, free_before, before, after, left_out } = *recosted;
    let left_out =
        left_out.map(|hours| jiff::Timestamp::try_from(hours.from).unwrap_or_default().to_string());
    json!({
        "from": days.from, "to": days.to, "last_day": last_day, "left_out_from": left_out,
        "rows_of_usage": rows, "rows_that_cost_nothing_before": free_before,
        "cost": { "before_in_billionths": before, "after_in_billionths": after },
    })
}

async fn recost_day(
    connection: &mut AnyConnection,
    (day, days): (&str, &RecostDays),
    cost: impl Fn(&UsageRow) -> i64,
) -> Result<Recosted, StoreError> {
    let of_day = rows_of(connection, UsageTable::Days, day).await?;
    let hours = rows_of(connection, UsageTable::Hours, day).await?;
    let (hours, left_out): (Vec<_>, Vec<_>) =
        hours.into_iter().partition(|row| began(row) + HOUR <= days.settled_until);
    let left_out = LeftOutHours::of(&left_out);
    let hours = changes(&hours, &cost);
    let (day_changes, hour_changes) = match left_out {
        None => ((changes(&of_day, &cost), &UsageTable::OF_DAYS[..]), (hours, &[UsageTable::Hours][..])),
        Some(_) => ((hours, &UsageTable::ALL[..]), (Vec::new(), &[][..])),
    };
    if !days.dry_run {
        for (changes, tables) in [&day_changes, &hour_changes] {
            let more: Vec<UsedOn> = changes.iter().map(|change| change.more.clone()).collect();
            // Without requests, the time is not used.
            usage::add_to(connection, tables, &more, SystemTime::UNIX_EPOCH).await?;
        }
    }
    Ok(Recosted { left_out, ..summed_up(&of_day, &day_changes.0) })
}

/// What changes of a day's rows come to.
fn summed_up(of_day: &[UsageRow], changes: &[CostChange]) -> Recosted {
    let mut rows: BTreeMap<[&str; 3], bool> = BTreeMap::new();
    for CostChange { more: UsedOn { used, .. }, was_free } in changes {
        *rows.entry([&used.key, &used.consumer, &used.model]).or_default() |= was_free;
    }
    let sum = |costs: &mut dyn Iterator<Item = i64>| costs.fold(0, i64::saturating_add);
    let before = sum(&mut of_day.iter().map(|row| row.counts.cost));
    let more = sum(&mut changes.iter().map(|change| change.more.used.counts.cost));
    let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    Recosted {
        rows: count(rows.len()),
        free_before: count(rows.values().filter(|was_free| **was_free).count()),
        before,
        after: before.saturating_add(more),
        left_out: None,
    }
}

fn changes(rows: &[UsageRow], cost: impl Fn(&UsageRow) -> i64) -> Vec<CostChange> {
    let change = |row: &UsageRow| {
        let (before, after) = (row.counts.cost, cost(row).clamp(-MOST_COST, MOST_COST));
        if before == after {
            return None;
        }
        let of = |name: &Option<String>| name.clone().unwrap_or_default();
        let (key, consumer, model) = (of(&row.key), of(&row.consumer), of(&row.model));
        let counts = UsedCounts { cost: after.saturating_sub(before), ..UsedCounts::default() };
        let used = Used { hour: hour_of(row), key, consumer, model, counts };
        Some(CostChange { more: UsedOn { day: of(&row.day), used }, was_free: before == 0 })
    };
    rows.iter().filter_map(change).collect()
}

/// A row by day has none.
fn hour_of(row: &UsageRow) -> UsageHour {
    UsageHour(row.hour.and_then(|hour| u32::try_from(hour).ok()).unwrap_or(0))
}

fn began(row: &UsageRow) -> SystemTime {
    hour_of(row).start()
}

impl LeftOutHours {
    fn of(rows: &[UsageRow]) -> Option<Self> {
        rows.iter().map(|row| Self { from: began(row), to: began(row) + HOUR }).reduce(Self::and)
    }

    fn and(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

impl AddAssign for Recosted {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.free_before += more.free_before;
        self.before = self.before.saturating_add(more.before);
        self.after = self.after.saturating_add(more.after);
        self.left_out = [self.left_out, more.left_out].into_iter().flatten().reduce(LeftOutHours::and);
    }
}

async fn rows_of(
    connection: &mut AnyConnection,
    table: UsageTable,
    day: &str,
) -> Result<Vec<UsageRow>, StoreError> {
    let statement = format!(
        "SELECT {}, key_name, consumer, model, {} FROM {} WHERE day = $1",
        NUMBERS.join(", "),
        table.time(),
        table.name()
    );
    let rows = sqlx::query(AssertSqlSafe(statement)).bind(day).fetch_all(connection).await?;
    rows.iter().map(|row| read_row(row, table, day)).collect()
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
