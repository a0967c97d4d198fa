//! Reads the files, and reports on stderr what cannot be imported.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{found::Imported, kong, litellm, source::InputFile};
use crate::{
    arguments::import::{Gateway, Import},
    output::tell,
};

/// Returns what can be imported; the rest is reported.
pub(super) fn read(wanted: &Import) -> Result<Imported, String> {
    let sources = wanted.files.iter().map(|file| source(wanted, file)).collect::<Result<Vec<_>, _>>()?;
    let in_file = |why: String| match (wanted.from, wanted.files.as_slice()) {
        (Gateway::Kong, [file]) => format!("{}: {why}", file.display()),
        _ => why,
    };
    let mut imported = read_files(wanted.from, &sources).map_err(in_file)?;
    let without: BTreeSet<String> = wanted.without.iter().cloned().collect();
    let held = imported.disable_held(&without);
    for said in &imported.said {
        tell!("{}", said.line(&without));
    }
    for (restriction, keys) in &held {
        tell!(
            "keys disabled by {restriction}: {keys}; --without {restriction} takes them over as if it were not there"
        );
    }
    let all: BTreeSet<&String> = imported.said.iter().filter_map(|said| said.became.restriction()).collect();
    for unknown in without.iter().filter(|name| !all.contains(name)) {
        tell!("--without {unknown}: nothing here is restricted by that");
    }
    if let Some(requests) = &imported.requests {
        let headers = requests.key_headers.join(", ");
        tell!(
            "key headers: clients of Kong send their key in {headers}; it is taken from there where the configuration file \
             has requests: {{ key_headers: [{headers}] }}"
        );
    }
    Ok(imported)
}

/// Combines what one gateway's files have.
pub(super) fn read_files(gateway: Gateway, files: &[InputFile]) -> Result<Imported, String> {
    let mut imported = match (gateway, files) {
        (Gateway::Kong, [file]) => kong::read(&file.text, file.written)?,
        (Gateway::Kong, _) => {
            return Err(
                "several files of Kong's; import each on its own: their consumers are not the same".into()
            );
        }
        (Gateway::Litellm, files) => litellm::read(files)?,
    };
    imported.take_each_once();
    Ok(imported)
}

fn source(wanted: &Import, file: &Path) -> Result<InputFile, String> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(failed)?;
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
    let name = if wanted.files.len() > 1 { format!("{}: ", file.display()) } else { String::new() };
    Ok(InputFile { name, text, written: modified.map_err(failed)? })
}
