//! `LiteLLM`'s lists (<https://docs.litellm.ai/docs/proxy/virtual_keys>): the keys, as `GET /key/list?return_full_object=true` or
//! `/key/info` answers, and the teams, users and organizations whose limits hold for them. It keeps the SHA-256 of a key, as
//! Modelgate does. `litellm/models/*.py` and `proxy/auth/auth_checks.py` of version 1.110 name the fields and say what is checked.
//!
//! ```text
//! answers.rs    which answer a file is
//! fields.rs     which fields are understood, harmless or restrict
//! owners.rs     teams, users and organizations: what they may, and how often
//! models.rs     lists of models
//! key_models.rs which models: of the key, its team, its user and its organization
//! limits.rs     how often
//! routes.rs     which paths
//! values.rs     values of a row
//! ```

mod answers;
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
    fields::Kind,
    owners::{Owner, Owners},
    values::{flag, number, text},
};
use super::{
    found::{Consumer, Findings, Imported, Key, Per},
    names::Names,
    source::Source,
};

/// Reads answers, one a file.
///
/// # Errors
/// One of them is none that is known, or there is no list of keys.
pub(super) fn read(sources: &[Source]) -> Result<Imported, String> {
    let answers = Answers::of(sources)?;
    let mut imported = Imported::default();
    answers.incomplete().into_iter().for_each(|text| imported.say("the files", text));
    let owners = Owners::of(&answers);
    let mut reader = Reader { owners, names: Names::default(), consumers: Consumers::default() };
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
    imported.consumers = reader.consumers.finish();
    Ok(imported)
}

struct Reader {
    owners: Owners,
    names: Names,
    consumers: Consumers,
}

/// Consumers, by what they are in LiteLLM: two teams may have one alias, and a user may be called as a team is.
#[derive(Default)]
struct Consumers {
    names: HashMap<(&'static str, String), String>,
    all: BTreeMap<String, Consumer>,
}

impl Reader {
    /// The key of a row, and what is not taken over of it.
    fn key(&mut self, row: &Row, findings: &mut Findings) -> Result<Key, String> {
        let object = row.object()?;
        if fields::is_deleted(object) {
            return Err("it is deleted".into());
        }
        let digest = row.digest()?;
        routes::check(object, findings)?;
        let team = self.owners.get(Kind::Team, text(object, "team_id")?, findings);
        let user = self.owners.get(Kind::User, text(object, "user_id")?, findings);
        let organization =
            text(object, "organization_id")?.or(text(object, "org_id")?).or(team.organization());
        let organization = self.owners.get(Kind::Organization, organization, findings);
        let owners = [&team, &organization, &user];
        let models = key_models::of_key(object, owners, findings)?;
        let limit = limits::of_row(object, findings)?;
        Kind::Key.look(object, findings)?;
        owners.iter().for_each(|owner| owner.hold(&team, &user, findings));
        let expires = text(object, "expires")?.map(expires).transpose()?;
        let disabled = flag(object, "blocked")? | flag(object, "team_blocked")?;
        let own_name = text(object, "key_alias")?;
        let (consumer, owners_name) = self.consumer(object, if team.is_some() { &team } else { &user })?;
        let name = own_name.unwrap_or(&owners_name);
        Ok(Key {
            models,
            limit,
            expires,
            disabled,
            wanted: Names::plain(name),
            name: self.names.unique(name),
            consumer,
            sha256: digest.to_hex(),
            ..Key::default()
        })
    }

    /// The name of the consumer that the key belongs to, here and there. The row may have limits of its team, too; where
    /// they differ, the smaller ones count.
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
        // Of users the id tells more: their aliases are free text.
        let alias = match owner.kind == Kind::Team.name() {
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
    /// The consumer that stands for it.
    fn of(&mut self, kind: &'static str, id: &str, name: &str) -> &mut Consumer {
        let key = (kind, id.to_owned());
        let found = self.names.get(&key).cloned().unwrap_or_else(|| {
            let plain = Names::plain(name);
            let is_taken = self.all.contains_key(&plain);
            if is_taken { Names::marked(name, &format!("{kind} {id}")) } else { plain }
        });
        self.names.insert(key, found.clone());
        self.all.entry(found.clone()).or_insert_with(|| Consumer::new(found, name))
    }

    fn finish(self) -> Vec<Consumer> {
        self.all.into_values().filter(Consumer::says_something).collect()
    }
}

/// Python's `isoformat`, with or without a zone, which then is UTC.
fn expires(text: &str) -> Result<String, String> {
    let zoned = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    let time =
        humantime::parse_rfc3339_weak(zoned).map_err(|_| format!("its expiry {text:?} is no time in UTC"))?;
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}
