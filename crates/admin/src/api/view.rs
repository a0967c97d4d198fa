//! The representation of accounts: with the configuration file's keys, without digests, and with their source; and that of usage.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use accounts::{Account, ConsumerSpec, KeySpec, Plan};
use prices::Amount;
use serde_json::{Map, Value, json};
use store::{AccountSource, Item, Registry, RegistryError, UsageRow};

/// Accounts that have a representation.
pub trait Present: Account + Send + Sync + 'static {
    /// Represents accounts, with what else is known of each.
    ///
    /// # Errors
    /// The store does not answer.
    fn present(
        registry: &Registry,
        items: &[Item<Self>],
    ) -> impl Future<Output = Result<Vec<Value>, RegistryError>> + Send {
        let _ = registry;
        let shown = items.iter().map(|item| Value::Object(shown(item))).collect();
        async { Ok(shown) }
    }
}

impl Present for Plan {}

impl Present for ConsumerSpec {}

impl Present for KeySpec {
    async fn present(registry: &Registry, items: &[Item<Self>]) -> Result<Vec<Value>, RegistryError> {
        let now = SystemTime::now();
        let names: Vec<String> = items.iter().map(|item| item.account.name.clone()).collect();
        let last_used: HashMap<String, i64> = match registry.store() {
            Ok(store) => store.last_used(&names).await?.into_iter().collect(),
            // Without a store, last use is not recorded.
            Err(_) => HashMap::new(),
        };
        let owners = items.iter().map(|item| item.account.consumer.clone()).collect();
        let disabled = disabled_consumers(registry, owners).await?;
        let show = |item: &Item<Self>| {
            let key = &item.account;
            let mut object = shown(item);
            let state = state(key, disabled.contains(key.consumer.as_str()), now);
            object.insert("state".into(), state.into());
            if let Some(until) = key.previous.map(|previous| previous.until).filter(|until| *until > now) {
                object.insert("old_key_works_until".into(), seconds(until).into());
            }
            if let Some(at) = last_used.get(&key.name) {
                object.insert("last_used".into(), seconds(since_1970(*at)).into());
            }
            Value::Object(object)
        };
        Ok(items.iter().map(show).collect())
    }
}

/// The consumers among these whose keys are refused.
///
/// # Errors
/// The store does not answer.
pub(crate) async fn disabled_consumers(
    registry: &Registry,
    names: HashSet<String>,
) -> Result<HashSet<String>, RegistryError> {
    let declared = registry.declared();
    let of_file = declared.consumers.iter().filter(|consumer| names.contains(&consumer.name));
    let known: HashSet<&str> = of_file.clone().map(|consumer| consumer.name.as_str()).collect();
    let mut disabled: HashSet<String> =
        of_file.filter(|consumer| consumer.disabled).map(|consumer| consumer.name.clone()).collect();
    if let Ok(store) = registry.store() {
        // The file takes precedence.
        let others: Vec<String> =
            names.iter().filter(|name| !known.contains(name.as_str())).cloned().collect();
        let of_store = store.get_all::<ConsumerSpec>(&others).await?;
        disabled.extend(of_store.into_iter().filter_map(|consumer| match consumer {
            Ok(stored) => stored.account.disabled.then_some(stored.account.name),
            // The consumer's limits are unknown, so its keys are refused.
            Err(unreadable) => Some(unreadable.name),
        }));
    }
    Ok(disabled)
}

/// An account with the configuration file's keys, without digests.
fn shown<A: Account>(item: &Item<A>) -> Map<String, Value> {
    let mut object = match item.account.to_json() {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    // Fields keep the order in which they are written elsewhere.
    object.retain(|key, _| !["sha256", "previous"].contains(&key.as_str()));
    match item.source {
        AccountSource::File => object.insert("source".into(), "file".into()),
        AccountSource::Keys => object.insert("source".into(), "keys".into()),
        AccountSource::Store { created, changed } => {
            object.insert("created".into(), millis(created).into());
            object.insert("changed".into(), millis(changed).into());
            object.insert("source".into(), "store".into())
        }
    };
    object
}

/// The state of a key, in one word. `rotated`: the key works, and so does the one that it replaced.
fn state(key: &KeySpec, is_owner_disabled: bool, now: SystemTime) -> &'static str {
    if key.disabled || is_owner_disabled {
        "disabled"
    } else if key.expires.is_some_and(|expires| expires <= now) {
        "expired"
    } else if key.previous.is_some_and(|previous| previous.until > now) {
        "rotated"
    } else {
        "active"
    }
}

/// The state of a represented key, for people: `rotated until 2027-01-01T00:00:00Z`.
pub fn state_in_words(shown: &Value) -> String {
    let text = |key: &str| shown.get(key).and_then(Value::as_str);
    let state = text("state").unwrap_or_default();
    match (state, text("old_key_works_until")) {
        ("rotated", Some(until)) => format!("rotated, the old one works until {until}"),
        _ => state.to_owned(),
    }
}

/// A time to the second, in UTC (RFC 3339).
pub(crate) fn seconds(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A time to the millisecond, in UTC (RFC 3339).
pub(crate) fn millis(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A time given in milliseconds since 1970.
pub(crate) fn since_1970(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The representation of a row of usage: what it is about, its numbers, and what it costs, if there are prices.
pub fn usage_to_json(row: &UsageRow, currency: Option<&str>) -> Value {
    let counts = &row.counts;
    let mut json = json!({
        "requests": counts.requests,
        "refused": counts.refused,
        "errors": counts.errors,
        "aborted": counts.aborted,
        "seconds": counts.milliseconds as f64 / 1e3,
        "tokens": counts.tokens(),
        "prompt_tokens": counts.prompt,
        "cached_tokens": counts.cached,
        "completion_tokens": counts.completion,
        "exact_tokens": counts.exact,
        "measured_tokens": counts.measured,
        "estimated_tokens": counts.estimated,
        "images": counts.images,
        "sound_seconds": counts.sound as f64 / 1e3,
        "characters": counts.characters,
        "last_used": seconds(since_1970(row.last_used_ms)),
    });
    if let Some(currency) = currency {
        // As text: most programs read numbers as floats.
        json["cost"] = Amount(counts.cost).to_string().into();
        json["currency"] = currency.into();
    }
    if let Some(hour) = row.hour {
        json["hour"] = seconds(since_1970(hour.saturating_mul(1_000))).into();
    }
    let UsageRow { day, month, key, consumer, model, .. } = row;
    let names = [("day", day), ("month", month), ("key", key), ("consumer", consumer), ("model", model)];
    for (name, value) in names {
        if let Some(value) = value {
            json[name] = value.as_str().into();
        }
    }
    json
}
