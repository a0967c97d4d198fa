//! Puts the commit into the program: that of `MODELGATE_COMMIT` if it is set, as in a build without the repository; otherwise, in an
//! optimised build, that of the repository. A debug build has none, so that a commit does not mean compiling anew.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=MODELGATE_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = env::var("MODELGATE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_optimised = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if is_optimised { of_the_repository() } else { None });
    let is_commit =
        |text: &String| (7..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(commit) = commit.filter(is_commit) {
        println!("cargo::rustc-env=MODELGATE_BUILT_FROM={}", &commit[..commit.len().min(12)]);
    }
}

fn of_the_repository() -> Option<String> {
    let head = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&head).exists() {
        println!("cargo::rerun-if-changed={head}");
    }
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
