//! Tests of importers with small files. Each file is read, combined as `modelgate keys import` does, and must be accepted by the
//! reader of the configuration.

use std::collections::BTreeSet;

use accounts::{ConsumerSpec, KeySpec};
use serde_json::Value;

use super::found::Imported;

/// The outcome of an import.
pub(super) struct Made {
    /// Each key without its name and digest.
    pub(super) keys: Vec<Value>,
    pub(super) consumers: Vec<Value>,
    /// The restrictions that hold at least one key.
    pub(super) held_by: Vec<String>,
    /// The messages, one on each line.
    pub(super) said: String,
}

/// Combines what was found, as the command does.
pub(super) fn made(mut imported: Imported, without: &[&str]) -> Made {
    let without: BTreeSet<String> = without.iter().map(ToString::to_string).collect();
    imported.take_each_once();
    let held_by = imported.disable_held(&without).into_keys().collect();
    let keys = imported.keys.iter().map(|key| {
        let mut json = serde_json::to_value(key).expect("JSON");
        accounts::parse::<KeySpec>(&json, None).expect("a key");
        let fields = json.as_object_mut().expect("an object");
        fields.remove("sha256");
        fields.remove("name");
        json
    });
    let consumers = imported.consumers.iter().map(|consumer| {
        let json = serde_json::to_value(consumer).expect("JSON");
        accounts::parse::<ConsumerSpec>(&json, None).expect("a consumer");
        json
    });
    let said: Vec<String> = imported.said.iter().map(|said| said.line(&without)).collect();
    Made { keys: keys.collect(), consumers: consumers.collect(), held_by, said: said.join("\n") }
}
