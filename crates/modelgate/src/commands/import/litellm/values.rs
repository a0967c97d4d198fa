//! Values of a row; errors say what is wrong with them.

use std::time::SystemTime;

use serde_json::{Map, Value};

/// A whole number from 1.
pub(super) fn number(value: Option<&Value>, what: &str) -> Result<Option<u64>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            None => Err(format!("its {what} is no whole number")),
            // 0 could be taken for "no limit".
            Some(0) => Err(format!("its {what} is 0; disable the key, or raise it")),
            number => Ok(number),
        },
    }
}

/// A text that is not empty.
pub(super) fn text<'v>(row: &'v Map<String, Value>, field: &str) -> Result<Option<&'v str>, String> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("its {field} is no text")),
    }
}

/// A list of texts; absent means empty.
pub(super) fn texts(value: Option<&Value>, what: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{what} are no list of texts");
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// An object of a row; LiteLLM may write it as a text.
pub(super) fn object(row: &Map<String, Value>, field: &str) -> Result<Option<Map<String, Value>>, String> {
    object_or_text(row.get(field), &format!("its {field}"))
}

/// An object in any value; LiteLLM may write it as a text.
pub(super) fn object_or_text(
    value: Option<&Value>,
    what: &str,
) -> Result<Option<Map<String, Value>>, String> {
    let read = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text).ok(),
        Some(value) => Some(value.clone()),
    };
    match read {
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(Value::Null) => Ok(None),
        _ => Err(format!("{what} is no object")),
    }
}

/// A boolean; absent means false.
pub(super) fn flag(row: &Map<String, Value>, field: &str) -> Result<bool, String> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("its {field} is neither true nor false")),
    }
}

/// A time in the format of Python's `isoformat`; without a time zone it is UTC.
pub(super) fn time(text: &str) -> Result<SystemTime, humantime::TimestampError> {
    let zoned = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    humantime::parse_rfc3339_weak(zoned)
}
