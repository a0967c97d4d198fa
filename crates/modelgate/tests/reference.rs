//! The reference is what the program says, and the other documents do not contradict it.

use std::{collections::BTreeSet, fs, process::Command};

fn read(path: &str) -> String {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_modelgate")).arg("reference").output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/reference.md");
        fs::write(path, &printed).expect("written");
    }
    assert!(
        read("deploy/reference.md") == printed,
        "make it anew: modelgate reference > deploy/reference.md"
    );
    let (settings, others) = printed.split_once("\n## What models cost\n").expect("the prices");
    assert_eq!(others.matches("\n| `").count(), 5, "prompt, cached_prompt, completion, request, second");
    assert_eq!(settings.matches("\n| `").count(), catalogue::settings().count() + catalogue::LABELS.len());
}

#[test]
fn every_label_that_is_written_anywhere_exists() {
    let known: BTreeSet<String> = catalogue::LABELS
        .iter()
        .map(|label| label.name.to_owned())
        .chain(catalogue::settings().map(|setting| format!("inference.{}", setting.key)))
        .collect();
    let mut files = vec!["README.md".to_owned(), "deploy/compose.yaml".to_owned()];
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    for example in fs::read_dir(examples).expect("the examples").flatten().filter(|e| e.path().is_dir()) {
        files.push(format!("examples/{}/compose.yaml", example.file_name().to_string_lossy()));
    }
    let mut found = 0;
    for file in files {
        let text = read(&file);
        for (at, _) in text.match_indices("inference.") {
            // A network or a header of that name is none.
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/')) {
                continue;
            }
            let label: String =
                text[at..].chars().take_while(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_')).collect();
            let several = text[at + label.len()..].starts_with('*');
            let label = label.trim_end_matches('.');
            let is_known =
                if several { known.iter().any(|k| k.starts_with(label)) } else { known.contains(label) };
            assert!(is_known, "{file}: {label} is no label");
            found += 1;
        }
    }
    assert!(found > 40, "{found}");
}
