//! Modelgate: configuration, command line, wiring.

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Args, Command, Keys};
use config::{Config, Env};

mod admin_tokens;
mod book;
mod cli;
mod config;
mod explain;
mod import;
mod jwks;
mod keeper;
mod log;
mod reference;
mod reload;
mod serve;

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
        Some(Command::Keys(Keys::Import(wanted))) => import::import(wanted),
    }
}

/// Bad configuration is told, all of it, before any port is bound.
fn with_config(args: &Args, run: impl FnOnce(&Args, Config) -> ExitCode) -> ExitCode {
    match Config::load(args.config.as_deref(), &Env::of_this_process()) {
        Ok(config) => run(args, config),
        Err(errors) => cli::refuse(&errors),
    }
}
