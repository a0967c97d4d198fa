//! `modelgate keys generate`: makes a key that is in no store, with the lines that go into the configuration.

use std::process::ExitCode;

use access::NewKey;

use crate::{arguments::Generate, exit, output::say};

/// Generates a key. It is printed in clear here and nowhere else.
pub(crate) fn generate(wanted: &Generate) -> ExitCode {
    let key = match NewKey::generate() {
        Ok(key) => key,
        Err(error) => return exit::failed(&error, ExitCode::FAILURE),
    };
    let consumer = wanted.consumer.as_ref().unwrap_or(&wanted.name);
    let digest = key.digest().to_hex();
    say!("API key, shown this once; give it to its owner:\n\n  {}\n", key.reveal());
    say!("SHA-256 of it:\n\n  {digest}\n");
    say!("For the configuration file:\n");
    say!("keys:");
    say!("  - name: {:?}\n    consumer: {:?}\n    sha256: {digest:?}", wanted.name, consumer);
    ExitCode::SUCCESS
}
