//! What was used: by day, and for some weeks by hour.
//!
//! ```text
//! span.rs    which tables have what a list of usage asks for, so that as few rows as possible are summed up
//! sums.rs    sums by month, and of all keys together: summed up anew once a day
//! ```
//!
//! All tables get each batch, in the same transaction. A request's row has its estimated tokens from the beginning; what it
//! has really used is added later, and its estimate subtracted, in the day and hour in which it came.

mod span;
mod sums;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use access::{Used, UsedCounts};
use limits::MOST_COST;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _, any::AnyRow, query::Query};

use crate::{
    Store, StoreError,
    database::{AT_ONCE, millis, parameters, rows},
};

/// What stands in the place of a name that was erased. No account can have this name.
pub(crate) const ERASED: &str = "(erased)";

/// Usage of an hour, and the day of that hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedOn {
    /// The day, in the time zone of quotas: `2026-11-21`.
    pub day: String,
    /// The usage.
    pub used: Used,
}

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageTable {
    /// Usage by day.
    Days,
    /// Usage by hour.
    Hours,
    /// Sums of [`UsageTable::Days`] by month.
    Months,
    /// Sums of [`UsageTable::Days`] by day and model, of all keys together.
    Models,
    /// The same by month.
    ModelMonths,
}

/// What a sum of usage is about. A column that it is not by is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageRow {
    /// When the hour began, in seconds since 1970.
    pub hour: Option<i64>,
    /// The day, in the time zone of quotas: `2026-11-21`.
    pub day: Option<String>,
    /// The month: `2026-11`.
    pub month: Option<String>,
    /// The key's name.
    pub key: Option<String>,
    /// The key's consumer.
    pub consumer: Option<String>,
    /// The model; empty if the requests named none.
    pub model: Option<String>,
    /// What was used.
    pub counts: UsedCounts,
    /// When the last request came, in milliseconds since 1970, to the second.
    pub last_used_ms: i64,
}

/// Which usage to list.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    /// Only usage of this key.
    pub key: Option<String>,
    /// Only usage of this consumer.
    pub consumer: Option<String>,
    /// Only usage of this model.
    pub model: Option<String>,
    /// The first day.
    pub from: Option<String>,
    /// The last day, inclusive.
    pub to: Option<String>,
    /// What each row is about.
    pub by: UsageBy,
    /// The table that is summed up; `None`: the one that has what rows are by with the fewest rows.
    pub table: Option<UsageTable>,
    /// Only usage of these names of a key, a consumer or a model.
    pub only: Option<(UsageDimension, Vec<String>)>,
    /// Which rows come first.
    pub order: UsageOrder,
    /// The maximum number of rows.
    pub limit: u32,
}

/// Which rows of a list of usage come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsageOrder {
    /// The newest time, then by name.
    #[default]
    Newest,
    /// The most tokens.
    Tokens,
    /// The highest cost, then the most tokens.
    Cost,
}

/// What the rows of a list of usage are by: a time, names, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBy(Vec<UsageDimension>);

/// A column that rows of usage are by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called what they are")]
pub enum UsageDimension {
    Hour,
    Day,
    Month,
    Key,
    Consumer,
    Model,
}

/// The text does not say what rows are by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", UsageBy::ALLOWED)]
pub struct InvalidUsageBy;

/// The columns with numbers, as in [`values`].
pub(crate) const NUMBERS: [&str; 15] = [
    "requests",
    "refused",
    "errors",
    "aborted",
    "milliseconds",
    "prompt",
    "cached",
    "completion",
    "exact",
    "measured",
    "tokens",
    COST,
    "images",
    "sound",
    "characters",
];
const COST: &str = "cost";

pub(crate) fn values(counts: &UsedCounts) -> [i64; NUMBERS.len()] {
    let UsedCounts { requests, refused, errors, aborted, milliseconds, .. } = *counts;
    let UsedCounts { prompt, cached, completion, exact, measured, estimated, cost, .. } = *counts;
    let UsedCounts { images, sound, characters, .. } = *counts;
    // Otherwise clients who may have answers of any length could fill the column, and nothing would be written any more.
    let cost = cost.clamp(-MOST_COST, MOST_COST);
    [
        requests,
        refused,
        errors,
        aborted,
        milliseconds,
        prompt,
        cached,
        completion,
        exact,
        measured,
        estimated,
        cost,
        images,
        sound,
        characters,
    ]
}

pub(crate) fn counts(values: [i64; NUMBERS.len()]) -> UsedCounts {
    let [
        requests,
        refused,
        errors,
        aborted,
        milliseconds,
        prompt,
        cached,
        completion,
        exact,
        measured,
        estimated,
        cost,
        images,
        sound,
        characters,
    ] = values;
    UsedCounts {
        requests,
        refused,
        errors,
        aborted,
        milliseconds,
        prompt,
        cached,
        completion,
        exact,
        measured,
        estimated,
        cost,
        images,
        sound,
        characters,
    }
}

impl UsageBy {
    /// What may be written.
    pub const ALLOWED: &str =
        "hour, day or month, and any of key, consumer and model, separated by commas: day,key";

    /// By these columns, of which at most one is a time; without any, all of it is one sum.
    pub fn of(columns: impl IntoIterator<Item = UsageDimension>) -> Self {
        let mut by: Vec<_> = columns.into_iter().collect();
        by.sort_by_key(|by| by.place());
        by.dedup_by_key(|by| by.place());
        Self(by)
    }

    /// The columns, the time first.
    pub fn dimensions(&self) -> &[UsageDimension] {
        &self.0
    }
}

impl Default for UsageBy {
    fn default() -> Self {
        Self::of([UsageDimension::Day, UsageDimension::Key, UsageDimension::Consumer, UsageDimension::Model])
    }
}

impl FromStr for UsageBy {
    type Err = InvalidUsageBy;

    fn from_str(text: &str) -> Result<Self, InvalidUsageBy> {
        let named = |word: &str| UsageDimension::ALL.into_iter().find(|by| by.name() == word);
        let mut by: Vec<_> = text.split(',').map(named).collect::<Option<_>>().ok_or(InvalidUsageBy)?;
        by.sort_by_key(|by| by.place());
        let is_twice = by.windows(2).any(|two| two[0].place() == two[1].place());
        if is_twice { Err(InvalidUsageBy) } else { Ok(Self(by)) }
    }
}

impl fmt::Display for UsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|by| by.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl UsageDimension {
    const ALL: [Self; 6] = [Self::Hour, Self::Day, Self::Month, Self::Key, Self::Consumer, Self::Model];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Key => "key",
            Self::Consumer => "consumer",
            Self::Model => "model",
        }
    }

    /// Its place in a row; a row has one time.
    fn place(self) -> u8 {
        match self {
            Self::Hour | Self::Day | Self::Month => 0,
            Self::Key => 1,
            Self::Consumer => 2,
            Self::Model => 3,
        }
    }

    pub(crate) fn expression(self) -> &'static str {
        match self {
            Self::Month => "substr(day, 1, 7)",
            Self::Key => "key_name",
            other => other.name(),
        }
    }
}

impl UsageTable {
    /// In the order in which they are written.
    pub(crate) const ALL: [Self; 5] =
        [Self::Days, Self::Hours, Self::Months, Self::Models, Self::ModelMonths];
    /// Usage by day, and its sums.
    pub(crate) const OF_DAYS: [Self; 4] = [Self::Days, Self::Months, Self::Models, Self::ModelMonths];
    /// Those whose rows have the names of keys and consumers.
    pub(crate) const NAMED: [Self; 3] = [Self::Days, Self::Hours, Self::Months];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Days => "usage",
            Self::Hours => "usage_hours",
            Self::Months => "usage_months",
            Self::Models => "usage_models",
            Self::ModelMonths => "usage_model_months",
        }
    }

    /// The column of its time.
    pub(crate) fn time(self) -> &'static str {
        match self {
            Self::Days | Self::Models => "day",
            Self::Hours => "hour",
            Self::Months | Self::ModelMonths => "month",
        }
    }

    /// The columns of its times.
    pub(crate) fn times(self) -> &'static [&'static str] {
        match self {
            Self::Days | Self::Models => &["day"],
            Self::Hours => &["day", "hour"],
            Self::Months | Self::ModelMonths => &["month"],
        }
    }

    /// The column of the day or month that a row belongs to.
    pub(crate) fn period(self) -> &'static str {
        self.times()[0]
    }

    /// The period that a day belongs to.
    pub(crate) fn period_of(self, day: &str) -> &str {
        match self {
            Self::Months | Self::ModelMonths => day.get(..7).unwrap_or(day),
            Self::Days | Self::Hours | Self::Models => day,
        }
    }

    /// The beginning of a statement that adds to rows.
    pub(crate) fn insert(self) -> String {
        let columns = [self.times(), &["key_name", "consumer", "model"], &NUMBERS, &["last_used"]].concat();
        format!("INSERT INTO {} ({})", self.name(), columns.join(", "))
    }

    /// The end of it.
    pub(crate) fn or_add(self) -> String {
        let (table, time) = (self.name(), self.time());
        let sum = |name| match (name, format!("{table}.{name} + excluded.{name}")) {
            (COST, sum) => format!(
                "{name} = CASE WHEN {sum} > {MOST_COST} THEN {MOST_COST} WHEN {sum} < -{MOST_COST} THEN -{MOST_COST} \
                 ELSE {sum} END, "
            ),
            (_, sum) => format!("{name} = {sum}, "),
        };
        let sums: String = NUMBERS.map(sum).concat();
        format!(
            " ON CONFLICT (key_name, {time}, model, consumer) DO UPDATE SET {sums} last_used = CASE WHEN \
             excluded.last_used > {table}.last_used THEN excluded.last_used ELSE {table}.last_used END"
        )
    }
}

/// The sums of a table's numbers, and the last use.
pub(crate) fn sums() -> String {
    // PostgreSQL's sums of BIGINT are NUMERIC.
    NUMBERS.map(|name| format!("CAST(sum({name}) AS BIGINT), ")).concat() + "max(last_used)"
}

/// A row, without its numbers. The order is that in which all replicas write, so that no two of them deadlock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RowKey {
    key: String,
    day: String,
    hour: i64,
    model: String,
    consumer: String,
}

impl RowKey {
    fn of(table: UsageTable, UsedOn { day, used }: &UsedOn) -> Self {
        let hour = if table == UsageTable::Hours { used.hour.0.into() } else { 0 };
        let Used { mut key, mut consumer, model, .. } = used.clone();
        if matches!(table, UsageTable::Models | UsageTable::ModelMonths) {
            (key, consumer) = Default::default();
        }
        Self { key, day: table.period_of(day).to_owned(), hour, model, consumer }
    }

    /// An hour is known without its day, which is another one if the time zone has changed.
    fn without_day(&self, table: UsageTable) -> Self {
        match table {
            UsageTable::Hours => Self { day: String::new(), ..self.clone() },
            _ => self.clone(),
        }
    }

    /// The rows that hold its requests if its own row does not: then the name of its key or consumer was erased.
    fn erased(&self) -> [Self; 2] {
        let key = || ERASED.to_owned();
        [Self { key: key(), ..self.clone() }, Self { key: key(), consumer: key(), ..self.clone() }]
    }
}

/// What is added to a row: numbers, and the last use in milliseconds since 1970, 0 if there was none.
type More = (UsedCounts, i64);

/// Adds what was used.
pub(crate) async fn add(
    connection: &mut AnyConnection,
    used: &[UsedOn],
    at: SystemTime,
) -> Result<(), StoreError> {
    add_to(connection, &UsageTable::ALL, used, at).await
}

/// Adds what was used to some of the tables, in their order in [`UsageTable::ALL`].
pub(crate) async fn add_to(
    connection: &mut AnyConnection,
    tables: &[UsageTable],
    used: &[UsedOn],
    at: SystemTime,
) -> Result<(), StoreError> {
    for table in tables.iter().copied() {
        let mut more: BTreeMap<RowKey, More> = BTreeMap::new();
        for one in used {
            let (counts, last_used) = more.entry(RowKey::of(table, one)).or_default();
            *counts += one.used.counts;
            *last_used = (*last_used).max(last_use(&one.used, at));
        }
        let more = past_erasure(connection, table, more).await?;
        let more: Vec<_> = more.into_iter().collect();
        for some in more.chunks(AT_ONCE) {
            add_rows(connection, table, some).await?;
        }
    }
    Ok(())
}

/// When the last of these requests came. What was only settled was used before.
fn last_use(used: &Used, at: SystemTime) -> i64 {
    if used.counts.requests == 0 && used.counts.refused == 0 {
        return 0;
    }
    let end = used.hour.start() + Duration::from_secs(3_599);
    millis(at.min(end)) / 1_000 * 1_000
}

/// What is only settled has a row already, unless a name was erased meanwhile. Then it goes where its row went, so that the
/// name does not come back. Without either row, it has one of its own.
async fn past_erasure(
    connection: &mut AnyConnection,
    table: UsageTable,
    more: BTreeMap<RowKey, More>,
) -> Result<BTreeMap<RowKey, More>, StoreError> {
    let (settled, mut kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
        more.into_iter().partition(|(_, (_, last_used))| *last_used == 0);
    let candidates: Vec<RowKey> = settled
        .keys()
        .flat_map(|row| {
            let [without_key, without_both] = row.erased();
            [row.clone(), without_key, without_both]
        })
        .collect();
    let mut there = HashSet::new();
    for some in candidates.chunks(AT_ONCE) {
        there.extend(existing(connection, table, some).await?.into_iter().map(|row| row.without_day(table)));
    }
    for (row, (by, _)) in settled {
        let [without_key, without_both] = row.erased();
        let is_there = |row: &RowKey| there.contains(&row.without_day(table));
        let found = [&row, &without_key, &without_both].into_iter().find(|row| is_there(row)).cloned();
        let row = found.unwrap_or(row);
        kept.entry(row).or_default().0 += by;
    }
    Ok(kept)
}

async fn existing(
    connection: &mut AnyConnection,
    table: UsageTable,
    wanted: &[RowKey],
) -> Result<Vec<RowKey>, StoreError> {
    let hour = if table == UsageTable::Hours { "hour" } else { "CAST(0 AS BIGINT)" };
    let statement = format!(
        "SELECT key_name, {}, {hour}, model, consumer FROM {} WHERE (key_name, {}, model, consumer) IN (VALUES {})",
        table.period(),
        table.name(),
        table.time(),
        rows(wanted.len(), 4)
    );
    let query = wanted.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, row| {
        let query = query.bind(&row.key);
        let query = match table {
            UsageTable::Hours => query.bind(row.hour),
            _ => query.bind(&row.day),
        };
        query.bind(&row.model).bind(&row.consumer)
    });
    let read = |row: &AnyRow| {
        Ok(RowKey {
            key: row.try_get(0)?,
            day: row.try_get(1)?,
            hour: row.try_get(2)?,
            model: row.try_get(3)?,
            consumer: row.try_get(4)?,
        })
    };
    query.fetch_all(connection).await?.iter().map(read).collect()
}

async fn add_rows(
    connection: &mut AnyConnection,
    table: UsageTable,
    some: &[(RowKey, More)],
) -> Result<(), StoreError> {
    let columns = table.times().len() + 3 + NUMBERS.len() + 1;
    let statement = format!("{} VALUES {}{}", table.insert(), rows(some.len(), columns), table.or_add());
    let query =
        some.iter().fold(sqlx::query(AssertSqlSafe(statement)), |query, (row, (counts, last_used))| {
            let query = query.bind(&row.day);
            let query = if table == UsageTable::Hours { query.bind(row.hour) } else { query };
            let query = query.bind(&row.key).bind(&row.consumer).bind(&row.model);
            values(counts).into_iter().fold(query, Query::bind).bind(*last_used)
        });
    query.execute(connection).await?;
    Ok(())
}

impl Store {
    /// Usage, in the order that the filter says.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<Vec<UsageRow>, StoreError> {
        let source = self.usage_source(filter).await?;
        let by = filter.by.dimensions();
        let columns: Vec<_> = by.iter().map(|by| by.expression()).collect();
        let order = filter.order();
        let listed: String = columns.iter().map(|column| format!("{column}, ")).collect();
        let (numbers, groups) = match () {
            () if source.is_of_rows => {
                (format!("{}, last_used", NUMBERS.join(", ")), format!("ORDER BY {order}"))
            }
            () if by.is_empty() => (sums(), "HAVING count(*) > 0".to_owned()),
            () => (sums(), format!("GROUP BY {} ORDER BY {order}", columns.join(", "))),
        };
        let limit = source.values.len() + 1;
        let statement = format!("SELECT {listed}{numbers} FROM {} {groups} LIMIT ${limit}", source.from);
        let query = source.values.iter().fold(sqlx::query(AssertSqlSafe(statement)), Query::bind);
        let rows = query.bind(i64::from(filter.limit)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| read_row(row, by)).collect()
    }

    /// When each of these keys was last used, in milliseconds since 1970; keys that were never used are left out.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn last_used(&self, keys: &[String]) -> Result<Vec<(String, i64)>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let statement = format!(
                "SELECT key_name, max(last_used) FROM usage WHERE key_name IN ({}) GROUP BY key_name",
                parameters(1, some.len())
            );
            let query = sqlx::query(AssertSqlSafe(statement));
            let rows =
                some.iter().fold(query, |query, key| query.bind(key.clone())).fetch_all(&self.pool).await?;
            for row in rows {
                all.push((row.try_get(0)?, row.try_get(1)?));
            }
        }
        Ok(all)
    }

    /// Deletes some of the usage of days before this one, so that others who write need not wait. Returns the number of rows;
    /// with less than `most` there are no more.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget_usage_before(
        &self,
        table: UsageTable,
        day: &str,
        most: u32,
    ) -> Result<u64, StoreError> {
        let (name, time, period) = (table.name(), table.time(), table.period());
        let statement = format!(
            "DELETE FROM {name} WHERE (key_name, {time}, model, consumer) IN
             (SELECT key_name, {time}, model, consumer FROM {name} WHERE {period} < $1 LIMIT $2)"
        );
        let query = sqlx::query(AssertSqlSafe(statement)).bind(table.period_of(day)).bind(i64::from(most));
        Ok(query.execute(&self.pool).await?.rows_affected())
    }
}

/// The numbers of a row, from this column on.
pub(crate) fn read_counts(row: &AnyRow, from: usize) -> Result<UsedCounts, StoreError> {
    let mut numbers = [0; NUMBERS.len()];
    for (i, number) in numbers.iter_mut().enumerate() {
        *number = row.try_get(from + i)?;
    }
    Ok(counts(numbers))
}

fn read_row(row: &AnyRow, by: &[UsageDimension]) -> Result<UsageRow, StoreError> {
    let mut read = UsageRow::default();
    for (i, by) in by.iter().enumerate() {
        match by {
            UsageDimension::Hour => read.hour = Some(row.try_get(i)?),
            UsageDimension::Day => read.day = Some(row.try_get(i)?),
            UsageDimension::Month => read.month = Some(row.try_get(i)?),
            UsageDimension::Key => read.key = Some(row.try_get(i)?),
            UsageDimension::Consumer => read.consumer = Some(row.try_get(i)?),
            UsageDimension::Model => read.model = Some(row.try_get(i)?),
        }
    }
    Ok(UsageRow {
        counts: read_counts(row, by.len())?,
        last_used_ms: row.try_get(by.len() + NUMBERS.len())?,
        ..read
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_by_one_time_and_each_name_once() {
        for (text, expected) in [
            ("day,key,consumer,model", Some("day,key,consumer,model")),
            ("model,hour", Some("hour,model")),
            ("month", Some("month")),
            ("consumer", Some("consumer")),
            ("day,hour", None),
            ("key,key", None),
            ("week", None),
            ("day,", None),
            ("day, key", None),
            ("", None),
        ] {
            let by = text.parse::<UsageBy>().ok().map(|by| by.to_string());
            assert_eq!(by.as_deref(), expected, "{text:?}");
        }
        assert_eq!(UsageBy::default().to_string(), "day,key,consumer,model");
    }
}
