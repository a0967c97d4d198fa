//! `modelgate keys import`: the keys of another gateway as lines for the configuration file, or into the store.
//!
//! Keys go on working: only their digests are written. What cannot be taken over is named on stderr,
//! by its place and name and never by its key, and the rest goes on.

mod kong;
mod litellm;

use std::{collections::HashSet, fs, path::PathBuf, process::ExitCode};

use accounts::{ConsumerSpec, KeySpec};
use clap::ValueEnum;
use config_reader::ConfigErrors;
use serde::Serialize;
use serde_json::json;
use store::{Audit, Conflict, Registry, RegistryError, StoreError};

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
struct Names(HashSet<String>);

impl Names {
    /// The name, with a dash for each character that cannot stand in one.
    fn plain(name: &str) -> String {
        let plain = |c: char| if config::key_name(&c.to_string()).is_some() { c } else { '-' };
        let name: String = name.trim().chars().map(plain).take(60).collect();
        if name.is_empty() { "imported".into() } else { name }
    }

    /// The same, with a number behind it if it is taken.
    fn unique(&mut self, name: &str) -> String {
        let name = Self::plain(name);
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.0.contains(name));
        let free = free.unwrap_or(name);
        self.0.insert(free.clone());
        free
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
                let created = registry.create::<ConsumerSpec>(&document, ACTOR).await;
                created.map_or_else(|error| why(error).map(Some), |_| Ok(None))
            };
            match answer(created).await? {
                None => written += 1,
                Some(why) => eprintln!("left out: consumer {}: {why}", consumer.name),
            }
        }
        eprintln!("consumers written: {written}");
        let mut fitting = Vec::with_capacity(keys.len());
        for key in keys {
            match fits(registry, &key) {
                Ok(key) => fitting.push(key),
                Err(why) => eprintln!("left out: key {}: {why}", key.name),
            }
        }
        let audit = Audit::new(ACTOR, "key created").with(json!({ "imported_from": self.system() }));
        let mut written = 0;
        for some in fitting.chunks(AT_ONCE) {
            let conflicts = answer(store.create_keys(some, &audit)).await?;
            written += some.len() - conflicts.len();
            for conflict in conflicts {
                if let Conflict::Exists(_, name) = conflict {
                    eprintln!(
                        "left out: key {name}: a key of that name is there already, or the same API key"
                    );
                }
            }
        }
        eprintln!("keys written: {written}");
        Ok(())
    }
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

/// The key as the store takes it, unless the configuration file has it.
fn fits(registry: &Registry, key: &Key) -> Result<KeySpec, String> {
    let json = serde_json::to_value(key).map_err(|error| error.to_string())?;
    let key: KeySpec = accounts::parse(&json, None).map_err(|errors| in_a_line(&errors))?;
    match registry.declared().keys.iter().find(|other| other.name == key.name || other.sha256 == key.sha256) {
        Some(other) if other.name == key.name => Err("the configuration file has one of that name".into()),
        Some(other) => Err(format!("key {:?} of the configuration file is the same API key", other.name)),
        None => Ok(key),
    }
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
