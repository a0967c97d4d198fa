//! What was used: in sums by time, key, consumer and model; and how well each sum is known.

mod charts;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, SystemTime},
};

use access::UsedCounts;
use askama::Template;
use axum::{
    Form,
    extract::State,
    http::{Uri, request::Parts},
    response::{IntoResponse as _, Response},
};
use jiff::{Timestamp, ToSpan as _, civil::Date};
use prices::Amount;
use serde::Deserialize;
use store::{
    Erased, Person, RegistryError, Store, StoreError, UsageBy, UsageDimension, UsageFilter, UsageOrder,
    UsageRow, UsageTable,
};

use super::{status, with_status};
use crate::{
    Admin, Operator, Refusal,
    api::{Problem, is_day, usage_csv},
    chart::Chart,
    format::{self, Time},
    list::encode,
    page::{Frame, html},
};

/// How many rows are shown; the API has all of them.
const ROWS: u32 = 200;
/// How many names are compared, for those that have the most.
const NAMES: u32 = 2_000;
/// So many days by hour are kept at least.
const HOURS_KEPT: i64 = 30;
/// The first day that is shown, if none is chosen, is so long ago.
const USUAL: Duration = Duration::from_secs(30 * 24 * 3_600);
/// What rows can be by, and how that is called.
const CHOICES: [(&str, &str); 9] = [
    ("day", "Day"),
    ("hour", "Hour"),
    ("month", "Month"),
    ("day,model", "Day and model"),
    ("day,key,consumer,model", "Day, key and model"),
    ("month,consumer", "Month and consumer"),
    ("key,consumer", "Key"),
    ("consumer", "Consumer"),
    ("model", "Model"),
];

#[derive(Template)]
#[template(path = "usage.html")]
struct UsagePage {
    frame: Frame,
    query: UsageQuery,
    columns: Vec<&'static str>,
    charts: Vec<Chart>,
    total: Option<UsageLine>,
    /// How much more or less that is than in the time before.
    compared: Option<String>,
    rows: Vec<UsageLine>,
    has_more: bool,
    /// In which costs are; `None` if nothing has a price.
    currency: Option<String>,
    can_erase: bool,
    /// What was done.
    done: Option<String>,
    error: Option<String>,
}

impl UsagePage {
    /// Whether the rows are by something that is not among the choices.
    fn is_of_its_own(&self) -> bool {
        CHOICES.iter().all(|(value, _)| *value != self.query.by)
    }

    /// Where all of it is, for spreadsheets.
    fn csv(&self) -> String {
        let UsageQuery { by, key, consumer, model, from, to } = &self.query;
        let given =
            [("by", by), ("key", key), ("consumer", consumer), ("model", model), ("from", from), ("to", to)];
        let given = given.into_iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<_> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        format!("/usage.csv?{}", query.join("&"))
    }
}

/// Which usage to show; an empty filter is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UsageQuery {
    by: String,
    key: String,
    consumer: String,
    model: String,
    from: String,
    to: String,
}

/// A sum of usage, for people.
pub(crate) struct UsageLine {
    /// When; nothing in a sum over all times.
    pub(crate) time: Option<UsageTime>,
    /// Whose and of what, in the order of the columns: the column, the name, and a link if the name has a page.
    pub(crate) names: Vec<(&'static str, String, Option<String>)>,
    pub(crate) requests: String,
    /// What became of them, as far as it was not an answer.
    pub(crate) failed: String,
    /// What they asked for besides tokens.
    pub(crate) media: String,
    pub(crate) prompt: String,
    /// Empty if none is known.
    pub(crate) cached: String,
    pub(crate) completion: String,
    pub(crate) tokens: String,
    /// How well they are known.
    pub(crate) known: String,
    /// What it costs: rounded, and to the last digit.
    pub(crate) cost: [String; 2],
}

/// An hour, or a day or month.
pub(crate) enum UsageTime {
    Hour(Time),
    Date(String),
}

impl UsageLine {
    pub(crate) fn of(row: &UsageRow) -> Self {
        let UsageRow { hour, day, month, key, consumer, model, counts, .. } = row;
        let hour = hour.map(|hour| {
            let seconds = Duration::from_secs(u64::try_from(hour).unwrap_or(0));
            UsageTime::Hour(format::time(SystemTime::UNIX_EPOCH + seconds))
        });
        let date = day.as_ref().or(month.as_ref()).map(|date| UsageTime::Date(date.clone()));
        let named = [("Key", "keys", key), ("Consumer", "consumers", consumer), ("Model", "models", model)];
        let names = named.into_iter().filter_map(|(column, path, name)| {
            let name = name.as_ref()?;
            let has_page = !name.is_empty() && !name.starts_with('(');
            Some((column, name.clone(), has_page.then(|| format!("/{path}/{}", encode(name)))))
        });
        Self { time: hour.or(date), names: names.collect(), ..Self::numbers(counts) }
    }

    fn numbers(counts: &UsedCounts) -> Self {
        let count = |number: i64| format::count(u64::try_from(number).unwrap_or(0));
        // A line may end between the parts, not between a number and its word.
        let some = |words: &[(i64, &str)]| {
            let words = words.iter().filter(|(number, _)| *number > 0);
            words
                .map(|(number, word)| format!("{}\u{a0}{word}", count(*number)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let UsedCounts { exact, measured, estimated, .. } = *counts;
        let known = match [(exact, "exact"), (measured, "measured"), (estimated, "estimated")] {
            kinds if kinds.iter().filter(|(tokens, _)| *tokens > 0).count() > 1 => some(&kinds),
            kinds => kinds.iter().find(|(tokens, _)| *tokens > 0).map_or("", |(_, kind)| kind).to_owned(),
        };
        Self {
            time: None,
            names: Vec::new(),
            requests: count(counts.requests),
            failed: some(&[
                (counts.refused, "refused"),
                (counts.errors, "errors"),
                (counts.aborted, "aborted"),
            ]),
            media: media(counts),
            prompt: count(counts.prompt),
            cached: some(&[(counts.cached, "cached")]),
            completion: count(counts.completion),
            tokens: count(counts.tokens()),
            known,
            cost: [Amount(counts.cost).rounded(), Amount(counts.cost).to_string()],
        }
    }
}

/// `12 images, 3.5 minutes of sound`
fn media(counts: &UsedCounts) -> String {
    let count = |number: i64| format::count(u64::try_from(number).unwrap_or(0));
    let minutes = counts.sound as f64 / 60_000.0;
    let parts = [
        (
            counts.images,
            format!("{}\u{a0}{}", count(counts.images), if counts.images == 1 { "image" } else { "images" }),
        ),
        (counts.sound, format!("{minutes:.1}\u{a0}minutes of sound")),
        (counts.characters, format!("{}\u{a0}characters spoken", count(counts.characters))),
    ];
    parts.into_iter().filter(|(number, _)| *number > 0).map(|(_, words)| words).collect::<Vec<_>>().join(", ")
}

/// `GET /usage`
pub(crate) async fn show(State(admin): State<Admin>, operator: Operator, uri: Uri) -> Response {
    html(&page(&admin, operator, super::query(&uri)).await)
}

/// `GET /usage.csv`
pub(crate) async fn csv(State(admin): State<Admin>, uri: Uri, parts: Parts) -> Response {
    let (by, all) = asked(&admin, &mut super::query(&uri));
    let currency = currency(&admin);
    let Ok(store) = admin.registry.store() else { return Refusal::not_found(&parts).into_response() };
    let written = usage_csv(store, UsageFilter { by, table: None, limit: u32::MAX, ..all }, currency).await;
    written.unwrap_or_else(|error| Problem::from(error).into_response())
}

async fn page(admin: &Admin, operator: Operator, mut query: UsageQuery) -> UsagePage {
    let (by, all) = asked(admin, &mut query);
    let currency = currency(admin);
    let found = found(admin, &by, &all, currency.as_deref()).await;
    let (found, error) = match found {
        Ok(found) => (found, None),
        Err(error) => (UsageShown::default(), Some(error.to_string())),
    };
    let UsageShown { total, mut rows, before, charts } = found;
    let has_more = rows.len() > ROWS as usize;
    rows.truncate(ROWS as usize);
    let compared = total.as_ref().zip(before.as_ref());
    UsagePage {
        can_erase: operator.role.may_write() && error.is_none(),
        frame: Frame::new("Usage", "/usage", operator),
        columns: by.dimensions().iter().map(|by| heading(by.name())).collect(),
        charts: if total.is_some() { charts } else { Vec::new() },
        compared: compared.map(|(now, before)| compared_with(before, now, currency.as_deref())),
        total: total.as_ref().map(|total| UsageLine::numbers(&total.counts)),
        rows: rows.iter().map(UsageLine::of).collect(),
        has_more,
        currency,
        query,
        done: None,
        error,
    }
}

/// What rows are by, and the filter of all of them. What the query leaves out or has wrong becomes what is usual.
fn asked(admin: &Admin, query: &mut UsageQuery) -> (UsageBy, UsageFilter) {
    let by = query.by.parse::<UsageBy>().ok();
    query.by = by.as_ref().map_or_else(|| CHOICES[0].0.to_owned(), ToString::to_string);
    let by = by.unwrap_or_else(|| UsageBy::of([UsageDimension::Day]));
    for day in [&mut query.from, &mut query.to] {
        if !is_day(day) {
            day.clear();
        }
    }
    if query.from.is_empty() && query.to.is_empty() {
        query.from = day_before(admin, USUAL);
    }
    let given = |text: &str| Some(text.trim().replace('\0', "")).filter(|text| !text.is_empty());
    let all = UsageFilter {
        key: given(&query.key),
        consumer: given(&query.consumer),
        model: given(&query.model),
        from: given(&query.from),
        to: given(&query.to),
        by: UsageBy::of([]),
        table: by.dimensions().contains(&UsageDimension::Hour).then_some(UsageTable::Hours),
        limit: 1,
        ..UsageFilter::default()
    };
    (by, all)
}

/// What the store has of it.
#[derive(Default)]
struct UsageShown {
    total: Option<UsageRow>,
    rows: Vec<UsageRow>,
    /// All of as many days before.
    before: Option<UsageRow>,
    charts: Vec<Chart>,
}

async fn found(
    admin: &Admin,
    by: &UsageBy,
    all: &UsageFilter,
    currency: Option<&str>,
) -> Result<UsageShown, RegistryError> {
    let store = admin.registry.store()?;
    let is_by = |wanted: &[UsageDimension]| by.dimensions().iter().any(|by| wanted.contains(by));
    let most = if currency.is_some() { UsageOrder::Cost } else { UsageOrder::Tokens };
    let is_by_time = is_by(&[UsageDimension::Hour, UsageDimension::Day, UsageDimension::Month]);
    let of = [UsageDimension::Key, UsageDimension::Consumer].into_iter().find(|of| is_by(&[*of]));
    let of = of.unwrap_or(UsageDimension::Model);
    // One list serves for the sum and for the charts, and without times for the rows, too.
    let listed = if is_by_time { UsageBy::of([of]) } else { by.clone() };
    let listed = UsageFilter { by: listed, order: most, limit: NAMES, ..all.clone() };
    let listed = store.usage(&listed).await?;
    let is_whole = listed.len() < NAMES as usize;
    let rows = UsageFilter { by: by.clone(), order: UsageOrder::Newest, limit: ROWS + 1, ..all.clone() };
    let mut found = UsageShown {
        total: if is_whole { sums(&listed, |_| ()).pop() } else { store.usage(all).await?.pop() },
        rows: match is_by_time {
            true => store.usage(&rows).await?,
            false => listed.iter().take(ROWS as usize + 1).cloned().collect(),
        },
        ..UsageShown::default()
    };
    let by_name = match of {
        UsageDimension::Key => sums(&listed, |row| row.key.clone()),
        UsageDimension::Consumer => sums(&listed, |row| row.consumer.clone()),
        _ => sums(&listed, |row| row.model.clone()),
    };
    let day = |text: &Option<String>| text.as_ref().and_then(|day| day.parse::<Date>().ok());
    let today = day(&Some(day_before(admin, Duration::ZERO))).unwrap_or_default();
    let last = day(&all.to).unwrap_or(today);
    let first = match day(&all.from) {
        Some(first) if first <= last => {
            let days = (i64::from((last - first).get_days()) + 1).days();
            let [from, to] = [first.saturating_sub(days), first.saturating_sub(1.day())];
            let [from, to] = [from, to].map(|day| Some(day.to_string()));
            let before = UsageFilter { from, to, table: None, ..all.clone() };
            found.before = Some(store.usage(&before).await?.pop().unwrap_or_default());
            first
        }
        Some(_) => last,
        None => oldest(&store, all).await?.unwrap_or(last),
    };
    let zone = admin.shared.policy().time_zone().clone();
    let charted = charts::Charted {
        filter: &UsageFilter { table: None, ..all.clone() },
        days: [first.min(last), last],
        zone: &zone,
        hours_from: today.saturating_sub(HOURS_KEPT.days()),
        currency,
        of,
    };
    found.charts = charts::charts(&store, &charted, &by_name).await?;
    Ok(found)
}

/// The sums of rows that are of the same name.
fn sums<N: Ord>(rows: &[UsageRow], name: impl Fn(&UsageRow) -> N) -> Vec<UsageRow> {
    let mut sums: BTreeMap<N, UsageRow> = BTreeMap::new();
    for row in rows {
        match sums.entry(name(row)) {
            Entry::Vacant(vacant) => {
                vacant.insert(row.clone());
            }
            Entry::Occupied(sum) => sum.into_mut().counts += row.counts,
        }
    }
    sums.into_values().collect()
}

/// The first month of which there is something.
async fn oldest(store: &Store, all: &UsageFilter) -> Result<Option<Date>, StoreError> {
    let by = UsageBy::of([UsageDimension::Month]);
    let months = store.usage(&UsageFilter { by, table: None, limit: u32::MAX, ..all.clone() }).await?;
    let first = months.last().and_then(|row| row.month.as_ref());
    Ok(first.and_then(|month| format!("{month}-01").parse().ok()))
}

/// `12 % more tokens and 3 % less cost than in as many days before.`
fn compared_with(before: &UsageRow, now: &UsageRow, currency: Option<&str>) -> String {
    let change = |what: &str, before: i64, now: i64| match (before, now) {
        (..=0, _) => None,
        (before, now) => {
            let percent = ((now - before) as f64 / before as f64 * 100.0).round();
            Some(match percent {
                0.0 => format!("as much {what}").replace("much tokens", "many tokens"),
                percent if percent > 0.0 => format!("{} % more {what}", format::count(percent as u64)),
                percent => format!("{} % less {what}", format::count(-percent as u64))
                    .replace("less tokens", "fewer tokens"),
            })
        }
    };
    let tokens = change("tokens", before.counts.tokens(), now.counts.tokens());
    let cost = currency.and_then(|_| change("cost", before.counts.cost, now.counts.cost));
    let changes: Vec<_> = tokens.into_iter().chain(cost).collect();
    if changes.is_empty() {
        return "Nothing was used in as many days before.".to_owned();
    }
    let spent = currency.map(|currency| format!(", {} {currency}", Amount(before.counts.cost).rounded()));
    format!(
        "{} than in as many days before ({} tokens{}).",
        changes.join(" and "),
        format::count(before.counts.tokens()),
        spent.unwrap_or_default()
    )
}

/// The currency of costs; `None` if nothing has a price.
pub(crate) fn currency(admin: &Admin) -> Option<String> {
    admin.shared.settings().prices.currency().map(str::to_owned)
}

fn heading(column: &str) -> &'static str {
    match column {
        "hour" => "Hour",
        "day" => "Day",
        "month" => "Month",
        "key" => "Key",
        "consumer" => "Consumer",
        _ => "Model",
    }
}

/// The day so long ago, in the time zone of quotas.
pub(crate) fn day_before(admin: &Admin, ago: Duration) -> String {
    let then = Timestamp::try_from(SystemTime::now() - ago).unwrap_or_default();
    then.to_zoned(admin.shared.policy().time_zone().clone()).date().to_string()
}

/// The form by which a name is erased.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EraseForm {
    kind: String,
    name: String,
}

/// `POST /usage`
pub(crate) async fn erase(
    State(admin): State<Admin>,
    operator: Operator,
    parts: Parts,
    Form(EraseForm { kind, name }): Form<EraseForm>,
) -> Response {
    let name = name.trim().to_owned();
    let person = match kind.as_str() {
        "key" => Person::Key(name),
        "consumer" => Person::Consumer(name),
        _ => return Refusal::bad_request(&parts, "kind: allowed: key or consumer").into_response(),
    };
    let erased = admin.registry.erase(&person, &operator.actor()).await;
    let mut page = page(&admin, operator, UsageQuery::default()).await;
    match erased {
        Ok(Erased { usage, audit }) => {
            page.done = Some(format!(
                "The name was erased from {} of usage and {} of the audit log. Sums stay.",
                format::counted(usize::try_from(usage).unwrap_or(usize::MAX), "row"),
                match audit {
                    1 => "1 entry".to_owned(),
                    many => format!("{} entries", format::count(many)),
                }
            ));
            html(&page)
        }
        Err(error) => {
            page.error = Some(error.to_string());
            with_status(status(&error), html(&page))
        }
    }
}

#[cfg(test)]
mod tests {
    use access::{UsageHour, Used};
    use axum::http::{Request, StatusCode};
    use store::{Batch, UsedOn, Writer};

    use super::*;
    use crate::testing::{ADMIN, Dashboard, READER, text};

    /// A dashboard whose store has usage of today, of two keys.
    async fn dashboard(folder: &tempfile::TempDir) -> Dashboard {
        let dashboard = Dashboard::with_store(catalogue::Catalogue::default(), folder.path()).await;
        let now = SystemTime::now();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let hour = UsageHour(u32::try_from(seconds).expect("before 2106") / 3_600 * 3_600);
        let counts = UsedCounts {
            requests: 4,
            refused: 2,
            aborted: 1,
            prompt: 1_000,
            cached: 600,
            completion: 234,
            exact: 1_200,
            estimated: 34,
            cost: 1_234_567_891_000,
            images: 6,
            sound: 45_000,
            ..UsedCounts::default()
        };
        let used = ["carol", "<b>bob"].map(|key| {
            let [key, consumer, model] = [key, "team", "llama"].map(str::to_owned);
            UsedOn {
                day: day_before(&dashboard.admin, Duration::ZERO),
                used: Used { hour, key, consumer, model, counts },
            }
        });
        let batch = Batch { number: 1, counts: Vec::new(), used: used.into(), at: now };
        let store = dashboard.admin.registry.store().expect("a store");
        store.add(&Writer::new(), &batch).await.expect("added");
        dashboard
    }

    #[tokio::test]
    async fn sums_are_shown_by_what_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let dashboard = dashboard(&folder).await;
        let page = dashboard.page("/usage").await;
        for part in [
            "All of it",
            "2,000",
            "1,200 cached",
            "468",
            "2,468",
            "2,400 exact, 68 estimated",
            "4 refused, 2 aborted",
            "12 images, 1.5 minutes of sound",
            "Cost (EUR)",
            "<data value=\"2469.135782\">2,469.14</data>",
        ] {
            assert!(page.replace('\u{a0}', " ").contains(part), "{part}: {page}");
        }
        assert!(!page.contains("carol"), "by day");
        for part in [
            "Tokens by day",
            "Cost (EUR) by day",
            "In all: llama 2,468.",
            "Nothing was used in as many days before.",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let page = dashboard.page("/usage?by=consumer&to=2199-12-31").await;
        assert!(page.contains("Tokens by month") && page.contains("In all: team 2,468."), "{page}");
        let csv = dashboard.page("/usage.csv?by=day,key").await;
        let lines: Vec<_> = csv.lines().collect();
        assert!(lines[0].starts_with("day,key,requests,refused,errors,aborted,seconds,tokens,"), "{csv}");
        let is_row = |line: &str, key: &str| {
            line.contains(&format!(",{key},4,2,0,1,0.0,1234,1000,600,234,1200,0,34,6,45.0,0,"))
                && line.ends_with(",1234.567891,EUR")
        };
        assert!(lines.len() == 3 && is_row(lines[1], "<b>bob") && is_row(lines[2], "carol"), "{csv}");
        let page = dashboard.page("/usage?by=hour,key&key=carol").await;
        for part in
            ["<time datetime=", "<a href=\"/keys/carol\">carol</a>", "1,234", "1,200 exact, 34 estimated"]
        {
            assert!(page.replace('\u{a0}', " ").contains(part), "{part}: {page}");
        }
        let page = dashboard.page("/usage?by=key").await;
        assert!(page.contains("&#60;b&#62;bob") && !page.contains("<b>bob"), "{page}");
        assert!(dashboard.page("/usage?to=2020-01-01").await.contains("Nothing was used in this time."));
    }

    #[tokio::test]
    async fn a_name_is_erased_by_who_may_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let dashboard = dashboard(&folder).await;
        let send = async |token, form| {
            let request = Request::post("/usage").header("content-type", "application/x-www-form-urlencoded");
            let answer = dashboard.ask(Some(token), request.header("accept", "text/html"), form).await;
            (answer.status(), text(answer).await)
        };
        assert_eq!(send(READER, "kind=key&name=carol").await.0, StatusCode::FORBIDDEN);
        assert_eq!(send(ADMIN, "kind=plan&name=carol").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(send(ADMIN, "kind=key&name=").await.0, StatusCode::BAD_REQUEST);
        assert!(dashboard.page("/usage?by=key").await.contains("carol"));
        let (status, page) = send(ADMIN, "kind=key&name=carol").await;
        assert!(
            status == StatusCode::OK && page.contains("erased from 2 rows of usage and 0 entries"),
            "{page}"
        );
        let page = dashboard.page("/usage?by=key").await;
        assert!(page.contains("(erased)") && !page.contains("carol") && page.contains("2,468"), "{page}");
        assert!(dashboard.page("/audit").await.contains("usage erased"));
    }

    #[test]
    fn a_sum_says_how_well_it_is_known() {
        let line = |exact, measured, estimated| {
            UsageLine::numbers(&UsedCounts { exact, measured, estimated, ..UsedCounts::default() })
        };
        let said = |line: UsageLine| (line.tokens, line.known);
        assert_eq!(said(line(0, 0, 0)), ("0".into(), String::new()));
        assert_eq!(said(line(1_234, 0, 0)), ("1,234".into(), "exact".into()));
        assert_eq!(said(line(0, 0, 5)), ("5".into(), "estimated".into()));
        assert_eq!(said(line(1_000, 0, 5)), ("1,005".into(), "1,000\u{a0}exact, 5\u{a0}estimated".into()));
        let failed = UsedCounts { refused: 3, aborted: 1, cached: 7, ..UsedCounts::default() };
        let failed = UsageLine::numbers(&failed);
        assert_eq!((&*failed.failed, &*failed.cached), ("3\u{a0}refused, 1\u{a0}aborted", "7\u{a0}cached"));
    }
}
