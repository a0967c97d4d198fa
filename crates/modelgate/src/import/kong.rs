//! Kong's declarative configuration (<https://developer.konghq.com/gateway/entities/consumer/>): consumers
//! with their `keyauth_credentials`, and `rate-limiting` plugins of consumers.

use std::collections::HashSet;

use access::{KeyDigest, Rate};
use serde_yaml::Value;

use super::{Consumer, Imported, Key, Limit, Names};

pub(super) fn read(text: &str) -> Result<Imported, String> {
    let file: Value = serde_yaml::from_str(text).map_err(|e| format!("it is not YAML: {e}"))?;
    let consumers = file.get("consumers").and_then(Value::as_sequence);
    let consumers = consumers.ok_or("it has no list of consumers")?;
    let (mut imported, mut names) = (Imported::default(), Names::default());
    let (off, with_acls) = (turned_off(consumers), with_acls(&file, consumers));
    for (i, consumer) in consumers.iter().enumerate() {
        let text = |key: &str| consumer.get(key).and_then(Value::as_str);
        let Some(name) = text("username").or_else(|| text("custom_id")) else {
            imported.left_out.push(format!("consumers[{i}]: it has neither username nor custom_id"));
            continue;
        };
        let place = format!("consumers[{i}] {name}");
        let names_it = |plugin: &&Value| plugin.get("consumer").and_then(Value::as_str) == Some(name);
        let plugins = list(consumer, "plugins").chain(list(&file, "plugins").filter(names_it));
        let limit = limit(plugins, &place, &mut imported.left_out);
        if !limit.is_empty() {
            imported.add_consumer(Consumer { name: Names::plain(name), limit }, &place);
        }
        if is_off(consumer) {
            imported.left_out.push(format!("{place}: it is not enabled; its keys are taken over disabled"));
        }
        let has_acls = names_of(consumer).any(|name| with_acls.contains(name));
        if has_acls {
            let message = "its acls; Kong's routes say what they allow, so its keys are taken over disabled: \
                           give them models or a plan, and enable them";
            imported.left_out.push(format!("{place}: {message}"));
        }
        if list(consumer, "groups").next().is_some() {
            imported.left_out.push(format!("{place}: its groups; Modelgate has plans"));
        }
        let credentials = consumer.get("keyauth_credentials").and_then(Value::as_sequence);
        for (j, credential) in credentials.into_iter().flatten().enumerate() {
            let place = format!("consumers[{i}].keyauth_credentials[{j}]");
            add(
                &mut imported,
                &mut names,
                &Owner { name, is_held: has_acls || is_off(consumer) },
                credential,
                &place,
            );
        }
        if credentials.is_none() {
            imported.left_out.push(format!("{place}: it has no keyauth_credentials"));
        }
    }
    for (i, credential) in list(&file, "keyauth_credentials").enumerate() {
        let place = format!("keyauth_credentials[{i}]");
        match credential.get("consumer").and_then(Value::as_str) {
            Some(name) => {
                let is_held = off.contains(name) || with_acls.contains(name);
                add(&mut imported, &mut names, &Owner { name, is_held }, credential, &place);
            }
            None => imported.left_out.push(format!("{place}: it names no consumer")),
        }
    }
    imported.left_out.extend(of_others(&file));
    Ok(imported)
}

/// Limits that hold for whoever uses a service or a route, or for everybody.
fn of_others(file: &Value) -> Vec<String> {
    const INSTEAD: &str = "its rate-limiting holds for each consumer; put it into a plan, or into models";
    let mut left_out = Vec::new();
    let mut look = |what: &str, of: &Value| {
        let name = of.get("name").and_then(Value::as_str).unwrap_or("without a name");
        if list(of, "plugins").any(|plugin| is_of(plugin, RATE_LIMITING)) {
            left_out.push(format!("{what} {name}: {INSTEAD}"));
        }
    };
    for service in list(file, "services") {
        look("service", service);
        list(service, "routes").for_each(|route| look("route", route));
    }
    list(file, "routes").for_each(|route| look("route", route));
    let is_global = |plugin: &&Value| is_of(plugin, RATE_LIMITING) && plugin.get("consumer").is_none();
    left_out.extend(list(file, "plugins").filter(is_global).map(|_| format!("plugins: {INSTEAD}")));
    left_out
}

/// Whose credential it is.
struct Owner<'v> {
    name: &'v str,
    /// Its keys must not work before somebody has looked at them.
    is_held: bool,
}

/// What may refer to a consumer.
fn names_of(consumer: &Value) -> impl Iterator<Item = &str> {
    ["username", "custom_id", "id"].into_iter().filter_map(|key| consumer.get(key).and_then(Value::as_str))
}

/// The consumers that are turned off, by each of their names.
fn turned_off(consumers: &[Value]) -> HashSet<&str> {
    consumers.iter().filter(|consumer| is_off(consumer)).flat_map(names_of).collect()
}

/// The consumers with access control lists, which say what they may use.
fn with_acls<'v>(file: &'v Value, consumers: &'v [Value]) -> HashSet<&'v str> {
    let has_acls = |consumer: &&Value| consumer.get("acls").is_some_and(|acls| !is_empty(acls));
    let of_consumers = consumers.iter().filter(has_acls).flat_map(names_of);
    // By a name, or as an object with it.
    let referred = list(file, "acls").filter_map(|acl| acl.get("consumer"));
    of_consumers
        .chain(referred.flat_map(|consumer| consumer.as_str().into_iter().chain(names_of(consumer))))
        .collect()
}

/// Whether it is turned off. What is neither yes nor no is not taken for yes.
fn is_off(of: &Value) -> bool {
    of.get("enabled").is_some_and(|enabled| !enabled.is_null() && enabled.as_bool() != Some(true))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_sequence().is_some_and(Vec::is_empty)
}

fn add(imported: &mut Imported, names: &mut Names, owner: &Owner<'_>, credential: &Value, place: &str) {
    let key = credential.get("key").and_then(Value::as_str).unwrap_or_default();
    // decK takes keys from the environment, Kong from vaults.
    if key.starts_with("${{") || key.starts_with("{vault:") {
        let message = "its key stands elsewhere; write it here, or import what `deck gateway dump` prints";
        return imported.left_out.push(format!("{place}: {message}"));
    }
    let fits = (1..=512).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        let message = "its key is not a text of 1 to 512 visible ASCII characters";
        return imported.left_out.push(format!("{place}: {message}"));
    }
    if credential.get("ttl").is_some_and(|ttl| !ttl.is_null()) {
        imported.left_out.push(format!("{place}: its ttl; the key is taken over and does not expire"));
    }
    if is_off(credential) {
        imported.left_out.push(format!("{place}: it is not enabled; the key is taken over disabled"));
    }
    imported.keys.push(Key {
        name: names.unique(owner.name),
        wanted: Names::plain(owner.name),
        consumer: Names::plain(owner.name),
        sha256: KeyDigest::of(key).to_hex(),
        disabled: owner.is_held || is_off(credential),
        ..Key::default()
    });
}

const RATE_LIMITING: &str = "rate-limiting";

fn list<'v>(of: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    of.get(key).and_then(Value::as_sequence).into_iter().flatten()
}

/// Whether it is a plugin of that name, and turned on.
fn is_of(plugin: &Value, name: &str) -> bool {
    let is_on = plugin.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    is_on && plugin.get("name").and_then(Value::as_str) == Some(name)
}

fn limit<'v>(plugins: impl Iterator<Item = &'v Value>, place: &str, left_out: &mut Vec<String>) -> Limit {
    let mut limit = Limit::default();
    for plugin in plugins {
        let name = plugin.get("name").and_then(Value::as_str).unwrap_or("without a name");
        if !is_of(plugin, RATE_LIMITING) {
            if is_of(plugin, name) {
                left_out.push(format!("{place}: its plugin {name}"));
            }
            continue;
        }
        let mut number = |key: &str| {
            let found = plugin.get("config").and_then(|config| config.get(key)).filter(|n| !n.is_null())?;
            let amount = found.as_u64().and_then(|n| u32::try_from(n).ok());
            let amount = amount.filter(|n| (1..=Rate::MAX).contains(n));
            if amount.is_none() {
                left_out.push(format!("{place}: its limit per {key}, which is not 1 to {}", Rate::MAX));
            }
            amount
        };
        limit = Limit {
            requests_per_second: number("second"),
            requests_per_minute: number("minute"),
            requests_per_hour: number("hour"),
            requests_per_day: number("day"),
            requests_per_month: number("month"),
            tokens_per_minute: None,
        };
        if plugin.get("config").and_then(|config| config.get("year")).is_some_and(|year| !year.is_null()) {
            left_out.push(format!("{place}: its limit per year; Modelgate limits per second to month"));
        }
    }
    limit
}
