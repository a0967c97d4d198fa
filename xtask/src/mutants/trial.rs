//! The changes of one crate: compiled together, and switched on one after another.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::copy::{Compiled, Copy};
use super::list::{self, Mutant};
use super::programs::{Case, Outcome, Runner};
use super::switch::{self, Kind, Rendered, Unit};
use crate::{Result, test, tools};

/// How often the compiler may find further changes that do not compile: it stops at the first kind of errors.
const ROUNDS: usize = 12;

/// What became of the changes, by their names.
#[derive(Default)]
pub(super) struct Score {
    pub(super) noticed: usize,
    pub(super) missed: Vec<String>,
    pub(super) uncompiled: usize,
    /// For these there was no time.
    pub(super) untried: Vec<String>,
}

impl Score {
    fn add(&mut self, mutant: &Mutant, outcome: Option<Outcome>) {
        match outcome {
            None => self.untried.push(mutant.name.clone()),
            Some(Outcome::Missed) => {
                println!("MISSED {}", mutant.name);
                self.missed.push(mutant.name.clone());
            }
            Some(Outcome::Caught | Outcome::Hung) => self.noticed += 1,
        }
    }
}

/// A crate, and its changes.
struct Trial<'t> {
    name: &'t str,
    copy: Copy,
    mutants: Vec<Mutant>,
    sources: BTreeMap<String, String>,
    units: Vec<Unit>,
    deadline: Instant,
}

/// Tries the changes of a crate, or those on the lines of a diff.
pub(super) fn run(tool: &Path, name: &str, diff: Option<&Path>, deadline: Instant) -> Result<Score> {
    let (mutants, sources) = list::of(tool, name, diff)?;
    if mutants.is_empty() {
        return Ok(Score::default());
    }
    let copy = Copy::new()?;
    copy.without_lints(name)?;
    let units = switch::units(&mutants, &sources);
    let mut trial = Trial { name, copy, mutants, sources, units, deadline };
    trial.add_switch()?;
    trial.all()
}

impl Trial<'_> {
    /// Puts the switch into the crate's root.
    fn add_switch(&mut self) -> Result {
        let root = format!("crates/{}/src/lib.rs", self.name);
        // After its last item, so that the places of changes stay.
        let source = self.copy.read(&root)? + switch::SWITCH;
        self.copy.write(&root, &source)?;
        if self.sources.contains_key(&root) {
            self.sources.insert(root, source);
        }
        Ok(())
    }

    fn all(&self) -> Result<Score> {
        let mut score = Score::default();
        let every = || 1..=self.mutants.len();
        let Some((programs, without)) = self.compile_together()? else {
            score.untried = self.mutants.iter().map(|mutant| mutant.name.clone()).collect();
            return Ok(score);
        };
        score.uncompiled = without.len();
        let runner = Runner {
            folder: self.copy.of(self.name),
            environment: test::environment(&tools::for_tests(), false),
        };
        let cases = runner.cases(&programs)?;
        let unit_of = |number: usize| self.units.iter().find(|unit| unit.changes.contains(&number));
        // Those that are compiled alone come last, as each takes longer than a hundred of the others.
        let is_switched = |number: &usize| unit_of(*number).is_some_and(|unit| unit.kind == Kind::Switched);
        let (switched, others): (Vec<usize>, Vec<usize>) =
            every().filter(|number| !without.contains(number)).partition(is_switched);
        for number in switched.into_iter().chain(others) {
            let mutant = &self.mutants[number - 1];
            if Instant::now() >= self.deadline {
                score.add(mutant, None);
                continue;
            }
            let kind = unit_of(number).map_or(Kind::Constant, |unit| unit.kind);
            let calls = |case: &&Case| unit_of(number).is_some_and(|unit| case.calls(unit.changes[0]));
            let called: Vec<&Case> =
                cases.iter().filter(|case| kind == Kind::Constant || calls(case)).collect();
            if kind == Kind::Switched || called.is_empty() {
                score.add(mutant, Some(runner.outcome(number, &called, None)?));
                continue;
            }
            match self.compile_alone(mutant)? {
                None => score.add(mutant, None),
                Some(compiled) if !compiled.is_complete => score.uncompiled += 1,
                Some(compiled) => {
                    score.add(mutant, Some(runner.outcome(number, &called, Some(&compiled.programs))?));
                }
            }
        }
        Ok(score)
    }

    /// Compiles the crate with all changes but those that do not compile, which are returned, too; `None` if the time is up.
    fn compile_together(&self) -> Result<Option<(Vec<PathBuf>, HashSet<usize>)>> {
        let mut without = HashSet::new();
        let check: &[&str] = &["check", "--lib"];
        let mut arguments = check;
        for _ in 0..ROUNDS {
            let lines = self.write(&without)?;
            let Some(compiled) = self.compile(arguments)? else { return Ok(None) };
            if !compiled.is_complete {
                let before = without.len();
                without.extend(at_fault(&compiled, &lines));
                if without.len() == before {
                    return Err(format!("{} does not compile:\n{}", self.name, compiled.words).into());
                }
            } else if arguments == check {
                arguments = &TEST;
            } else {
                self.restore()?;
                return Ok(Some((compiled.programs, without)));
            }
        }
        Err(format!("{} does not compile after {ROUNDS} rounds", self.name).into())
    }

    /// Compiles the crate with one change only.
    fn compile_alone(&self, mutant: &Mutant) -> Result<Option<Compiled>> {
        let source = &self.sources[&mutant.file];
        self.copy.write(&mutant.file, &switch::alone(source, mutant, 0..source.len()))?;
        let compiled = self.compile(&TEST);
        self.restore()?;
        compiled
    }

    fn compile(&self, arguments: &[&str]) -> Result<Option<Compiled>> {
        self.copy.compile(self.name, arguments, self.deadline.saturating_duration_since(Instant::now()))
    }

    /// Writes the files with all changes but some.
    fn write(&self, without: &HashSet<usize>) -> Result<BTreeMap<&str, Rendered>> {
        let mut files = BTreeMap::new();
        for (file, source) in &self.sources {
            let units: Vec<&Unit> = self.units.iter().filter(|unit| unit.file == *file).collect();
            let rendered = switch::all(source, &units, &self.mutants, without);
            self.copy.write(file, &rendered.text)?;
            files.insert(file.as_str(), rendered);
        }
        Ok(files)
    }

    /// Writes the files as they are without changes. Some tests read the source.
    fn restore(&self) -> Result {
        self.sources.iter().try_for_each(|(file, source)| self.copy.write(file, source))
    }
}

/// The tests of a crate: those of its library, and its test programs.
const TEST: [&str; 4] = ["test", "--lib", "--tests", "--no-run"];

/// The changes on whose lines there are errors.
fn at_fault<'l>(
    compiled: &'l Compiled,
    files: &'l BTreeMap<&str, Rendered>,
) -> impl Iterator<Item = usize> + 'l {
    compiled.errors.iter().flat_map(|(file, line)| {
        let lines = files.get(file.as_str()).map(|rendered| rendered.lines.as_slice()).unwrap_or_default();
        lines.iter().filter(|(lines, _)| lines.contains(line)).map(|(_, number)| *number)
    })
}
