//! Charts of usage: tokens and costs by time, stacked by the names that have the most of them.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use jiff::{ToSpan as _, civil::Date, tz::TimeZone};
use prices::Amount;
use store::{Store, StoreError, UsageBy, UsageDimension, UsageFilter, UsageOrder, UsageRow};

use crate::{
    chart::{Chart, Measure, StackedSpan, stacked},
    format,
};

/// How many names have a colour of their own.
const NAMES: usize = 5;
/// Longer times than so many hours are drawn by day.
const MOST_HOURS: i32 = 3 * 24;
/// Longer times than so many days are drawn by month: of models, and of keys and consumers, of which there may be many.
const MOST_DAYS: [i32; 2] = [92, 31];

/// What a chart is about.
pub(super) struct Charted<'a> {
    /// The filter of the page.
    pub(super) filter: &'a UsageFilter,
    /// The first and the last day.
    pub(super) days: [Date; 2],
    /// The days of usage.
    pub(super) zone: &'a TimeZone,
    /// The days for which hours are kept.
    pub(super) hours_from: Date,
    /// In which costs are, if there are prices.
    pub(super) currency: Option<&'a str>,
    /// What stacks are of.
    pub(super) of: UsageDimension,
}

/// A chart of tokens and, if there are prices, one of costs. `all` has a row for each name.
pub(super) async fn charts(
    store: &Store,
    charted: &Charted<'_>,
    all: &[UsageRow],
) -> Result<Vec<Chart>, StoreError> {
    let step = step(charted);
    let spans = spans(charted, step);
    let of_tokens = (UsageOrder::Tokens, "Tokens".to_owned());
    let of_costs = charted.currency.map(|currency| (UsageOrder::Cost, format!("Cost ({currency})")));
    let wanted: Vec<_> = [of_tokens].into_iter().chain(of_costs).collect();
    let top = |order| {
        let mut all: Vec<_> = all.iter().filter(|row| value(row, order) > 0).collect();
        all.sort_by_key(|row| Reverse(value(row, order)));
        all.into_iter().take(NAMES).filter_map(|row| name_of(charted.of, row)).collect::<Vec<_>>()
    };
    let mut names: Vec<_> = wanted.iter().flat_map(|(order, _)| top(*order)).collect();
    names.sort_unstable();
    names.dedup();
    let filter = UsageFilter { limit: u32::MAX, ..charted.filter.clone() };
    // What is not of these names is the difference, so that nobody sums up what is of all others.
    let whole = UsageFilter { by: UsageBy::of([step]), ..filter.clone() };
    let rows = UsageFilter { by: UsageBy::of([step, charted.of]), only: Some((charted.of, names)), ..filter };
    let mut rows = store.usage(&rows).await?;
    rows.extend(store.usage(&whole).await?);
    let drawn = |(order, what): (UsageOrder, String)| {
        drawn(format!("{what} by {}", step.name()), order, top(order), &spans, &rows, charted.of)
    };
    Ok(wanted.into_iter().map(drawn).collect())
}

fn value(row: &UsageRow, order: UsageOrder) -> i64 {
    match order {
        UsageOrder::Cost => row.counts.cost,
        UsageOrder::Tokens | UsageOrder::Newest => row.counts.tokens(),
    }
}

/// What the columns of a chart are.
fn step(charted: &Charted<'_>) -> UsageDimension {
    let [from, to] = charted.days;
    let days = (to - from).get_days() + 1;
    let most_days = MOST_DAYS[usize::from(charted.of != UsageDimension::Model)];
    match days {
        _ if days * 24 <= MOST_HOURS && from >= charted.hours_from => UsageDimension::Hour,
        _ if days <= most_days => UsageDimension::Day,
        _ => UsageDimension::Month,
    }
}

/// The columns: what stands for each in a row of usage, its name, and its start if it is an hour.
fn spans(charted: &Charted<'_>, step: UsageDimension) -> Vec<(String, String, String)> {
    let [from, to] = charted.days;
    let days = from.series(1.day()).take_while(|day| *day <= to);
    match step {
        UsageDimension::Hour => {
            let start = |day: Date| day.to_zoned(charted.zone.clone()).map(|day| day.timestamp().as_second());
            let (Ok(first), Ok(end)) = (start(from), start(to.saturating_add(1.day()))) else {
                return Vec::new();
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let hours =
                (first / 3_600 * 3_600..end.min(i64::try_from(now).unwrap_or(i64::MAX))).step_by(3_600);
            hours
                .map(|hour| {
                    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(hour).unwrap_or(0));
                    let name = format::moment(at).people.get(..5).unwrap_or_default().to_owned();
                    (hour.to_string(), name, format::time(at).machine)
                })
                .collect()
        }
        UsageDimension::Month => {
            let mut months: Vec<_> = days.map(|day| day.to_string()[..7].to_owned()).collect();
            months.dedup();
            months.into_iter().map(|month| (month.clone(), month, String::new())).collect()
        }
        _ => days.map(|day| (day.to_string(), day.to_string()[5..].to_owned(), String::new())).collect(),
    }
}

fn name_of(of: UsageDimension, row: &UsageRow) -> Option<String> {
    match of {
        UsageDimension::Key => row.key.clone(),
        UsageDimension::Consumer => row.consumer.clone(),
        _ => row.model.clone(),
    }
}

fn drawn(
    title: String,
    order: UsageOrder,
    names: Vec<String>,
    spans: &[(String, String, String)],
    rows: &[UsageRow],
    of: UsageDimension,
) -> Chart {
    let mut values: BTreeMap<(String, usize), i64> = BTreeMap::new();
    let others = names.len();
    for row in rows {
        let time = row
            .hour
            .map(|hour| hour.to_string())
            .or(row.day.clone())
            .or(row.month.clone())
            .unwrap_or_default();
        let value = value(row, order);
        match name_of(of, row).map(|name| names.iter().position(|one| *one == name)) {
            Some(Some(series)) => {
                *values.entry((time.clone(), series)).or_default() += value;
                *values.entry((time, others)).or_default() -= value;
            }
            // It is among the others of this chart.
            Some(None) => {}
            None => *values.entry((time, others)).or_default() += value,
        }
    }
    let has_others = values.iter().any(|((_, series), value)| *series == others && *value > 0);
    let shown: Vec<String> = names
        .into_iter()
        .map(|name| if name.is_empty() { "no name".to_owned() } else { name })
        .chain(has_others.then(|| "others".to_owned()))
        .collect();
    let stacks: Vec<StackedSpan> = spans
        .iter()
        .map(|(time, name, machine)| {
            let value = |series| values.get(&(time.clone(), series)).copied().unwrap_or(0);
            StackedSpan {
                name: name.clone(),
                machine: machine.clone(),
                values: (0..shown.len()).map(value).collect(),
            }
        })
        .collect();
    let unit = if order == UsageOrder::Cost { 1e9 } else { 1.0 };
    let show = |value| match order {
        UsageOrder::Cost => Amount(value).rounded(),
        _ => format::count(u64::try_from(value).unwrap_or(0)),
    };
    let mut chart = stacked(title, &shown, &stacks, Measure { unit, show });
    let told: Vec<_> =
        chart.legend.iter().map(|series| format!("{} {}", series.name, series.total)).collect();
    chart.summary =
        if told.is_empty() { "Nothing.".to_owned() } else { format!("In all: {}.", told.join(", ")) };
    chart
}
