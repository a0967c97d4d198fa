//! Writes what was found into the store. Existing accounts are not changed.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

use access::KeyDigest;
use accounts::{Account, ConsumerSpec, KeySpec};
use config_reader::ConfigErrors;
use jiff::{Timestamp, tz::TimeZone};
use limits::{Calendar, Period, write_money};
use serde_json::json;
use store::{AccountSource, Audit, BudgetChange, BudgetOf, BudgetOwner, Conflict, Filter, Item, Registry};

use super::{
    found::{BudgetSpent, Consumer, Imported, ImportedKey, WITHOUT},
    names::UniqueNames,
    reading,
};
use crate::{
    arguments::import::Import,
    commands::{
        progress::Progress,
        registry::{ACTOR, CommandFailure, answer},
    },
    output::tell,
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
pub(crate) async fn into_store(
    wanted: &Import,
    registry: &Registry,
    zone: &TimeZone,
) -> Result<(), CommandFailure> {
    let store = registry.store()?;
    let Imported { consumers, mut keys, .. } = reading::read(wanted).map_err(CommandFailure::Failed)?;
    let spending = Spending { registry, zone };
    let of_consumers: HashMap<String, Vec<_>> =
        consumers.iter().map(|consumer| (consumer.name.clone(), consumer.limit.spent().collect())).collect();
    let of_keys: HashMap<String, Vec<_>> =
        keys.iter().map(|key| (key.sha256.clone(), key.limit.spent().collect())).collect();
    let WrittenConsumers { written, others } =
        write_consumers(registry, consumers, &audit(wanted, "consumer created")).await?;
    for name in &written {
        let spent = of_consumers.get(name).into_iter().flatten();
        spending.note(&BudgetOwner::Consumer(name.clone()), spent).await?;
    }
    for key in keys.iter_mut().filter(|key| others.contains(&key.consumer)) {
        key.disabled = true;
    }
    let New { keys, there } = new_keys(keys, &ExistingKeys::read(registry).await?);
    let audit = audit(wanted, "key created");
    let (mut written, progress) = (0, Progress::of_many("keys", keys.len()));
    for some in keys.chunks(AT_ONCE) {
        let conflicts = answer(store.create_all(some, &audit)).await?;
        written += some.len() - conflicts.len();
        progress.done(some.len());
        let is_left_out = |key: &KeySpec| {
            conflicts
                .iter()
                .any(|conflict| matches!(conflict, Conflict::Exists(_, name) if *name == key.name))
        };
        for key in some.iter().filter(|key| !is_left_out(key)) {
            let spent = of_keys.get(&key.sha256.to_hex()).into_iter().flatten();
            spending.note(&BudgetOwner::Key(key.name.clone()), spent).await?;
        }
        // The name and the API key were both unused a moment ago.
        for conflict in conflicts {
            progress.say(&format!(
                "left out: {conflict}, or the same API key: somebody has written it just now; import again"
            ));
        }
    }
    drop(progress);
    tell!("keys written: {written}; already there: {there}");
    Ok(())
}

/// Takes over what is spent of budgets.
struct Spending<'a> {
    registry: &'a Registry,
    zone: &'a TimeZone,
}

impl Spending<'_> {
    /// Counts what is spent of new budgets in the running period, and says what differs.
    async fn note(
        &self,
        whose: &BudgetOwner,
        spent: impl Iterator<Item = &(Calendar, BudgetSpent)>,
    ) -> Result<(), CommandFailure> {
        let now = SystemTime::now();
        for (per, BudgetSpent { amount, until }) in spent {
            let amount_in_words = write_money(*amount);
            if until.is_some_and(|until| until <= now) {
                tell!("{WITHOUT}: {whose}: {amount_in_words} was spent in a period that is over there");
                continue;
            }
            let period =
                Period::of(*per, &Timestamp::try_from(now).unwrap_or_default().to_zoned(self.zone.clone()));
            let of = BudgetOf { whose: whose.clone(), model: None, per: *per };
            answer(self.registry.change_budget(&of, period, BudgetChange::Spent(*amount), &ACTOR)).await?;
            let ends = period.end(self.zone);
            let differs = match (until, ends) {
                (Some(until), Some(ends)) if *until != ends => format!(
                    "; the budget begins anew at {} here, and at {} there",
                    humantime::format_rfc3339_seconds(ends),
                    humantime::format_rfc3339_seconds(*until)
                ),
                _ => String::new(),
            };
            tell!("spent already: {whose}: {amount_in_words} of its budget{differs}");
        }
        Ok(())
    }
}

/// The names of consumers.
#[derive(Debug, Default)]
struct WrittenConsumers {
    /// Those that were written.
    written: BTreeSet<String>,
    /// Those that exist and differ.
    others: BTreeSet<String>,
}

fn audit(wanted: &Import, action: &str) -> Audit {
    Audit::new(&*ACTOR, action).with(json!({ "imported_from": wanted.from.name() }))
}

/// Writes the consumers that do not exist yet. Those that exist and differ may be different consumers of the same name, or may have
/// been changed since: new keys for them might get more rights than they had.
async fn write_consumers(
    registry: &Registry,
    consumers: Vec<Consumer>,
    audit: &Audit,
) -> Result<WrittenConsumers, CommandFailure> {
    let there: HashMap<String, Item<ConsumerSpec>> = all::<ConsumerSpec>(registry).await?.0;
    let (mut new, WrittenConsumers { mut written, mut others }) = (Vec::new(), WrittenConsumers::default());
    for consumer in consumers {
        let document = serde_json::to_value(&consumer)?;
        let wanted = match accounts::parse::<ConsumerSpec>(&document, None) {
            Ok(wanted) => wanted,
            Err(errors) => {
                tell!("disabled: new keys of consumer {}: {}", consumer.name, in_a_line(&errors));
                others.insert(consumer.name);
                continue;
            }
        };
        match there.get(&consumer.name) {
            None => new.push(wanted),
            Some(Item { account, .. })
                if account.limits == wanted.limits && account.disabled == wanted.disabled =>
            {
                tell!("already there: consumer {}", consumer.name);
            }
            Some(Item { source, .. }) => {
                let place =
                    if *source == AccountSource::File { "in the configuration file" } else { "in the store" };
                tell!(
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
    for some in new.chunks(AT_ONCE) {
        let conflicts = answer(registry.store()?.create_all(some, audit)).await?;
        written.extend(some.iter().map(|consumer| consumer.name.clone()));
        // Somebody else has just created it, or the one that is there cannot be read.
        for conflict in conflicts {
            if let Conflict::Exists(_, name) = conflict {
                tell!("disabled: new keys of consumer {name}: there is a consumer of this name already");
                written.remove(&name);
                others.insert(name);
            }
        }
    }
    tell!("consumers written: {}", written.len());
    Ok(WrittenConsumers { written, others })
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
fn new_keys(keys: Vec<ImportedKey>, known: &ExistingKeys) -> New {
    let mut names = UniqueNames::but(known.names.clone());
    let mut new = New { keys: Vec::with_capacity(keys.len()), there: 0 };
    for key in keys {
        let mut spec = match spec(&key) {
            Ok(spec) => spec,
            Err(why) => {
                tell!("left out: key {}: {why}", key.name);
                continue;
            }
        };
        match known.keys.get(&spec.sha256) {
            Some((name, AccountSource::File)) => {
                new.there += 1;
                tell!("already there: key {}: it is {name:?} of the configuration file", key.name);
            }
            Some((name, _)) => {
                new.there += 1;
                tell!("already there: key {}: it is {name:?}", key.name);
            }
            None => {
                spec.name = names.unique(&key.wanted);
                if known.names.contains(&key.wanted) {
                    tell!("renamed: key {:?} is another API key; this one is {:?}", key.wanted, spec.name);
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
