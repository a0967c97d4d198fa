//! Which models a key may use. A key in a team may use what the team may, too, or only that if it has no list of its own.

use std::collections::HashMap;

use access::ModelGlobs;
use serde_json::Value;

use super::{is_given, text, texts};

/// In a list of models: all that there are, as far as the team's list goes.
const ALL: [&str; 2] = ["all-proxy-models", "*"];
/// In a key's list: those of its team.
const OF_TEAM: &str = "all-team-models";
/// What to do where the rights stand elsewhere.
const INSTEAD: &str = "which the list does not say; write them into its models";

/// What teams may use, by their id: `teams` of the file, as `GET /team/list` answers.
pub(super) struct Teams<'v>(HashMap<&'v str, &'v Value>);

impl<'v> Teams<'v> {
    pub(super) fn of(file: &'v Value) -> Self {
        let teams = file["teams"].as_array().into_iter().flatten();
        // A team without models is one that is not known; an empty list means all.
        let known = |team: &'v Value| Some((team["team_id"].as_str()?, team.get("models")?));
        Self(teams.filter_map(known).filter(|(_, models)| models.is_array()).collect())
    }

    /// The list of the row's team. LiteLLM's list of keys has an empty `team_models` in each row, which says nothing.
    fn models(&self, row: &'v Value, team: &str) -> Result<Option<Vec<String>>, String> {
        let in_row = &row["team_models"];
        let found = self.0.get(team).copied().or_else(|| is_given(in_row).then_some(in_row));
        found.map(|models| texts(models, "its team's models")).transpose()
    }
}

/// Globs; none means all, as here.
pub(super) fn of(row: &Value, teams: &Teams<'_>, notes: &mut Vec<String>) -> Result<Vec<String>, String> {
    let own = texts(&row["models"], "its models")?;
    globs(&own, "its models")?;
    let is_all = |models: &[String]| models.is_empty() || models.iter().any(|m| ALL.contains(&m.as_str()));
    let takes_teams = own.iter().any(|model| model == OF_TEAM);
    let is_open = takes_teams || is_all(&own);
    if is_open {
        for (field, whose) in [("project_id", "its project"), ("access_group_ids", "its access groups")] {
            if is_given(&row[field]) {
                return Err(format!("its models are those of {whose}, {INSTEAD}"));
            }
        }
    }
    let Some(team) = text(row, "team_id")? else {
        return match is_open {
            true if takes_teams => Err("its models are those of its team, and it is in none".into()),
            true if is_given(&row["organization_id"]) || is_given(&row["org_id"]) => {
                Err(format!("its models are those of its organization, {INSTEAD}"))
            }
            true => {
                if is_given(&row["user_id"]) {
                    notes.push(
                        "what its user may use, which the list does not say; it may use all models".into(),
                    );
                }
                Ok(Vec::new())
            }
            false => Ok(own),
        };
    };
    match teams.models(row, team)? {
        None if is_open => Err(format!(
            "its models are those of its team, {INSTEAD}, or what GET /team/list answers into the file, as \"teams\""
        )),
        None => Ok(own),
        Some(of_team) if of_team.iter().any(|model| model == OF_TEAM) => {
            Err(format!("its team's models are {OF_TEAM:?}; write them into its models"))
        }
        Some(of_team) if is_all(&of_team) => Ok(if is_open { Vec::new() } else { own }),
        Some(of_team) => {
            let allowed = globs(&of_team, "its team's models")?;
            if is_open {
                return Ok(of_team);
            }
            let (both, others): (Vec<_>, Vec<_>) = own.into_iter().partition(|model| allowed.matches(model));
            if both.is_empty() {
                return Err("its team may use none of its models".into());
            }
            notes.extend(
                others.into_iter().map(|model| format!("model {model:?}, which its team may not use")),
            );
            Ok(both)
        }
    }
}

fn globs(models: &[String], what: &str) -> Result<ModelGlobs, String> {
    ModelGlobs::parse(models).map_err(|invalid| format!("{what}: {invalid}"))
}
