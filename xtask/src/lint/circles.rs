//! Modules of a crate do not import each other in a circle, so each can be read with only those below it in mind.
//!
//! A module imports the one that *defines* what it names, wherever that is re-exported. A folder's own module holds what its parts
//! share and calls them, so imports between a module and those inside it form no circle, except in the binary.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use super::module::Module;
use crate::{
    Result,
    source::{files, tokens, without_tests},
};

/// Crates whose modules still import each other in circles. Take one from the list once it has none; add none.
const WITH_CIRCLES: [&str; 4] = ["access", "accounts", "catalogue", "web"];
/// Crates in which not even a module and one inside it may import each other.
const STRICT: [&str; 1] = ["modelgate"];

/// The path of a module from the crate's root, whose own is empty.
pub(super) type ModulePath = Vec<String>;

/// Checks these crates: folders with a `src`.
pub(super) fn check(crates: &[PathBuf]) -> Result {
    let mut circles = Vec::new();
    for folder in crates {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let found = Modules::read(&folder.join("src"), STRICT.contains(&&*name))?.circles();
        match (WITH_CIRCLES.contains(&&*name), found.is_empty()) {
            (true, true) => {
                return Err(format!("{name} has no circles: take it from the list in circles.rs").into());
            }
            (true, false) => {}
            (false, _) => circles.extend(found.into_iter().map(|circle| format!("{name}: {circle}"))),
        }
    }
    if circles.is_empty() {
        return Ok(());
    }
    Err(format!("modules import each other in a circle:\n{}", circles.join("\n")).into())
}

/// The modules of a crate.
struct Modules {
    all: BTreeMap<ModulePath, Module>,
    /// Whether imports between a module and one inside it count.
    is_strict: bool,
}

impl Modules {
    /// Reads a crate's `src`, except tests and its further binaries.
    fn read(src: &Path, is_strict: bool) -> Result<Self> {
        let mut all = BTreeMap::new();
        for file in files(src)? {
            let below = file.strip_prefix(src)?.with_extension("");
            let mut path: ModulePath = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if path.iter().any(|part| ["tests", "testing", "bin"].contains(&part.as_str())) {
                continue;
            }
            path.pop_if(|last| ["main", "lib", "mod"].contains(&last.as_str()));
            all.insert(path, Module::of(without_tests(&tokens(&fs::read_to_string(file)?))));
        }
        Ok(Self { all, is_strict })
    }

    /// Each circle, as its modules in the order in which they import each other. Of circles that share a module one is listed.
    fn circles(&self) -> Vec<String> {
        let imports = self.all.keys().map(|module| (module, self.imports(module))).collect();
        let mut told = BTreeSet::new();
        let mut circles = Vec::new();
        for module in self.all.keys() {
            let Some(circle) = circle_through(module, &imports) else { continue };
            if circle.iter().all(|member| told.insert(*member)) {
                let names: Vec<String> = circle.iter().chain([&module]).map(|member| shown(member)).collect();
                circles.push(names.join(" → "));
            }
        }
        circles
    }

    /// The modules that define what this one uses.
    fn imports(&self, module: &ModulePath) -> BTreeSet<&ModulePath> {
        let used = self.all[module].used.iter().filter_map(|path| self.defines(module, path));
        used.filter(|other| self.counts(module, other)).collect()
    }

    fn counts(&self, one: &ModulePath, other: &ModulePath) -> bool {
        let is_inside = one.starts_with(other) || other.starts_with(one);
        if self.is_strict { one != other } else { !is_inside }
    }

    /// The module of this crate that defines what a path means in a module.
    fn defines(&self, module: &ModulePath, path: &[String]) -> Option<&ModulePath> {
        let (found, is_item) = self.follow(module, path, 0)?;
        // A single word that is the name of a module may be a variable's.
        (is_item || path.len() > 1).then_some(found)
    }

    /// Follows a path from a module, through re-exports. Returns the module where it ends, and whether the path ends at an item
    /// there and not at the module itself.
    fn follow(&self, module: &ModulePath, path: &[String], exports: usize) -> Option<(&ModulePath, bool)> {
        /// More than any name needs; modules may re-export each other's names.
        const MAX_EXPORTS: usize = 16;
        let (mut at, mut rest) = (module.clone(), path);
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                name => {
                    let child = [at.as_slice(), &[name.to_owned()]].concat();
                    let (here, words) = self.all.get_key_value(&at)?;
                    if self.all.contains_key(&child) {
                        at = child;
                    } else if words.defined.contains(name) {
                        return Some((here, true));
                    } else if exports < MAX_EXPORTS {
                        let meant = [words.imported.get(name)?.as_slice(), others].concat();
                        return self.follow(&at, &meant, exports + 1);
                    } else {
                        return None;
                    }
                }
            }
            rest = others;
        }
        self.all.get_key_value(&at).map(|(here, _)| (here, false))
    }
}

/// The shortest circle through a module, without its end.
fn circle_through<'m>(
    module: &'m ModulePath,
    imports: &BTreeMap<&'m ModulePath, BTreeSet<&'m ModulePath>>,
) -> Option<Vec<&'m ModulePath>> {
    let mut ways = VecDeque::from([vec![module]]);
    let mut reached = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in &imports[way.last()?] {
            if *next == module {
                return Some(way);
            }
            if reached.insert(*next) {
                ways.push_back([way.as_slice(), &[*next]].concat());
            }
        }
    }
    None
}

fn shown(module: &ModulePath) -> String {
    if module.is_empty() { "the crate's root".into() } else { module.join("::") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Modules;
    use crate::{
        lint::module::Module,
        source::{tokens, without_tests},
    };

    fn circles(is_strict: bool, sources: &[(&str, &str)]) -> Vec<String> {
        let path = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let module = |(name, source): &(&str, &str)| (path(name), Module::of(without_tests(&tokens(source))));
        let all: BTreeMap<_, _> = sources.iter().map(module).collect();
        Modules { all, is_strict }.circles()
    }

    #[test]
    fn a_circle_is_found_through_re_exports() {
        let root = ("", "mod a; mod b; mod c; pub use {a::A, b::{B, c as d}};");
        let a = ("a", "use crate::B; pub struct A(B);");
        let b = ("b", "pub struct B; pub fn c() { let a = crate::a::A::new(); }");
        assert_eq!(circles(false, &[root, a, b]), ["a → b → a"]);
        let longer = ("b", "use super::c; pub struct B(c::C);");
        let back = ("c", "use crate::{A as X, d}; pub struct C(X);");
        assert_eq!(circles(false, &[root, a, longer, back]), ["a → b → c → a"]);
    }

    #[test]
    fn what_is_re_exported_or_only_for_tests_is_no_import() {
        let root = ("", "mod a; mod b; pub use {a::A, b::B};");
        let a = ("a", "use crate::B; pub struct A(B);");
        let b =
            ("b", "pub use crate::A; pub struct B; #[cfg(test)] mod tests { use crate::A; fn f(a: A) {} }");
        assert!(circles(true, &[root, a, b]).is_empty());
    }

    #[test]
    fn a_module_and_its_part_may_import_each_other_where_it_is_allowed() {
        let modules =
            [("a", "mod b; pub struct A; fn f() { b::g(A) }"), ("a::b", "use super::A; pub fn g(a: A) {}")];
        assert!(circles(false, &modules).is_empty());
        assert_eq!(circles(true, &modules), ["a → a::b → a"]);
    }
}
