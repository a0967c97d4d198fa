//! The command line, and the commands that need no running server.

use std::{
    path::{self, Path, PathBuf},
    process::ExitCode,
};

use access::NewKey;
use clap::{Parser, Subcommand};

use crate::{
    accounts_cli::{
        edit::{CreateKey, ListConsumers, ListKeys, ListPlans, Named, Rotate, SetConsumer, SetKey, SetPlan},
        records::{Audit, Usage},
    },
    config::{self, Config, ConfigErrors, Env},
    explain::Explain,
    import::Import,
    serve,
};

/// One OpenAI- and Anthropic-compatible endpoint over all your inference servers, beside Traefik.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Args {
    /// The configuration file [default: $MODELGATE_CONFIG, or modelgate.yaml if it is here]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to do [default: serve]
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
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
    /// Print all labels and their equals in the configuration file, as Markdown
    Reference,
    /// Work with API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Work with consumers, who own keys
    #[command(subcommand)]
    Consumers(Consumers),
    /// Work with plans, the limits that keys and consumers refer to
    #[command(subcommand)]
    Plans(Plans),
    /// Print what was used by day, key and model
    Usage(Usage),
    /// Print who changed what, and samples of refusals
    Audit(Audit),
}

/// What to do with API keys.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Keys {
    /// Make an API key and print it, with the lines that go into the configuration
    Generate(Generate),
    /// Print another gateway's keys as lines for the configuration, or put them into the store; they go on working
    Import(Import),
    /// List keys, those of the configuration file among them
    List(ListKeys),
    /// Print one
    Show(Named),
    /// Add a key to the store and print it
    Create(CreateKey),
    /// Change what is given of a key; the rest stays
    Set(SetKey),
    /// Make another key in the place of one, and print it
    Rotate(Rotate),
    /// Let a disabled key work again
    Enable(Named),
    /// Have a key refused until it is enabled
    Disable(Named),
    /// Remove a key; one that is not there is no error
    Delete(Named),
}

/// What to do with consumers.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Consumers {
    /// List those that have limits, or anything else but keys
    List(ListConsumers),
    /// Print one
    Show(Named),
    /// Change what is given of a consumer, or add it
    Set(SetConsumer),
    /// Remove one that has no keys; one that is not there is no error
    Delete(Named),
}

/// What to do with plans.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Plans {
    /// List them
    List(ListPlans),
    /// Print one
    Show(Named),
    /// Change what is given of a plan, or add it
    Set(SetPlan),
    /// Remove one that nobody refers to; one that is not there is no error
    Delete(Named),
}

/// For whom the key is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Generate {
    /// What the key is called; unique
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = key_name)]
    pub(crate) name: String,
    /// Who owns it [default: the key's name]
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    pub(crate) consumer: Option<String>,
}

/// `EX_USAGE` of sysexits.h: the configuration is wrong.
pub(crate) const BAD_CONFIGURATION: u8 = 64;

/// `modelgate check`.
#[allow(clippy::print_stdout, reason = "a command's answer goes to its user")]
pub(crate) fn check(args: &Args, servers: bool) -> ExitCode {
    let env = Env::of_this_process();
    match Config::load(args.config.as_deref(), &env) {
        Ok(config) => {
            let file = config::locate(args.config.as_deref(), &env);
            let name = file.as_ref().map_or_else(|| "no file".into(), |path| path.display().to_string());
            println!(
                "ok: {name}: {}, {}",
                count(config.servers.len(), "server"),
                count(config.accounts.declared.keys.len(), "key")
            );
            print_origins(&config, file.as_deref(), config::named_by(args.config.as_deref(), &env));
            for issuer in &config.accounts.issuers {
                println!("tokens of {}: {}", issuer.issuer.issuer, issuer.plans_in_words());
            }
            for warning in &config.warnings {
                println!("warning: {warning}");
            }
            let version = config.traefik.version;
            let advisories = traefik_config::advisories(version);
            if let Some(newest) = advisories.iter().map(|advisory| advisory.mended).max() {
                println!(
                    "published faults of Traefik {version}, which traefik.version names; Traefik {newest} or later mends \
                     {}:",
                    if advisories.len() == 1 { "it" } else { "all" }
                );
            }
            for advisory in advisories {
                println!("  {advisory}");
            }
            if servers { check_servers(&config) } else { ExitCode::SUCCESS }
        }
        Err(errors) => refuse(&errors),
    }
}

/// Where each setting comes from that is not a default.
#[allow(clippy::print_stdout, reason = "a command's answer goes to its user")]
fn print_origins(config: &Config, file: Option<&Path>, named_by: &str) {
    if let Some(file) = file {
        let path = path::absolute(file).unwrap_or_else(|_| file.to_owned());
        println!("the file: {}, {named_by}", path.display());
    }
    let width = config.given.iter().map(|given| given.key.len()).max().unwrap_or_default();
    for given in &config.given {
        println!("  {:width$}  from {}", given.key, given.source);
    }
    let others = if config.given.is_empty() { "all settings" } else { "all other settings" };
    println!("  {others}: their defaults");
}

#[allow(clippy::print_stdout, reason = "a command's answer goes to its user")]
fn check_servers(config: &Config) -> ExitCode {
    let catalogue = match serve::survey(config) {
        Ok(catalogue) => catalogue,
        Err(error) => return serve::finish(Err(error)),
    };
    for server in catalogue.servers() {
        let why = server.state.why().map(|why| format!(": {why}")).unwrap_or_default();
        println!("server {}: {}{why}", server.spec.name, server.state.name());
    }
    for problem in catalogue.problems() {
        println!("problem: {problem} [{}]", problem.finding.code());
    }
    for shortcoming in traefik_config::shortcomings(&catalogue, &serve::options(config)) {
        println!("problem: {shortcoming} [{}]", shortcoming.code());
    }
    for hint in catalogue.hints() {
        println!("hint: {hint} [{}]", hint.finding.code());
    }
    if catalogue.problems().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `modelgate keys generate`. The key in clear is printed here and nowhere else.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's answer goes to its user")]
pub(crate) fn keys_generate(wanted: &Generate) -> ExitCode {
    let key = match NewKey::generate() {
        Ok(key) => key,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let consumer = wanted.consumer.as_ref().unwrap_or(&wanted.name);
    let digest = key.digest().to_hex();
    println!("API key, shown this once; give it to its owner:\n\n  {}\n", key.reveal());
    println!("SHA-256 of it:\n\n  {digest}\n");
    println!("For the configuration file:\n");
    println!("keys:");
    println!("  - name: {:?}\n    consumer: {:?}\n    sha256: {digest:?}", wanted.name, consumer);
    ExitCode::SUCCESS
}

/// A name that the configuration accepts, too; all such names are good YAML between quotes.
fn key_name(text: &str) -> Result<String, String> {
    config::key_name(text).ok_or_else(|| format!("allowed: {}", config::KEY_NAME))
}

/// Prints what is wrong with the configuration.
#[allow(clippy::print_stderr, reason = "the log is not set up without a configuration")]
pub(crate) fn refuse(errors: &ConfigErrors) -> ExitCode {
    eprintln!("error: {errors}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn count(n: usize, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{plural}")
}
