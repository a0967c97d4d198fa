//! The project's own commands: run the tests against the real programs, check the source, measure, show the demo.
//!
//! Run as `cargo xtask …` (see <https://github.com/matklad/cargo-xtask> for the idea). Nothing here is part of Modelgate.
//! It builds first on a fresh machine, so it has few dependencies.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is for the person who runs it")]

mod bench;
mod book;
mod demo;
mod engine;
mod fuzz;
mod http;
mod image;
mod layout;
mod lint;
mod mutants;
mod package;
mod reproducible;
mod run;
mod sbom;
mod screenshots;
mod service;
mod shipped;
mod soak;
mod source;
mod test;
mod tools;

use std::path::PathBuf;
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
    /// Checks formatting, lints, names, imports, documentation, the book, dependencies and the Dockerfile.
    Lint {
        /// First install what is missing into target/tools.
        #[arg(long)]
        install: bool,
    },
    /// Builds the book from docs/, and checks its links.
    Book {
        /// First install mdBook into target/tools.
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
        /// `pick`: compares how requests are sent to servers instead, in a simulation. It needs nothing to be installed. `routers`:
        /// the same with real processes, against the routers of vLLM and SGLang.
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
    /// Builds what is committed in two different folders, as it is shipped, and fails unless the bytes are the same.
    Reproducible {
        /// Not optimised, in a tenth of the time.
        #[arg(long)]
        debug: bool,
    },
    /// A long run at half of what the machine can take, with changes all the while; fails if anything fails or grows.
    Soak {
        /// First install what is missing into target/tools.
        #[arg(long)]
        install: bool,
        /// How long, at least 3.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
        minutes: u32,
    },
    /// Writes what the program is made of, as CycloneDX, to target/modelgate.cdx.json.
    Sbom,
    /// Makes a Debian package of a program that is built already, unpacks it, installs it (as root) and runs what is in it.
    Package {
        /// First install what is missing into target/tools.
        #[arg(long)]
        install: bool,
        /// The program: what `cargo xtask shipped` has built, or any other.
        #[arg(long, value_name = "FILE")]
        program: PathBuf,
    },
    /// Starts Traefik, Modelgate and two simulated inference servers, and asks them something.
    Demo {
        /// In containers on the local Docker Engine, from deploy/compose.yaml. With --once, the other files of deploy/ after it.
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
    Routers,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test { install, only } => test::test(install, only.as_deref()),
        Command::Lint { install } => lint::lint(install),
        Command::Book { install } => book::book(install),
        Command::Screenshots { install } => screenshots::screenshots(install),
        Command::Bench { what: Some(Measurement::Pick), .. } => bench::pick(),
        Command::Bench { what: Some(Measurement::Routers), install, .. } => bench::routers(install),
        Command::Bench { install, quick, what: None } => bench::bench(install, quick),
        Command::Fuzz(search) => fuzz::fuzz(&search),
        Command::Mutants(wanted) => mutants::mutants(&wanted),
        Command::Reproducible { debug } => reproducible::reproducible(debug),
        Command::Shipped { install } => shipped::shipped(install),
        Command::Soak { install, minutes } => soak::soak(install, minutes),
        Command::Sbom => sbom::sbom(),
        Command::Package { install, program } => package::package(install, &program),
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
