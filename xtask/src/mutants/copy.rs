//! A copy of the repository, in which crates are changed and compiled. What is built goes to the same target folder, so that
//! dependencies are compiled once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::{Result, layout, run};

/// The copy.
pub(super) struct Copy {
    folder: PathBuf,
}

/// A test program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TestProgram {
    /// The crate whose tests it has.
    pub(super) package: String,
    pub(super) path: PathBuf,
}

/// What came of compiling.
pub(super) struct Compiled {
    pub(super) programs: Vec<TestProgram>,
    /// Where the errors are: files and lines.
    pub(super) errors: HashSet<(String, usize)>,
    /// What the compiler says about them.
    pub(super) words: String,
    /// Whether all of it compiles.
    pub(super) is_complete: bool,
}

impl Copy {
    /// Copies what Git knows, and what it would add.
    pub(super) fn new() -> Result<Self> {
        let folder = layout::target().join("mutants/copy");
        let _ = fs::remove_dir_all(&folder);
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(layout::root());
        for name in run::output(&mut git)?.split_terminator('\0') {
            let (from, to) = (layout::root().join(name), folder.join(name));
            // Git lists what was removed, too, until that is committed.
            if !from.is_file() {
                continue;
            }
            fs::create_dir_all(to.parent().unwrap_or(&folder))?;
            fs::copy(&from, &to)?;
            // Cargo compiles what is newer than what it has built.
            File::options().append(true).open(&to)?.set_modified(fs::metadata(&from)?.modified()?)?;
        }
        Ok(Self { folder })
    }

    /// The folder of a crate.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.folder.join("crates").join(name)
    }

    /// Lets a crate be compiled with code that no lint has seen.
    pub(super) fn without_lints(&self, name: &str) -> Result {
        let manifest = self.of(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        Ok(fs::write(manifest, text.replace("[lints]\nworkspace = true\n", ""))?)
    }

    /// Writes a file of the copy, unless it has this text.
    pub(super) fn write(&self, file: &str, text: &str) -> Result {
        let path = self.folder.join(file);
        if fs::read_to_string(&path)? != text {
            fs::write(path, text)?;
        }
        Ok(())
    }

    pub(super) fn read(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(file))?)
    }

    /// Compiles the tests of some crates, as far as these compile; `None` if the time is up.
    pub(super) fn compile(&self, names: &[&str], time: Duration) -> Result<Option<Compiled>> {
        let mut command = Command::new("timeout");
        command.arg(format!("{:.1}", time.as_secs_f64().max(0.1)));
        command.arg(run::cargo().get_program());
        // Not `cargo check` first, which would compile all dependencies for itself. `cargo test` has no `--keep-going`.
        command.args([
            "build",
            "--lib",
            "--tests",
            "--keep-going",
            "--locked",
            "--quiet",
            "--message-format=json",
        ]);
        command.args(names.iter().flat_map(|name| ["--package", name]));
        command.current_dir(&self.folder).env("CARGO_TARGET_DIR", layout::target());
        // Nobody reads a backtrace, and linking takes half as long.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
        run::as_from_a_shell(&mut command);
        let output = command.output()?;
        if output.status.code() == Some(super::TIME_IS_UP) {
            return Ok(None);
        }
        let mut compiled = Compiled {
            programs: Vec::new(),
            errors: HashSet::new(),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
            is_complete: output.status.success(),
        };
        for line in String::from_utf8(output.stdout)?.lines().filter(|line| line.starts_with('{')) {
            compiled.add(&serde_json::from_str(line)?);
        }
        Ok(Some(compiled))
    }
}

impl Compiled {
    /// Reads one of Cargo's messages: <https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>.
    fn add(&mut self, message: &Value) {
        if let Some(program) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true) {
            let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
            let folder = manifest.parent().and_then(Path::file_name).unwrap_or_default();
            let package = folder.to_string_lossy().into_owned();
            self.programs.push(TestProgram { package, path: Path::new(program).to_owned() });
        }
        let diagnostic = &message["message"];
        if diagnostic["level"] != "error" {
            return;
        }
        self.words.push_str(diagnostic["rendered"].as_str().unwrap_or_default());
        for span in
            diagnostic["spans"].as_array().into_iter().flatten().filter(|span| span["is_primary"] == true)
        {
            let line = span["line_start"].as_u64().and_then(|line| usize::try_from(line).ok());
            let file = span["file_name"].as_str().map(str::to_owned);
            self.errors.extend(file.zip(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_and_places_of_errors_are_read_from_cargos_messages() {
        let mut compiled = Compiled {
            programs: Vec::new(),
            errors: HashSet::new(),
            words: String::new(),
            is_complete: false,
        };
        let span = |line: u8, is_primary: bool| json!({"file_name": "a.rs", "line_start": line, "is_primary": is_primary});
        for message in [
            json!({"executable": "/t/a-1", "profile": {"test": true}, "manifest_path": "/c/crates/a/Cargo.toml"}),
            json!({"executable": "/t/sim-server", "profile": {"test": false}, "manifest_path": "/c/crates/b/Cargo.toml"}),
            json!({"reason": "compiler-artifact", "executable": null}),
            json!({"message": {"level": "warning", "rendered": "w", "spans": [span(1, true)]}}),
            json!({"message": {"level": "error", "rendered": "e", "spans": [span(2, true), span(3, false), span(4, true)]}}),
        ] {
            compiled.add(&message);
        }
        let program = TestProgram { package: "a".to_owned(), path: PathBuf::from("/t/a-1") };
        assert_eq!((compiled.programs, compiled.words.as_str()), (vec![program], "e"));
        assert_eq!(compiled.errors, HashSet::from([("a.rs".to_owned(), 2), ("a.rs".to_owned(), 4)]));
    }
}
