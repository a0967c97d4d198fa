//! Kong's declarative configuration (<https://developer.konghq.com/gateway/entities/consumer/>): consumers
//! with their `keyauth_credentials`, and `rate-limiting` plugins of consumers.

use access::KeyDigest;
use serde_yaml::Value;

use super::{Consumer, Imported, Key, Limit, Names};

pub(super) fn read(text: &str) -> Result<Imported, String> {
    let file: Value = serde_yaml::from_str(text).map_err(|e| format!("it is not YAML: {e}"))?;
    let consumers = file.get("consumers").and_then(Value::as_sequence);
    let consumers = consumers.ok_or("it has no list of consumers")?;
    let (mut imported, mut names) = (Imported::default(), Names::default());
    for (i, consumer) in consumers.iter().enumerate() {
        let text = |key: &str| consumer.get(key).and_then(Value::as_str);
        let Some(name) = text("username").or_else(|| text("custom_id")) else {
            imported.left_out.push(format!("consumers[{i}]: it has neither username nor custom_id"));
            continue;
        };
        let limit = limit(consumer, &format!("consumers[{i}] {name}"), &mut imported.left_out);
        if !limit.is_empty() {
            imported.consumers.push(Consumer { name: Names::plain(name), limit });
        }
        let credentials = consumer.get("keyauth_credentials").and_then(Value::as_sequence);
        for (j, credential) in credentials.into_iter().flatten().enumerate() {
            add(
                &mut imported,
                &mut names,
                name,
                credential,
                &format!("consumers[{i}].keyauth_credentials[{j}]"),
            );
        }
        if credentials.is_none() {
            imported.left_out.push(format!("consumers[{i}] {name}: it has no keyauth_credentials"));
        }
    }
    let loose = file.get("keyauth_credentials").and_then(Value::as_sequence);
    for (i, credential) in loose.into_iter().flatten().enumerate() {
        let place = format!("keyauth_credentials[{i}]");
        match credential.get("consumer").and_then(Value::as_str) {
            Some(consumer) => add(&mut imported, &mut names, consumer, credential, &place),
            None => imported.left_out.push(format!("{place}: it names no consumer")),
        }
    }
    for service in file.get("services").and_then(Value::as_sequence).into_iter().flatten() {
        let name = service.get("name").and_then(Value::as_str).unwrap_or("without a name");
        if plugins(service).any(is_rate_limiting) {
            let message = "its rate-limiting holds for each consumer; put it into a plan, or into models";
            imported.left_out.push(format!("service {name}: {message}"));
        }
    }
    Ok(imported)
}

fn add(imported: &mut Imported, names: &mut Names, consumer: &str, credential: &Value, place: &str) {
    let key = credential.get("key").and_then(Value::as_str).unwrap_or_default();
    let fits = (1..=512).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        let message = "its key is not 1 to 512 visible ASCII characters";
        return imported.left_out.push(format!("{place}: {message}"));
    }
    imported.keys.push(Key {
        name: names.unique(consumer),
        consumer: Names::plain(consumer),
        sha256: KeyDigest::of(key).to_hex(),
        ..Key::default()
    });
}

fn plugins(of: &Value) -> impl Iterator<Item = &Value> {
    of.get("plugins").and_then(Value::as_sequence).into_iter().flatten()
}

fn is_rate_limiting(plugin: &Value) -> bool {
    plugin.get("name").and_then(Value::as_str) == Some("rate-limiting")
}

fn limit(consumer: &Value, place: &str, left_out: &mut Vec<String>) -> Limit {
    let Some(plugin) = plugins(consumer).find(|plugin| is_rate_limiting(plugin)) else {
        return Limit::default();
    };
    let number = |key: &str| {
        let found = plugin.get("config").and_then(|config| config.get(key)).and_then(Value::as_u64);
        found.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
    };
    if number("year").is_some() {
        left_out.push(format!("{place}: its limit per year; Modelgate limits per second to month"));
    }
    Limit {
        requests_per_second: number("second"),
        requests_per_minute: number("minute"),
        requests_per_hour: number("hour"),
        requests_per_day: number("day"),
        requests_per_month: number("month"),
        tokens_per_minute: None,
    }
}
