//! What was found, written into the store. What is there already stays as it is.

use std::collections::{BTreeSet, HashMap, HashSet};

use access::KeyDigest;
use accounts::{Account, ConsumerSpec, KeySpec};
use config_reader::ConfigErrors;
use serde_json::json;
use store::{Audit, Filter, Item, Registry, RegistryError, Source, StoreError};

use super::{
    found::{Consumer, Imported, Key},
    names::Names,
    reading,
};
use crate::{
    arguments::import::Import,
    commands::registry::{ACTOR, Failure, answer},
};

/// The keys that there are already, in the configuration file and in the store.
#[derive(Debug, Default)]
struct Known {
    /// What they are called and where they are, by what they are recognised by, and were before they were rotated.
    keys: HashMap<KeyDigest, (String, Source)>,
    names: HashSet<String>,
}

/// The keys that are to be written.
struct New {
    keys: Vec<KeySpec>,
    /// How many there are already.
    there: usize,
}

/// Writes what can be taken over into the store. What is there already stays as it is, and is named; so the same
/// again does no harm.
///
/// # Errors
/// The file cannot be read, or the store does not answer; keys before that have been written.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
pub(crate) async fn into_store(wanted: &Import, registry: &Registry) -> Result<(), Failure> {
    /// Others that write wait for so many keys at most.
    const AT_ONCE: usize = 500;
    let store = registry.store()?;
    let Imported { consumers, mut keys, .. } = reading::read(wanted).map_err(Failure::Failed)?;
    let others = write_consumers(registry, consumers).await?;
    for key in keys.iter_mut().filter(|key| others.contains(&key.consumer)) {
        key.disabled = true;
    }
    let New { keys, there } = new_keys(keys, &Known::read(registry).await?);
    let audit = Audit::new(&*ACTOR, "key created").with(json!({ "imported_from": wanted.from.name() }));
    let mut written = 0;
    for some in keys.chunks(AT_ONCE) {
        let conflicts = answer(store.create_keys(some, &audit)).await?;
        written += some.len() - conflicts.len();
        // The name was free and the API key new a moment ago.
        for conflict in conflicts {
            eprintln!(
                "left out: {conflict}, or the same API key: somebody has written it just now; import again"
            );
        }
    }
    eprintln!("keys written: {written}; already there: {there}");
    Ok(())
}

/// Writes those that are not there yet. Answers those that are there and differ: they may be others of the same name, or
/// have been changed since, and new keys of theirs might get more than they had.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
async fn write_consumers(registry: &Registry, consumers: Vec<Consumer>) -> Result<BTreeSet<String>, Failure> {
    let there: HashMap<String, Item<ConsumerSpec>> = all::<ConsumerSpec>(registry).await?.0;
    let (mut written, mut others) = (0, BTreeSet::new());
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
            None => match answer(created(registry, &document)).await? {
                None => written += 1,
                Some(why) => {
                    eprintln!("disabled: new keys of consumer {}: {why}", consumer.name);
                    others.insert(consumer.name);
                }
            },
            Some(Item { account, .. })
                if account.limits == wanted.limits && account.disabled == wanted.disabled =>
            {
                eprintln!("already there: consumer {}", consumer.name);
            }
            Some(Item { source, .. }) => {
                let place =
                    if *source == Source::File { "in the configuration file" } else { "in the store" };
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
    eprintln!("consumers written: {written}");
    Ok(others)
}

/// Writes one. Answers why it is not written, if somebody else was quicker or what is there cannot be read.
async fn created(registry: &Registry, document: &serde_json::Value) -> Result<Option<String>, RegistryError> {
    match registry.create::<ConsumerSpec>(document, &ACTOR).await {
        Ok(_) => Ok(None),
        Err(RegistryError::Store(StoreError::Conflict(conflict))) => Ok(Some(conflict.to_string())),
        Err(error) => Err(error),
    }
}

/// All accounts of a kind, by name, and the names of those that cannot be read.
async fn all<A: Account>(registry: &Registry) -> Result<(HashMap<String, Item<A>>, Vec<String>), Failure> {
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

impl Known {
    async fn read(registry: &Registry) -> Result<Self, Failure> {
        let (found, unreadable) = all::<KeySpec>(registry).await?;
        // Those that cannot be read have their names, too.
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

/// Those whose API key is not there yet, under names that are free: LiteLLM's list comes in pages, and the keys of each
/// may have no name but their team's.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
fn new_keys(keys: Vec<Key>, known: &Known) -> New {
    let mut names = Names::but(known.names.clone());
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
            Some((name, Source::File)) => {
                new.there += 1;
                eprintln!("already there: key {}: it is {name:?} of the configuration file", key.name);
            }
            Some((name, Source::Store { .. })) => {
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

/// The key as the store takes it.
fn spec(key: &Key) -> Result<KeySpec, String> {
    let json = serde_json::to_value(key).map_err(|error| error.to_string())?;
    accounts::parse(&json, None).map_err(|errors| in_a_line(&errors))
}
