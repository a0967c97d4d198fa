//! `cargo xtask mutants`: changes the code in small ways, and says which changes no test notices (docs/fuzzing.md).
//!
//! cargo-mutants (<https://mutants.rs/>) says what to change. It would compile the crate for each change; here all changes of a crate
//! are in one program, and a variable switches one of them on.

mod copy;
mod list;
mod programs;
mod sample;
mod switch;
mod trial;
mod workers;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use list::Mutant;
use trial::Score;

use crate::{Result, layout, run, tools};

/// How long the changes on the lines of a change may take, compiling included. Those that are left are not tried.
const BOUND: Duration = Duration::from_secs(180);
/// How many of these are tried: as many as two cores have time for, with a reserve, so that one commit has one outcome.
const SAMPLE: usize = 100;
/// Longer than all changes of a crate take.
const A_DAY: Duration = Duration::from_secs(24 * 3600);
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
    /// Only lines that differ from what has landed (the branch `origin/HEAD`), or without one, from the last commit of an earlier day
    /// in UTC; of many changes a sample, and at most three minutes
    #[arg(long)]
    of_change: bool,
    /// First install what is missing into target/tools
    #[arg(long)]
    install: bool,
}

/// Tries the changes. Fails if no test has noticed one of them; on the lines of a change, if that is so of many.
pub(crate) fn mutants(wanted: &Mutate) -> Result {
    let output = layout::target().join("mutants");
    fs::create_dir_all(&output)?;
    // It ends with this program.
    let lock = File::create(output.join("lock"))?;
    if lock.try_lock().is_err() {
        return Err(format!("another run is at work in {}", output.display()).into());
    }
    let names = wanted.name.as_deref().map_or(CORE.to_vec(), |name| vec![name]);
    match wanted.of_change {
        true => of_change(&names, wanted.install, &output),
        false => whole(&names, wanted.install),
    }
}

/// Tries all changes of these crates.
fn whole(names: &[&str], install: bool) -> Result {
    let tool = tool(install)?;
    let deadline = Instant::now() + A_DAY;
    let mut all = Score::default();
    for name in names {
        let scores = run::step(name, || {
            let (mutants, sources) = list::of(&tool, &[*name], None)?;
            trial::run(mutants, sources, deadline)
        })?;
        all.add(told(scores));
    }
    match all.missed.len() {
        0 => Ok(()),
        missed => {
            Err(format!("no test has noticed {missed} of {} changes; see MISSED above", all.tried()).into())
        }
    }
}

/// Tries changes on lines of these crates that differ from what has landed: all, or a sample if they are many.
fn of_change(names: &[&str], install: bool, output: &Path) -> Result {
    let Some(since) = landed(layout::root())? else {
        println!(
            "NOTHING TRIED: there is no commit to compare with, neither an origin/HEAD from which this differs, nor a commit before \
             the day (in UTC) of the last one. If this is a shallow clone, `git fetch --unshallow` gets the others."
        );
        return Ok(());
    };
    println!("compared with {since}");
    let Some(diff) = difference(names, &since, output)? else {
        println!("NOTHING TRIED: no line of Rust in the core has changed");
        return Ok(());
    };
    let tool = tool(install)?;
    // The tool's own installation does not count.
    let deadline = Instant::now() + BOUND;
    let (mutants, sources) = run::step("list the changes", || list::of(&tool, names, Some(&diff)))?;
    if mutants.is_empty() {
        println!("NOTHING TRIED: cargo-mutants has no change for the lines of Rust that have changed");
        return Ok(());
    }
    let (drawn, others) = drawn(mutants, &sources, &git(layout::root(), &["rev-parse", "HEAD"])?);
    println!("{} changes are drawn of {}", drawn.len(), drawn.len() + others.len());
    say_what_is_left_out(&others, &output.join("not-drawn"))?;
    let mut all = Score::default();
    all.add(told(trial::run(drawn, sources, deadline)?));
    println!("together: {}", told_of(&all));
    judge(&all)
}

/// cargo-mutants.
fn tool(install: bool) -> Result<PathBuf> {
    let tools = [tools::for_mutants()];
    if install {
        tools::install(&tools)?;
    }
    Ok(tools[0].path().ok_or("cargo-mutants is missing; --install installs it")?)
}

/// The changes that are tried, and the others: those for which there is no time, and those that would have to be compiled alone.
fn drawn(
    mutants: Vec<Mutant>,
    sources: &BTreeMap<String, String>,
    commit: &str,
) -> (Vec<Mutant>, Vec<Mutant>) {
    let switched = switch::switched(&switch::units(&mutants, sources));
    let numbered = mutants.into_iter().zip(1..);
    let (together, alone): (Vec<_>, Vec<_>) = numbered.partition(|(_, number)| switched.contains(number));
    let unnumbered = |mutants: Vec<(Mutant, usize)>| mutants.into_iter().map(|(mutant, _)| mutant);
    let (drawn, mut others) = sample::draw(unnumbered(together).collect(), SAMPLE, commit);
    others.extend(unnumbered(alone));
    (drawn, others)
}

/// Says of how many changes of each crate nothing is known, and writes down which ones.
fn say_what_is_left_out(others: &[Mutant], list: &Path) -> Result {
    let mut crates: BTreeMap<&str, usize> = BTreeMap::new();
    for mutant in others {
        *crates.entry(&mutant.package).or_default() += 1;
    }
    let mut names: Vec<&str> = others.iter().map(|mutant| mutant.name.as_str()).collect();
    names.sort_unstable();
    fs::write(list, names.join("\n"))?;
    if !others.is_empty() {
        let counts: Vec<String> = crates.iter().map(|(name, count)| format!("{count} of {name}")).collect();
        println!("not tried: {}; they are listed in {}", counts.join(", "), list.display());
    }
    Ok(())
}

/// Prints what was found in each crate, and adds it up.
fn told(scores: BTreeMap<String, Score>) -> Score {
    let mut all = Score::default();
    for (name, score) in scores {
        println!("{name}: {}", told_of(&score));
        all.add(score);
    }
    all
}

/// What was found, in a line. A change that hangs a test is noticed.
fn told_of(score: &Score) -> String {
    let tried = score.tried();
    let tenths = score.noticed * 1000 / tried.max(1);
    let mut told = format!("{} of {tried} changes noticed", score.noticed);
    if tried > 0 {
        told.push_str(&format!(" ({}.{} %)", tenths / 10, tenths % 10));
    }
    told.push_str(&format!("; {} did not compile", score.uncompiled));
    if !score.untried.is_empty() {
        told.push_str(&format!("; there was no time for {}", score.untried.len()));
    }
    told
}

/// Of fewer tried changes than this only very few may be missed.
const ENOUGH: usize = 20;
/// How many of fewer may be missed: some changes are equivalent, which only their author can tell.
const FEW: usize = 2;
/// How many of a hundred may be missed. Where 92 % of all changes are noticed, as is the aim, more than 15 of a hundred that are drawn
/// are missed in one draw of 170.
const MAY_BE_MISSED: usize = 15;

/// Whether enough of a change's lines was noticed.
fn judge(all: &Score) -> Result {
    let (tried, missed) = (all.tried(), all.missed.len());
    if tried == 0 && !all.untried.is_empty() {
        return Err(format!("the time was up before any of {} changes was tried", all.untried.len()).into());
    }
    let is_good = if tried < ENOUGH { missed <= FEW } else { missed * 100 <= tried * MAY_BE_MISSED };
    if is_good {
        return Ok(());
    }
    Err(format!(
        "no test has noticed {missed} of {tried} changes (MISSED above), of which {MAY_BE_MISSED} % may be missed, or {FEW} of fewer \
         than {ENOUGH}; docs/fuzzing.md says what to do"
    )
    .into())
}

/// What has changed in these crates since a commit, in lines of Rust, as a file; `None` if nothing has.
fn difference(names: &[&str], since: &str, output: &Path) -> Result<Option<PathBuf>> {
    let path = output.join("change.diff");
    let to = format!("--output={}", path.display());
    let files: Vec<String> = names.iter().map(|name| format!(":(glob)crates/{name}/src/**/*.rs")).collect();
    let mut arguments = vec!["diff", &to, since, "--"];
    arguments.extend(files.iter().map(String::as_str));
    git(layout::root(), &arguments)?;
    Ok((fs::metadata(&path)?.len() > 0).then_some(path))
}

/// The commit with which the last one is compared: another one. `None` if there is none, as in a clone without history.
fn landed(repository: &Path) -> Result<Option<String>> {
    const DAY: u64 = 24 * 3600;
    let head = git(repository, &["rev-parse", "HEAD"])?;
    if let Ok(landed) = git(repository, &["merge-base", "HEAD", "origin/HEAD"])
        && landed != head
    {
        return Ok(Some(landed));
    }
    let committed: u64 = git(repository, &["log", "-1", "--format=%ct"])?.parse()?;
    let before_its_day = format!("--min-age={}", (committed - committed % DAY).saturating_sub(1));
    let earlier = git(repository, &["rev-list", "--max-count=1", &before_its_day, "HEAD"])?;
    Ok((!earlier.is_empty()).then_some(earlier))
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let answer = run::output(Command::new("git").args(arguments).current_dir(repository))?;
    Ok(answer.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the day was that of the committer's zone.
    #[test]
    fn a_change_is_compared_with_the_last_commit_of_an_earlier_day_in_utc() {
        let repository = std::env::temp_dir().join(format!("modelgate-landed-{}", std::process::id()));
        fs::create_dir_all(&repository).unwrap();
        git(&repository, &["init", "--quiet"]).unwrap();
        let commit = |at: &str| {
            let mut command = Command::new("git");
            // Not by the settings of whoever runs this.
            for setting in
                ["user.name=a", "user.email=a@b.c", "commit.gpgsign=false", "core.hooksPath=/dev/null"]
            {
                command.args(["-c", setting]);
            }
            command.args(["commit", "--quiet", "--allow-empty"]);
            command.args(["-m", at]).current_dir(&repository).env("GIT_COMMITTER_DATE", at);
            run::output(&mut command).unwrap();
            git(&repository, &["rev-parse", "HEAD"]).unwrap()
        };
        let earlier = commit("2026-11-27T23:59:59+0000");
        assert_eq!(landed(&repository).unwrap(), None, "as in a clone without history");
        // Yesterday's and tomorrow's, where they were made.
        commit("2026-11-27T19:00:00-0500");
        commit("2026-11-29T10:00:00+1400");
        assert_eq!(landed(&repository).unwrap(), Some(earlier));
        fs::remove_dir_all(&repository).unwrap();
    }

    fn score(noticed: usize, missed: usize, untried: usize) -> Score {
        let names = |count: usize| vec!["a".to_owned(); count];
        Score { noticed, missed: names(missed), uncompiled: 2, untried: names(untried) }
    }

    #[test]
    fn of_a_change_15_in_100_may_be_missed_and_two_of_a_few() {
        for (noticed, missed, untried, is_good) in [
            (0, 0, 0, true),
            (1, 2, 0, true),
            (16, 3, 0, false),
            (17, 3, 0, true),
            (16, 4, 0, false),
            (85, 15, 0, true),
            (84, 16, 0, false),
            (85, 15, 50, true),
            (0, 0, 50, false),
        ] {
            let outcome = judge(&score(noticed, missed, untried));
            assert_eq!(outcome.is_ok(), is_good, "{noticed}, {missed}, {untried}: {outcome:?}");
        }
        let told = judge(&score(84, 16, 0)).unwrap_err().to_string();
        assert!(
            told.starts_with("no test has noticed 16 of 100 changes (MISSED above), of which 15 %"),
            "{told}"
        );
        let told = judge(&score(0, 0, 50)).unwrap_err().to_string();
        assert_eq!(told, "the time was up before any of 50 changes was tried");
    }

    #[test]
    fn what_was_found_is_told_in_a_line() {
        for (score, line) in [
            (score(0, 0, 0), "0 of 0 changes noticed; 2 did not compile"),
            (score(2, 1, 0), "2 of 3 changes noticed (66.6 %); 2 did not compile"),
            (score(1, 0, 1), "1 of 1 changes noticed (100.0 %); 2 did not compile; there was no time for 1"),
        ] {
            assert_eq!(told_of(&score), line);
        }
    }

    /// A change in a constant has a program of its own, which takes longer than trying fifty others.
    #[test]
    fn what_must_be_compiled_alone_is_not_drawn() {
        let source = "const N: u8 = 1 + 2;\nfn f(a: bool) -> bool {\n    !a\n}\n";
        let mut switched = Mutant::named("limits", 3);
        let body = source.find("fn f").unwrap()..source.len() - 1;
        (switched.function, switched.place) = (Some(body), source.find("!a").map(|at| at..at + 1).unwrap());
        let constant = Mutant::named("limits", 1);
        let sources = BTreeMap::from([(switched.file.clone(), source.to_owned())]);
        let names = |mutants: Vec<Mutant>| mutants.into_iter().map(|mutant| mutant.name).collect::<Vec<_>>();
        let expected = (vec![switched.name.clone()], vec![constant.name.clone()]);
        let (drawn, others) = drawn(vec![constant, switched], &sources, "a");
        assert_eq!((names(drawn), names(others)), expected);
    }
}
