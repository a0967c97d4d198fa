//! `modelgate usage` and `modelgate audit`.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};

use prices::{Amount, PriceList};
use serde_json::{Value, json};
use store::{AuditFilter, Erased, LeftOutHours, RecostDays, Recosted, Registry, UsageFilter, UsageRow};

use super::{
    registry::{ACTOR, CommandFailure, answer},
    table::{self, cell},
};
use crate::{
    arguments::records::{Audit, Erase, Recost, Usage, UsageCommand},
    config::{Config, day_begins},
    output::{self, say, tell},
};

/// The number of entries that are read from the store at a time.
const PAGE: u32 = 1_000;

/// `modelgate usage`
pub(crate) async fn usage(
    registry: &Registry,
    config: &Config,
    wanted: &Usage,
) -> Result<(), CommandFailure> {
    match &wanted.command {
        Some(UsageCommand::Erase(person)) => erase(registry, person).await,
        Some(UsageCommand::Recost(wanted)) => recost(registry, config, wanted).await,
        None => list_usage(registry, config.prices.currency(), wanted).await,
    }
}

async fn list_usage(
    registry: &Registry,
    currency: Option<&str>,
    wanted: &Usage,
) -> Result<(), CommandFailure> {
    let filter = UsageFilter {
        key: wanted.key.clone(),
        consumer: wanted.consumer.clone(),
        model: wanted.model.clone(),
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        by: wanted.by.clone(),
        // One row more than fits shows whether there are more.
        limit: wanted.limit + 1,
        ..UsageFilter::default()
    };
    let mut rows = answer(registry.store()?.usage(&filter)).await?;
    let fit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    if rows.len() > fit {
        rows.truncate(fit);
        tell!("there are more than {fit} lines; see --limit");
    }
    let rows: Vec<Value> = rows.iter().map(|row| admin::usage_to_json(row, currency)).collect();
    if wanted.output.json {
        table::print_json(&rows.into());
        return Ok(());
    }
    let by = filter.by.dimensions().iter().map(|by| by.name());
    let money = currency.into_iter().flat_map(|_| ["cost", "currency"]);
    // They add up to that of all tokens.
    // Few have models for images or sound.
    let is_zero = |column: &str| rows.iter().all(|row| row[column].as_f64() == Some(0.0));
    let is_of_media = |column: &str| ["images", "sound_seconds", "characters"].contains(&column);
    let numbers = admin::USAGE_NUMBERS
        .into_iter()
        .filter(|column| *column != "tokens" && !(is_of_media(column) && is_zero(column)));
    let columns: Vec<&str> = by.chain(numbers).chain(money).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    let heading: Vec<String> = columns
        .iter()
        .map(|column| column.trim_end_matches("_tokens").replace('_', " ").to_uppercase())
        .collect();
    table::print(heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    Ok(())
}

async fn erase(registry: &Registry, erase: &Erase) -> Result<(), CommandFailure> {
    let erased = answer(registry.erase(&erase.person(), &ACTOR)).await?;
    let Erased { usage, audit } = erased;
    match erase.output.json {
        true => table::print_json(&admin::erased_to_json(&erased)),
        false => say!(
            "the name was erased from {usage} rows of usage and {audit} entries of the audit log; sums of usage stay"
        ),
    }
    Ok(())
}

async fn recost(registry: &Registry, config: &Config, wanted: &Recost) -> Result<(), CommandFailure> {
    let Config { prices, time_zone: zone, .. } = config;
    registry.store()?;
    let Some(currency) = prices.currency() else {
        return Err(CommandFailure::Configuration(
            "there are no prices in the configuration: see `prices`".into(),
        ));
    };
    let wait = config.metering.wait;
    let settled_until = SystemTime::now() - wait - WRITTEN_BY;
    let days = RecostDays {
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        settled_until,
        dry_run: wanted.dry_run,
    };
    let recosted = answer(registry.recost(&days, |row| cost(row, prices, zone), &ACTOR)).await?;
    let left_out = recosted.left_out.map(|hours| LeftOut::of(hours, wait));
    match wanted.output.json {
        true => table::print_json(&json!({
            "rows_of_usage": recosted.rows, "rows_that_cost_nothing_before": recosted.free_before,
            "before": Amount(recosted.before).to_string(), "after": Amount(recosted.after).to_string(),
            "currency": currency, "dry_run": wanted.dry_run, "is_final": left_out.is_none() && ends_by(settled_until, wanted.to.as_deref(), zone),
            "left_out": left_out.as_ref().map(LeftOut::to_json),
        })),
        false => say!("{}", recosted_in_words(&recosted, currency, wanted.dry_run)),
    }
    if let Some(left_out) = left_out {
        tell!("{}", left_out.in_words(zone, wait));
    }
    Ok(())
}

/// Whether a day, and so all days until it, has ended by this time. Without one, the days go on.
fn ends_by(time: SystemTime, last: Option<&str>, zone: &TimeZone) -> bool {
    let next = last.and_then(|day| day.parse::<Date>().ok()?.tomorrow().ok());
    next.and_then(|day| day.to_zoned(zone.clone()).ok())
        .is_some_and(|end| SystemTime::from(end.timestamp()) <= time)
}

/// How much later than `metering.wait` a settlement may come into the store: its request may have waited for a server, a batch that the
/// store has not taken is sent again, and clocks differ.
const WRITTEN_BY: Duration = Duration::from_secs(300);

/// The hours that were not computed anew.
struct LeftOut {
    from: Timestamp,
    to: Timestamp,
    /// From then on they can be computed anew.
    again: Timestamp,
}

impl LeftOut {
    fn of(hours: LeftOutHours, wait: Duration) -> Self {
        let time = |time: SystemTime| Timestamp::try_from(time).unwrap_or_default();
        let LeftOutHours { from, to } = hours;
        Self { from: time(from), to: time(to), again: time(to + wait + WRITTEN_BY) }
    }

    fn to_json(&self) -> Value {
        let Self { from, to, again } = self;
        json!({ "from": from.to_string(), "to": to.to_string(), "again_from": again.to_string() })
    }

    fn in_words(&self, zone: &TimeZone, wait: Duration) -> String {
        // To the minute, and no earlier.
        let minute = |time: Timestamp| {
            let time = time.saturating_add(59.seconds()).unwrap_or(time);
            time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
        };
        let [from, to, again] = [self.from, self.to, self.again].map(minute);
        let wait = humantime::format_duration(wait);
        format!(
            "left out: usage from {from} to {to}, whose requests may still be settled by the price at which they came (metering.wait is \
             {wait}); run this again at {again} or later"
        )
    }
}

fn recosted_in_words(recosted: &Recosted, currency: &str, dry_run: bool) -> String {
    let Recosted { rows, free_before, before, after, left_out: _ } = *recosted;
    let (before, after) = (Amount(before), Amount(after));
    let free = match free_before {
        0 => String::new(),
        more => format!(
            "; {more} of them cost nothing before: the usage is from before its model had a price, or the price was 0"
        ),
    };
    match dry_run {
        true => format!(
            "the cost of {rows} rows of usage would change; all usage of these days costs {before} {currency}, and would cost {after} \
             {currency}{free}"
        ),
        false => format!(
            "the cost of {rows} rows of usage was changed; all usage of these days cost {before} {currency}, and costs {after} \
             {currency} now{free}"
        ),
    }
}

/// What a row of usage of a day costs by the prices of that day.
fn cost(row: &UsageRow, prices: &PriceList, zone: &TimeZone) -> i64 {
    let begins = row.day.as_deref().and_then(|day| day_begins(day, zone)).unwrap_or(0);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(begins);
    web::recost(prices, row.model.as_deref().unwrap_or_default(), &row.counts, at)
}

/// `modelgate audit`
pub(crate) async fn audit(registry: &Registry, wanted: &Audit) -> Result<(), CommandFailure> {
    const DEFAULT_LISTED: u32 = 100;
    let store = registry.store()?;
    let mut left = wanted.limit.or((!wanted.jsonl).then_some(DEFAULT_LISTED));
    let mut filter = AuditFilter {
        actor: wanted.actor.clone(),
        subject: wanted.subject.clone(),
        action: wanted.action.clone(),
        before: None,
        limit: PAGE,
    };
    let mut shown: Vec<Value> = Vec::new();
    loop {
        filter.limit = left.map_or(PAGE, |left| left.min(PAGE));
        let entries = answer(store.audit(&filter)).await?;
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        filter.before = entries.last().map(|entry| entry.id.clone());
        let page = entries.iter().map(admin::entry_to_json);
        match wanted.jsonl {
            true => output::text(page.map(|entry| format!("{entry}\n")).collect::<String>()),
            false => shown.extend(page),
        }
        left = left.map(|left| left - count);
        if count < filter.limit || left == Some(0) || !output::is_all_written() {
            break;
        }
    }
    match (wanted.jsonl, wanted.output.json) {
        (true, _) => {}
        (false, true) => table::print_json(&shown.into()),
        (false, false) => {
            let row = |entry: &Value| {
                // A command line has no address.
                let host = entry["host"].is_string().then(|| format!("host {}", cell(entry, "host")));
                let from = host.unwrap_or_else(|| cell(entry, "address"));
                let [at, actor, action, subject, details] =
                    ["at", "actor", "action", "subject", "details"].map(|column| cell(entry, column));
                [at, actor, from, action, subject, details]
            };
            let rows: Vec<[String; 6]> = shown.iter().map(row).collect();
            table::print(["AT", "ACTOR", "FROM", "ACTION", "SUBJECT", "DETAILS"], &rows);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a request that was under way while costs were computed anew made usage negative when it ended. Now its hour is left out,
    /// and it is said until when.
    #[test]
    fn hours_that_are_left_out_are_told_with_the_time_to_do_it_again() {
        let time = |text: &str| SystemTime::from(text.parse::<Timestamp>().expect("a time"));
        let hours = LeftOutHours { from: time("2026-11-30T21:00:00Z"), to: time("2026-11-30T23:00:00Z") };
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        for (wait, again, words) in [
            (
                Duration::from_secs(3_600),
                "2026-12-01T00:05:00Z",
                "1h); run this again at 2026-12-01 01:05 or later",
            ),
            (
                Duration::from_secs(10),
                "2026-11-30T23:05:10Z",
                "10s); run this again at 2026-12-01 00:06 or later",
            ),
        ] {
            let left_out = LeftOut::of(hours, wait);
            let expected =
                json!({ "from": "2026-11-30T21:00:00Z", "to": "2026-11-30T23:00:00Z", "again_from": again });
            assert_eq!(left_out.to_json(), expected);
            let told = left_out.in_words(&zone, wait);
            assert!(
                told.starts_with("left out: usage from 2026-11-30 22:00 to 2026-12-01 00:00, "),
                "{told}"
            );
            assert!(told.ends_with(words), "{told}");
        }
    }

    /// Regression: usage from before there were prices got a cost without a word.
    #[test]
    fn rows_that_cost_nothing_before_are_told() {
        let recosted =
            Recosted { rows: 3, free_before: 2, before: 1_000_000_000, after: 2_500_000_000, left_out: None };
        assert_eq!(
            recosted_in_words(&recosted, "EUR", true),
            "the cost of 3 rows of usage would change; all usage of these days costs 1 EUR, and would cost 2.5 EUR; 2 of them cost \
             nothing before: the usage is from before its model had a price, or the price was 0"
        );
        assert_eq!(
            recosted_in_words(&Recosted { free_before: 0, ..recosted }, "EUR", false),
            "the cost of 3 rows of usage was changed; all usage of these days cost 1 EUR, and costs 2.5 EUR now"
        );
    }
}
