//! `cargo xtask test`: runs all tests, with the real programs that are installed.

use std::{ffi::OsString, process::Command};

use crate::tools::{self, Tool};
use crate::{Result, demo, engine, fuzz, layout, run};

/// For programs that run their own tests, as with `cargo test`. For nextest, `.config/nextest.toml` says how many tests run at
/// the same time, and which must not.
const TEST_THREADS: &str = "2";

/// What must be free on the disk before a build from nothing: the programs of all tests, and the optimised ones.
const ROOM_TO_BUILD: u64 = 20 * GB;
/// The same where most has been built before.
const ROOM_TO_REBUILD: u64 = 5 * GB;
/// 10^9 bytes, as on the package of a disk.
const GB: u64 = 1_000_000_000;

/// Runs the tests.
pub(crate) fn test(install: bool, only: Option<&str>) -> Result {
    say_what_is_free()?;
    let tools = tools::for_tests();
    if install {
        tools::install(&tools)?;
        tools::install(&tools::for_libfuzzer())?;
    }
    print_table(&tools);
    let engine = if install { engine::ensure()? } else { None };

    // The tests build this program when they need it; building it here saves them from waiting for the compiler.
    run::step("build sim-server", || {
        run::shown(run::cargo().args(["build", "--package", "testkit", "--bin", "sim-server", "--locked"]))
    })?;
    // Programs that are measured are optimised, as users run them; the others are not, because that compiles faster.
    let mut environment = environment(&tools, install);
    if install {
        environment.extend(build_optimised(fuzz::WITH_TARGETS)?);
    }
    let outcome = run::step("test", || all_programs(&tools, environment, only));
    // Tests deploy/compose.yaml itself, with images made here instead of those from a registry.
    let outcome =
        outcome.and_then(|()| if install && only.is_none() { demo::demo(true, true) } else { Ok(()) });
    drop(engine);
    outcome
}

/// Says how much of the disk is free. When it is full, the errors of compilers and linkers seldom say so.
fn say_what_is_free() -> Result {
    // This program itself has made `target/debug`; the tests make this one.
    let is_built = layout::built("modelgate").is_file();
    let answer = run::output(Command::new("df").args(["-k", "--output=avail"]).arg(layout::target()))?;
    println!("{}", judge_free(free(&answer)?, is_built)?);
    Ok(())
}

/// The free bytes from the answer of `df`: a heading, and a number of KiB.
fn free(answer: &str) -> Result<u64> {
    let kib = answer.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| format!("df does not say how much is free: {answer:?}").into())
}

fn judge_free(free: u64, is_built: bool) -> Result<String> {
    let (needed, what) = match is_built {
        true => (ROOM_TO_REBUILD, "to build what has changed"),
        false => (ROOM_TO_BUILD, "for a build from nothing"),
    };
    let told = format!("{}.{} GB of the disk are free", free / GB, free % GB / (GB / 10));
    match free < needed {
        true => Err(format!(
            "{told}; the tests need {} GB {what}: make room, or set CARGO_TARGET_DIR to a folder on another disk",
            needed / GB
        )
        .into()),
        false => Ok(told),
    }
}

/// Runs the tests of all crates: with nextest side by side, and those in documentation, which it does not know, after it.
fn all_programs(tools: &[Tool], environment: Vec<(OsString, OsString)>, only: Option<&str>) -> Result {
    let nextest = tools.iter().find(|tool| tool.name == tools::NEXTEST).and_then(Tool::path);
    let Some(nextest) = nextest else {
        let mut command = run::cargo();
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command.args(only.iter().flat_map(|pattern| ["--", pattern]));
        return run::shown(command.envs(environment));
    };
    let mut side_by_side = Command::new(nextest);
    side_by_side.current_dir(layout::root()).args(["nextest", "run", "--workspace", "--locked"]);
    side_by_side.args(only).envs(environment);
    run::as_from_a_shell(&mut side_by_side);
    let outcome = run::shown(&mut side_by_side);
    let documentation = match only {
        Some(_) => Ok(()),
        None => run::shown(run::cargo().args(["test", "--workspace", "--locked", "--doc"])),
    };
    outcome.and(documentation)
}

/// Builds the optimised programs that are measured, and returns their paths as variables. `more` are further arguments: what is
/// built in the same go has the same features, so that its dependencies are compiled once.
pub(crate) fn build_optimised(more: &[&str]) -> Result<Vec<(OsString, OsString)>> {
    run::step("build modelgate and baseline, optimised", || {
        let packages = ["--package", "modelgate", "--package", "baseline"];
        run::shown(run::cargo().arg("build").args(packages).args(more).args([
            "--profile",
            "measured",
            "--locked",
        ]))
    })?;
    let path = |program| layout::target().join("measured").join(program).into_os_string();
    Ok(vec![
        ("MODELGATE_TEST_RELEASE".into(), path("modelgate")),
        ("MODELGATE_TEST_BASELINE".into(), path("baseline")),
    ])
}

/// The variables that tell the tests where the tools are, and whether one may be missing.
pub(crate) fn environment(tools: &[Tool], all_required: bool) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> =
        tools.iter().filter_map(|tool| Some((tool.variable.clone()?.into(), tool.path()?.into()))).collect();
    if all_required {
        environment.push(("MODELGATE_TEST_REQUIRE".into(), "1".into()));
    }
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        environment.push(("RUST_TEST_THREADS".into(), TEST_THREADS.into()));
    }
    environment
}

/// Prints which tools are there, and what the tests skip without them.
fn print_table(tools: &[Tool]) {
    println!("{:<18} {:<8} used for", "program", "");
    for tool in tools {
        let state = if tool.path().is_some() { "there" } else { "MISSING" };
        println!("{:<18} {state:<8} {}", tool.name, tool.used_for);
    }
    let missing = tools.iter().filter(|tool| tool.path().is_none()).count();
    if missing > 0 {
        println!(
            "{missing} missing: the tests that use them are skipped. `cargo xtask test --install` installs them."
        );
    } else if !engine::answers() {
        println!(
            "The Docker Engine is not running: tests with containers are skipped, or start it (`--install` does)."
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_almost_full_is_told_before_anything_is_built() {
        assert_eq!(free("   Avail\n66288384\n").expect("a number"), 66_288_384 * 1024);
        assert!(free("df: no such file\n").is_err());
        let told = |free, is_built| judge_free(free, is_built).unwrap_or_else(|error| error.to_string());
        assert_eq!(told(20 * GB, false), "20.0 GB of the disk are free");
        assert_eq!(told(5 * GB, true), "5.0 GB of the disk are free");
        let full = told(20 * GB - 1, false);
        assert!(
            full.starts_with("19.9 GB of the disk are free; the tests need 20 GB for a build from nothing: "),
            "{full}"
        );
        let full = told(4_950_000_000, true);
        assert!(full.starts_with("4.9 GB of the disk are free; the tests need 5 GB to build what"), "{full}");
    }
}
