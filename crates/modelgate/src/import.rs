//! `modelgate keys import`: the keys of another gateway as lines for the configuration file, or into the store.
//!
//! Keys go on working: only their digests are written. An importer is a list of what it understands. Each field that is
//! not understood is named on stderr, by its place and name and never by its value; what the other gateway would check
//! before it lets a request pass, and nothing here does, disables the keys that it restricts. The rest goes on.
//!
//! ```text
//! found.rs      what was found: accounts, what is said of them, and what holds them
//! names.rs      names that the configuration accepts
//! fields.rs     which fields are understood, harmless or restrict
//! kong.rs       Kong's declarative configuration
//! litellm.rs    LiteLLM's lists
//! into_store.rs what was found, written into the store
//! ```

mod fields;
mod found;
mod into_store;
mod kong;
mod litellm;
mod names;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fs, path::PathBuf, process::ExitCode, time::SystemTime};

use clap::ValueEnum;

use self::found::Imported;

/// Where the keys come from.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum From {
    #[value(
        help = "Kong's declarative configuration (YAML): kong.yml, what `deck gateway dump` prints, or `kong config db_export`"
    )]
    Kong,
    #[value(
        help = "LiteLLM's answers (JSON) to GET /key/list?return_full_object=true&size=100, each page, or /key/info; and to \
                /team/list, /user/list and /organization/list, without which keys of teams, users and organizations are \
                taken over disabled"
    )]
    Litellm,
}

/// What to import.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "A restriction that Modelgate does not know disables the keys that it restricts, and is named.\n\
                  With --store, keys that are there already stay as they are; a key that was deleted in the store comes back \
                  if a file that still has it is imported again."
)]
pub(crate) struct Import {
    /// Whose files they are
    #[arg(long, value_enum)]
    from: From,
    /// Put them into the store instead of printing them
    #[arg(long)]
    pub(crate) store: bool,
    /// Restrictions to do without, as they are named on stderr (max_budget, acl): keys that nothing else restricts work
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    without: Vec<String>,
    /// The files; what cannot be taken over of them is named
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A file as it was read.
struct Source {
    /// Its name, if there are several.
    name: String,
    text: String,
    /// When it was written.
    written: SystemTime,
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
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Import {
    /// What can be taken over; the rest is named.
    #[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
    fn read(&self) -> Result<Imported, String> {
        let sources = self.files.iter().map(|file| self.source(file)).collect::<Result<Vec<_>, _>>()?;
        let mut imported = match (self.from, sources.as_slice()) {
            (From::Kong, [source]) => kong::read(&source.text, source.written)
                .map_err(|e| format!("{}: {e}", self.files[0].display()))?,
            (From::Kong, _) => {
                return Err(
                    "several files of Kong's; import each on its own: their consumers are not the same"
                        .into(),
                );
            }
            (From::Litellm, sources) => litellm::read(sources)?,
        };
        imported.take_each_once();
        let without: BTreeSet<String> = self.without.iter().cloned().collect();
        let held = imported.disable_held(&without);
        for said in &imported.said {
            eprintln!("{}", said.line(&without));
        }
        for (restriction, keys) in &held {
            eprintln!(
                "keys disabled by {restriction}: {keys}; --without {restriction} takes them over as if it were not there"
            );
        }
        let all: BTreeSet<&String> = imported.said.iter().filter_map(|said| said.holds.as_ref()).collect();
        for unknown in without.iter().filter(|name| !all.contains(name)) {
            eprintln!("--without {unknown}: nothing here is restricted by that");
        }
        if let Some(requests) = &imported.requests {
            let headers = requests.key_headers.join(", ");
            eprintln!(
                "key headers: clients of Kong send their key in {headers}; it is taken from there where the configuration file \
                 has requests: {{ key_headers: [{headers}] }}"
            );
        }
        Ok(imported)
    }

    fn source(&self, file: &PathBuf) -> Result<Source, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(failed)?;
        let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
        let name = if self.files.len() > 1 { format!("{}: ", file.display()) } else { String::new() };
        Ok(Source { name, text, written: modified.map_err(failed)? })
    }

    fn system(&self) -> &'static str {
        match self.from {
            From::Kong => "kong",
            From::Litellm => "litellm",
        }
    }
}
