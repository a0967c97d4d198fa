//! The program: parses the command line and runs the command. `main.rs` only calls [`run`]; it is a library so that the readers of
//! foreign files can be called without a process of their own ([`readers`]).
//!
//! ```text
//! lib ──▶ arguments    the command line, as types
//!      ├▶ commands ─┬▶ survey ─▶ wiring ─▶ config       one look at servers; the configuration of each part
//!      └▶ serve ────┴▶ store_sync ─▶ policy_source ─▶ jwks ─▶ config   keys and limits in force, in step with file and store
//!
//! exit, output, runtime   exit statuses; what commands print; the async runtime
//! ```

use std::process::ExitCode;

use clap::Parser as _;
use store::Registry;

use arguments::{AdminCommand, Alerts, Args, Command, Keys, explain::Explain};
use commands::{
    accounts, admin, alerts, apply, backup, budgets, check, explain, generate, healthcheck, import, records,
    reference, registry, registry::CommandFailure, render, shell,
};
use config::{Config, Env, NeededSecrets};
use output::tell;

mod arguments;
mod commands;
mod config;
mod exit;
mod jwks;
mod output;
mod policy_source;
pub mod readers;
mod runtime;
mod serve;
mod store_sync;
mod survey;
mod wiring;

/// Runs the command that the command line names, and returns the process's exit status.
pub fn run() -> ExitCode {
    let args = Args::parse();
    exit::finish(run_command(&args))
}

fn run_command(args: &Args) -> ExitCode {
    let named = args.config.as_deref();
    match command(args) {
        Command::Serve => with_config(args, |config| serve::serve(named, config)),
        Command::Render => with_config(args, |config| render::render(&config)),
        Command::Check { servers } => with_config(args, |config| check::check(named, &config, *servers)),
        Command::Explain(what) => with_config(args, |config| explain::explain(&config, what)),
        Command::Reference { schema } => reference::print(*schema),
        Command::Completions { shell } => shell::completions(*shell),
        Command::Man { folder } => shell::man(folder),
        Command::Healthcheck => with_config(args, |config| healthcheck::healthcheck(&config)),
        Command::Keys(Keys::Generate(wanted)) => generate::generate(wanted),
        Command::Keys(Keys::Import(wanted)) if !wanted.store => import::print(wanted),
        Command::Keys(Keys::Import(wanted)) => with_config(args, |config| {
            let zone = &config.time_zone;
            registry::with_registry(&config, async |registry| {
                import::into_store(wanted, registry, zone).await
            })
        }),
        Command::Keys(Keys::Accounts(what)) => {
            with_registry(args, async |registry| accounts::keys(registry, what).await)
        }
        Command::Consumers(what) => {
            with_registry(args, async |registry| accounts::consumers(registry, what).await)
        }
        Command::Plans(what) => with_registry(args, async |registry| accounts::plans(registry, what).await),
        Command::Budgets(what) => with_config(args, |config| {
            let money = (config.prices.currency(), &config.time_zone);
            registry::with_registry(&config, async |registry| budgets::budgets(registry, money, what).await)
        }),
        Command::Usage(wanted) => with_config(args, |config| {
            registry::with_registry(&config, async |registry| records::usage(registry, &config, wanted).await)
        }),
        Command::Alerts(what) => with_config(args, |config| alerts::alerts(&config, what)),
        Command::Audit(wanted) => {
            with_registry(args, async |registry| records::audit(registry, wanted).await)
        }
        Command::Admin(AdminCommand::Token { .. }) => with_config(args, |config| {
            registry::with_registry(&config, async |registry| admin::new_token(&config, registry).await)
        }),
        Command::Apply(wanted) => with_registry(args, async |registry| apply::apply(registry, wanted).await),
        Command::Export => with_registry(args, apply::export),
        Command::Backup { file } => {
            with_registry(args, async |registry| backup::backup(registry, file).await)
        }
        Command::Restore { file, replace } => {
            with_registry(args, async |registry| backup::restore(registry, file, *replace).await)
        }
    }
}

fn command(args: &Args) -> &Command {
    args.command.as_ref().unwrap_or(&Command::Serve)
}

impl Command {
    /// The secrets of the configuration that it needs.
    fn needed_secrets(&self) -> NeededSecrets<'_> {
        match self {
            Self::Serve | Self::Check { .. } => NeededSecrets::All,
            // They survey servers. Without its key, a server would not answer as it answers the running Modelgate.
            Self::Render
            | Self::Explain(Explain::Container { .. } | Explain::Model { .. } | Explain::Request(_)) => {
                NeededSecrets::Servers
            }
            Self::Alerts(Alerts::Test { name }) => {
                name.as_deref().map_or(NeededSecrets::Receivers, NeededSecrets::Receiver)
            }
            Self::Explain(Explain::Middleware { .. })
            | Self::Healthcheck
            | Self::Reference { .. }
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Keys(_)
            | Self::Consumers(_)
            | Self::Plans(_)
            | Self::Budgets(_)
            | Self::Usage(_)
            | Self::Audit(_)
            | Self::Admin(_)
            | Self::Apply(_)
            | Self::Export
            | Self::Backup { .. }
            | Self::Restore { .. } => NeededSecrets::None,
        }
    }
}

/// Loads the configuration and runs the command. All errors of the configuration are reported before any port is bound.
fn with_config(args: &Args, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let needed = command(args).needed_secrets();
    match Config::load_for(args.config.as_deref(), &Env::of_this_process(), needed) {
        Ok(config) => {
            for unread in &config.unread_secrets {
                tell!("note: {unread}. This command does not need it; `modelgate serve` does");
            }
            run(config)
        }
        Err(errors) => exit::refuse(&errors),
    }
}

/// Runs a command on the accounts of the file and the store.
fn with_registry(args: &Args, work: impl AsyncFnOnce(&Registry) -> Result<(), CommandFailure>) -> ExitCode {
    with_config(args, |config| registry::with_registry(&config, work))
}
