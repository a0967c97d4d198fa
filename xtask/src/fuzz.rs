//! `cargo xtask fuzz`: searches for inputs that are read wrongly (docs/fuzzing.md).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::tools::{self, Tool};
use crate::{Result, layout, run};

/// What Cargo builds the program with. Whoever builds the optimised program first does it with this, too, for the same features of
/// dependencies: they are compiled once.
pub(crate) const WITH_TARGETS: &[&str] = &["--package", "fuzz", "--features", "fuzz/targets"];

/// How many targets run side by side when all of them do.
const SIDE_BY_SIDE: usize = 2;

/// What is searched, and for how long.
#[derive(clap::Args)]
pub(crate) struct Search {
    /// The target; `list` prints them, and without one all run, two at a time
    target: Option<String>,
    /// How many seconds each target runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Stop after this number of inputs instead
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    runs: Option<u64>,
    /// Begin with this number, so that the same inputs are tried as before; without it chance decides
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u32>,
    /// Try this input alone, and say what is wrong with it
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// First install what is missing into target/tools and, as root, Debian packages
    #[arg(long)]
    install: bool,
}

/// Builds the program, and runs one target or all of them.
pub(crate) fn fuzz(search: &Search) -> Result {
    let all = targets()?;
    let wanted = match search.target.as_deref() {
        None => all,
        Some("list") => {
            println!("{}", all.join("\n"));
            return Ok(());
        }
        Some(target) if all.iter().any(|known| known == target) => vec![target.to_owned()],
        Some(target) => return Err(format!("no target {target:?}; there are: {}", all.join(", ")).into()),
    };
    let tools = tools::for_fuzzing();
    if search.install {
        tools::install(&tools::for_libfuzzer())?;
        tools::install(&tools)?;
    }
    let readers = readers(&tools, &wanted)?;
    let program = Program { path: build()?, readers };
    match wanted.as_slice() {
        [target] => run::shown(&mut command(&program, target, search)?),
        targets => run::step("fuzz", || all_of(&program, targets, search)),
    }
}

/// The program, and the variables that name the readers with which it compares.
struct Program {
    path: PathBuf,
    readers: Vec<(String, PathBuf)>,
}

/// The readers of other servers, which targets with that word in their names need.
fn readers(tools: &[Tool], targets: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for tool in tools {
        let Some(variable) = &tool.variable else { continue };
        match tool.path() {
            Some(path) => found.push((variable.clone(), path)),
            None if targets.iter().all(|target| !target.starts_with("readers_")) => {}
            None => return Err(format!("{} is missing; --install installs it", tool.name).into()),
        }
    }
    Ok(found)
}

/// The targets: each has a folder with its first inputs.
fn targets() -> Result<Vec<String>> {
    let folders = fs::read_dir(corpora())?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<String> =
        folders.iter().map(|folder| folder.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn corpora() -> PathBuf {
    layout::root().join("fuzz/corpus")
}

/// Builds the program with instrumented crates of ours. The others are those of the optimised build that tests measure.
fn build() -> Result<PathBuf> {
    run::step("build fuzz", || {
        let mut cargo = run::cargo();
        cargo.arg("build").args(WITH_TARGETS).args(["--profile", "measured", "--locked"]);
        run::shown(cargo.env("RUSTC_WORKSPACE_WRAPPER", layout::root().join("fuzz/instrumented")))
    })?;
    Ok(layout::target().join("measured/fuzz"))
}

/// libFuzzer's command for a target. What it finds out is kept in `target/fuzz`; what fails is in `target/fuzz/found`.
fn command(program: &Program, target: &str, search: &Search) -> Result<Command> {
    let kept = layout::target().join("fuzz");
    let (grown, found) = (kept.join("corpus").join(target), kept.join("found").join(target));
    fs::create_dir_all(&grown)?;
    fs::create_dir_all(&found)?;
    let mut command = Command::new(&program.path);
    command.current_dir(layout::root()).env("FUZZ_TARGET", target).envs(program.readers.iter().cloned());
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    if let Some(input) = &search.input {
        command.arg(std::path::absolute(input)?);
        return Ok(command);
    }
    match search.runs {
        Some(runs) => command.arg(format!("-runs={runs}")),
        None => command.arg(format!("-max_total_time={}", search.seconds)),
    };
    if let Some(seed) = search.seed {
        command.arg(format!("-seed={seed}"));
    }
    if let Some(words) = dictionary(target) {
        command.arg(format!("-dict={}", words.display()));
    }
    command.arg(grown).arg(corpora().join(target));
    Ok(command)
}

/// The words of a target: a file with its name, or with one of the words in its name.
fn dictionary(target: &str) -> Option<PathBuf> {
    let of = |name: &str| layout::root().join("fuzz/dictionaries").join(format!("{name}.dict"));
    [target].into_iter().chain(target.split('_')).map(of).find(|path| path.is_file())
}

/// A target that runs.
struct Running {
    target: String,
    child: Child,
    log: PathBuf,
}

/// Runs several targets side by side, each with a log. All are run, whatever the others find.
fn all_of(program: &Program, targets: &[String], search: &Search) -> Result {
    let mut waiting = targets.iter();
    let mut running: Vec<Running> = Vec::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some(target) = waiting.next()
        {
            running.push(start(program, target, search)?);
        }
        if running.is_empty() {
            break;
        }
        // The oldest is done first, as all take the same time.
        let mut done = running.remove(0);
        let status = done.child.wait()?;
        println!("{:<20} {}", done.target, last_words(&done.log));
        if !status.success() {
            failed.push(format!(
                "{}: {status}; the end of {}:\n{}",
                done.target,
                done.log.display(),
                run::tail(&done.log)
            ));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n\n").into()) }
}

fn start(program: &Program, target: &str, search: &Search) -> Result<Running> {
    let log = layout::log(&format!("fuzz-{target}"));
    let output: File = run::create(&log)?;
    let child = command(program, target, search)?.stdout(output.try_clone()?).stderr(output).spawn()?;
    Ok(Running { target: target.to_owned(), child, log })
}

/// How many inputs were tried, from libFuzzer's last lines.
fn last_words(log: &Path) -> String {
    let tail = run::tail(log);
    let count = |what: &str| {
        let line = tail.lines().find(|line| line.contains(what))?;
        line.rsplit(' ').next().map(str::to_owned)
    };
    match (count("stat::number_of_executed_units"), count("stat::average_exec_per_sec")) {
        (Some(units), Some(speed)) => format!("{units} inputs, {speed} a second"),
        _ => "it has ended early".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_first_inputs_and_words() {
        let source = fs::read_to_string(layout::root().join("fuzz/src/targets.rs")).expect("the list");
        let mut listed: Vec<&str> =
            source.split("target(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        listed.sort_unstable();
        assert_eq!(listed, targets().expect("the folders"));
        for target in listed.iter().filter(|target| **target != "ledger") {
            assert!(dictionary(target).is_some(), "{target}");
            let inputs = fs::read_dir(corpora().join(target)).expect("its folder").count();
            assert!(inputs > 1, "{target}");
        }
    }

    #[test]
    fn libfuzzers_last_lines_are_told_in_short() {
        let log = std::env::temp_dir().join(format!("modelgate-fuzz-{}.log", std::process::id()));
        let lines = "#7\tDONE\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     99\n";
        for (text, expected) in [(lines, "1234 inputs, 99 a second"), ("", "it has ended early")] {
            fs::write(&log, text).expect("a file");
            assert_eq!(last_words(&log), expected);
        }
        fs::remove_file(log).expect("a file");
    }
}
