//! The command line as types. What each command does is in `commands/` and `serve.rs`.
//!
//! ```text
//! apply.rs      accounts as a file
//! accounts.rs   keys, consumers and plans: how to name one, what to change
//! fields.rs     the fields given for one, as a document with the configuration file's keys
//! records.rs    usage and the audit log
//! explain.rs    what to explain
//! import.rs     another gateway's keys
//! output.rs     the output format
//! ```

pub(crate) mod accounts;
pub(crate) mod apply;
pub(crate) mod budgets;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod import;
pub(crate) mod output;
pub(crate) mod records;

use std::{path::PathBuf, sync::LazyLock};

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use self::{
    accounts::{CreateKey, ListConsumers, ListKeys, ListPlans, Named, Rotate, SetConsumer, SetKey, SetPlan},
    apply::Apply,
    budgets::Budgets,
    explain::Explain,
    import::Import,
    records::{Audit, Usage},
};

/// One OpenAI- and Anthropic-compatible endpoint over all your inference servers, beside Traefik.
#[derive(Debug, Parser)]
#[command(version = version(), propagate_version = true)]
pub(crate) struct Args {
    /// The configuration file [default: $MODELGATE_CONFIG, or modelgate.yaml if it is here]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to do [default: serve]
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The version, and the commit from which the program was built, if that is known.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let version = env!("CARGO_PKG_VERSION");
        option_env!("MODELGATE_BUILT_FROM")
            .map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"))
    });
    &VERSION
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Answer Traefik until told to stop
    Serve,
    /// Check the configuration
    Check {
        /// Also look at containers and servers once, and say what is wrong with them
        #[arg(long)]
        servers: bool,
    },
    /// Ask the running Modelgate whether it is ready; for a container's HEALTHCHECK
    Healthcheck,
    /// Look for servers once and print what Traefik would be told
    Render,
    /// Say why a container, a model or a request is routed as it is, or is not
    #[command(subcommand)]
    Explain(Explain),
    /// Print all labels, with the corresponding keys of the configuration file, as Markdown
    Reference {
        /// Print the JSON Schema of the configuration file instead, for editors
        #[arg(long)]
        schema: bool,
    },
    /// Print what a shell needs to complete this command line
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write a manual page for each command
    Man {
        /// The folder for them
        folder: PathBuf,
    },
    /// Work with API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Work with consumers, who own keys
    #[command(subcommand)]
    Consumers(Consumers),
    /// Work with plans, the limits that keys and consumers refer to
    #[command(subcommand)]
    Plans(Plans),
    /// Show what is spent of a budget, add to it, or reset it
    #[command(subcommand)]
    Budgets(Budgets),
    /// Print usage, by day, key and model or otherwise; or erase a name from it
    Usage(Usage),
    /// Work with alerts, which tell webhooks and mailboxes what needs attention
    #[command(subcommand)]
    Alerts(Alerts),
    /// Print the audit log: who changed what, and samples of refusals
    Audit(Audit),
    /// Work with the token with which operators sign in to the dashboard
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Make the store's plans, consumers and keys those of a file, and print what changes
    Apply(Apply),
    /// Print the store's plans, consumers and keys as a file for `apply`
    Export,
    /// Copy everything in the store (keys, consumers, plans, usage, counts, the audit log) to a new file, while Modelgate runs
    Backup {
        /// The new file, an SQLite database that only its owner may read
        file: PathBuf,
    },
    /// Put everything from a backup into the store, while Modelgate runs; also from SQLite into PostgreSQL, and back
    Restore {
        /// The file that `modelgate backup` has made
        file: PathBuf,
        /// Replace what the store holds; without this it must be empty
        #[arg(long)]
        replace: bool,
    },
}

/// The commands on the admin token.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AdminCommand {
    /// Make a new token in place of the one that Modelgate made at its first start, and print it
    Token {
        /// Make a new one: the old one cannot be shown, since only its digest is kept
        #[arg(long, required = true)]
        new: bool,
    },
}

/// The commands on alerts.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Alerts {
    /// Send a test message to each webhook and mailbox of the configuration, and say what came of it
    Test {
        /// Only to the webhook or mailbox of this name
        name: Option<String>,
    },
}

/// The commands on API keys.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Keys {
    /// Make an API key and print it, with the lines that go into the configuration
    Generate(Generate),
    /// Print another gateway's keys as lines for the configuration, or put them into the store; they go on working
    Import(Import),
    #[command(flatten)]
    Accounts(Box<KeyAccounts>),
}

/// The commands on the keys of the configuration file and the store.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum KeyAccounts {
    /// List keys, including those of the configuration file
    List(ListKeys),
    /// Print one
    Show(Named),
    /// Add a key to the store and print it
    Create(CreateKey),
    /// Change the given fields of a key; the others stay as they are
    Set(SetKey),
    /// Replace a key by a new one, and print it
    Rotate(Rotate),
    /// Let a disabled key work again
    Enable(Named),
    /// Refuse a key until it is enabled again
    Disable(Named),
    /// Remove a key, which then is refused for good; a missing one is not an error
    #[command(visible_alias = "revoke")]
    Delete(Named),
}

/// The commands on consumers.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Consumers {
    /// List those that have limits or other settings, and not only keys
    List(ListConsumers),
    /// Print one
    Show(Named),
    /// Change the given fields of a consumer, or add it
    Set(SetConsumer),
    /// Remove one that has no keys; a missing one is not an error
    Delete(Named),
}

/// The commands on plans.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Plans {
    /// List them
    List(ListPlans),
    /// Print one
    Show(Named),
    /// Change the given fields of a plan, or add it
    Set(SetPlan),
    /// Remove one that nothing refers to; a missing one is not an error
    Delete(Named),
}

/// The arguments of `keys generate`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Generate {
    /// The name of the key; unique
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = key_name)]
    pub(crate) name: String,
    /// The consumer that owns it [default: the key's name]
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    pub(crate) consumer: Option<String>,
}

/// Accepts only names that the configuration accepts too; all of them are valid YAML between quotes.
fn key_name(text: &str) -> Result<String, String> {
    ::accounts::name(text).ok_or_else(|| format!("allowed: {}", ::accounts::NAME))
}
