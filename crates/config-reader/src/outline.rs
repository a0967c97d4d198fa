//! The form of a document as a [JSON Schema](https://json-schema.org/draft/2020-12/json-schema-core). The readers themselves give
//! it: they read a document that has nothing in it, and each getter says what it would have taken.
//!
//! Words, ranges, lists and levels are checked by the schema. What only a parser knows, such as a URL, is told in the description.

use std::ops::RangeInclusive;

use catalogue::Setting;
use serde_json::{Value, json};

/// What has been asked for so far.
#[derive(Debug)]
pub(crate) struct Outline(Value);

impl Outline {
    pub(crate) fn new() -> Self {
        Self(level())
    }

    /// Adds a key, unless it is there. Dots in `path` are levels, and `[]` is each entry of a list.
    pub(crate) fn add(&mut self, path: &str, form: Value) {
        let (above, key) = path.rsplit_once('.').unwrap_or(("", path));
        let known = &mut self.at(above)["properties"][key];
        if known.is_null() {
            *known = form;
        }
    }

    /// Adds a level, or a list of levels.
    pub(crate) fn add_level(&mut self, path: &str) {
        self.at(path);
    }

    /// Notes that a key must be there.
    pub(crate) fn require(&mut self, path: &str) {
        let (above, key) = path.rsplit_once('.').unwrap_or(("", path));
        let required = &mut self.at(above)["required"];
        match required.as_array_mut() {
            Some(keys) if keys.iter().any(|known| known == key) => {}
            Some(keys) => keys.push(key.into()),
            None => *required = json!([key]),
        }
    }

    pub(crate) fn into_schema(self) -> Value {
        self.0
    }

    fn at(&mut self, path: &str) -> &mut Value {
        path.split('.').filter(|part| !part.is_empty()).fold(&mut self.0, |above, part| {
            let key = part.strip_suffix("[]");
            let child = &mut above["properties"][key.unwrap_or(part)];
            match (child.is_null(), key) {
                (true, Some(_)) => *child = json!({ "type": ["array", "null"], "items": level() }),
                (true, None) => *child = level(),
                (false, _) => {}
            }
            if key.is_some() { &mut child["items"] } else { child }
        })
    }
}

/// Keys with values. A key without a value counts as absent.
fn level() -> Value {
    json!({ "type": ["object", "null"], "properties": {}, "additionalProperties": false })
}

/// One value: YAML makes `8000` a number and `true` a boolean, and all are read as text.
pub(crate) fn single(allowed: &str) -> Value {
    if let Some(range) = range_of(allowed) {
        return number(&range);
    }
    json!({ "type": ["string", "number", "boolean", "null"], "description": allowed })
}

/// The range of whole numbers that a text says and nothing else; limits and settings have only the text.
fn range_of(allowed: &str) -> Option<RangeInclusive<u64>> {
    let (from, to) = allowed.strip_prefix("a whole number from ")?.split_once(" to ")?;
    Some(from.parse().ok()?..=to.parse().ok()?)
}

/// One of some words.
pub(crate) fn words<'w>(words: impl Iterator<Item = &'w str>) -> Value {
    let mut allowed = vec![Value::Null];
    for word in words {
        allowed.push(word.into());
        allowed.extend(word.parse::<bool>().ok().map(Value::from));
    }
    json!({ "enum": allowed })
}

/// A whole number, or a text of its digits.
pub(crate) fn number(range: &RangeInclusive<u64>) -> Value {
    json!({
        "type": ["integer", "string", "null"], "minimum": range.start(), "maximum": range.end(), "pattern": "^[+]?[0-9]+$",
        "description": format!("a whole number from {} to {}", range.start(), range.end()),
    })
}

/// A number and its unit.
pub(crate) fn quantity(allowed: &str) -> Value {
    json!({ "type": ["string", "number", "null"], "pattern": "^ *[0-9.]", "minimum": 0, "description": allowed })
}

/// A list of single values.
pub(crate) fn list(allowed: &str) -> Value {
    json!({ "type": ["array", "null"], "items": item(allowed) })
}

/// A setting, which may also be a list of single values.
pub(crate) fn setting(setting: &Setting) -> Value {
    let told = format!("{}. Allowed: {}", setting.meaning, setting.allowed);
    if let Some(range) = range_of(setting.allowed) {
        let mut form = number(&range);
        form["description"] = told.into();
        return form;
    }
    match setting.allowed {
        "true or false" => json!({ "enum": [null, true, "true", false, "false"], "description": told }),
        _ => json!({
            "type": ["string", "number", "boolean", "array", "null"], "items": item(setting.allowed), "description": told,
        }),
    }
}

fn item(allowed: &str) -> Value {
    json!({ "type": ["string", "number", "boolean"], "description": allowed })
}
