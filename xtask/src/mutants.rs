//! `cargo xtask mutants`: changes the code in small ways, one after another, and says which changes no test notices
//! (<https://mutants.rs/>; docs/fuzzing.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, layout, run, tools};

/// How long the mutants of a change may take, in seconds. Those that are left are not tried.
const BOUND: &str = "300";
/// What `timeout` returns if the time was up.
const TIME_IS_UP: i32 = 124;

/// The crates that must notice each change by their own tests. Those of the others are in `crates/modelgate/tests`, with real
/// parts, and would take minutes for each change.
const CORE: [&str; 8] = [
    "access",
    "accounts",
    "catalogue",
    "config-reader",
    "limits",
    "metering",
    "shared-limits",
    "traefik-config",
];

/// What is changed.
#[derive(clap::Args)]
pub(crate) struct Mutate {
    /// The crate; without one, all of the core
    name: Option<String>,
    /// Every Nth change only, and of those the Kth (from 0)
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Only lines that differ from what has landed (the branch `origin/HEAD`), or from the last commit; at most five minutes
    #[arg(long, conflicts_with = "shard")]
    of_change: bool,
    /// First install what is missing into target/tools
    #[arg(long)]
    install: bool,
}

/// Tries the changes; fails if no test has noticed one of them.
pub(crate) fn mutants(wanted: &Mutate) -> Result {
    let tools = [tools::for_mutants()];
    if wanted.install {
        tools::install(&tools)?;
    }
    let program = tools[0].path().ok_or("cargo-mutants is missing; --install installs it")?;
    let output = layout::target().join("mutants");
    fs::create_dir_all(&output)?;
    let mut command = Command::new("timeout");
    // An interrupt, after which it still writes what it has found.
    let bound = if wanted.of_change { BOUND } else { "infinity" };
    command
        .args(["--signal=INT", bound])
        .arg(program)
        .args(["mutants", "--no-shuffle", "--output"])
        .arg(&output);
    for name in CORE.iter().filter(|name| wanted.name.as_deref().is_none_or(|one| one == **name)) {
        command.args(["--package", name]);
    }
    if let Some(name) = wanted.name.as_deref().filter(|name| !CORE.contains(name)) {
        command.args(["--package", name]);
    }
    command.args(wanted.shard.iter().flat_map(|shard| ["--shard", shard]));
    if wanted.of_change {
        let Some(diff) = change(&output)? else {
            println!("no line of the core has changed");
            return Ok(());
        };
        // Tests pass without a change: they have just been run.
        command.arg("--in-diff").arg(diff).args(["--baseline", "skip", "--timeout", "60"]);
    }
    command.current_dir(layout::root());
    run::as_from_a_shell(&mut command);
    let _ = fs::remove_dir_all(output.join("mutants.out"));
    let status = run::step("mutants", || Ok(command.status()?))?;
    let missed = summary(&output.join("mutants.out"))?;
    match status.code() {
        _ if missed > 0 => Err(format!("no test has noticed {missed} changes; they are listed above").into()),
        Some(0 | TIME_IS_UP | 3) => Ok(()),
        _ => Err(format!("cargo-mutants: {status}").into()),
    }
}

/// What has changed in the core since the last landing, as a file; `None` if nothing has.
fn change(output: &Path) -> Result<Option<PathBuf>> {
    let landed = git(&["merge-base", "HEAD", "origin/HEAD"]).unwrap_or_default();
    let head = git(&["rev-parse", "HEAD"])?;
    let since = if landed.is_empty() || landed == head { "HEAD~1" } else { landed.as_str() };
    let folders = CORE.map(|name| format!("crates/{name}/src"));
    let path = output.join("change.diff");
    let to = format!("--output={}", path.display());
    let mut arguments = vec!["diff", &to, since, "--"];
    arguments.extend(folders.iter().map(String::as_str));
    git(&arguments)?;
    Ok((fs::metadata(&path)?.len() > 0).then_some(path))
}

fn git(arguments: &[&str]) -> Result<String> {
    let answer = run::output(Command::new("git").args(arguments).current_dir(layout::root()))?;
    Ok(answer.trim_end().to_owned())
}

/// Prints what was found, and returns how many changes were missed. One that hangs a test is noticed.
fn summary(found: &Path) -> Result<usize> {
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(found.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (caught, hung, missed) = (lines("caught.txt"), lines("timeout.txt"), lines("missed.txt"));
    let (noticed, tried) = (caught.len() + hung.len(), caught.len() + hung.len() + missed.len());
    for change in &missed {
        println!("MISSED {change}");
    }
    let percent = noticed * 100 / tried.max(1);
    println!(
        "{noticed} of {tried} changes noticed ({percent} %); {} did not compile",
        lines("unviable.txt").len()
    );
    Ok(missed.len())
}
