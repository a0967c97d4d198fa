//! `cargo xtask reproducible`: builds the program in two folders, and compares the bytes. And how a build is made such that they are
//! the same: where the sources, Cargo's registry and the output are does not get into the program.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, layout, run};

/// Two folders whose names differ, and also in length.
const FOLDERS: [&str; 2] = ["one", "a-folder-with-a-longer-name"];

/// Builds what is committed, twice. Optimised, that takes about twenty minutes on two cores.
pub(crate) fn reproducible(debug: bool) -> Result {
    let folder = layout::target().join("reproducible");
    // Files that are not in this commit, and whatever was compiled, may be left of a run that was interrupted.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let commit = run::output(git().args(["rev-parse", "HEAD"]))?;
    let mut digests = Vec::new();
    for name in FOLDERS {
        let sources = folder.join(name);
        let program = run::step(&format!("build modelgate in {}", sources.display()), || {
            fs::create_dir_all(&sources)?;
            let archive = folder.join("sources.tar");
            run::shown(git().args(["archive", "--format", "tar", "HEAD", "--output"]).arg(&archive))?;
            run::shown(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?;
            // Each with an output of its own, so that nothing is taken over.
            let build =
                Build { sources: &sources, target: &sources.join("target"), commit: commit.trim(), debug };
            build.run()
        })?;
        let digest = run::output(Command::new("sha256sum").arg("--").arg(&program))?;
        println!("{digest}");
        digests.push(digest.split_whitespace().next().unwrap_or_default().to_owned());
        // Two outputs take several gigabytes.
        fs::copy(&program, folder.join(format!("modelgate-{name}")))?;
        fs::remove_dir_all(&sources)?;
    }
    match digests.as_slice() {
        [one, other] if one == other && !one.is_empty() => Ok(()),
        _ => Err(format!("the two programs differ: see {}", folder.display()).into()),
    }
}

/// A build of the program as it is shipped.
pub(crate) struct Build<'a> {
    /// The folder with the sources.
    pub(crate) sources: &'a Path,
    /// Where the output goes.
    pub(crate) target: &'a Path,
    /// The commit that the program names.
    pub(crate) commit: &'a str,
    /// Not optimised.
    pub(crate) debug: bool,
}

impl Build<'_> {
    /// Builds it, and returns the program.
    pub(crate) fn run(&self) -> Result<PathBuf> {
        let host = run::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
        let host = host.trim();
        let mut cargo = run::cargo();
        cargo.current_dir(self.sources).args([
            "build",
            "--locked",
            "--package",
            "modelgate",
            "--target",
            host,
        ]);
        if !self.debug {
            cargo.arg("--release");
        }
        self.say_nothing_of_this_machine(&mut cargo)?;
        run::shown(cargo.env("CARGO_TARGET_DIR", self.target).env("MODELGATE_COMMIT", self.commit))?;
        let profile = if self.debug { "debug" } else { "release" };
        Ok(self.target.join(host).join(profile).join("modelgate"))
    }

    /// Paths stand in the messages of panics and in what C's `assert` says; a time may stand in what a build script makes.
    fn say_nothing_of_this_machine(&self, cargo: &mut Command) -> Result {
        // Of several that fit, compilers take the last.
        let cargo_home = cargo_home()?;
        let places = [
            (cargo_home.as_path(), "/cargo"),
            (self.sources, "/modelgate"),
            (self.target, "/modelgate/target"),
        ];
        let mut rust = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
        let mut c = Vec::new();
        for (place, name) in places {
            let place = place.to_str().ok_or("a path is not UTF-8")?;
            rust.push(format!("--remap-path-prefix={place}={name}"));
            c.push(format!("-ffile-prefix-map={place}={name}"));
        }
        let time = run::output(git().args(["log", "-1", "--format=%ct", self.commit]))?;
        // With separators that no path has.
        cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"));
        cargo.env("CFLAGS", c.join(" ")).env("SOURCE_DATE_EPOCH", time.trim()).env("CARGO_INCREMENTAL", "0");
        Ok(())
    }
}

/// The commit of the sources; that they are changed is said.
pub(crate) fn commit() -> Result<String> {
    if !run::output(git().args(["status", "--porcelain", "--untracked-files=no"]))?.is_empty() {
        println!("The sources are changed: others who build this commit get another program.");
    }
    Ok(run::output(git().args(["rev-parse", "HEAD"]))?.trim().to_owned())
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(layout::root());
    git
}

fn cargo_home() -> Result<PathBuf> {
    let of_user = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo").into_os_string());
    let home: OsString = env::var_os("CARGO_HOME").or_else(of_user).ok_or("HOME is not set")?;
    Ok(fs::canonicalize(home)?)
}
