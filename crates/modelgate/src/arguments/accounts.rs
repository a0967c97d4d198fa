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
    /// What it is called
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which plans to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListPlans {
    /// Their names hold this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which consumers to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListConsumers {
    /// Their names hold this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Those that refer to this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which keys to list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListKeys {
    /// Their names, or their consumers', hold this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Those of this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Those that refer to this plan
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A new key.
#[derive(Debug, Clone, Args)]
pub(crate) struct CreateKey {
    /// What it is called; unique
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: KeyFields,
    /// The SHA-256 of an API key that there is already [default: a key is made and printed]
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What to change of a key.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetKey {
    /// What it is called
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: KeyFields,
    #[command(flatten)]
    pub(crate) unset: UnsetOfKey,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Another key in the place of one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rotate {
    /// What it is called
    pub(crate) name: String,
    /// How long the old key goes on working, such as 24h, or 0s
    #[arg(long, value_name = "TIME", value_parser = admin::read_grace)]
    pub(crate) grace: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What to make of a consumer.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetConsumer {
    /// What it is called
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: ConsumerFields,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What to make of a plan.
#[derive(Debug, Clone, Args)]
pub(crate) struct SetPlan {
    /// What it is called
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) fields: PlanFields,
    #[command(flatten)]
    pub(crate) output: Output,
}
