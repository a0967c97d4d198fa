//! The program: parses the command line and runs the command. `main.rs` only calls [`run`]; it is a library so that the readers of
//! foreign files can be called without a process of their own ([`readers`]).
//!
//! ```text
//! lib ──▶ arguments    the command line, as types
//!      ├▶ commands ─┬▶ survey ─▶ wiring ─▶ config       one look at servers; the configuration of each part
//!      └▶ serve ────┴▶ store_sync ─▶ policy_source ─▶ jwks ─▶ config   keys and limits in force, in step with file and store
//!
//! exit, runtime        exit statuses; the async runtime
//! ```

use std::process::ExitCode;

use clap::Parser as _;
use store::Registry;

use arguments::{Args, Command, Keys};
use commands::{
    accounts, alerts, budgets, check, explain, generate, healthcheck, import, records, reference, registry,
    registry::CommandFailure, render,
};
use config::{Config, Env};

mod arguments;
mod commands;
mod config;
mod exit;
mod jwks;
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
    let named = args.config.as_deref();
    match &args.command {
        None | Some(Command::Serve) => with_config(&args, |config| serve::serve(named, config)),
        Some(Command::Render) => with_config(&args, |config| render::render(&config)),
        Some(Command::Check { servers }) => {
            with_config(&args, |config| check::check(named, &config, *servers))
        }
        Some(Command::Explain(what)) => with_config(&args, |config| explain::explain(&config, what)),
        Some(Command::Reference) => reference::print(),
        Some(Command::Healthcheck) => with_config(&args, |config| healthcheck::healthcheck(&config)),
        Some(Command::Keys(Keys::Generate(wanted))) => generate::generate(wanted),
        Some(Command::Keys(Keys::Import(wanted))) if !wanted.store => import::print(wanted),
        Some(Command::Keys(Keys::Import(wanted))) => {
            with_registry(&args, async |registry| import::into_store(wanted, registry).await)
        }
        Some(Command::Keys(Keys::Accounts(what))) => {
            with_registry(&args, async |registry| accounts::keys(registry, what).await)
        }
        Some(Command::Consumers(what)) => {
            with_registry(&args, async |registry| accounts::consumers(registry, what).await)
        }
        Some(Command::Plans(what)) => {
            with_registry(&args, async |registry| accounts::plans(registry, what).await)
        }
        Some(Command::Budgets(what)) => with_config(&args, |config| {
            let money = (config.prices.currency(), &config.time_zone);
            registry::with_registry(&config, async |registry| budgets::budgets(registry, money, what).await)
        }),
        Some(Command::Usage(wanted)) => with_config(&args, |config| {
            let prices = (&config.prices, &config.time_zone);
            registry::with_registry(&config, async |registry| records::usage(registry, prices, wanted).await)
        }),
        Some(Command::Alerts(what)) => with_config(&args, |config| alerts::alerts(&config, what)),
        Some(Command::Audit(wanted)) => {
            with_registry(&args, async |registry| records::audit(registry, wanted).await)
        }
    }
}

/// Loads the configuration and runs the command. All errors of the configuration are reported before any port is bound.
fn with_config(args: &Args, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(args.config.as_deref(), &Env::of_this_process()) {
        Ok(config) => run(config),
        Err(errors) => exit::refuse(&errors),
    }
}

/// Runs a command on the accounts of the file and the store.
fn with_registry(args: &Args, work: impl AsyncFnOnce(&Registry) -> Result<(), CommandFailure>) -> ExitCode {
    with_config(args, |config| registry::with_registry(&config, work))
}
