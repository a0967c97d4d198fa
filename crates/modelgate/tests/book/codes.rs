//! The codes of findings and refusals: in the program's sources, where each is written once, and in the book.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Files with a function `code` that has the codes of what they define.
const WITH_CODES: [&str; 7] = [
    "crates/access/src/reason.rs",
    "crates/access/src/read/unreadable.rs",
    "crates/admin/src/finding.rs",
    "crates/store/src/finding.rs",
    "crates/traefik-config/src/shortcomings/shortcoming.rs",
    "crates/web/src/polls/finding.rs",
    "crates/web/src/server_metering.rs",
];
/// Files in which codes stand after these words.
const AFTER: [(&str, &str); 4] = [
    ("crates/catalogue/src/finding", "Facts::hint(\""),
    ("crates/catalogue/src/finding", "Facts::fault(\""),
    ("crates/catalogue/src/finding", "Facts::danger(\""),
    ("crates/modelgate/src/serve/alerts", "ConditionId { code: \""),
];
/// How the book marks findings that are no problem.
const MARKS: [(&str, &str); 2] = [("Facts::hint(\"", "hint: "), ("Facts::danger(\"", "danger: ")];
/// The file with a code for each level of a budget.
const LEVELS: &str = "crates/modelgate/src/serve/alerts/budgets.rs";
/// The file in which codes stand after statuses.
const AFTER_STATUS: &str = "crates/web/src/refusal.rs";

pub(crate) fn of_the_program(root: &Path) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for file in WITH_CODES {
        let text = source(&root.join(file));
        for body in text.split("fn code(&self) -> &'static str {").skip(1) {
            let body = body.split("\n    }\n").next().unwrap_or_default();
            codes.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    for (path, words) in AFTER {
        for file in files(&root.join(path)) {
            let text = source(&file);
            let quoted = text.split(words).skip(1).filter_map(|rest| rest.split('"').next());
            codes.extend(quoted.map(str::to_owned));
        }
    }
    for level in source(&root.join(LEVELS)).split("=> \"budget_").skip(1) {
        codes.extend(level.split('"').next().map(|level| format!("budget_{level}")));
    }
    for rest in source(&root.join(AFTER_STATUS)).split("StatusCode::").skip(1) {
        let behind = rest.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
        codes.extend(behind.strip_prefix(", \"").and_then(|rest| rest.split('"').next()).map(str::to_owned));
    }
    assert!(codes.iter().all(|code| is_code(code)), "{codes:?}");
    codes
}

/// In the first column of tables.
pub(crate) fn of_the_book(root: &Path) -> BTreeSet<String> {
    let page = fs::read_to_string(root.join("docs/codes.md")).expect("docs/codes.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let cells = rows.flat_map(|cell| cell.split('`').step_by(2).map(str::to_owned).collect::<Vec<_>>());
    cells.filter(|code| is_code(code)).collect()
}

/// Findings of the catalogue that the book marks as hint or danger and that are not, or the other way round.
pub(crate) fn wrongly_marked(root: &Path) -> Vec<String> {
    let mut marks: BTreeMap<String, &str> = BTreeMap::new();
    let sources: Vec<String> =
        files(&root.join("crates/catalogue/src/finding")).iter().map(|file| source(file)).collect();
    for (words, mark) in MARKS.into_iter().chain([("Facts::fault(\"", "")]) {
        for rest in sources.iter().flat_map(|text| text.split(words).skip(1)) {
            marks.insert(rest.split('"').next().unwrap_or_default().to_owned(), mark);
        }
    }
    assert!(marks.len() > 60, "{}", marks.len());
    let page = fs::read_to_string(root.join("docs/codes.md")).expect("docs/codes.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let wrong = rows.filter(|(cell, found)| {
        let has = MARKS.iter().find(|(_, mark)| found.starts_with(mark)).map_or("", |(_, mark)| *mark);
        cell.split('`').step_by(2).filter_map(|code| marks.get(code)).any(|expected| has != *expected)
    });
    wrong.map(|(cell, _)| cell.to_owned()).collect()
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A source without its tests.
fn source(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("a folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}
