//! Filters for usage and for the audit log.

use clap::{Args, Subcommand};
use store::{Person, UsageBy};

use super::output::Output;

/// Which usage to print.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Usage {
    #[command(subcommand)]
    pub(crate) command: Option<UsageCommand>,
    /// What each line is about: hour (of the last 35 days), day or month, and any of key, consumer and model
    #[arg(long, value_name = "COLUMNS", default_value_t = UsageBy::default(), value_parser = by)]
    pub(crate) by: UsageBy,
    /// Only usage of this key
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<String>,
    /// Only usage of this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Only usage of this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// The first day, such as 2026-11-21
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) from: Option<String>,
    /// The last day, inclusive
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) to: Option<String>,
    /// How many lines at most, the newest days first
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// The commands on usage.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum UsageCommand {
    /// Take the name of a key or a consumer out of usage and the audit log; sums stay
    ///
    /// What was used under the name is then that of "(erased)". Entries of the audit log about it say what was done by which
    /// operator and when, but no longer to whom. A key or consumer that still exists stays, and what it uses from now on is
    /// kept under its name: delete it first. Logs and backups are not changed.
    Erase(Erase),
    /// Compute anew what usage has cost, by the prices of the configuration
    ///
    /// For prices that were wrong. Put the right ones into the configuration first, so that a running Modelgate has them. What
    /// usage has cost is replaced, for all keys, by what its sums of a day cost by that day's prices; the audit log says who
    /// has done it, and what it came to before and after. Sums are rounded once and not for each request, so the last of nine
    /// decimals may differ. Seconds of requests that their server refused are counted too, because they are in the sums.
    ///
    /// Hours whose requests may still be settled are left out: those that have not ended more than `metering.wait` and five minutes
    /// ago. Which they are, and when they can be computed anew, is said.
    ///
    /// Usage from before there were prices cost nothing, and gets a cost too, unless the price has a later `from`. How many rows
    /// that are is said; `--dry-run` says it before anything is changed.
    Recost(Recost),
}

/// Which usage to compute anew.
#[derive(Debug, Clone, Args)]
pub(crate) struct Recost {
    /// The first day, such as 2026-11-21
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) from: String,
    /// The last day, inclusive [default: today]
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) to: Option<String>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Whose name to erase.
#[derive(Debug, Clone, Args)]
pub(crate) struct Erase {
    /// The name of a key, and of its consumer if that is the same
    #[arg(long, value_name = "NAME", required_unless_present = "consumer", conflicts_with = "consumer")]
    key: Option<String>,
    /// The name of a consumer, and those of its keys
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

impl Erase {
    /// Whose name it is. The command line has one of both.
    pub(crate) fn person(&self) -> Person {
        match &self.key {
            Some(key) => Person::Key(key.clone()),
            None => Person::Consumer(self.consumer.clone().unwrap_or_default()),
        }
    }
}

/// Which part of the audit log to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Audit {
    /// Only entries by this actor: the name of an admin token, "command line" for any user there, "command line (ada)" for one
    /// user, or /auth for samples of refusals
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Only entries whose action begins with this, such as "key created" or request
    #[arg(long, value_name = "TEXT")]
    pub(crate) action: Option<String>,
    /// Only entries about this, such as "key alice"
    #[arg(long, value_name = "TEXT")]
    pub(crate) subject: Option<String>,
    /// How many entries at most, the newest first [default: 100, with --jsonl all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Print one JSON object on each line
    #[arg(long, conflicts_with = "json")]
    pub(crate) jsonl: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A day of the calendar.
fn day(text: &str) -> Result<String, String> {
    admin::is_day(text).then(|| text.to_owned()).ok_or_else(|| "allowed: a day such as 2026-11-21".to_owned())
}

fn by(text: &str) -> Result<UsageBy, String> {
    text.parse().map_err(|error: store::InvalidUsageBy| format!("allowed: {error}"))
}
