//! Kong's declarative configuration: `kong.yml`, the output of `deck gateway dump`, and that of `kong config db_export`, which
//! refers to consumers by their id (<https://developer.konghq.com/gateway/db-less-mode/>,
//! <https://developer.konghq.com/deck/file/>; the names of fields are from `kong/db/schema/entities/`,
//! `kong/plugins/*/schema.lua` and go-database-reconciler's `pkg/file/types.go`).
//!
//! ```text
//! file.rs       parses the file: merge keys, consumers and groups by each of their names
//! fields.rs     classifies fields and plugins: understood, harmless, or a restriction
//! effect.rs     what one plugin restricts
//! plugins.rs    plugins, where they apply, and which of them applies to a consumer
//! limits.rs     rate-limiting, rate-limiting-advanced and ai-rate-limiting-advanced as limits
//! networks.rs   ip-restriction as networks
//! key_auth.rs   where clients send their keys
//! ```

mod effect;
mod fields;
mod file;
mod key_auth;
mod limits;
mod networks;
mod plugins;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use access::KeyDigest;
use serde_json::Value;

use self::{
    file::{Credential, File, Person},
    plugins::{Plugins, Rights},
};
use super::{
    found::{Consumer, Findings, Imported, ImportedKey, Requests},
    names::UniqueNames,
};

/// Reads the file; `written` is when it was written, from which the remaining seconds in a key's `ttl` count.
///
/// # Errors
/// The file is not such a configuration; the error says why.
pub(super) fn read(text: &str, written: SystemTime) -> Result<Imported, String> {
    let root = file::parse(text)?;
    let file = File::of(&root)?;
    let mut imported = Imported::default();
    let plugins = Plugins::of(&file, &mut imported);
    let mut everybody = Findings::default();
    fields::TOP.look(file.root, &mut everybody);
    let holds_all = imported.say_all("the file", everybody);
    let mut reader = KongReader { written, names: UniqueNames::default(), consumers: Consumers::default() };
    for person in &file.people {
        let owned = reader.person(person, &plugins, &holds_all, &mut imported);
        if let Some(owned) = owned {
            for credential in &person.credentials {
                reader.credential(person.name, &owned, credential, &mut imported);
            }
        }
    }
    for Credential { place, .. } in &file.orphans {
        imported.say(place.clone(), "it names no consumer");
    }
    let headers = key_auth::headers(&plugins, &mut imported);
    imported.requests = (!headers.is_empty()).then_some(Requests { key_headers: headers });
    Ok(imported)
}

struct KongReader {
    written: SystemTime,
    names: UniqueNames,
    consumers: Consumers,
}

/// The names of consumers that are in use.
#[derive(Default)]
struct Consumers(BTreeSet<String>);

impl Consumers {
    /// A consumer's name. Two of Kong's consumers never get the same name, even if one's `custom_id` is the other's `username`.
    fn name(&mut self, person: &Person<'_>) -> String {
        let mut name = UniqueNames::plain(person.name);
        if !self.0.insert(name.clone()) {
            name = UniqueNames::marked(person.name, &person.place);
            self.0.insert(name.clone());
        }
        name
    }
}

/// What the keys of a consumer get.
struct Owned {
    consumer: String,
    rights: Rights,
    disabled: bool,
}

impl KongReader {
    /// What a consumer's keys get; nothing if their owner cannot be determined.
    fn person(
        &mut self,
        person: &Person<'_>,
        plugins: &Plugins<'_>,
        holds_all: &BTreeSet<String>,
        imported: &mut Imported,
    ) -> Option<Owned> {
        if person.name.is_empty() {
            imported.say(person.place.clone(), "it has neither username nor custom_id");
            return None;
        }
        let mut findings = Findings::default();
        fields::CONSUMER.look(person.object, &mut findings);
        if person.is_unknown {
            findings.hold("consumer", "the file has its keys, and does not have the consumer itself");
        }
        if person.has_acls {
            findings.hold(
                "acl",
                "its acls; Kong's routes say what they allow: give its keys models or a plan, and enable them",
            );
        }
        for group in &person.unknown_groups {
            findings.hold("consumer_groups", format!("its group {group:?}, which the file does not have"));
        }
        let is_off = file::is_off(person.object.get("enabled"));
        if is_off {
            findings.is_disabled("it is not enabled; its keys are taken over disabled");
        }
        let mut rights = plugins.rights_of(person, &mut findings);
        rights.held_by.extend(imported.say_all(&person.place, findings));
        rights.held_by.extend(holds_all.iter().cloned());
        if person.credentials.is_empty() {
            imported.say(person.place.clone(), "it has no keyauth_credentials");
        }
        let mut consumer = Consumer::new(self.consumers.name(person), person.name);
        consumer.limit = rights.of_consumer.clone();
        let name = consumer.name.clone();
        if consumer.says_something() {
            imported.consumers.push(consumer);
        }
        Some(Owned { consumer: name, rights, disabled: is_off })
    }

    fn credential(
        &mut self,
        name: &str,
        owned: &Owned,
        credential: &Credential<'_>,
        imported: &mut Imported,
    ) {
        let mut findings = Findings::default();
        match self.key(name, credential.value, &mut findings) {
            Ok(key) => {
                let mut held_by = owned.rights.held_by.clone();
                held_by.extend(imported.say_all(&credential.place, findings));
                imported.keys.push(ImportedKey {
                    consumer: owned.consumer.clone(),
                    limit: owned.rights.of_key.clone(),
                    networks: owned.rights.networks.clone(),
                    disabled: key.disabled || owned.disabled,
                    held_by,
                    ..key
                });
            }
            Err(why) => imported.say(credential.place.clone(), why),
        }
    }

    fn key(
        &mut self,
        name: &str,
        credential: &Value,
        findings: &mut Findings,
    ) -> Result<ImportedKey, String> {
        let object = credential.as_object().ok_or("it is no mapping")?;
        let key = object.get("key").and_then(Value::as_str).unwrap_or_default();
        // decK reads keys from the environment, Kong from vaults.
        if key.starts_with("${{") || key.starts_with("{vault:") {
            return Err(
                "its key stands elsewhere; write it here, or import what `deck gateway dump` prints".into()
            );
        }
        if !((1..=512).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())) {
            return Err("its key is not a text of 1 to 512 visible ASCII characters".into());
        }
        fields::CREDENTIAL.look(object, findings);
        let is_off = file::is_off(object.get("enabled"));
        if is_off {
            findings.is_disabled("it is not enabled; the key is taken over disabled");
        }
        Ok(ImportedKey {
            expires: object
                .get("ttl")
                .filter(|ttl| !ttl.is_null())
                .and_then(|ttl| self.expires(ttl, findings)),
            name: self.names.unique(name),
            wanted: UniqueNames::plain(name),
            sha256: KeyDigest::of(key).to_hex(),
            disabled: is_off,
            ..ImportedKey::default()
        })
    }

    /// The expiry of a key. `ttl` is the number of seconds that were left when the file was written.
    fn expires(&self, ttl: &Value, findings: &mut Findings) -> Option<String> {
        let end = ttl.as_u64().and_then(|ttl| self.written.checked_add(Duration::from_secs(ttl)));
        // The last year that can be represented.
        let end = end.filter(|end| *end < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800));
        let Some(end) = end else {
            findings.hold("ttl", "its ttl, which is no number of seconds");
            return None;
        };
        let end = humantime::format_rfc3339_seconds(end).to_string();
        findings.differ(format!("its ttl counts from when the file was written: the key expires {end}"));
        Some(end)
    }
}
