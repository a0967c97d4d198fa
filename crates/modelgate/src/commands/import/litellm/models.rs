//! Lists of models, and their intersection.
//!
//! A name with `*` is a pattern (`is_model_allowed_by_pattern`); any other name is literal, even if it contains brackets.

use std::collections::BTreeSet;

use access::ModelGlobs;
use serde_json::{Map, Value};

use super::values::{object_or_text, texts};
use crate::commands::import::found::Findings;

/// Entries that mean all models.
const ALL: [&str; 2] = ["all-proxy-models", "*"];
/// The entry of a key's list that means its team's models.
pub(super) const OF_TEAM: &str = "all-team-models";

/// The models that may be used.
#[derive(Debug, Clone)]
pub(super) enum Allowed {
    All,
    Some(Vec<Pattern>),
}

/// A name, or a pattern with `*`.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// The name in LiteLLM.
    pub(super) name: String,
    /// The pattern in Modelgate, where more characters are special.
    glob: String,
    pub(super) matcher: ModelGlobs,
}

/// The list of a team, a user or an organization; `None` if there is none.
pub(super) fn of_owner(row: &Map<String, Value>, kind: &str) -> Option<Result<Allowed, String>> {
    let what = format!("its {kind}'s models");
    let names = match row.get("models") {
        // An absent list means that the owner's models are not known; an empty list means all.
        None | Some(Value::Null) => return None,
        models => texts(models, &what),
    };
    Some(names.and_then(|names| match names.iter().any(|name| name == OF_TEAM) {
        true => Err(format!("{what} are {OF_TEAM:?}; write them into its models")),
        false => Allowed::of(&names, &what),
    }))
}

/// The team's models in a key's row. LiteLLM's list of keys has an empty `team_models` in each row, which means nothing.
pub(super) fn of_team_in_row(row: &Map<String, Value>) -> Result<Option<Allowed>, String> {
    let names = texts(row.get("team_models"), "its team's models")?;
    if names.is_empty() { Ok(None) } else { Allowed::of(&names, "its team's models").map(Some) }
}

impl Allowed {
    pub(super) fn of(names: &[String], what: &str) -> Result<Self, String> {
        if names.is_empty() || names.iter().any(|name| ALL.contains(&name.as_str())) {
            return Ok(Self::All);
        }
        let patterns = names.iter().map(|name| Pattern::of(name));
        let patterns = patterns.collect::<Result<_, _>>().map_err(|why| format!("{what}: {why}"))?;
        Ok(Self::Some(patterns))
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// The intersection. Of two overlapping patterns, the one that is contained in the other; if neither is, none.
    pub(super) fn and(self, other: &Self, kind: &str, findings: &mut Findings) -> Result<Self, String> {
        let (Self::Some(own), Self::Some(others)) = (&self, other) else {
            return Ok(if self.is_all() { other.clone() } else { self });
        };
        let mut both: Vec<Pattern> = Vec::new();
        for pattern in own {
            let within: Vec<&Pattern> = match others.iter().any(|other| other.covers(pattern)) {
                true => vec![pattern],
                false => others.iter().filter(|other| pattern.covers(other)).collect(),
            };
            if within.is_empty() {
                findings.say(format!("model {:?}, which its {kind} may not use", pattern.name));
            }
            both.extend(within.into_iter().cloned());
        }
        if both.is_empty() {
            return Err(format!("its {kind} may use none of its models"));
        }
        Ok(Self::Some(both))
    }

    /// The patterns for the configuration; an empty list means all.
    pub(super) fn into_globs(self) -> Vec<String> {
        let Self::Some(patterns) = self else { return Vec::new() };
        let mut seen = BTreeSet::new();
        patterns.into_iter().map(|pattern| pattern.glob).filter(|glob| seen.insert(glob.clone())).collect()
    }
}

impl Pattern {
    fn of(name: &str) -> Result<Self, String> {
        let is_pattern = name.contains('*');
        // In a name with `*`, LiteLLM treats the other characters as a regular expression, too.
        if let Some(c) = name.chars().find(|c| is_pattern && "?[](){}+|^$\\".contains(*c)) {
            return Err(format!(
                "{name:?} has a {c:?} beside a *, which makes it a regular expression; write the names"
            ));
        }
        let mut glob = String::with_capacity(name.len());
        for c in name.chars() {
            if "?[]{}\\".contains(c) {
                glob.push('\\');
            }
            glob.push(c);
        }
        let matcher =
            ModelGlobs::parse(std::slice::from_ref(&glob)).map_err(|invalid| invalid.to_string())?;
        Ok(Self { name: name.to_owned(), glob, matcher })
    }

    /// Whether everything that the other matches is matched by this one: a `*` is matched only by a `*`.
    fn covers(&self, other: &Self) -> bool {
        self.matcher.matches(&other.name)
    }
}

/// The names in a map of aliases, which stand for other models.
pub(super) fn names_of(aliases: Option<&Value>, what: &str) -> Result<BTreeSet<String>, String> {
    let aliases = object_or_text(aliases, what)?;
    let other = |(alias, model): (String, Value)| (model.as_str() != Some(&alias)).then_some(alias);
    Ok(aliases.into_iter().flatten().filter_map(other).collect())
}
