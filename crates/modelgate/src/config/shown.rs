//! The configuration in force as operators may see it: as it was given, with secrets hidden.

use serde_yaml::{Mapping, Value};

/// Replaces a secret.
const HIDDEN: &str = "(hidden)";
/// How many entries of a list are shown. Keys and consumers have pages of their own.
const MAX_ENTRIES_SHOWN: usize = 20;
/// Keys whose values are secrets, or could help to find one.
const SECRET: [&str; 7] =
    ["sha256", "token", "telemetry_token", "password", "secret", "api_key", "authorization"];

/// The file with the environment's variables in it, as YAML.
pub(super) fn shown(root: &Mapping) -> String {
    if root.is_empty() {
        return "# all defaults\n".into();
    }
    let shown = Value::Mapping(mapping(root));
    serde_yaml::to_string(&shown).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}

fn mapping(given: &Mapping) -> Mapping {
    let pair = |(key, value): (&Value, &Value)| {
        let is_secret = key.as_str().is_some_and(|key| SECRET.contains(&key)) && !value.is_null();
        // The path of a webhook's URL often is a secret.
        if key.as_str() == Some("webhooks") {
            return (key.clone(), webhooks(value));
        }
        // Mappings such as `limit: { tokens_per_minute }` are no secrets; a secret is a scalar.
        let value = if is_secret && !value.is_mapping() { HIDDEN.into() } else { self::value(value) };
        (key.clone(), value)
    };
    given.iter().map(pair).collect()
}

fn webhooks(given: &Value) -> Value {
    let Value::Sequence(items) = value(given) else { return HIDDEN.into() };
    let without_url = |item| match item {
        Value::Mapping(mut item) => {
            item.get_mut("url").into_iter().for_each(|url| *url = HIDDEN.into());
            Value::Mapping(item)
        }
        other => other,
    };
    Value::Sequence(items.into_iter().map(without_url).collect())
}

fn value(given: &Value) -> Value {
    match given {
        Value::Mapping(given) => Value::Mapping(mapping(given)),
        Value::Sequence(items) => {
            let mut shown: Vec<Value> = items.iter().take(MAX_ENTRIES_SHOWN).map(value).collect();
            if let Some(more) = items.len().checked_sub(MAX_ENTRIES_SHOWN + 1) {
                shown.push(format!("… and {} more", more + 1).into());
            }
            Value::Sequence(shown)
        }
        Value::String(text) => without_user(text).into(),
        other => other.clone(),
    }
}

/// A URL without its user name and password (RFC 3986 §3.2.1), and without its query.
fn without_user(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => authority.to_owned(),
    };
    let path = match path.split_once('?') {
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => path.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_shown() {
        let yaml = "
listen: { admin: 127.0.0.1:8102, telemetry_token: a-token-in-clear-4567 }
keys: [{ name: alice, consumer: alice, sha256: abcdef, previous: { sha256: fedcba }, limit: { tokens_per_minute: 7 } }]
admin: { token: a-token-in-clear-0123, tokens: [{ name: bob, sha256: '0123' }] }
store: { url: 'postgres://user:pass@db.example.com/modelgate?sslpassword=hush' }
shared_limits: { url: 'rediss://:p@ss@redis:6379' }
traefik: { hosts: [llm.example.com] }
alerts: { webhooks: [{ name: ops, url: 'https://hooks.example.com/services/T0/B0/whisper', secret: { env: OPS_SECRET } }] }
";
        let Value::Mapping(root) = serde_yaml::from_str(yaml).expect("YAML") else { panic!("a mapping") };
        let text = shown(&root);
        for secret in ["abcdef", "fedcba", "a-token", "0123'", "pass", "p@ss", "hush", "user", "whisper"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        for part in [
            "127.0.0.1:8102",
            "alice",
            "tokens_per_minute: 7",
            "bob",
            "@db.example.com/modelgate",
            "@redis:6379",
            "llm.example.com",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let keys: Vec<Value> = (0..100_000).map(Value::from).collect();
        let root: Mapping = [("keys".into(), Value::Sequence(keys))].into_iter().collect();
        let text = shown(&root);
        assert!(text.contains("… and 99980 more") && text.lines().count() < 30, "{text}");
        assert_eq!(shown(&Mapping::new()), "# all defaults\n");
    }
}
