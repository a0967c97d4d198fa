//! The output of commands: tables, YAML and JSON.

use serde_json::Value;

use super::registry::CommandFailure;
use crate::output::{self, say};

/// Prints rows under a heading; each column is as wide as its content. All have as many cells.
pub(super) fn print<'h>(heading: impl AsRef<[&'h str]>, rows: &[impl AsRef<[String]>]) {
    let heading = heading.as_ref();
    let mut widths: Vec<usize> = heading.iter().map(|name| name.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(heading.iter().copied(), &widths);
    for row in rows {
        text += &line(row.as_ref().iter().map(String::as_str), &widths);
    }
    output::text(text);
}

fn line<'c>(cells: impl Iterator<Item = &'c str>, widths: &[usize]) -> String {
    let padded = cells.zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
}

/// Prints one item; for people as YAML with the configuration file's keys.
pub(super) fn print_one(shown: &Value, as_json: bool) -> Result<(), CommandFailure> {
    if as_json {
        print_json(shown);
    } else {
        output::text(
            serde_yaml::to_string(shown).map_err(|error| CommandFailure::Failed(error.to_string()))?,
        );
    }
    Ok(())
}

/// Prints JSON, indented for people.
pub(super) fn print_json(shown: &Value) {
    say!("{shown:#}");
}

/// A value in a cell: texts unchanged, lists with commas, `-` if absent. Control characters are escaped, because terminals obey
/// them.
pub(super) fn cell(of: &Value, key: &str) -> String {
    let text = match &of[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
        }
        Value::Object(object) => {
            object.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(visible).collect()
}
