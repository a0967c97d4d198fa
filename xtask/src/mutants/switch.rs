//! All changes in one program: each function with changes becomes a choice between its variants.

use std::collections::{BTreeMap, HashSet};
use std::ops::{Range, RangeInclusive};

use super::list::Mutant;
use crate::source::placed_tokens;

/// What a crate is asked by each of its functions with changes: which change is switched on (`MUTANT`). It also notes that the
/// function has been called, in the file that `MUTANT_LOG` names.
pub(super) const SWITCH: &str = r#"
#[doc(hidden)] #[allow(warnings)] pub fn __mutant(function: usize) -> usize {
    use std::{collections::HashSet, env, fs::{File, OpenOptions}, io::Write, sync::{Mutex, OnceLock}};
    static ON: OnceLock<(usize, Option<Mutex<(HashSet<usize>, File)>>)> = OnceLock::new();
    let on = ON.get_or_init(|| (
        env::var("MUTANT").map_or(0, |number| number.parse().unwrap()),
        env::var("MUTANT_LOG").ok().map(|path|
            Mutex::new((HashSet::new(), OpenOptions::new().create(true).append(true).open(path).unwrap()))),
    ));
    if let Some(log) = &on.1 {
        let mut log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if log.0.insert(function) { writeln!(log.1, "{function}").unwrap(); }
    }
    on.0
}
"#;

/// A function with changes.
pub(super) struct Unit {
    pub(super) file: String,
    /// From its opening to its closing brace.
    body: Range<usize>,
    /// Its changes, by their numbers: places in the list, counted from 1.
    pub(super) changes: Vec<usize>,
    pub(super) kind: Kind,
}

/// What can be done with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The variants stand beside each other.
    Switched,
    /// It returns `impl …`, which each variant would be another type of: its changes are compiled one after another.
    Observed,
    /// A `const fn` cannot ask which change is on; nobody knows which tests call it.
    Constant,
}

/// Groups the changes by their functions; those in constants are in none.
pub(super) fn units(mutants: &[Mutant], sources: &BTreeMap<String, String>) -> Vec<Unit> {
    let mut outermost: BTreeMap<(&str, usize), (usize, Vec<usize>)> = BTreeMap::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let Some(function) = &mutant.function else { continue };
        // A function inside of a function belongs to the outer one, as far as that has changes.
        let around = mutants.iter().filter(|other| other.file == mutant.file);
        let around = around.filter_map(|other| other.function.as_ref());
        let outer = around.filter(|other| other.contains(&function.start)).min_by_key(|other| other.start);
        let outer = outer.unwrap_or(function);
        let unit = outermost.entry((&mutant.file, outer.start)).or_insert((outer.end, Vec::new()));
        unit.1.push(index + 1);
    }
    let units = outermost.into_iter().filter_map(|((file, start), (end, changes))| {
        let (open, kind) = head(&sources[file][start..end])?;
        Some(Unit { file: file.to_owned(), body: start + open..end, changes, kind })
    });
    units.collect()
}

/// The changes that can be in one program with all others, by their numbers.
pub(super) fn switched(units: &[Unit]) -> HashSet<usize> {
    let units = units.iter().filter(|unit| unit.kind == Kind::Switched);
    units.flat_map(|unit| unit.changes.iter().copied()).collect()
}

/// Where the body of a function begins, and what can be done with it.
fn head(function: &str) -> Option<(usize, Kind)> {
    let mut depth = 0_usize;
    let (mut is_named, mut is_const, mut returns) = (false, false, false);
    let mut kind = Kind::Switched;
    let mut before = "";
    for (at, token) in placed_tokens(function) {
        match token {
            "{" if is_named && depth == 0 => return Some((at, if is_const { Kind::Constant } else { kind })),
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "const" if depth == 0 && !is_named => is_const = true,
            "fn" if depth == 0 => is_named = true,
            ">" if before == "-" && depth == 0 => returns = true,
            "impl" if returns => kind = Kind::Observed,
            _ => {}
        }
        before = token;
    }
    None
}

/// A file with its changes, and the lines on which each of them stands.
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) lines: Vec<(RangeInclusive<usize>, usize)>,
}

/// Writes a file with all changes but those in `without`.
pub(super) fn all(source: &str, units: &[&Unit], mutants: &[Mutant], without: &HashSet<usize>) -> Rendered {
    let (mut text, mut lines, mut end) = (String::new(), Vec::new(), 0);
    for unit in units.iter().filter(|unit| unit.kind != Kind::Constant) {
        let original = &source[unit.body.clone()];
        let function = unit.changes[0];
        text.push_str(&source[end..unit.body.start]);
        end = unit.body.end;
        if unit.kind == Kind::Observed {
            text.push_str(&format!("{{ crate::__mutant({function}); {original} }}"));
            continue;
        }
        text.push_str(&format!("{{ match crate::__mutant({function}) {{\n"));
        for number in unit.changes.iter().filter(|number| !without.contains(number)) {
            let first = text.matches('\n').count() + 1;
            let variant = alone(source, &mutants[number - 1], unit.body.clone());
            text.push_str(&format!("{number} => {variant},\n"));
            lines.push((first..=text.matches('\n').count(), *number));
        }
        text.push_str(&format!("_ => {original}\n}} }}"));
    }
    text.push_str(&source[end..]);
    Rendered { text, lines }
}

/// A part of a file with one change.
pub(super) fn alone(source: &str, mutant: &Mutant, part: Range<usize>) -> String {
    let (before, after) = (&source[part.start..mutant.place.start], &source[mutant.place.end..part.end]);
    format!("{before}{}{after}", mutant.replacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_function_is_found() {
        let cases = [
            ("fn f() {}", Kind::Switched),
            ("#[x(\"{\")] pub async fn f<'a>(a: [u8; { 3 }], b: impl Fn() -> u8) -> u8 {}", Kind::Switched),
            ("/// fn {\n pub(crate) const fn f() -> &'static str {}", Kind::Constant),
            (
                "fn f(&self) -> Option<impl Iterator<Item = (u8, u8)> + '_> where Self: Sized {}",
                Kind::Observed,
            ),
        ];
        for (function, kind) in cases {
            assert_eq!(head(function), Some((function.len() - 2, kind)), "{function}");
        }
    }

    #[test]
    fn a_function_becomes_a_choice() {
        let source =
            "const N: u8 = 1 + 2;\nfn f(a: bool) -> bool {\n    fn g() -> u8 { 1 }\n    !a\n}\n".to_owned();
        let change = |what: &str, function: Option<&str>, by: &str| {
            let place = |what: &str| source.find(what).map(|at| at..at + what.len()).expect(what);
            let [file, package, name] = ["f.rs", "p", what].map(str::to_owned);
            let function = function.map(|name| place(name).start..source.len() - 1);
            Mutant { name, package, file, function, place: place(what), replacement: by.to_owned() }
        };
        let mut inner = change("{ 1 }", Some("fn g"), "{ 0 }");
        inner.function = Some(source.find("fn g").expect("it")..source.find("\n    !a").expect("it"));
        let mutants = [change("+", None, "-"), inner, change("!a", Some("fn f"), "a")];
        let sources = BTreeMap::from([("f.rs".to_owned(), source.clone())]);
        let units = units(&mutants, &sources);
        assert_eq!(units.iter().map(|unit| &unit.changes[..]).collect::<Vec<_>>(), [[2, 3]]);
        assert_eq!(switched(&units), HashSet::from([2, 3]), "not the constant");
        let both = all(&source, &[&units[0]], &mutants, &HashSet::new());
        let of = |g: &str, a: &str| format!("{{\n    fn g() -> u8 {g}\n    {a}\n}}");
        let choice = |variants: &str| {
            let original = of("{ 1 }", "!a");
            format!(
                "const N: u8 = 1 + 2;\nfn f(a: bool) -> bool {{ match crate::__mutant(2) {{\n{variants}_ => {original}\n}} }}\n"
            )
        };
        let (second, third) = (of("{ 0 }", "!a"), of("{ 1 }", "a"));
        assert_eq!(both.text, choice(&format!("2 => {second},\n3 => {third},\n")));
        assert_eq!(both.lines, [(3..=6, 2), (7..=10, 3)]);
        let one = all(&source, &[&units[0]], &mutants, &HashSet::from([2]));
        assert_eq!(one.text, choice(&format!("3 => {third},\n")));
    }
}
