//! Which tables have what a list of usage asks for.
//!
//! A year of a thousand keys has two million rows by day. So what is by month is read from sums of months, but for the days at both
//! ends, and what is by nobody's name from sums of all keys.

use jiff::civil::Date;
use sqlx::Row as _;

use super::{NUMBERS, UsageDimension, UsageFilter, UsageOrder, UsageTable};
use crate::{Store, StoreError};

/// What is summed up.
pub(super) struct Source {
    /// What stands behind `FROM`, with conditions.
    pub(super) from: String,
    /// The values of its parameters.
    pub(super) values: Vec<String>,
    /// Each of its rows is one of the list.
    pub(super) is_of_rows: bool,
}

/// Months of which each day is asked for, the first and the last one: `2026-11`.
#[derive(Debug, PartialEq, Eq)]
struct WholeMonths {
    first: String,
    last: String,
}

impl WholeMonths {
    /// Those between two days, inclusive, and after the month of the oldest day that is kept: of that one some days may be deleted.
    fn between(from: Option<&str>, to: Option<&str>, oldest: &str) -> Option<Self> {
        let day = |text: &str| text.parse::<Date>().ok();
        let after = day(oldest)?.last_of_month().tomorrow().ok()?;
        let first = match from {
            None => after,
            Some(from) => {
                let from = day(from)?;
                let first = if from.day() == 1 { from } else { from.last_of_month().tomorrow().ok()? };
                first.max(after)
            }
        };
        let last = match to {
            None => Date::MAX,
            Some(to) => {
                let to = day(to)?;
                if to == to.last_of_month() { to } else { to.first_of_month().yesterday().ok()? }
            }
        };
        let month = |day: Date| day.to_string()[..7].to_owned();
        (first <= last).then(|| Self { first: month(first), last: month(last) })
    }
}

/// Conditions and the values of their parameters.
#[derive(Default)]
struct Conditions {
    texts: Vec<String>,
    values: Vec<String>,
}

impl Conditions {
    /// Each condition stands on its own, so that the database can use its indices.
    fn add(&mut self, condition: &str, value: &str) {
        self.values.push(value.to_owned());
        self.texts.push(format!("{condition} ${}", self.values.len()));
    }

    /// The names that a filter has, and its days.
    fn names(&mut self, filter: &UsageFilter) {
        let given =
            [("key_name =", &filter.key), ("consumer =", &filter.consumer), ("model =", &filter.model)];
        for (condition, value) in given {
            if let Some(value) = value {
                self.add(condition, value);
            }
        }
        if let Some((of, names)) = &filter.only {
            let first = self.values.len() + 1;
            self.values.extend(names.iter().cloned());
            let places: Vec<_> = (first..=self.values.len()).map(|place| format!("${place}")).collect();
            self.texts.push(match places.is_empty() {
                true => "1 = 0".to_owned(),
                false => format!("{} IN ({})", of.expression(), places.join(", ")),
            });
        }
    }

    fn days(&mut self, filter: &UsageFilter) {
        for (condition, value) in [("day >=", &filter.from), ("day <=", &filter.to)] {
            if let Some(value) = value {
                self.add(condition, value);
            }
        }
    }

    /// Those from this one on.
    fn text(&self, from: usize) -> String {
        if self.texts.len() == from {
            String::new()
        } else {
            format!("WHERE {}", self.texts[from..].join(" AND "))
        }
    }
}

impl UsageFilter {
    fn is_by(&self, what: UsageDimension) -> bool {
        self.by.dimensions().contains(&what)
    }

    /// The table of one kind of rows that has all that is asked for.
    fn one_table(&self) -> UsageTable {
        let is_of_nobody = self.key.is_none()
            && self.consumer.is_none()
            && !self.is_by(UsageDimension::Key)
            && !self.is_by(UsageDimension::Consumer);
        match self.table {
            _ if self.is_by(UsageDimension::Hour) => UsageTable::Hours,
            Some(table) => table,
            None if is_of_nobody => UsageTable::Models,
            None => UsageTable::Days,
        }
    }

    /// Which rows come first.
    pub(super) fn order(&self) -> String {
        const TOKENS: &str = "sum(exact + measured + tokens) DESC";
        let newest = self.by.dimensions().iter().map(|by| match by {
            UsageDimension::Hour | UsageDimension::Day | UsageDimension::Month => {
                format!("{} DESC", by.expression())
            }
            _ => by.expression().to_owned(),
        });
        let first = match self.order {
            UsageOrder::Newest => None,
            UsageOrder::Tokens => Some(TOKENS.to_owned()),
            UsageOrder::Cost => Some(format!("sum(cost) DESC, {TOKENS}")),
        };
        first.into_iter().chain(newest).collect::<Vec<_>>().join(", ")
    }
}

impl Store {
    pub(super) async fn usage_source(&self, filter: &UsageFilter) -> Result<Source, StoreError> {
        let table = filter.one_table();
        let is_of_rows = filter.by.dimensions().len() == 4
            && !filter.is_by(UsageDimension::Month)
            && filter.table.is_none()
            && filter.order == UsageOrder::Newest;
        let by_month = match table {
            UsageTable::Days => Some(UsageTable::Months),
            UsageTable::Models => Some(UsageTable::ModelMonths),
            _ => None,
        };
        let by_month = by_month.filter(|_| filter.table.is_none() && !filter.is_by(UsageDimension::Day));
        if let Some(by_month) = by_month
            && let Some(months) = self.whole_months(filter).await?
        {
            return Ok(months_and_days(filter, &months, [by_month, table]));
        }
        let mut conditions = Conditions::default();
        conditions.names(filter);
        conditions.days(filter);
        let from = format!("{} {}", table.name(), conditions.text(0));
        Ok(Source { from, values: conditions.values, is_of_rows })
    }

    async fn whole_months(&self, filter: &UsageFilter) -> Result<Option<WholeMonths>, StoreError> {
        let (from, to) = (filter.from.as_deref(), filter.to.as_deref());
        Ok(match self.oldest_day().await? {
            Some(oldest) => WholeMonths::between(from, to, &oldest),
            None => None,
        })
    }

    /// The oldest day of which there is usage.
    pub(super) async fn oldest_day(&self) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT min(day) FROM usage").fetch_one(&self.pool).await?;
        Ok(row.try_get(0)?)
    }
}

/// Sums of months, and the days before and after them: from these two tables.
fn months_and_days(
    filter: &UsageFilter,
    months: &WholeMonths,
    [by_month, by_day]: [UsageTable; 2],
) -> Source {
    let [by_month, by_day] = [by_month, by_day].map(UsageTable::name);
    let columns = format!("key_name, consumer, model, {}, last_used", NUMBERS.join(", "));
    let mut conditions = Conditions::default();
    conditions.add("month >=", &months.first);
    conditions.add("month <=", &months.last);
    conditions.names(filter);
    let whole = format!("SELECT month || '-01' AS day, {columns} FROM {by_month} {}", conditions.text(0));
    let mut part = |of: &[(&str, &str)]| {
        let from = conditions.texts.len();
        for (condition, value) in of {
            conditions.add(condition, value);
        }
        conditions.names(filter);
        conditions.days(filter);
        format!(" UNION ALL SELECT day, {columns} FROM {by_day} {}", conditions.text(from))
    };
    let before = part(&[("day <", &format!("{}-01", months.first))]);
    let after = part(&[("day >", &format!("{}-31", months.last))]);
    Source {
        from: format!("({whole}{before}{after}) AS usage"),
        values: conditions.values,
        is_of_rows: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_whole_from_their_first_to_their_last_day() {
        for (from, to, oldest, expected) in [
            (None, None, "2025-11-20", Some("2025-12 9999-12")),
            (Some("2026-02-01"), None, "2025-11-20", Some("2026-02 9999-12")),
            (Some("2026-02-02"), Some("2026-11-28"), "2025-11-20", Some("2026-03 2026-10")),
            (Some("2026-02-02"), Some("2026-11-30"), "2025-11-20", Some("2026-03 2026-11")),
            (Some("2024-01-01"), Some("2028-02-29"), "2025-12-31", Some("2026-01 2028-02")),
            (Some("2026-12-02"), Some("2027-01-31"), "2025-12-31", Some("2027-01 2027-01")),
            (Some("2026-11-02"), Some("2026-12-30"), "2025-12-31", None),
            (Some("2026-11-01"), Some("2026-11-29"), "2025-12-31", None),
            (None, Some("2026-11-30"), "2026-11-01", None),
        ] {
            let months = WholeMonths::between(from, to, oldest);
            let told = months.map(|WholeMonths { first, last }| format!("{first} {last}"));
            assert_eq!(told.as_deref(), expected, "{from:?} {to:?} {oldest}");
        }
    }
}
