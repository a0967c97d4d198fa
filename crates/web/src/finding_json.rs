//! Findings as `/readyz` shows them to programs.

use std::fmt::Display;

use catalogue::Severity;
use serde_json::{Value, json};

/// A finding as JSON; programs use its code. `about` is what it concerns, such as `container vllm`.
pub fn finding_to_json(code: &str, severity: Severity, about: &str, message: &impl Display) -> Value {
    json!({
        "code": code,
        "severity": severity.name(),
        "about": about,
        "message": message.to_string(),
    })
}
