//! What the fields of another gateway mean here. This is a list of known fields, so that unknown ones are reported.

use serde_json::{Map, Value};

use super::found::Findings;

/// A field that is not imported.
#[derive(Debug)]
pub(super) struct UnimportedField {
    pub(super) name: &'static str,
    pub(super) meaning: Meaning,
    /// Why the field is harmless, or what the operator loses; for a restriction, the explanation after its name.
    pub(super) why: &'static str,
}

/// What happens to a field that has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It restricts nobody, and its loss need not be reported.
    Harmless,
    /// It restricts nobody, but its loss is reported.
    Said,
    /// The other gateway checks it before it admits a request.
    Restricts,
}

pub(super) const fn harmless(name: &'static str, why: &'static str) -> UnimportedField {
    UnimportedField { name, meaning: Meaning::Harmless, why }
}

pub(super) const fn said(name: &'static str, why: &'static str) -> UnimportedField {
    UnimportedField { name, meaning: Meaning::Said, why }
}

pub(super) const fn restricts(name: &'static str, why: &'static str) -> UnimportedField {
    UnimportedField { name, meaning: Meaning::Restricts, why }
}

/// An object with fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldsOf<'p> {
    /// Put before the name of a field: `its `, `its budget's `.
    pub(super) whose: &'p str,
    /// Fields that are read elsewhere.
    pub(super) understood: &'p [&'p str],
    pub(super) tables: &'p [&'p [UnimportedField]],
    /// What happens to a field that is in no table.
    pub(super) unknown: Meaning,
    /// The name of the restriction; if absent, the field's name.
    pub(super) restriction: Option<&'p str>,
}

impl FieldsOf<'_> {
    /// Reports the fields of an object that are not imported.
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

/// Whether the field has a meaningful value. Defaults do not count: LiteLLM's switches are off until somebody turns them on. A
/// number always counts, because 0 may mean that nothing is allowed.
pub(super) fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        // LiteLLM writes some objects as texts.
        Value::String(text) => !["", "{}", "[]", "null"].contains(&text.as_str()),
        Value::Array(items) => items.iter().any(is_given),
        Value::Object(fields) => fields.values().any(is_given),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// A field's name, on one line.
pub(super) fn shown(name: &str) -> String {
    const MAX_SHOWN: usize = 60;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/@".contains(c));
    match plain && !name.is_empty() && name.len() <= MAX_SHOWN {
        true => name.to_owned(),
        false => format!("{:?}", name.chars().take(MAX_SHOWN).collect::<String>()),
    }
}
