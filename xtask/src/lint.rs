//! `cargo xtask lint`: everything that can be checked without running the program.

mod circles;
mod module;
mod names;

use std::process::Command;

use crate::{Result, book, layout, run, tools};

/// Runs every check; each must pass.
pub(crate) fn lint(install: bool) -> Result {
    let tools = tools::for_lints();
    if install {
        tools::install(&tools)?;
    }
    let [deny, machete, hadolint] = tools.each_ref().map(|tool| {
        tool.path()
            .ok_or_else(|| format!("{} is missing; `cargo xtask lint --install` installs it", tool.name))
    });
    let (deny, machete, hadolint) = (deny?, machete?, hadolint?);

    run::step("formatting", || run::shown(run::cargo().args(["fmt", "--all", "--check"])))?;
    run::step("lints", || {
        let command =
            ["clippy", "--workspace", "--all-targets", "--features", "fuzz/targets", "--locked", "--"];
        // Nothing is linked here, so libFuzzer need not be compiled.
        let no_libfuzzer = ("CUSTOM_LIBFUZZER_PATH", "/none/libfuzzer.a");
        run::shown(run::cargo().args(command).args(["-D", "warnings"]).envs([no_libfuzzer]))
    })?;
    run::step("names and imports", || {
        names::check(&layout::crates()?)?;
        circles::check(&layout::crates()?)
    })?;
    run::step("documentation", || {
        let command = ["doc", "--workspace", "--no-deps", "--locked"];
        run::shown(run::cargo().args(command).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    run::step("book", || book::book(install))?;
    // Without `advisories`: that check fetches a database that not every network can reach. Run it where it can.
    run::step("dependencies", || {
        let command = ["--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
        run::shown(Command::new(deny).args(command).current_dir(layout::root()))
    })?;
    run::step("unused dependencies", || {
        run::shown(Command::new(machete).args(["crates", "fuzz", "xtask"]).current_dir(layout::root()))
    })?;
    run::step("Dockerfile", || {
        run::shown(Command::new(hadolint).arg("deploy/Dockerfile").current_dir(layout::root()))
    })
}
