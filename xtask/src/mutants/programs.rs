//! The test programs of a crate: which test calls which changed function, and whether a test notices a change.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, layout, run};

/// Test programs that measure. They would notice a busy machine.
const MEASURE: [&str; 2] = ["memory", "speed"];
/// Tests run in turns of about this length, the fastest first: most changes are noticed in the first turn.
const TURNS: [Duration; 2] = [Duration::from_millis(150), Duration::from_secs(1)];

/// One test.
pub(super) struct Case {
    program: PathBuf,
    name: String,
    takes: Duration,
    /// The functions that it calls, by the first of their changes.
    calls: HashSet<usize>,
}

impl Case {
    /// Whether it calls this function.
    pub(super) fn calls(&self, function: usize) -> bool {
        self.calls.contains(&function)
    }
}

/// What a change led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Caught,
    /// A test did not end.
    Hung,
    Missed,
}

/// How tests are run: in which folder, with which variables.
pub(super) struct Runner {
    pub(super) folder: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Runner {
    /// Runs each test once on its own, without any change. Tests that fail are named, and notice nothing afterwards.
    pub(super) fn cases(&self, programs: &[PathBuf]) -> Result<Vec<Case>> {
        let log = layout::target().join("mutants/calls");
        let mut cases = Vec::new();
        for program in programs.iter().filter(|program| !measures(program)) {
            let listed = run::output(self.command(program).args(["--list", "--format", "terse"]))?;
            for name in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
                let _ = fs::remove_file(&log);
                let start = Instant::now();
                let mut command = self.command(program);
                let output = command.args(["--exact", name]).env("MUTANT_LOG", &log).output()?;
                if !output.status.success() {
                    println!("{name} fails without any change:\n{}", String::from_utf8_lossy(&output.stdout));
                    continue;
                }
                let called = fs::read_to_string(&log).unwrap_or_default();
                cases.push(Case {
                    program: program.clone(),
                    name: name.to_owned(),
                    takes: start.elapsed(),
                    calls: called.lines().filter_map(|line| line.parse().ok()).collect(),
                });
            }
        }
        cases.sort_by_key(|case| case.takes);
        Ok(cases)
    }

    /// Runs these tests, which are in the order of their length, with a change; `programs` are those with this change alone.
    pub(super) fn outcome(
        &self,
        change: usize,
        cases: &[&Case],
        programs: Option<&[PathBuf]>,
    ) -> Result<Outcome> {
        let mut rest = cases;
        for turn in TURNS.into_iter().chain([Duration::MAX]) {
            let (now, later) = rest.split_at(rest.partition_point(|case| case.takes < turn));
            rest = later;
            let mut asked: Vec<&Path> = now.iter().map(|case| &*case.program).collect();
            asked.sort_unstable();
            asked.dedup();
            for program in asked {
                let of_it = now.iter().filter(|case| case.program == program);
                let (names, takes): (Vec<&str>, Vec<Duration>) =
                    of_it.map(|case| (&*case.name, case.takes)).unzip();
                let limit = Duration::from_secs(10) + takes.iter().sum::<Duration>() * 10;
                let program = match programs {
                    None => program,
                    Some(built) => same(program, built).ok_or("a test program is gone")?,
                };
                match self.turn(program, &names, change, limit)? {
                    Outcome::Missed => {}
                    noticed => return Ok(noticed),
                }
            }
        }
        Ok(Outcome::Missed)
    }

    /// Runs tests of one program until one fails.
    fn turn(&self, program: &Path, names: &[&str], change: usize, limit: Duration) -> Result<Outcome> {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &format!("{:.1}", limit.as_secs_f64())]).arg(program);
        command.args(["--exact", "--test-threads=2"]).args(names);
        self.prepare(&mut command).env("MUTANT", change.to_string());
        let start = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = child.stdout.take().map(BufReader::new).ok_or("no output")?;
        let has_failed =
            lines.lines().map_while(std::io::Result::ok).any(|line| line.ends_with("... FAILED"));
        if has_failed {
            // `timeout` passes this on to the program and to whatever that has started.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        let status = child.wait()?;
        Ok(match has_failed || !status.success() {
            true if start.elapsed() >= limit => Outcome::Hung,
            true => Outcome::Caught,
            false => Outcome::Missed,
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    fn prepare<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        run::as_from_a_shell(command);
        command.current_dir(&self.folder).envs(self.environment.iter().cloned());
        // As Cargo does it. What changed code gets wrong is not to be kept.
        command.env("CARGO_MANIFEST_DIR", &self.folder).env("INSTA_UPDATE", "no")
    }
}

/// The program's name without the hash that Cargo appends.
fn stem(program: &Path) -> &str {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

fn same<'p>(program: &Path, built: &'p [PathBuf]) -> Option<&'p Path> {
    built.iter().map(PathBuf::as_path).find(|other| stem(other) == stem(program))
}

fn measures(program: &Path) -> bool {
    MEASURE.contains(&stem(program))
}
