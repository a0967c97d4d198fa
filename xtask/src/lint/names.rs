//! No type has a name that three others have, whether they are private to their modules or not: such a name says nothing without
//! its file.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::{
    Result,
    source::{files, is_word, tokens},
};

/// How many types may share a name.
const MAX: usize = 3;

/// Checks all sources below these folders.
pub(super) fn check(folders: &[PathBuf]) -> Result {
    let mut sources = Vec::new();
    for folder in folders {
        for file in files(folder)? {
            sources.push((file.display().to_string(), fs::read_to_string(&file)?));
        }
    }
    let repeated = repeated(&sources);
    if repeated.is_empty() { Ok(()) } else { Err(repeated.join("\n").into()) }
}

/// What to say about each name that too many types have.
fn repeated(sources: &[(String, String)]) -> Vec<String> {
    let mut defined: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, source) in sources {
        for name in types(&tokens(source)) {
            defined.entry(name).or_default().push(file);
        }
    }
    let too_many = defined.into_iter().filter(|(_, files)| files.len() > MAX);
    too_many
        .map(|(name, files)| format!("{} types are called {name}: {}", files.len(), files.join(", ")))
        .collect()
}

/// The names of the types in a file. A `type` inside of braces is not one: traits prescribe what it is called there.
fn types<'s>(tokens: &[&'s str]) -> Vec<&'s str> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for pair in tokens.windows(2) {
        match pair {
            ["{", _] => depth += 1,
            ["}", _] => depth = depth.saturating_sub(1),
            ["struct" | "enum" | "trait" | "union", name] if is_word(name) => names.push(*name),
            ["type", name] if depth == 0 => names.push(*name),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn a_name_is_found_where_it_is_defined_for_the_fourth_time() {
        let source = |file: &str, text: &str| (file.to_owned(), text.to_owned());
        let mut sources = vec![
            source("a.rs", "pub struct Row { kind: Kind }"),
            source("b.rs", "enum Row {} impl Visitor for Row { type Value = Row; }"),
            source("c.rs", "type Row = u8; impl Visitor for X { type Value = Row; }"),
            source(
                "d.rs",
                "// struct Row\nimpl Visitor for Y { type Value = u8; } impl Visitor for Z { type Value = u8; }",
            ),
        ];
        assert!(repeated(&sources).is_empty());
        sources.push(source("e.rs", "fn f() { struct Row; }"));
        assert_eq!(repeated(&sources), ["4 types are called Row: a.rs, b.rs, c.rs, e.rs"]);
    }
}
