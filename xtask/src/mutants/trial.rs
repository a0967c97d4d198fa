//! The changes of some crates: compiled together, and switched on one after another.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::copy::{Compiled, Copy, TestProgram};
use super::list::Mutant;
use super::programs::{Case, Outcome, Runner};
use super::switch::{self, Kind, Rendered, Unit};
use super::workers::side_by_side;
use crate::{Result, run, test, tools};

/// How often the compiler may find further changes that do not compile: it stops at the first kind of errors, and at crates that
/// use one with errors.
const ROUNDS: usize = 24;

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
    /// How many were tried. Those that do not compile were not.
    pub(super) fn tried(&self) -> usize {
        self.noticed + self.missed.len()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.noticed += other.noticed;
        self.missed.extend(other.missed);
        self.uncompiled += other.uncompiled;
        self.untried.extend(other.untried);
    }
}

/// What became of the changes of each crate, while several are tried.
struct Scores(Mutex<BTreeMap<String, Score>>);

impl Scores {
    fn new(packages: &BTreeSet<String>) -> Self {
        Self(Mutex::new(packages.iter().map(|name| (name.clone(), Score::default())).collect()))
    }

    /// Counts a change, and names it if it was missed or if there was no time for it (`None`).
    fn add(&self, mutant: &Mutant, outcome: Option<Outcome>) {
        self.with(mutant, |score| match outcome {
            None => {
                println!("NO TIME FOR {}", mutant.name);
                score.untried.push(mutant.name.clone());
            }
            Some(Outcome::Missed) => {
                println!("MISSED {}", mutant.name);
                score.missed.push(mutant.name.clone());
            }
            Some(Outcome::Caught | Outcome::Hung) => score.noticed += 1,
        });
    }

    fn add_uncompiled(&self, mutant: &Mutant) {
        self.with(mutant, |score| score.uncompiled += 1);
    }

    fn with(&self, mutant: &Mutant, act: impl FnOnce(&mut Score)) {
        let mut scores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(scores.entry(mutant.package.clone()).or_default());
    }

    fn end(self) -> BTreeMap<String, Score> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some crates, and their changes.
struct Trial {
    packages: BTreeSet<String>,
    copy: Copy,
    mutants: Vec<Mutant>,
    sources: BTreeMap<String, String>,
    units: Vec<Unit>,
    deadline: Instant,
}

/// Tries these changes, in their order, and returns what became of those of each crate. `sources` has each file that is changed.
pub(super) fn run(
    mutants: Vec<Mutant>,
    sources: BTreeMap<String, String>,
    deadline: Instant,
) -> Result<BTreeMap<String, Score>> {
    let packages: BTreeSet<String> = mutants.iter().map(|mutant| mutant.package.clone()).collect();
    if packages.is_empty() {
        return Ok(BTreeMap::new());
    }
    let copy = run::step("copy the repository", Copy::new)?;
    let units = switch::units(&mutants, &sources);
    let mut trial = Trial { packages, copy, mutants, sources, units, deadline };
    trial.prepare()?;
    trial.all()
}

impl Trial {
    /// Puts the switch into the crates' roots.
    fn prepare(&mut self) -> Result {
        for name in &self.packages {
            self.copy.without_lints(name)?;
            let root = format!("crates/{name}/src/lib.rs");
            // After its last item, so that the places of changes stay.
            let source = self.copy.read(&root)? + switch::SWITCH;
            self.copy.write(&root, &source)?;
            if self.sources.contains_key(&root) {
                self.sources.insert(root, source);
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<BTreeMap<String, Score>> {
        let scores = Scores::new(&self.packages);
        let every = || 1..=self.mutants.len();
        let none_tried = |scores: Scores| {
            every().for_each(|number| scores.add(&self.mutants[number - 1], None));
            Ok(scores.end())
        };
        let compiled = run::step("compile all changes in one program", || self.compile_together())?;
        let Some((programs, without)) = compiled else { return none_tried(scores) };
        let environment = test::environment(&tools::for_tests(), false);
        let runner = Runner { copy: &self.copy, environment, deadline: self.deadline };
        let cases = run::step("run each test without a change", || runner.cases(&programs))?;
        let Some(cases) = cases else { return none_tried(scores) };
        without.iter().for_each(|number| scores.add_uncompiled(&self.mutants[number - 1]));
        // Those that are compiled alone come last, as each takes longer than a hundred of the others.
        let (switched, others): (Vec<usize>, Vec<usize>) = every()
            .filter(|number| !without.contains(number))
            .partition(|number| self.kind_of(*number) == Kind::Switched);
        run::step("try the changes", || {
            side_by_side(switched.len(), |at| {
                let (number, is_late) = (switched[at], Instant::now() >= self.deadline);
                let try_it = || runner.outcome(number, &self.called(number, &cases), None);
                scores.add(&self.mutants[number - 1], if is_late { None } else { try_it()? });
                Ok(())
            })
        })?;
        if !others.is_empty() {
            run::step("compile and try others one after another", || {
                others.iter().try_for_each(|number| self.alone(*number, &runner, &cases, &scores))
            })?;
        }
        Ok(scores.end())
    }

    /// Tries a change in a program of its own.
    fn alone(&self, number: usize, runner: &Runner<'_>, cases: &[Case], scores: &Scores) -> Result {
        let mutant = &self.mutants[number - 1];
        let called = self.called(number, cases);
        if called.is_empty() || Instant::now() >= self.deadline {
            scores.add(mutant, called.is_empty().then_some(Outcome::Missed));
            return Ok(());
        }
        match self.compile_alone(mutant)? {
            None => scores.add(mutant, None),
            Some(compiled) if !compiled.is_complete => scores.add_uncompiled(mutant),
            Some(compiled) => scores.add(mutant, runner.outcome(number, &called, Some(&compiled.programs))?),
        }
        Ok(())
    }

    fn unit_of(&self, number: usize) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.changes.contains(&number))
    }

    fn kind_of(&self, number: usize) -> Kind {
        self.unit_of(number).map_or(Kind::Constant, |unit| unit.kind)
    }

    /// The tests of its crate that may notice a change: those that call its function, or all if nobody knows which do.
    fn called<'c>(&self, number: usize, cases: &'c [Case]) -> Vec<&'c Case> {
        let of_crate = cases.iter().filter(|case| case.is_of(&self.mutants[number - 1].package));
        let unit = self.unit_of(number).filter(|unit| unit.kind != Kind::Constant);
        of_crate.filter(|case| unit.is_none_or(|unit| case.calls(unit.changes[0]))).collect()
    }

    /// Compiles the crates with all changes but those that do not compile, which are returned, too; `None` if the time is up.
    fn compile_together(&self) -> Result<Option<(Vec<TestProgram>, HashSet<usize>)>> {
        let mut without = HashSet::new();
        for round in 1..=ROUNDS {
            let lines = self.write(&without)?;
            let names: Vec<&str> = self.packages.iter().map(String::as_str).collect();
            let Some(compiled) = self.compile(&names)? else { return Ok(None) };
            if compiled.is_complete {
                println!("{round} rounds; {} changes do not compile", without.len());
                self.restore()?;
                return Ok(Some((compiled.programs, without)));
            }
            let before = without.len();
            without.extend(at_fault(&compiled, &lines));
            if without.len() == before {
                return Err(format!("{} does not compile:\n{}", names.join(", "), compiled.words).into());
            }
        }
        Err(format!("it does not compile after {ROUNDS} rounds").into())
    }

    /// Compiles a crate with one change only.
    fn compile_alone(&self, mutant: &Mutant) -> Result<Option<Compiled>> {
        let source = &self.sources[&mutant.file];
        self.copy.write(&mutant.file, &switch::alone(source, mutant, 0..source.len()))?;
        let compiled = self.compile(&[&mutant.package]);
        self.restore()?;
        compiled
    }

    fn compile(&self, names: &[&str]) -> Result<Option<Compiled>> {
        self.copy.compile(names, self.deadline.saturating_duration_since(Instant::now()))
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
