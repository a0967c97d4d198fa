//! The project's own commands: run the tests against the real programs, check the source, measure, show the demo.
//!
//! Run as `cargo xtask …` (see <https://github.com/matklad/cargo-xtask> for the idea). Nothing here is part of Modelgate.
//! It builds first on a fresh machine, so it has few dependencies.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is for the person who runs it")]

mod bench;
mod demo;
mod engine;
mod fuzz;
mod http;
mod layout;
mod lint;
mod mutants;
mod run;
mod screenshots;
mod service;
mod shipped;
mod source;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What every step returns; the text is for the person at the terminal.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs all tests, with the real programs that are there.
    Test {
        /// First install what is missing into target/tools (and, as root, Debian packages); then no test may skip.
        #[arg(long)]
        install: bool,
        /// Only the tests whose name contains this.
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
    },
    /// Checks formatting, lints, names, imports, documentation, dependencies and the Dockerfile.
    Lint {
        /// First install what is missing into target/tools.
        #[arg(long)]
        install: bool,
    },
    /// Saves each page of the dashboard under target/screenshots: light, dark, and as on a phone.
    Screenshots {
        /// First install what is missing into target/tools and, as root, Debian packages.
        #[arg(long)]
        install: bool,
    },
    /// Measures requests from end to end, in turns: Traefik alone, with Modelgate, and other gateways. See docs/performance.md.
    Bench {
        /// First install what is missing into target/tools and, as root, Debian packages.
        #[arg(long)]
        install: bool,
        /// Only Traefik alone, with a server that allows everything, and with Modelgate: three sizes, three turns.
        #[arg(long)]
        quick: bool,
        /// `pick`: compares how requests are sent to servers instead, in a simulation. It needs nothing to be installed.
        what: Option<Measurement>,
    },
    /// Searches for inputs that are read wrongly, with libFuzzer. See docs/fuzzing.md.
    Fuzz(fuzz::Search),
    /// Changes the code in small ways, and says which changes no test notices. See docs/fuzzing.md.
    Mutants(mutants::Mutate),
    /// Builds the program as the image has it, and measures its size, start and memory.
    Shipped {
        /// First install what is missing into target/tools.
        #[arg(long)]
        install: bool,
    },
    /// Starts Traefik, Modelgate and two simulated inference servers, and asks them something.
    Demo {
        /// In containers on the local Docker Engine, from deploy/compose.yaml.
        #[arg(long)]
        docker: bool,
        /// Stop after the answer, rather than at Ctrl-C.
        #[arg(long)]
        once: bool,
    },
}

/// What `bench` can measure besides the way of a request.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Measurement {
    Pick,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test { install, only } => test::test(install, only.as_deref()),
        Command::Lint { install } => lint::lint(install),
        Command::Screenshots { install } => screenshots::screenshots(install),
        Command::Bench { what: Some(Measurement::Pick), .. } => bench::pick(),
        Command::Bench { install, quick, what: None } => bench::bench(install, quick),
        Command::Fuzz(search) => fuzz::fuzz(&search),
        Command::Mutants(wanted) => mutants::mutants(&wanted),
        Command::Shipped { install } => shipped::shipped(install),
        Command::Demo { docker, once } => demo::demo(docker, once),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
