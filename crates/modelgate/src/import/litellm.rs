//! `LiteLLM`'s list of keys (<https://docs.litellm.ai/docs/proxy/virtual_keys>), as `GET
//! /key/list?return_full_object=true` answers it. It keeps the SHA-256 of a key, as Modelgate does.
//!
//! Nothing gets wider rights than it had without a word: a row that is not understood, or whose rights stand elsewhere,
//! is named and left out.

mod models;
mod routes;

use access::{KeyDigest, Rate};
use serde_json::Value;

use self::models::Teams;
use super::{Imported, Key, Limit, Names};

/// What a key may have that Modelgate does not, in its row, its metadata or its budget.
const WITHOUT: [(&str, &str); 12] = [
    ("max_budget", "its budget; Modelgate limits requests and tokens in a time"),
    ("model_max_budget", "its budget per model; Modelgate limits requests and tokens in a time"),
    ("budget_limits", "its budgets; Modelgate limits requests and tokens in a time"),
    ("max_parallel_requests", "its parallel requests; Modelgate limits requests and tokens in a time"),
    ("model_rpm_limit", "its model_rpm_limit; limit_per_model is the same for each model"),
    ("model_tpm_limit", "its model_tpm_limit; limit_per_model is the same for each model"),
    ("team_rpm_limit", "its team's rpm_limit; give it to the consumer"),
    ("team_tpm_limit", "its team's tpm_limit; give it to the consumer"),
    ("guardrails", "its guardrails"),
    ("policies", "its policies"),
    ("enforced_params", "its enforced_params"),
    ("allowed_model_region", "its allowed_model_region"),
];

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
    let teams = Teams::of(&file);
    let mut have_owners = false;
    for (i, row) in rows.iter().enumerate() {
        let mut notes = Vec::new();
        match key(row, &teams, &mut names, &mut notes) {
            Ok(key) => {
                let named = |note| format!("keys[{i}] {}: {note}", key.wanted);
                imported.left_out.extend(notes.into_iter().map(named));
                imported.keys.push(key);
                have_owners |= ["team_id", "user_id", "organization_id"].iter().any(|id| is_given(&row[*id]));
            }
            Err(why) => imported.left_out.push(format!("keys[{i}]: {why}")),
        }
    }
    if have_owners {
        let message = "what LiteLLM sets for teams, users and organizations themselves, which the list does not say; \
                       here consumers and plans have limits";
        imported.left_out.push(message.into());
    }
    Ok(imported)
}

/// The key of a row, and in `notes` what is not taken over of it.
fn key(row: &Value, teams: &Teams<'_>, names: &mut Names, notes: &mut Vec<String>) -> Result<Key, String> {
    if row.is_string() {
        return Err("only its token is there; ask with return_full_object=true".into());
    }
    let token = text(row, "token")?.ok_or("it has no token")?;
    let digest = KeyDigest::parse_hex(token).map_err(|_| "its token is not a SHA-256 digest")?;
    let (team_alias, team, user) = (text(row, "team_alias")?, text(row, "team_id")?, text(row, "user_id")?);
    let consumer = team_alias.or(team).or(user).unwrap_or("litellm");
    let name = text(row, "key_alias")?.unwrap_or(consumer);
    routes::check(&row["allowed_routes"], notes)?;
    let models = models::of(row, teams, notes)?;
    let limit = limit(row, notes)?;
    for (field, note) in WITHOUT {
        let places = [row, &row["metadata"], &row["litellm_budget_table"]];
        if places.iter().any(|place| is_given(&place[field])) {
            notes.push(note.into());
        }
    }
    Ok(Key {
        models,
        limit,
        expires: text(row, "expires")?.map(expires).transpose()?,
        disabled: flag(row, "blocked")? | flag(row, "team_blocked")?,
        wanted: Names::plain(name),
        name: names.unique(name),
        consumer: Names::plain(consumer),
        sha256: digest.to_hex(),
    })
}

/// The limits of the key and of its budget; the smaller of the two.
fn limit(row: &Value, notes: &mut Vec<String>) -> Result<Limit, String> {
    let budget = &row["litellm_budget_table"];
    match budget {
        Value::Null if is_given(&row["budget_id"]) => {
            notes.push("the limits of its budget (budget_id), which the list does not say".into());
        }
        Value::Null | Value::Object(_) => {}
        _ => return Err("its litellm_budget_table is no object".into()),
    }
    let mut smaller = |field: &str| -> Result<Option<u32>, String> {
        let own = number(&row[field], field, notes)?;
        let of_budget = number(&budget[field], &format!("budget's {field}"), notes)?;
        Ok(own.into_iter().chain(of_budget).min())
    };
    let (requests_per_minute, tokens_per_minute) = (smaller("rpm_limit")?, smaller("tpm_limit")?);
    Ok(Limit { requests_per_minute, tokens_per_minute, ..Limit::default() })
}

fn number(value: &Value, what: &str, notes: &mut Vec<String>) -> Result<Option<u32>, String> {
    if value.is_null() {
        return Ok(None);
    }
    match value.as_u64() {
        None => Err(format!("its {what} is no whole number")),
        // Nobody means 0 to be without a limit.
        Some(0) => Err(format!("its {what} is 0; disable the key, or raise it")),
        Some(number) => {
            let read = u32::try_from(number).ok().filter(|n| *n <= Rate::MAX);
            if read.is_none() {
                notes.push(format!("its {what}, which is not 1 to {}", Rate::MAX));
            }
            Ok(read)
        }
    }
}

/// A text that says something.
fn text<'v>(row: &'v Value, field: &str) -> Result<Option<&'v str>, String> {
    match &row[field] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => Err(format!("its {field} is no text")),
    }
}

/// A list of texts; nothing is an empty one.
fn texts(value: &Value, what: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{what} are no list of texts");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

fn flag(row: &Value, field: &str) -> Result<bool, String> {
    match &row[field] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        _ => Err(format!("its {field} is neither true nor false")),
    }
}

/// Whether it says something; what LiteLLM writes where nobody has set anything does not.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// Python's `isoformat`, with or without a zone, which then is UTC.
fn expires(text: &str) -> Result<String, String> {
    let zoned = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    let time =
        humantime::parse_rfc3339_weak(zoned).map_err(|_| format!("its expiry {text:?} is no time in UTC"))?;
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}
