//! `LiteLLM`'s list of keys (<https://docs.litellm.ai/docs/proxy/virtual_keys>), as `GET
//! /key/list?return_full_object=true` answers it. It keeps the SHA-256 of a key, as Modelgate does.

use access::{KeyDigest, ModelGlobs, Rate};
use serde_json::Value;

use super::{Imported, Key, Limit, Names};

/// Words that stand for all models.
const ALL_MODELS: [&str; 3] = ["all-proxy-models", "all-team-models", "*"];

pub(super) fn read(text: &str) -> Result<Imported, String> {
    let file: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    let rows = file.get("keys").unwrap_or(&file).as_array().ok_or("it has no list of keys")?;
    let (mut imported, mut names) = (Imported::default(), Names::default());
    let total = file["total_count"].as_u64().unwrap_or_default();
    if total > rows.len() as u64 {
        let found = rows.len();
        let message = format!("the file has {found} of {total} keys; ask for each page, and import each");
        imported.left_out.push(format!("{message}: /key/list?return_full_object=true&size=100&page=2"));
    }
    for (i, row) in rows.iter().enumerate() {
        match key(row, &format!("keys[{i}]"), &mut names, &mut imported.left_out) {
            Ok(key) => imported.keys.push(key),
            Err(why) => imported.left_out.push(format!("keys[{i}]: {why}")),
        }
    }
    Ok(imported)
}

fn key(row: &Value, place: &str, names: &mut Names, left_out: &mut Vec<String>) -> Result<Key, String> {
    if row.is_string() {
        return Err("only its token is there; ask with return_full_object=true".into());
    }
    let text = |key: &str| row[key].as_str().filter(|text| !text.is_empty());
    let token = text("token").ok_or("it has no token")?;
    let digest = KeyDigest::parse_hex(token).map_err(|_| "its token is not a SHA-256 digest")?;
    let consumer = text("team_alias").or(text("team_id")).or(text("user_id")).unwrap_or("litellm");
    let name = text("key_alias").unwrap_or(consumer);
    let is_given = |value: &Value| !value.is_null() && *value != serde_json::json!({});
    for (field, what) in [("max_budget", "its budget"), ("max_parallel_requests", "its parallel requests")] {
        if is_given(&row[field]) {
            left_out.push(format!("{place} {name}: {what}; Modelgate limits requests and tokens in a time"));
        }
    }
    for field in ["model_rpm_limit", "model_tpm_limit"] {
        if is_given(&row["metadata"][field]) || is_given(&row[field]) {
            let message = format!("its {field}; limit_per_model is the same for each model");
            left_out.push(format!("{place} {name}: {message}"));
        }
    }
    let mut number = |key: &str| match &row[key] {
        Value::Null => Ok(None),
        // Nobody means 0 to be without a limit.
        value if value.as_u64() == Some(0) => Err(format!("its {key} is 0; disable the key, or raise it")),
        value => {
            let read = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= Rate::MAX);
            if read.is_none() {
                left_out.push(format!("{place} {name}: its {key}, which is not 1 to {}", Rate::MAX));
            }
            Ok(read)
        }
    };
    let (requests_per_minute, tokens_per_minute) = (number("rpm_limit")?, number("tpm_limit")?);
    Ok(Key {
        models: models(row)?,
        limit: Limit { requests_per_minute, tokens_per_minute, ..Limit::default() },
        expires: text("expires").map(expires).transpose()?,
        disabled: row["blocked"] == true,
        name: names.unique(name),
        consumer: Names::plain(consumer),
        sha256: digest.to_hex(),
    })
}

/// None means all, as here.
fn models(row: &Value) -> Result<Vec<String>, String> {
    let listed = row["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let models: Vec<String> = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if models.iter().any(|model| ALL_MODELS.contains(&model.as_str())) {
        return Ok(Vec::new());
    }
    ModelGlobs::parse(&models).map_err(|invalid| format!("its models: {invalid}"))?;
    Ok(models)
}

/// Python's `isoformat`, with or without a zone, which then is UTC.
fn expires(text: &str) -> Result<String, String> {
    let zoned = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    let time =
        humantime::parse_rfc3339_weak(zoned).map_err(|_| format!("its expiry {text:?} is no time in UTC"))?;
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}
