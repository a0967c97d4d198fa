//! `LiteLLM`'s lists (<https://docs.litellm.ai/docs/proxy/virtual_keys>): the keys, as `GET /key/list?return_full_object=true` or
//! `/key/info` answers, and the teams, users and organizations whose limits apply to them. LiteLLM stores the SHA-256 of a key,
//! as Modelgate does. The names of fields and the checks are from `litellm/models/*.py` and `proxy/auth/auth_checks.py` of
//! version 1.110.
//!
//! ```text
//! answers.rs    recognises which answer a file is
//! fields.rs     classifies fields: understood, harmless, or a restriction
//! owners.rs     teams, users and organizations: their models and limits
//! models.rs     lists of models
//! key_models.rs the models of a key, from those of itself, its team, its user and its organization
//! limits.rs     limits
//! budgets.rs    budgets
//! routes.rs     permitted paths
//! values.rs     values of a row
//! ```

mod answers;
mod budgets;
mod fields;
mod key_models;
mod limits;
mod models;
mod owners;
mod routes;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, HashMap};

use serde_json::Map;
use serde_json::Value;

use self::{
    answers::{Answers, Row},
    fields::RowKind,
    owners::{Owner, Owners},
    values::{flag, number, text, time},
};
use super::{
    found::{Consumer, Findings, Imported, ImportedKey, Per},
    names::UniqueNames,
    source::InputFile,
};

/// Reads answers, one in each file.
///
/// # Errors
/// A file is not a known answer, or there is no list of keys.
pub(super) fn read(sources: &[InputFile]) -> Result<Imported, String> {
    let answers = Answers::of(sources)?;
    let mut imported = Imported::default();
    answers.incomplete().into_iter().for_each(|text| imported.say("the files", text));
    let owners = Owners::of(&answers);
    let mut reader = LitellmReader { owners, names: UniqueNames::default(), consumers: Consumers::default() };
    for row in &answers.keys {
        let mut findings = Findings::default();
        match reader.key(row, &mut findings) {
            Ok(mut key) => {
                key.held_by.extend(imported.say_all(&format!("{} {}", row.place, key.wanted), findings));
                imported.keys.push(key);
            }
            Err(why) => imported.say(row.place.clone(), why),
        }
    }
    reader.owners.say(&mut imported);
    for (place, name) in std::mem::take(&mut reader.consumers.renamed) {
        let mut findings = Findings::default();
        findings.differ(format!("its consumer is called {name} here"));
        imported.say_all(&place, findings);
    }
    imported.consumers = reader.consumers.finish();
    Ok(imported)
}

struct LitellmReader {
    owners: Owners,
    names: UniqueNames,
    consumers: Consumers,
}

/// Consumers, by what they are in LiteLLM: two teams may have the same alias, and a user may have the name of a team.
#[derive(Default)]
struct Consumers {
    names: HashMap<(&'static str, String), String>,
    all: BTreeMap<String, Consumer>,
    /// Those whose name had to be changed: what they are in LiteLLM, and their name here.
    renamed: Vec<(String, String)>,
}

impl LitellmReader {
    /// The key of a row. What is not imported is reported in `findings`.
    fn key(&mut self, row: &Row, findings: &mut Findings) -> Result<ImportedKey, String> {
        let object = row.object()?;
        if fields::is_deleted(object) {
            return Err("it is deleted".into());
        }
        let digest = row.digest()?;
        routes::check(object, findings)?;
        let team = self.owners.get(RowKind::Team, text(object, "team_id")?, findings);
        let user = self.owners.get(RowKind::User, text(object, "user_id")?, findings);
        let organization =
            text(object, "organization_id")?.or(text(object, "org_id")?).or(team.organization());
        let organization = self.owners.get(RowKind::Organization, organization, findings);
        let owners = [&team, &organization, &user];
        let models = key_models::of_key(object, owners, findings)?;
        let limit = limits::of_row(object, findings)?;
        RowKind::Key.look(object, findings)?;
        owners.iter().for_each(|owner| owner.hold(&team, &user, findings));
        let expires = text(object, "expires")?.map(expires).transpose()?;
        let (is_blocked, is_of_blocked) = (flag(object, "blocked")?, flag(object, "team_blocked")?);
        let disabled = is_blocked | is_of_blocked;
        let consumer_there = if team.is_some() { &team } else { &user };
        if is_blocked {
            findings.is_disabled("it is blocked there");
        }
        if consumer_there.blocked {
            findings.is_disabled(format!("its {} is blocked there", consumer_there.in_words()));
        } else if is_of_blocked {
            findings.is_disabled("its team is blocked there");
        }
        let own_name = text(object, "key_alias")?;
        let (consumer, owners_name) = self.consumer(object, consumer_there)?;
        let name = own_name.unwrap_or(&owners_name);
        Ok(ImportedKey {
            models,
            limit,
            expires,
            disabled,
            wanted: UniqueNames::plain(name),
            name: self.names.unique(name),
            consumer,
            sha256: digest.to_hex(),
            ..ImportedKey::default()
        })
    }

    /// The name of the key's consumer, in LiteLLM and here. The row may also contain limits of its team; where they differ, the
    /// smaller ones apply.
    fn consumer(&mut self, row: &Map<String, Value>, owner: &Owner) -> Result<(String, String), String> {
        const OF_TEAM: [(&str, Per); 3] = [
            ("team_rpm_limit", Per::RequestsPerMinute),
            ("team_tpm_limit", Per::TokensPerMinute),
            ("team_tpd_limit", Per::TokensPerDay),
        ];
        let mut limit = owner.limit.clone();
        for (field, per) in OF_TEAM {
            if let Some(amount) = number(row.get(field), field)? {
                limit.add(per, amount);
            }
        }
        let id = owner.id.as_deref().unwrap_or("litellm");
        // For users the id is more telling, because their aliases are free text.
        let alias = match owner.kind == RowKind::Team.name() {
            true => text(row, "team_alias")?.or(owner.alias.as_deref()),
            false => None,
        };
        let name = alias.unwrap_or(id);
        let consumer = self.consumers.of(owner.kind, id, name);
        consumer.limit.add_all(&limit);
        consumer.disabled |= owner.blocked;
        Ok((consumer.name.clone(), name.to_owned()))
    }
}

impl Consumers {
    /// The consumer for an owner.
    fn of(&mut self, kind: &'static str, id: &str, name: &str) -> &mut Consumer {
        let key = (kind, id.to_owned());
        let found = self.names.get(&key).cloned().unwrap_or_else(|| {
            let plain = UniqueNames::plain(name);
            let is_taken = self.all.contains_key(&plain);
            if is_taken { UniqueNames::marked(name, &format!("{kind} {id}")) } else { plain }
        });
        if self.names.insert(key, found.clone()).is_none() && found != name {
            self.renamed.push((format!("{kind} {name}"), found.clone()));
        }
        self.all.entry(found.clone()).or_insert_with(|| Consumer::new(found, name))
    }

    fn finish(self) -> Vec<Consumer> {
        self.all.into_values().filter(Consumer::says_something).collect()
    }
}

fn expires(text: &str) -> Result<String, String> {
    let time = time(text).map_err(|_| format!("its expiry {text:?} is no time in UTC"))?;
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}
