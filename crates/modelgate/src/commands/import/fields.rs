//! What the fields of another gateway's rows mean here: a list of what is known, so that what is not is named.

use serde_json::{Map, Value};

use super::found::Findings;

/// A field that is not taken over.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) meaning: Meaning,
    /// Why it is harmless, or what the operator loses; for a restriction, what stands behind its name.
    pub(super) why: &'static str,
}

/// What becomes of a field that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It restricts nobody, and nobody misses it.
    Harmless,
    /// It restricts nobody; that it is lost is said.
    Said,
    /// The other gateway checks it before it lets a request pass.
    Restricts,
}

pub(super) const fn harmless(name: &'static str, why: &'static str) -> Field {
    Field { name, meaning: Meaning::Harmless, why }
}

pub(super) const fn said(name: &'static str, why: &'static str) -> Field {
    Field { name, meaning: Meaning::Said, why }
}

pub(super) const fn restricts(name: &'static str, why: &'static str) -> Field {
    Field { name, meaning: Meaning::Restricts, why }
}

/// Where fields stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    /// Before the name of a field: `its `, `its budget's `.
    pub(super) whose: &'p str,
    /// Fields that are read elsewhere.
    pub(super) understood: &'p [&'p str],
    pub(super) tables: &'p [&'p [Field]],
    /// What becomes of a field that is in no table.
    pub(super) unknown: Meaning,
    /// What a restriction is called; else as its field.
    pub(super) restriction: Option<&'p str>,
}

impl Place<'_> {
    /// Names what of an object is not taken over.
    pub(super) fn look(&self, object: &Map<String, Value>, findings: &mut Findings) {
        let whose = self.whose;
        for (name, value) in object {
            if self.understood.contains(&name.as_str()) || !is_given(value) {
                continue;
            }
            let field = self.tables.iter().copied().flatten().find(|field| field.name == name);
            let shown = shown(name);
            match field.map_or(self.unknown, |field| field.meaning) {
                Meaning::Harmless => {}
                Meaning::Said => {
                    let why = field.map_or("it is not taken over", |field| field.why);
                    findings.say(format!("{whose}{shown}: {why}"));
                }
                Meaning::Restricts => {
                    let why = field.map_or("Modelgate does not know it", |field| field.why);
                    findings.hold(self.restriction.unwrap_or(&shown), format!("{whose}{shown}: {why}"));
                }
            }
        }
    }
}

/// Whether it says something. What is written where nobody has set anything does not: LiteLLM's switches are off until
/// somebody turns them on. A number says something: 0 may stand for none at all.
pub(super) fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        // Some of LiteLLM's objects stand there as texts.
        Value::String(text) => !["", "{}", "[]", "null"].contains(&text.as_str()),
        Value::Array(items) => items.iter().any(is_given),
        Value::Object(fields) => fields.values().any(is_given),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// A field's name on one line.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 60;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/@".contains(c));
    match plain && !name.is_empty() && name.len() <= LONGEST {
        true => name.to_owned(),
        false => format!("{:?}", name.chars().take(LONGEST).collect::<String>()),
    }
}
