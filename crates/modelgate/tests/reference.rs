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

/// A text of a Compose file with its variables replaced, by their defaults or by a word.
fn substituted(text: &str) -> String {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, after) = part.split_once('}').expect("a closing brace");
        whole.push_str(inside.split_once(":-").map_or("a-long-enough-word", |(_, default)| default));
        whole.push_str(after);
    }
    whole
}

/// A variable that Modelgate does not know, or a value that it does not allow, would stop it at the start.
#[test]
fn what_compose_files_tell_modelgate_is_what_it_takes() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let examples = fs::read_dir(format!("{root}examples")).expect("the examples").flatten();
    let mut files: Vec<_> = examples.map(|entry| entry.path().join("compose.yaml")).collect();
    files.extend(
        ["deploy/compose.yaml", "deploy/two-modelgates.yaml", "examples/gateway.yaml"]
            .map(|file| root.to_owned() + file)
            .map(Into::into),
    );
    let mut checked = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        // `!override` and the like are for Compose.
        let text = fs::read_to_string(file).expect("a file").replace("!override", "").replace("!reset", "");
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
        let Some(environment) = yaml["services"]["modelgate"]["environment"].as_mapping() else { continue };
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
        for (name, value) in environment {
            let name = name.as_str().expect("a name");
            let value =
                value.as_str().map_or_else(|| serde_yaml::to_string(value).expect("a value"), substituted);
            // Files are those of the container.
            if !name.ends_with("_FILE") && name != "MODELGATE_CONFIG" {
                command.env(name, value.trim());
            }
        }
        let output = command.arg("check").current_dir(folder.path()).output().expect("it runs");
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked >= 3, "only {checked} files have a Modelgate");
}
