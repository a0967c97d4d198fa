//! The changes to try: cargo-mutants' own list of them (<https://mutants.rs/list.html>), as places in the source.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Result, layout, run};

/// One small change of the code.
pub(super) struct Mutant {
    /// What a person reads: `crates/limits/src/spec.rs:67:9: replace > with >= in Spec::read`.
    pub(super) name: String,
    /// The crate.
    pub(super) package: String,
    /// The file, from the root of the repository.
    pub(super) file: String,
    /// The function in which it is; none if it is in a constant.
    pub(super) function: Option<Range<usize>>,
    /// What is replaced, in bytes of the file.
    pub(super) place: Range<usize>,
    /// By what.
    pub(super) replacement: String,
}

/// The changes of some crates, and the source of each file that has some. With `diff`, only those on lines that it touches.
pub(super) fn of(
    tool: &Path,
    names: &[&str],
    diff: Option<&Path>,
) -> Result<(Vec<Mutant>, BTreeMap<String, String>)> {
    let mut command = Command::new(tool);
    command.args(["mutants", "--list", "--json"]).current_dir(layout::root());
    command.args(names.iter().flat_map(|name| ["--package", name]));
    command.args(diff.iter().flat_map(|diff| [Path::new("--in-diff"), diff]));
    run::as_from_a_shell(&mut command);
    let answer = run::output(&mut command)?;
    // It says in words if the diff has nothing that can be changed.
    let listed: Vec<Value> =
        if answer.starts_with('[') { serde_json::from_str(&answer)? } else { Vec::new() };
    let mut sources = BTreeMap::new();
    let mut mutants = Vec::new();
    for entry in &listed {
        let file = entry["file"].as_str().unwrap_or_default().to_owned();
        if !sources.contains_key(&file) {
            sources.insert(file.clone(), fs::read_to_string(layout::root().join(&file))?);
        }
        mutants.push(read(entry, &sources[&file]).ok_or("cargo-mutants' list has another form")?);
    }
    Ok((mutants, sources))
}

fn read(entry: &Value, source: &str) -> Option<Mutant> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    Some(Mutant {
        name: text("name")?,
        package: text("package")?,
        file: text("file")?,
        function: span(&entry["function"]["span"], source),
        place: span(&entry["span"], source)?,
        replacement: text("replacement")?,
    })
}

fn span(span: &Value, source: &str) -> Option<Range<usize>> {
    let at = |end: &str| {
        let number = |key: &str| usize::try_from(span[end][key].as_u64()?).ok()?.checked_sub(1);
        place(source, number("line")?, number("column")?)
    };
    Some(at("start")?..at("end")?)
}

/// The byte at a line and a column, in characters; both begin with 0.
fn place(source: &str, line: usize, column: usize) -> Option<usize> {
    let start = match line.checked_sub(1) {
        None => 0,
        Some(before) => source.match_indices('\n').nth(before)?.0 + 1,
    };
    let mut characters = source[start..].char_indices().map(|(at, _)| at).chain([source.len() - start]);
    Some(start + characters.nth(column)?)
}

#[cfg(test)]
impl Mutant {
    /// One of which only the name and the crate matter.
    pub(super) fn named(package: &str, number: usize) -> Self {
        let name = format!("crates/{package}/src/lib.rs:{number}:5: replace + with - in add");
        let file = format!("crates/{package}/src/lib.rs");
        Self {
            name,
            package: package.to_owned(),
            file,
            function: None,
            place: 0..1,
            replacement: "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;

    #[test]
    fn lines_and_columns_become_places() {
        let source = "const A: u8 = 1;\nfn é() -> bool { \"ü\" == x }";
        let at = |line: u8, column: u8| json!({"line": line, "column": column});
        let mut entry = json!({
            "name": "n", "package": "p", "file": "f", "replacement": "!=",
            "function": {"span": {"start": at(2, 1), "end": at(2, 28)}},
            "span": {"start": at(2, 22), "end": at(2, 24)},
        });
        let mutant = read(&entry, source).expect("a mutant");
        assert_eq!((&*mutant.name, &*mutant.package, &*mutant.file), ("n", "p", "f"));
        assert_eq!((&source[mutant.place], &source[mutant.function.expect("one")]), ("==", &source[17..]));
        entry["function"] = json!(null);
        assert_eq!(read(&entry, source).expect("a mutant").function, None);
        entry["span"]["end"] = at(3, 1);
        assert!(read(&entry, source).is_none(), "no such line");
    }
}
