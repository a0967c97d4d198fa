//! Modelgate: configuration, command line, wiring.

use std::process::ExitCode;

use clap::Parser as _;

use accounts_cli::Task;
use cli::{Args, Command, Keys};
use config::{Config, Env};

mod accounts_cli;
mod admin_tokens;
mod book;
mod cli;
mod config;
mod counting;
mod explain;
mod import;
mod jwks;
mod keeper;
mod log;
mod reference;
mod reload;
mod serve;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        None | Some(Command::Serve) => with_config(&args, serve::serve),
        Some(Command::Render) => with_config(&args, |_, config| serve::render(&config)),
        Some(Command::Check { servers }) => cli::check(&args, *servers),
        Some(Command::Explain(what)) => with_config(&args, |_, config| explain::explain(&config, what)),
        Some(Command::Reference) => reference::print(),
        Some(Command::Healthcheck) => with_config(&args, |_, config| serve::healthcheck(&config)),
        Some(Command::Keys(Keys::Generate(wanted))) => cli::keys_generate(wanted),
        Some(Command::Keys(Keys::Import(wanted))) if !wanted.store => import::import(wanted),
        Some(Command::Keys(Keys::Import(wanted))) => on_accounts(&args, &Task::Import(wanted)),
        Some(Command::Keys(what)) => on_accounts(&args, &Task::Keys(what)),
        Some(Command::Consumers(what)) => on_accounts(&args, &Task::Consumers(what)),
        Some(Command::Plans(what)) => on_accounts(&args, &Task::Plans(what)),
        Some(Command::Usage(wanted)) => on_accounts(&args, &Task::Usage(wanted)),
        Some(Command::Audit(wanted)) => on_accounts(&args, &Task::Audit(wanted)),
    }
}

/// Works on the accounts of the file and the store.
fn on_accounts(args: &Args, task: &Task<'_>) -> ExitCode {
    with_config(args, |_, config| accounts_cli::run(&config, task))
}

/// Bad configuration is told, all of it, before any port is bound.
fn with_config(args: &Args, run: impl FnOnce(&Args, Config) -> ExitCode) -> ExitCode {
    match Config::load(args.config.as_deref(), &Env::of_this_process()) {
        Ok(config) => run(args, config),
        Err(errors) => cli::refuse(&errors),
    }
}
