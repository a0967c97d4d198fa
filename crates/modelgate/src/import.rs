//! `modelgate keys import`: the keys of another gateway as lines for the configuration file.
//!
//! Keys go on working: only their digests are written. What cannot be taken over is named on stderr,
//! by its place and name and never by its key, and the rest goes on.

mod kong;
mod litellm;

use std::{collections::HashSet, fs, path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use serde::Serialize;

use crate::config;

/// Where the keys come from.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum From {
    /// Kong's declarative configuration (kong.yml)
    Kong,
    /// `LiteLLM`'s list of keys: the answer of /key/list?return_full_object=true
    Litellm,
}

/// What to import.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Import {
    /// Whose file it is
    #[arg(long, value_enum)]
    from: From,
    /// The file
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
    tokens_per_minute: Option<u32>,
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
    let imported =
        fs::read_to_string(&wanted.file).map_err(|e| e.to_string()).and_then(|text| match wanted.from {
            From::Kong => kong::read(&text),
            From::Litellm => litellm::read(&text),
        });
    let written = imported.and_then(|mut imported| {
        drop_repeated(&mut imported);
        for left_out in &imported.left_out {
            eprintln!("left out: {left_out}");
        }
        eprintln!("{} keys; append the lines below to the configuration file", imported.keys.len());
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
