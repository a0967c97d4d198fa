//! `modelgate keys import`: the keys of another gateway as lines for the configuration file, or into the store.
//!
//! Keys go on working: only their digests are written. What cannot be taken over is named on stderr,
//! by its place and name and never by its key, and the rest goes on.

mod kong;
mod litellm;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    process::ExitCode,
};

use access::KeyDigest;
use accounts::{ConsumerSpec, KeySpec};
use clap::ValueEnum;
use config_reader::ConfigErrors;
use serde::Serialize;
use serde_json::json;
use store::{Audit, Filter, Registry, RegistryError, Source, StoreError};

use crate::{
    accounts_cli::{ACTOR, Failure, answer},
    config,
};

/// Where the keys come from.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum From {
    /// Kong's declarative configuration (YAML), as kong.yml or what `deck gateway dump` prints
    Kong,
    #[value(
        help = "LiteLLM's list of keys (JSON): the answer to GET /key/list?return_full_object=true&size=100"
    )]
    Litellm,
}

/// What to import.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Import {
    /// Whose file it is
    #[arg(long, value_enum)]
    from: From,
    /// Put them into the store instead of printing them
    #[arg(long)]
    pub(crate) store: bool,
    /// The file; what cannot be taken over of it is named
    file: PathBuf,
}

/// What was found, as it stands in the configuration file.
#[derive(Debug, Default, Serialize)]
struct Imported {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    consumers: Vec<Consumer>,
    keys: Vec<Key>,
    /// What was left out, and why; for stderr.
    #[serde(skip)]
    left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Consumer {
    name: String,
    limit: Limit,
}

#[derive(Debug, Default, Serialize)]
struct Key {
    name: String,
    /// The name that it would have if no other key had it.
    #[serde(skip)]
    wanted: String,
    consumer: String,
    sha256: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<String>,
    #[serde(skip_serializing_if = "Limit::is_empty")]
    limit: Limit,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Limit {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_hour: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_day: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_month: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_minute: Option<u32>,
}

impl Imported {
    /// Adds a consumer; names that differ elsewhere may be the same here.
    fn add_consumer(&mut self, consumer: Consumer, place: &str) {
        match self.consumers.iter().any(|other| other.name == consumer.name) {
            true => self
                .left_out
                .push(format!("{place}: its limits: another consumer is called {:?} here", consumer.name)),
            false => self.consumers.push(consumer),
        }
    }
}

impl Limit {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Names that the configuration accepts, each once.
#[derive(Debug, Default)]
struct Names {
    taken: HashSet<String>,
    /// The number to try first, by name: hundreds of keys of one team may have no name of their own.
    next: HashMap<String, u32>,
}

impl Names {
    /// The longest, as [`accounts::NAME`] says.
    const LONGEST: usize = 64;

    /// The name, with a dash for each character that cannot stand in one.
    fn plain(name: &str) -> String {
        let plain = |c: char| if config::key_name(&c.to_string()).is_some() { c } else { '-' };
        let name: String = name.trim().chars().map(plain).take(Self::LONGEST).collect();
        if name.is_empty() { "imported".into() } else { name }
    }

    /// The same, with a number behind it if it is taken.
    fn unique(&mut self, name: &str) -> String {
        let name = Self::plain(name);
        if self.taken.insert(name.clone()) {
            return name;
        }
        let next = self.next.entry(name.clone()).or_insert(2);
        loop {
            let number = format!("-{next}");
            *next += 1;
            // It is ASCII.
            let start = &name[..name.len().min(Self::LONGEST - number.len())];
            let numbered = format!("{start}{number}");
            if self.taken.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

/// The keys that there are already, in the configuration file and in the store.
#[derive(Debug, Default)]
struct Known {
    /// What they are called and where they are, by what they are recognised by, and were before they were rotated.
    keys: HashMap<KeyDigest, (String, Source)>,
    names: HashSet<String>,
}

impl Known {
    async fn read(registry: &Registry) -> Result<Self, Failure> {
        const PAGE: u32 = 1_000;
        let mut known = Self::default();
        let mut filter = Filter { limit: PAGE, ..Filter::default() };
        loop {
            let page = answer(registry.list::<KeySpec>(&filter)).await?;
            // Those that cannot be read have their names, too.
            known.names.extend(page.unreadable.into_iter().map(|unreadable| unreadable.name));
            for item in page.items {
                let (key, source) = (item.account, item.source);
                let before = key.previous.map(|previous| previous.sha256);
                for digest in [Some(key.sha256), before].into_iter().flatten() {
                    known.keys.entry(digest).or_insert_with(|| (key.name.clone(), source));
                }
                known.names.insert(key.name);
            }
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return Ok(known),
            }
        }
    }
}

/// `modelgate keys import`.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command's answer goes to its user")]
pub(crate) fn import(wanted: &Import) -> ExitCode {
    let written = wanted.read().and_then(|imported| {
        eprintln!("keys: {}; append the lines below to the configuration file", imported.keys.len());
        serde_yaml::to_string(&imported).map_err(|e| e.to_string())
    });
    match written {
        Ok(yaml) => {
            print!("{yaml}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}: {error}", wanted.file.display());
            ExitCode::FAILURE
        }
    }
}

impl Import {
    /// What can be taken over; the rest is named.
    #[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
    fn read(&self) -> Result<Imported, String> {
        let text = fs::read_to_string(&self.file).map_err(|e| e.to_string())?;
        let mut imported = match self.from {
            From::Kong => kong::read(&text),
            From::Litellm => litellm::read(&text),
        }?;
        drop_repeated(&mut imported);
        for left_out in &imported.left_out {
            eprintln!("left out: {left_out}");
        }
        Ok(imported)
    }

    fn system(&self) -> &'static str {
        match self.from {
            From::Kong => "kong",
            From::Litellm => "litellm",
        }
    }

    /// Writes what can be taken over into the store. What is there already stays as it is, and is named; so the same
    /// again does no harm.
    ///
    /// # Errors
    /// The file cannot be read, or the store does not answer; keys before that have been written.
    #[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
    pub(crate) async fn write(&self, registry: &Registry) -> Result<(), Failure> {
        /// Others that write wait for so many keys at most.
        const AT_ONCE: usize = 500;
        let store = registry.store()?;
        let failed = |error| Failure::Failed(format!("{}: {error}", self.file.display()));
        let Imported { consumers, keys, .. } = self.read().map_err(failed)?;
        let mut written = 0;
        for consumer in consumers {
            let document = serde_json::to_value(&consumer)?;
            let created = async {
                let created = registry.create::<ConsumerSpec>(&document, &ACTOR).await;
                created.map_or_else(|error| why(error).map(Some), |_| Ok(None))
            };
            match answer(created).await? {
                None => written += 1,
                Some(why) => eprintln!("left out: consumer {}: {why}", consumer.name),
            }
        }
        eprintln!("consumers written: {written}");
        let New { keys, there } = new_keys(keys, &Known::read(registry).await?);
        let audit = Audit::new(ACTOR.as_str(), "key created").with(json!({ "imported_from": self.system() }));
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
}

/// The keys that are to be written.
struct New {
    keys: Vec<KeySpec>,
    /// How many there are already.
    there: usize,
}

/// Those whose API key is not there yet, under names that are free: LiteLLM's list comes in pages, and the keys of each
/// may have no name but their team's.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
fn new_keys(keys: Vec<Key>, known: &Known) -> New {
    let mut names = Names { taken: known.names.clone(), ..Names::default() };
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

/// Why one of them is left out; anything else ends it all.
fn why(error: RegistryError) -> Result<String, Failure> {
    match error {
        RegistryError::Invalid(errors) => Ok(in_a_line(&errors)),
        RegistryError::Declared(..) | RegistryError::Store(StoreError::Conflict(_)) => Ok(error.to_string()),
        other => Err(other.into()),
    }
}

fn in_a_line(ConfigErrors(errors): &ConfigErrors) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The key as the store takes it.
fn spec(key: &Key) -> Result<KeySpec, String> {
    let json = serde_json::to_value(key).map_err(|error| error.to_string())?;
    accounts::parse(&json, None).map_err(|errors| in_a_line(&errors))
}

/// The configuration refuses two keys with one digest.
fn drop_repeated(imported: &mut Imported) {
    let mut digests = HashSet::new();
    let left_out = &mut imported.left_out;
    imported.keys.retain(|key| {
        let first = digests.insert(key.sha256.clone());
        if !first {
            left_out.push(format!("key {}: another one is the same API key", key.name));
        }
        first
    });
}
