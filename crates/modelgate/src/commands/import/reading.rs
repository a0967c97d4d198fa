//! Reads the files, and reports on stderr what cannot be imported.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{found::Imported, kong, litellm, source::InputFile};
use crate::arguments::import::{Gateway, Import};

/// Returns what can be imported; the rest is reported.
#[expect(clippy::print_stderr, reason = "a command's answer goes to its user")]
pub(super) fn read(wanted: &Import) -> Result<Imported, String> {
    let sources = wanted.files.iter().map(|file| source(wanted, file)).collect::<Result<Vec<_>, _>>()?;
    let mut imported = match (wanted.from, sources.as_slice()) {
        (Gateway::Kong, [source]) => kong::read(&source.text, source.written)
            .map_err(|e| format!("{}: {e}", wanted.files[0].display()))?,
        (Gateway::Kong, _) => {
            return Err(
                "several files of Kong's; import each on its own: their consumers are not the same".into()
            );
        }
        (Gateway::Litellm, sources) => litellm::read(sources)?,
    };
    imported.take_each_once();
    let without: BTreeSet<String> = wanted.without.iter().cloned().collect();
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

fn source(wanted: &Import, file: &Path) -> Result<InputFile, String> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(failed)?;
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
    let name = if wanted.files.len() > 1 { format!("{}: ", file.display()) } else { String::new() };
    Ok(InputFile { name, text, written: modified.map_err(failed)? })
}
