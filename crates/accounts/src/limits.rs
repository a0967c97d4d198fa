//! `limit:` — requests and tokens, by time.

use access::{Calendar, Limits, Per, Quota, Rate, Unit};
use config_reader::Section;
use serde_json::{Map, Value};

const REQUESTS: [(&str, Per); 3] = [
    ("requests_per_second", Per::Second),
    ("requests_per_minute", Per::Minute),
    ("requests_per_hour", Per::Hour),
];
const QUOTAS: [(&str, Unit, Calendar); 4] = [
    ("requests_per_day", Unit::Requests, Calendar::Day),
    ("requests_per_month", Unit::Requests, Calendar::Month),
    ("tokens_per_day", Unit::Tokens, Calendar::Day),
    ("tokens_per_month", Unit::Tokens, Calendar::Month),
];

/// Reads limits, if they are there. `burst` is that of the shortest time for which requests are limited.
pub fn limits(section: &mut Section<'_>, key: &'static str) -> Option<Limits> {
    let given = section.has(key);
    let mut limit = section.section(key);
    if !given {
        // Most of 100,000 keys have no limits for each model. What is no limits at all is named by now.
        return None;
    }
    let mut rates = Vec::new();
    let burst = limit.number("burst", 1..=Rate::MAX);
    for (name, per) in REQUESTS {
        if let Some(amount) = limit.number(name, 1..=Rate::MAX) {
            let burst = burst.filter(|_| rates.is_empty());
            rates.extend(Rate::new(amount, Unit::Requests, per, burst).ok());
        }
    }
    if burst.is_some() && rates.is_empty() {
        limit.error(
            "burst",
            "is given without a number of requests; allowed: with requests_per_minute or another",
        );
    }
    let tokens = limit.number("tokens_per_minute", 1..=Rate::MAX);
    let tokens_burst = limit.number("tokens_burst", 1..=Rate::MAX);
    if tokens_burst.is_some() && tokens.is_none() {
        limit.error("tokens_burst", "is given without tokens_per_minute");
    }
    rates.extend(tokens.and_then(|amount| Rate::new(amount, Unit::Tokens, Per::Minute, tokens_burst).ok()));
    let mut quotas = Vec::new();
    for (name, unit, per) in QUOTAS {
        let amount = limit.large_number(name, 1..=Quota::MAX);
        quotas.extend(amount.and_then(|amount| Quota::new(amount, unit, per).ok()));
    }
    if limit.is_empty() && given {
        limit.error(
            "requests_per_minute",
            "is missing; allowed: at least one of requests or tokens per second, minute, hour, day or month; without any \
             limit leave the key out",
        );
    }
    limit.finish();
    given.then(|| Limits::new(rates, quotas))
}

/// Whether a patch of limits (RFC 7396) has left none: each that is known is `null`, and nothing else is there.
pub fn has_no_limits(limits: &Value) -> bool {
    let is_known = |key: &str| {
        ["burst", "tokens_per_minute", "tokens_burst"].contains(&key)
            || REQUESTS.iter().any(|(name, _)| *name == key)
            || QUOTAS.iter().any(|(name, ..)| *name == key)
    };
    limits
        .as_object()
        .is_some_and(|limits| limits.iter().all(|(key, value)| value.is_null() && is_known(key)))
}

/// The same as [`limits`] reads them.
pub fn limits_to_json(limits: &Limits) -> Value {
    let mut json = Map::new();
    for rate in limits.rates() {
        let (name, burst) = match rate.unit() {
            Unit::Tokens => ("tokens_per_minute", "tokens_burst"),
            Unit::Requests => {
                (REQUESTS.iter().find(|(_, per)| *per == rate.per()).map_or("", |(name, _)| *name), "burst")
            }
        };
        json.insert(name.into(), rate.amount().into());
        if rate.burst() != rate.amount() {
            json.insert(burst.into(), rate.burst().into());
        }
    }
    for quota in limits.quotas() {
        let of = |(_, unit, per): &&(&str, Unit, Calendar)| (*unit, *per) == (quota.unit(), quota.per());
        if let Some((name, ..)) = QUOTAS.iter().find(of) {
            json.insert((*name).into(), quota.amount().into());
        }
    }
    Value::Object(json)
}
