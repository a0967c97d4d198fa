//! Arguments of the commands on keys, consumers and plans: how to name one, and what to change.

use std::time::Duration;

use clap::Args;

use super::{
    fields::{ConsumerFields, KeyFields, PlanFields, UnsetOfKey},
    output::Output,
};

/// Names one account.
#[derive(Debug, Clone, Args)]
pub(crate) struct Named {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which plans to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListPlans {
    /// Only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which consumers to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListConsumers {
    /// Only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Only those that refer to this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which keys to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListKeys {
    /// Only those whose name, or whose consumer's name, contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Only those of this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Only those that refer to this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A new key.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateKey {
    /// Its name; unique
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: KeyFields,
    /// The SHA-256 of an existing API key [default: a key is made and printed]
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The changes to a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetKey {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: KeyFields,
    #[command(flatten)]
    pub(crate) unset: UnsetOfKey,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The replacement of a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rotate {
    /// Its name
    pub(crate) name: String,
    /// How long the old key goes on working, such as 24h, or 0s
    #[arg(long, value_name = "TIME", value_parser = admin::read_grace)]
    pub(crate) grace: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The changes to a consumer.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetConsumer {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: ConsumerFields,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The changes to a plan.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetPlan {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: PlanFields,
    #[command(flatten)]
    pub(crate) output: Output,
}
