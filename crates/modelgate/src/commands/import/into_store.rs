//! Writes what was found into the store. Existing accounts are not changed.

use std::collections::{BTreeSet, HashMap, HashSet};

use access::KeyDigest;
use accounts::{Account, ConsumerSpec, KeySpec};
use config_reader::ConfigErrors;
use serde_json::json;
use store::{AccountSource, Audit, Conflict, Filter, Item, Registry};

use super::{
    found::{Consumer, Imported, ImportedKey},
    names::UniqueNames,
    reading,
};
use crate::{
    arguments::import::Import,
    commands::registry::{ACTOR, CommandFailure, answer},
};

/// How many accounts are written in one transaction. Other writers wait for at most this many.
const AT_ONCE: usize = 500;

/// The existing keys, in the configuration file and in the store.
#[derive(Debug, Default)]
struct ExistingKeys {
    /// Their names and sources, by their digests; digests from before a rotation are included.
    keys: HashMap<KeyDigest, (String, AccountSource)>,
    names: HashSet<String>,
}

/// The keys to write.
struct New {
    keys: Vec<KeySpec>,
    /// How many keys exist already.
    there: usize,
}

/// Writes what can be imported into the store. Existing accounts are not changed, and are reported; so importing is idempotent.
///
/// # Errors
/// The file cannot be read, or the store does not answer; keys before that have been written.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
pub(crate) async fn into_store(wanted: &Import, registry: &Registry) -> Result<(), CommandFailure> {
    let store = registry.store()?;
    let Imported { consumers, mut keys, .. } = reading::read(wanted).map_err(CommandFailure::Failed)?;
    let others = write_consumers(registry, consumers, &audit(wanted, "consumer created")).await?;
    for key in keys.iter_mut().filter(|key| others.contains(&key.consumer)) {
        key.disabled = true;
    }
    let New { keys, there } = new_keys(keys, &ExistingKeys::read(registry).await?);
    let audit = audit(wanted, "key created");
    let mut written = 0;
    for some in keys.chunks(AT_ONCE) {
        let conflicts = answer(store.create_all(some, &audit)).await?;
        written += some.len() - conflicts.len();
        // The name and the API key were both unused a moment ago.
        for conflict in conflicts {
            eprintln!(
                "left out: {conflict}, or the same API key: somebody has written it just now; import again"
            );
        }
    }
    eprintln!("keys written: {written}; already there: {there}");
    Ok(())
}

fn audit(wanted: &Import, action: &str) -> Audit {
    Audit::new(&*ACTOR, action).with(json!({ "imported_from": wanted.from.name() }))
}

/// Writes the consumers that do not exist yet. Returns those that exist and differ: they may be different consumers of the same
/// name, or may have been changed since. New keys for them might get more rights than they had.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
async fn write_consumers(
    registry: &Registry,
    consumers: Vec<Consumer>,
    audit: &Audit,
) -> Result<BTreeSet<String>, CommandFailure> {
    let there: HashMap<String, Item<ConsumerSpec>> = all::<ConsumerSpec>(registry).await?.0;
    let (mut new, mut others) = (Vec::new(), BTreeSet::new());
    for consumer in consumers {
        let document = serde_json::to_value(&consumer)?;
        let wanted = match accounts::parse::<ConsumerSpec>(&document, None) {
            Ok(wanted) => wanted,
            Err(errors) => {
                eprintln!("disabled: new keys of consumer {}: {}", consumer.name, in_a_line(&errors));
                others.insert(consumer.name);
                continue;
            }
        };
        match there.get(&consumer.name) {
            None => new.push(wanted),
            Some(Item { account, .. })
                if account.limits == wanted.limits && account.disabled == wanted.disabled =>
            {
                eprintln!("already there: consumer {}", consumer.name);
            }
            Some(Item { source, .. }) => {
                let place =
                    if *source == AccountSource::File { "in the configuration file" } else { "in the store" };
                eprintln!(
                    "disabled: new keys of consumer {}: it is {place} already, with other limits than {}",
                    consumer.name,
                    wanted
                        .limits
                        .as_ref()
                        .map_or_else(|| "none".into(), |limits| accounts::limits_to_json(limits).to_string())
                );
                others.insert(consumer.name);
            }
        }
    }
    let mut written = 0;
    for some in new.chunks(AT_ONCE) {
        let conflicts = answer(registry.store()?.create_all(some, audit)).await?;
        written += some.len() - conflicts.len();
        // Somebody else has just created it, or the one that is there cannot be read.
        for conflict in conflicts {
            if let Conflict::Exists(_, name) = conflict {
                eprintln!("disabled: new keys of consumer {name}: there is a consumer of this name already");
                others.insert(name);
            }
        }
    }
    eprintln!("consumers written: {written}");
    Ok(others)
}

/// All accounts of a kind by name, and the names of the unreadable ones.
async fn all<A: Account>(
    registry: &Registry,
) -> Result<(HashMap<String, Item<A>>, Vec<String>), CommandFailure> {
    const PAGE: u32 = 1_000;
    let (mut found, mut unreadable) = (HashMap::new(), Vec::new());
    let mut filter = Filter { limit: PAGE, ..Filter::default() };
    loop {
        let page = answer(registry.list::<A>(&filter)).await?;
        unreadable.extend(page.unreadable.into_iter().map(|unreadable| unreadable.name));
        found.extend(page.items.into_iter().map(|item| (item.account.name().to_owned(), item)));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok((found, unreadable)),
        }
    }
}

impl ExistingKeys {
    async fn read(registry: &Registry) -> Result<Self, CommandFailure> {
        let (found, unreadable) = all::<KeySpec>(registry).await?;
        // Names of unreadable keys are taken, too.
        let mut known = Self { names: unreadable.into_iter().collect(), ..Self::default() };
        for (name, Item { account, source }) in found {
            let before = account.previous.map(|previous| previous.sha256);
            for digest in [Some(account.sha256), before].into_iter().flatten() {
                known.keys.entry(digest).or_insert_with(|| (name.clone(), source));
            }
            known.names.insert(name);
        }
        Ok(known)
    }
}

/// The keys that do not exist yet, under free names. LiteLLM's list comes in pages, and all keys of a page may only have their
/// team's name.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
fn new_keys(keys: Vec<ImportedKey>, known: &ExistingKeys) -> New {
    let mut names = UniqueNames::but(known.names.clone());
    let mut new = New { keys: Vec::with_capacity(keys.len()), there: 0 };
    for key in keys {
        let mut spec = match spec(&key) {
            Ok(spec) => spec,
            Err(why) => {
                eprintln!("left out: key {}: {why}", key.name);
                continue;
            }
        };
        match known.keys.get(&spec.sha256) {
            Some((name, AccountSource::File)) => {
                new.there += 1;
                eprintln!("already there: key {}: it is {name:?} of the configuration file", key.name);
            }
            Some((name, AccountSource::Store { .. })) => {
                new.there += 1;
                eprintln!("already there: key {}: it is {name:?}", key.name);
            }
            None => {
                spec.name = names.unique(&key.wanted);
                if known.names.contains(&key.wanted) {
                    eprintln!(
                        "renamed: key {:?} is another API key; this one is {:?}",
                        key.wanted, spec.name
                    );
                }
                new.keys.push(spec);
            }
        }
    }
    new
}

fn in_a_line(ConfigErrors(errors): &ConfigErrors) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The key in the form that the store takes.
fn spec(key: &ImportedKey) -> Result<KeySpec, String> {
    let json = serde_json::to_value(key).map_err(|error| error.to_string())?;
    accounts::parse(&json, None).map_err(|errors| in_a_line(&errors))
}
