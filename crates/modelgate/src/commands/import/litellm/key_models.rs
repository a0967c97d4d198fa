//! The models that a key may use: those that the key, its team, its organization and (without a team) its user may all use.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    models::{self, Allowed, OF_TEAM},
    owners::Owner,
    values::texts,
};
use crate::commands::import::{fields::is_given, found::Findings};

/// Names that mean another model in LiteLLM, but would mean themselves here.
struct Aliases(BTreeSet<String>);

/// The models that the key, its team, its organization and (without a team) its user may all use, as globs; an empty list means
/// all.
pub(super) fn of_key(
    row: &Map<String, Value>,
    [team, organization, user]: [&Owner; 3],
    findings: &mut Findings,
) -> Result<Vec<String>, String> {
    let own = own(row, team)?;
    let in_row = models::of_team_in_row(row)?;
    if own.is_all() {
        if team.says_no_models() && in_row.is_none() {
            return Err(not_in_the_files(team.kind));
        }
        if organization.says_no_models() {
            return Err(not_in_the_files(organization.kind));
        }
    }
    let mut allowed = own;
    let of_user = user.models.as_ref().filter(|_| !team.is_some());
    let lists = [
        (team.kind, team.models.as_ref()),
        (organization.kind, organization.models.as_ref()),
        (user.kind, of_user),
    ];
    for (kind, models) in lists {
        if let Some(models) = models {
            allowed = allowed.and(models.as_ref().map_err(Clone::clone)?, kind, findings)?;
        }
    }
    if let Some(models) = in_row {
        allowed = allowed.and(&models, team.kind, findings)?;
    }
    Ok(Aliases::of(row, team)?.leave_out(allowed, findings)?.into_globs())
}

/// The message if an owner's list of models is not in the files.
fn not_in_the_files(kind: &str) -> String {
    format!(
        "its models are those of its {kind}, which the files do not say; add the answer to GET /{kind}/list, or write them into \
         its models"
    )
}

/// The models in the key's own list.
///
/// # Errors
/// The list refers to the models of something unknown.
fn own(row: &Map<String, Value>, team: &Owner) -> Result<Allowed, String> {
    let names = texts(row.get("models"), "its models")?;
    let takes_teams = names.iter().any(|name| name == OF_TEAM);
    let own = if takes_teams { Allowed::All } else { Allowed::of(&names, "its models")? };
    if own.is_all() {
        for (field, whose) in [("project_id", "its project"), ("access_group_ids", "its access groups")] {
            if row.get(field).is_some_and(is_given) {
                return Err(format!(
                    "its models are those of {whose}, which the files do not say; write them into its models"
                ));
            }
        }
    }
    if takes_teams && !team.is_some() {
        return Err("its models are those of its team, and it is in none".into());
    }
    Ok(own)
}

impl Aliases {
    /// The aliases of the key and of its team.
    fn of(row: &Map<String, Value>, team: &Owner) -> Result<Self, String> {
        let mut aliases = team.aliases.clone();
        for field in ["aliases", "team_model_aliases"] {
            aliases.extend(models::names_of(row.get(field), &format!("its {field}"))?);
        }
        Ok(Self(aliases))
    }

    /// Removes aliases. LiteLLM answers them with another model; here they would mean the model of that name.
    fn leave_out(&self, allowed: Allowed, findings: &mut Findings) -> Result<Allowed, String> {
        const WHY: &str = "they stand for other models there, and here for the models that are called so";
        if self.0.is_empty() {
            return Ok(allowed);
        }
        let names = || self.0.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let Allowed::Some(mut patterns) = allowed else {
            findings.hold("aliases", format!("its aliases {}: {WHY}", names()));
            return Ok(Allowed::All);
        };
        patterns.retain(|pattern| !self.0.contains(&pattern.name));
        if patterns.is_empty() {
            return Err(format!(
                "its models are all aliases: {}; write what they stand for into its models",
                names()
            ));
        }
        match self.0.iter().any(|alias| patterns.iter().any(|pattern| pattern.matcher.matches(alias))) {
            true => findings.hold("aliases", format!("its aliases {}: {WHY}", names())),
            false => findings.say(format!("its aliases {}: {WHY}; they are not among its models", names())),
        }
        Ok(Allowed::Some(patterns))
    }
}
