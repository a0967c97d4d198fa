//! `cargo xtask mutants`: changes the code in small ways, and says which changes no test notices (docs/fuzzing.md).
//!
//! cargo-mutants (<https://mutants.rs/>) says what to change. It would compile the crate for each change; here all changes of a crate
//! are in one program, and a variable switches one of them on.

mod copy;
mod list;
mod programs;
mod switch;
mod trial;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use trial::Score;

use crate::{Result, layout, run, tools};

/// How long the changes on the lines of a change may take, compiling included. Those that are left are not tried.
const BOUND: Duration = Duration::from_secs(180);
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
    /// in UTC; at most three minutes
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
    let diff = if wanted.of_change { change(&output)? } else { None };
    if wanted.of_change && diff.is_none() {
        println!("no line of the core has changed");
        return Ok(());
    }
    let tools = [tools::for_mutants()];
    if wanted.install {
        tools::install(&tools)?;
    }
    let tool = tools[0].path().ok_or("cargo-mutants is missing; --install installs it")?;
    // The tool's own installation does not count.
    let deadline = Instant::now() + if wanted.of_change { BOUND } else { A_DAY };
    let names = wanted.name.as_deref().map_or(CORE.to_vec(), |name| vec![name]);
    let (mut tried, mut missed) = (0, 0);
    for name in names {
        let score = run::step(name, || trial::run(&tool, name, diff.as_deref(), deadline))?;
        println!("{name}: {}", told(&score));
        missed += score.missed.len();
        tried += score.noticed + score.missed.len();
    }
    if is_good(tried, missed, wanted.of_change) {
        Ok(())
    } else {
        Err(format!("no test has noticed {missed} of {tried} changes; see MISSED above").into())
    }
}

/// Whether enough was noticed. Which of a change's lines are tried within its time depends on the machine, and some changes are
/// equivalent, which only their author can tell. So of those one in ten may be missed, and two of a few.
fn is_good(tried: usize, missed: usize, is_of_change: bool) -> bool {
    missed == 0 || is_of_change && (missed <= 2 || missed * 10 <= tried)
}

/// What was found, in a line. A change that hangs a test is noticed.
fn told(score: &Score) -> String {
    let tried = score.noticed + score.missed.len();
    let tenths = score.noticed * 1000 / tried.max(1);
    let mut told = format!("{} of {tried} changes noticed", score.noticed);
    if tried > 0 {
        told.push_str(&format!(" ({}.{} %)", tenths / 10, tenths % 10));
    }
    told.push_str(&format!("; {} did not compile", score.uncompiled));
    if !score.untried.is_empty() {
        told.push_str(&format!(
            "; there was no time for {}:\n{}",
            score.untried.len(),
            score.untried.join("\n")
        ));
    }
    told
}

/// What has changed in the core since the last landing, as a file; `None` if nothing has.
fn change(output: &Path) -> Result<Option<PathBuf>> {
    let root = layout::root();
    let since = landed(root)?;
    println!("compared with {since}");
    let folders = CORE.map(|name| format!("crates/{name}/src"));
    let path = output.join("change.diff");
    let to = format!("--output={}", path.display());
    let mut arguments = vec!["diff", &to, &since, "--"];
    arguments.extend(folders.iter().map(String::as_str));
    git(root, &arguments)?;
    Ok((fs::metadata(&path)?.len() > 0).then_some(path))
}

/// The commit with which the last one is compared. It is another one, or an error.
fn landed(repository: &Path) -> Result<String> {
    const DAY: u64 = 24 * 3600;
    let head = git(repository, &["rev-parse", "HEAD"])?;
    if let Ok(landed) = git(repository, &["merge-base", "HEAD", "origin/HEAD"])
        && landed != head
    {
        return Ok(landed);
    }
    let committed: u64 = git(repository, &["log", "-1", "--format=%ct"])?.parse()?;
    let before_its_day = format!("--min-age={}", (committed - committed % DAY).saturating_sub(1));
    match git(repository, &["rev-list", "--max-count=1", &before_its_day, "HEAD"])? {
        none if none.is_empty() => Err("there is no commit to compare with: neither an origin/HEAD from which this differs, nor a \
             commit before the day (in UTC) of the last one; if this is a shallow clone, `git fetch --unshallow` gets the others"
            .into()),
        earlier => Ok(earlier),
    }
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let answer = run::output(Command::new("git").args(arguments).current_dir(repository))?;
    Ok(answer.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regressions: the day was that of the committer's zone, and a clone without a history passed.
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
        let told = landed(&repository).unwrap_err().to_string();
        assert!(told.contains("no commit to compare with") && told.contains("shallow"), "{told}");
        // Yesterday's and tomorrow's, where they were made.
        commit("2026-11-27T19:00:00-0500");
        commit("2026-11-29T10:00:00+1400");
        assert_eq!(landed(&repository).unwrap(), earlier);
        fs::remove_dir_all(&repository).unwrap();
    }

    #[test]
    fn of_a_change_one_in_ten_may_be_missed() {
        for (tried, missed, is_of_change, expected) in [
            (100, 0, false, true),
            (100, 1, false, false),
            (3, 2, true, true),
            (20, 3, true, false),
            (30, 3, true, true),
            (100, 11, true, false),
        ] {
            assert_eq!(is_good(tried, missed, is_of_change), expected, "{missed} of {tried}");
        }
    }

    #[test]
    fn what_was_found_is_told_in_a_line() {
        let names = |count: usize| vec!["a".to_owned(); count];
        let score = |noticed, missed, untried| Score {
            noticed,
            missed: names(missed),
            uncompiled: 2,
            untried: names(untried),
        };
        for (score, line) in [
            (score(0, 0, 0), "0 of 0 changes noticed; 2 did not compile"),
            (score(2, 1, 0), "2 of 3 changes noticed (66.6 %); 2 did not compile"),
            (
                score(1, 0, 1),
                "1 of 1 changes noticed (100.0 %); 2 did not compile; there was no time for 1:\na",
            ),
        ] {
            assert_eq!(told(&score), line);
        }
    }
}
