//! `key-auth`: where clients send their keys (<https://developer.konghq.com/plugins/key-auth/reference/>).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::plugins::Plugins;
use crate::{
    commands::import::{fields::is_given, found::Imported},
    config::is_key_header,
};

/// Where Kong looks for keys by default.
const BY_DEFAULT: &str = "apikey";
/// Where Modelgate always looks for keys.
const OWN_KEY_HEADERS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// The headers in which Kong's clients send their keys and in which Modelgate looks only if configured to. Kong's other places
/// for keys are reported.
pub(super) fn headers(plugins: &Plugins<'_>, imported: &mut Imported) -> Vec<String> {
    let by_default = [Map::new()];
    let all = if plugins.key_auth.is_empty() { &by_default[..] } else { &plugins.key_auth };
    let mut headers = BTreeSet::new();
    for config in all {
        let names = config.get("key_names").and_then(Value::as_array).filter(|names| !names.is_empty());
        let names = names.map(|names| names.iter().filter_map(Value::as_str).collect());
        let names: Vec<&str> = names.unwrap_or_else(|| vec![BY_DEFAULT]);
        if config.get("key_in_header").and_then(Value::as_bool) != Some(false) {
            headers.extend(names.iter().map(|name| name.to_ascii_lowercase()));
        }
    }
    headers.retain(|name| !OWN_KEY_HEADERS.contains(&name.as_str()));
    headers.retain(|name| {
        let fits = is_key_header(name);
        if !fits {
            imported.say("key-auth", format!("keys in the header {name:?}; see requests.key_headers"));
        }
        fits
    });
    let some = |key: &str| all.iter().any(|config| config.get(key).is_some_and(is_given));
    if some("key_in_body") || all.iter().any(|config| config.get("key_in_query") != Some(&Value::Bool(false)))
    {
        imported.say(
            "key-auth",
            "keys in a query (?apikey=…) or a body; Modelgate takes them from headers alone",
        );
    }
    if some("anonymous") {
        imported.say("key-auth", "its anonymous; requests without a key are refused");
    }
    headers.into_iter().collect()
}
