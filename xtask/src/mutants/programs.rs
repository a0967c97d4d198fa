//! The test programs of the crates: which test calls which changed function, and whether a test notices a change.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::copy::{Copy, TestProgram};
use super::workers::side_by_side;
use crate::{Result, layout, run};

/// Test programs that measure. They would notice a busy machine.
const MEASURE: [&str; 2] = ["memory", "speed"];
/// Tests run in turns of about this length, the fastest first: most changes are noticed in the first turn.
const TURNS: [Duration; 2] = [Duration::from_millis(150), Duration::from_secs(1)];

/// Properties are tried with the same values each time, so that it is no matter of luck whether a change is noticed. Nobody reads
/// for which value one fails: a smaller one is not searched for, and none is kept for the next change.
const PROPERTIES: [(&str, &str); 3] = [
    ("PROPTEST_RNG_SEED", "1"),
    ("PROPTEST_MAX_SHRINK_ITERS", "0"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"),
];

/// One test.
pub(super) struct Case {
    program: TestProgram,
    name: String,
    takes: Duration,
    /// The functions that it calls, by the first of their changes.
    calls: HashSet<usize>,
}

impl Case {
    /// Whether it is a test of this crate.
    pub(super) fn is_of(&self, package: &str) -> bool {
        self.program.package == package
    }

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

/// How tests are run: in which folders, with which variables, and until when.
pub(super) struct Runner<'r> {
    pub(super) copy: &'r Copy,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) deadline: Instant,
}

impl Runner<'_> {
    /// Runs each test once in a process of its own, without any change; `None` if the time is up. Tests that fail are named, and
    /// notice nothing afterwards.
    pub(super) fn cases(&self, programs: &[TestProgram]) -> Result<Option<Vec<Case>>> {
        let mut tests = Vec::new();
        for program in programs.iter().filter(|program| !measures(&program.path)) {
            let listed = run::output(self.command(program).args(["--list", "--format", "terse"]))?;
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned));
            tests.extend(names.map(|name| (program, name)));
        }
        let cases = Mutex::new(Vec::new());
        side_by_side(tests.len(), |at| {
            let (program, name) = &tests[at];
            if Instant::now() < self.deadline
                && let Some(case) = self.case(program, name, at)?
            {
                cases.lock().unwrap_or_else(PoisonError::into_inner).push(case);
            }
            Ok(())
        })?;
        if Instant::now() >= self.deadline {
            return Ok(None);
        }
        let mut cases = cases.into_inner().unwrap_or_else(PoisonError::into_inner);
        cases.sort_by(|one, other| (one.takes, &one.name).cmp(&(other.takes, &other.name)));
        Ok(Some(cases))
    }

    /// Runs one test without any change; `None` if it fails. `number` is another one for each that runs at the same time.
    fn case(&self, program: &TestProgram, name: &str, number: usize) -> Result<Option<Case>> {
        let log = layout::target().join(format!("mutants/calls-{number}"));
        let _ = fs::remove_file(&log);
        let start = Instant::now();
        let mut command = self.command(program);
        let output = command.args(["--exact", name]).env("MUTANT_LOG", &log).output()?;
        let takes = start.elapsed();
        let called = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        if !output.status.success() {
            println!("{name} fails without any change:\n{}", String::from_utf8_lossy(&output.stdout));
            return Ok(None);
        }
        let calls = called.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Some(Case { program: program.clone(), name: name.to_owned(), takes, calls }))
    }

    /// Runs these tests, which are in the order of their length, with a change; `programs` are those with this change alone. `None`
    /// if the time is up.
    pub(super) fn outcome(
        &self,
        change: usize,
        cases: &[&Case],
        programs: Option<&[TestProgram]>,
    ) -> Result<Option<Outcome>> {
        let mut rest = cases;
        for turn in TURNS.into_iter().chain([Duration::MAX]) {
            let (now, later) = rest.split_at(rest.partition_point(|case| case.takes < turn));
            rest = later;
            let mut asked: Vec<&TestProgram> = now.iter().map(|case| &case.program).collect();
            asked.sort_unstable();
            asked.dedup();
            for program in asked {
                let of_it = now.iter().filter(|case| case.program == *program);
                let (names, takes): (Vec<&str>, Vec<Duration>) =
                    of_it.map(|case| (&*case.name, case.takes)).unzip();
                let limit = Duration::from_secs(10) + takes.iter().sum::<Duration>() * 10;
                let program = match programs {
                    None => program,
                    Some(built) => same(program, built).ok_or("a test program is gone")?,
                };
                match self.turn(program, &names, change, limit)? {
                    Some(Outcome::Missed) => {}
                    noticed_or_not_tried => return Ok(noticed_or_not_tried),
                }
            }
        }
        Ok(Some(Outcome::Missed))
    }

    /// Runs tests of one program until one fails, at most as long as `limit`; `None` if the time for all changes is up before that.
    fn turn(
        &self,
        program: &TestProgram,
        names: &[&str],
        change: usize,
        limit: Duration,
    ) -> Result<Option<Outcome>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let may_take = limit.min(left).as_secs_f64();
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &format!("{:.1}", may_take.max(0.1))]).arg(&program.path);
        command.args(["--exact", "--test-threads=2"]).args(names);
        self.prepare(&mut command, program).env("MUTANT", change.to_string());
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
            true if start.elapsed() >= limit => Some(Outcome::Hung),
            // `timeout` rounds to a tenth of a second.
            true if !has_failed && start.elapsed() + Duration::from_millis(100) >= left => None,
            true => Some(Outcome::Caught),
            false => Some(Outcome::Missed),
        })
    }

    fn command(&self, program: &TestProgram) -> Command {
        let mut command = Command::new(&program.path);
        self.prepare(&mut command, program);
        command
    }

    fn prepare<'c>(&self, command: &'c mut Command, program: &TestProgram) -> &'c mut Command {
        let folder = self.copy.of(&program.package);
        run::as_from_a_shell(command);
        command.current_dir(&folder).envs(self.environment.iter().cloned());
        // As Cargo does it. What changed code gets wrong is not to be kept.
        command.env("CARGO_MANIFEST_DIR", &folder).env("INSTA_UPDATE", "no").envs(PROPERTIES)
    }
}

/// The program's name without the hash that Cargo appends.
fn stem(program: &Path) -> &str {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

fn same<'p>(program: &TestProgram, built: &'p [TestProgram]) -> Option<&'p TestProgram> {
    built.iter().find(|other| other.package == program.package && stem(&other.path) == stem(&program.path))
}

fn measures(program: &Path) -> bool {
    MEASURE.contains(&stem(program))
}
