//! The fields that are given on the command line, as a document with the configuration file's keys. They are validated where such
//! documents are read.

use clap::{Args, builder::PossibleValuesParser};
use serde_json::{Map, Value};

/// The limits of a plan, a consumer or a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// A limit, such as requests_per_minute=60, burst=10 or tokens_per_day=100000; `=none` takes it away (repeatable)
    #[arg(long, value_name = "NAME=NUMBER", value_parser = limit)]
    limit: Vec<(String, Value)>,
    /// Likewise a limit for each model on its own (repeatable)
    #[arg(long, value_name = "NAME=NUMBER", value_parser = limit)]
    limit_per_model: Vec<(String, Value)>,
}

/// The fields of a plan.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanFields {
    /// A model that its keys may use, or a pattern such as 'llama*' (repeatable, or with commas)
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    models: Vec<String>,
    #[command(flatten)]
    limits: Limits,
    /// Who goes first while requests wait for a server (pick.wait)
    #[arg(long, value_name = "WHICH", value_parser = PossibleValuesParser::new(["low", "normal", "high"]))]
    priority: Option<String>,
    /// A note for operators
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Remove a field (repeatable)
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(["models", "limit", "limit_per_model", "priority", "note"]))]
    unset: Vec<String>,
}

/// The fields of a consumer.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsumerFields {
    /// The plan that provides the limits that it does not have itself
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    #[command(flatten)]
    limits: Limits,
    /// Whether its keys are refused
    #[arg(long, value_name = "true|false")]
    disabled: Option<bool>,
    /// A note for operators
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Remove a field (repeatable)
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(["plan", "limit", "limit_per_model", "note"]))]
    unset: Vec<String>,
}

/// The fields of a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeyFields {
    /// The consumer that owns it; by default a new key gets a consumer of its own name
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The plan that provides the models and limits that it does not have itself
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// A model that it may use, or a pattern such as 'llama*' [repeatable, or with commas; default: all]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    models: Vec<String>,
    #[command(flatten)]
    limits: Limits,
    /// Whether it may use paths that manage a server
    #[arg(long, value_name = "true|false")]
    manage: Option<bool>,
    /// Whether it may use what servers store for everybody: files, batches, responses, conversations
    #[arg(long, value_name = "true|false")]
    stored_data: Option<bool>,
    /// When it stops working, in UTC, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// A client network from which it works, such as 10.0.0.0/8 [repeatable, or with commas; default: any]
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    network: Vec<String>,
    /// A note for operators
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// The fields that `--unset` removes from a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct UnsetOfKey {
    /// Remove a field; previous is the old key that still works after a rotation (repeatable)
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(
        ["plan", "models", "limit", "limit_per_model", "expires", "networks", "note", "previous"]
    ))]
    pub(crate) unset: Vec<String>,
}

impl PlanFields {
    /// The fields as a merge patch.
    pub(crate) fn patch(&self) -> Result<Value, String> {
        let mut patch = Patch::default();
        patch.list("models", &self.models);
        patch.limits(&self.limits);
        patch.text("priority", self.priority.as_ref());
        patch.text("note", self.note.as_ref());
        patch.without(&self.unset)
    }
}

impl ConsumerFields {
    /// The fields as a merge patch.
    pub(crate) fn patch(&self) -> Result<Value, String> {
        let mut patch = Patch::default();
        patch.text("plan", self.plan.as_ref());
        patch.limits(&self.limits);
        patch.truth("disabled", self.disabled);
        patch.text("note", self.note.as_ref());
        patch.without(&self.unset)
    }
}

impl KeyFields {
    /// The fields as a merge patch.
    pub(crate) fn patch(&self, unset: &[String]) -> Result<Value, String> {
        let mut patch = Patch::default();
        patch.text("consumer", self.consumer.as_ref());
        patch.text("plan", self.plan.as_ref());
        patch.list("models", &self.models);
        patch.limits(&self.limits);
        patch.truth("manage", self.manage);
        patch.truth("stored_data", self.stored_data);
        patch.text("expires", self.expires.as_ref());
        patch.list("networks", &self.network);
        patch.text("note", self.note.as_ref());
        patch.without(unset)
    }
}

/// A merge patch (RFC 7396) under construction.
#[derive(Default)]
struct Patch(Map<String, Value>);

impl Patch {
    fn text(&mut self, key: &str, value: Option<&String>) {
        self.0.extend(value.map(|value| (key.to_owned(), value.as_str().into())));
    }

    fn truth(&mut self, key: &str, value: Option<bool>) {
        self.0.extend(value.map(|value| (key.to_owned(), value.into())));
    }

    fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            self.0.insert(key.to_owned(), values.into());
        }
    }

    fn limits(&mut self, limits: &Limits) {
        for (key, given) in [("limit", &limits.limit), ("limit_per_model", &limits.limit_per_model)] {
            if !given.is_empty() {
                self.0.insert(key.to_owned(), Value::Object(given.iter().cloned().collect()));
            }
        }
    }

    fn without(mut self, unset: &[String]) -> Result<Value, String> {
        for key in unset {
            if self.0.insert(key.clone(), Value::Null).is_some() {
                return Err(format!("{key} is both given and unset; allowed: one of both"));
            }
        }
        Ok(Value::Object(self.0))
    }
}

/// `requests_per_minute=60`
fn limit(text: &str) -> Result<(String, Value), String> {
    const ALLOWED: &str = "allowed: NAME=NUMBER such as requests_per_minute=60, or NAME=none";
    let (name, value) = text.split_once('=').ok_or(ALLOWED)?;
    let value = match value {
        "none" => Value::Null,
        // Text that is not a number is kept: the reader of the limit reports it.
        number => number.parse::<u64>().map_or_else(|_| number.into(), Value::from),
    };
    Ok((name.to_owned(), value))
}
