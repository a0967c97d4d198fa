//! What a module defines, imports and uses.

use std::collections::{HashMap, HashSet};

use crate::source::is_word;

/// The words of a module.
#[derive(Default)]
pub(super) struct Module {
    /// The names of its items.
    pub(super) defined: HashSet<String>,
    /// The names that it imports or re-exports, and the path of each.
    pub(super) imported: HashMap<String, Vec<String>>,
    /// The paths and single names in its code, its glob imports, and the traits that it imports as `_`.
    pub(super) used: Vec<Vec<String>>,
}

impl Module {
    /// Reads the tokens of a module.
    pub(super) fn of(tokens: &[&str]) -> Self {
        let mut module = Self::default();
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1).copied().unwrap_or_default();
            at += 1;
            match *token {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                "use" if next != "<" => at = module.import(tokens, at, &[]),
                "struct" | "enum" | "trait" | "type" | "union" | "fn" | "static" | "const" if depth == 0 => {
                    module.defined.insert(next.to_owned());
                }
                "macro_rules" => {
                    module.defined.extend(tokens.get(at + 1).map(|name| (*name).to_owned()));
                }
                word if is_word(word) && tokens.get(at.wrapping_sub(2)) != Some(&"::") => {
                    module.used.push(path(&tokens[at - 1..]));
                }
                _ => {}
            }
        }
        module
    }

    /// Reads what is imported, from the token after `use`, and returns where it ends.
    fn import(&mut self, tokens: &[&str], mut at: usize, folder: &[String]) -> usize {
        let mut path = folder.to_vec();
        let mut name = None;
        let mut is_whole = false;
        while let Some(token) = tokens.get(at) {
            match *token {
                "{" => {
                    while tokens.get(at).is_some_and(|token| *token != "}") {
                        at = self.import(tokens, at + 1, &path);
                    }
                    return at + 1;
                }
                ";" | "," | "}" => break,
                "*" => is_whole = true,
                "as" => name = tokens.get(at + 1).map(|name| (*name).to_owned()),
                word if is_word(word) && name.is_none() => path.push(word.to_owned()),
                _ => {}
            }
            at += 1;
        }
        if is_whole || name.as_deref() == Some("_") {
            self.used.push(path);
        } else if path.len() > folder.len() {
            if path.len() > 1 {
                path.pop_if(|last| last == "self");
            }
            let name = name.or_else(|| path.last().cloned());
            self.imported.extend(name.map(|name| (name, path)));
        }
        at
    }
}

/// The path, or the single name, at the start of some tokens.
fn path(tokens: &[&str]) -> Vec<String> {
    let steps = tokens.chunks(2).map_while(|step| match step {
        [word, "::"] if is_word(word) => Some((*word, true)),
        [word, ..] if is_word(word) => Some((*word, false)),
        _ => None,
    });
    let mut goes_on = true;
    steps
        .take_while(|(_, more)| std::mem::replace(&mut goes_on, *more))
        .map(|(word, _)| word.to_owned())
        .collect()
}
