//! The JSON Schema of the configuration file: it takes what Modelgate takes, and refuses what has the wrong form. It is checked
//! with another program, Python's jsonschema.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use testkit::need;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Reads `[schema, [document, …]]` and prints what is wrong with each document, or null.
const VALIDATOR: &str = "
import json, sys
from jsonschema import Draft202012Validator
schema, documents = json.load(sys.stdin)
Draft202012Validator.check_schema(schema)
told = lambda document: next((f'{e.json_path}: {e.message}' for e in Draft202012Validator(schema).iter_errors(document)), None)
json.dump([told(document) for document in documents], sys.stdout)
";

fn schema() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_modelgate"))
        .args(["reference", "--schema"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What is wrong with each document, if anything is.
fn validate(python: &Path, documents: &[Value]) -> Vec<Option<String>> {
    let schema: Value = serde_json::from_str(&schema()).expect("JSON");
    let mut command = Command::new(python);
    command.args(["-c", VALIDATOR]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("Python");
    let input = json!([schema, documents]).to_string();
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("an answer for each")
}

/// All files below a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path, ending)),
            false if path.to_string_lossy().ends_with(ending) => found.push(path),
            false => {}
        }
    }
    found
}

/// The blocks of YAML in the documents, and the configuration files.
fn written() -> Vec<(String, String)> {
    let root = Path::new(ROOT);
    let read =
        |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found = Vec::new();
    let documents = files(&root.join("docs"), ".md")
        .into_iter()
        .chain([root.join("README.md"), root.join("deploy/reference.md")]);
    for document in documents {
        let text = read(&document);
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            found.push((document.display().to_string(), block.to_owned()));
        }
    }
    let configurations = ["deploy", "examples", "crates/modelgate/tests/config"];
    for folder in configurations {
        for path in
            files(&root.join(folder), ".yaml").into_iter().filter(|path| !path.ends_with("compose.yaml"))
        {
            found.push((path.display().to_string(), read(&path)));
        }
    }
    found
}

/// What `modelgate check` says about a text; `None` if it is good.
fn check(yaml: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("modelgate.yaml"), yaml).expect("written");
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    let output = command
        .arg("check")
        .env("PROVIDER_AUTH_TOKEN", "sk-provider")
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// As Modelgate reads it, with merge keys resolved; `None` if that is no JSON.
fn as_json(yaml: &str) -> Option<Value> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(yaml).ok()?;
    value.apply_merge().ok()?;
    serde_json::to_value(value).ok()
}

#[test]
fn the_schema_is_what_the_program_prints() {
    let (path, printed) = (format!("{ROOT}/deploy/modelgate.schema.json"), schema());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &printed).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    // The order of keys depends on what else is compiled.
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    assert!(
        read(&kept).is_some() && read(&kept) == read(&printed),
        "make it anew: modelgate reference --schema > deploy/modelgate.schema.json"
    );
    let example =
        fs::read_to_string(Path::new(ROOT).join("deploy/modelgate.example.yaml")).expect("the example");
    let (has, mut missing) = (keys_of(&example), Vec::new());
    missing_keys(&read(&printed).expect("JSON"), "", &has, &mut missing);
    assert_eq!(missing, [""; 0], "deploy/modelgate.example.yaml has every key");
    // A key is not there because another section has one of that name.
    let without = example.replace("  #   - name: office ", "  #   - title: office ");
    assert!(!keys_of(&without).contains("alerts.mail.name") && has.contains("alerts.mail.name"));
}

/// The paths of all keys of the example, also of those that are commented out: `alerts.mail.password.file`. Items of lists have no part
/// of their own.
fn keys_of(example: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // The keys around a line, each with its column.
    let mut around: Vec<(usize, String)> = Vec::new();
    for line in example.lines() {
        let mut text = line.trim_start();
        let mut column = line.len() - text.len();
        // A comment's text is indented by what follows `# `; a list's item by its dash.
        while let Some(rest) = ["# ", "- "].iter().find_map(|mark| text.strip_prefix(mark)) {
            let inside = rest.trim_start();
            column += rest.len() - inside.len() + if text.starts_with("- ") { 2 } else { 0 };
            text = inside;
        }
        let Some((key, value)) = text.split_once(':').filter(|(key, _)| is_key(key)) else { continue };
        around.retain(|(other, _)| *other < column);
        around.push((column, key.to_owned()));
        let path = around.iter().map(|(_, key)| &**key).collect::<Vec<_>>().join(".");
        // Behind the value may stand what else it may be: `{ env: NAME }   # or { file: PATH }`.
        for part in value.split('#') {
            let braces = part.find('{').zip(part.rfind('}')).filter(|(from, to)| from < to);
            let value = braces.and_then(|(from, to)| serde_yaml::from_str(&part[from..=to]).ok());
            add_keys(&value.unwrap_or_default(), &path, &mut found);
        }
        found.insert(path);
    }
    found
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn add_keys(value: &serde_yaml::Value, path: &str, found: &mut BTreeSet<String>) {
    for (key, inside) in value.as_mapping().into_iter().flatten() {
        let path = format!("{path}.{}", key.as_str().expect("a text"));
        add_keys(inside, &path, found);
        found.insert(path);
    }
}

/// Keys that the example does not have. Limits, and settings of servers and models, are in `deploy/reference.md`.
fn missing_keys(schema: &Value, path: &str, has: &BTreeSet<String>, missing: &mut Vec<String>) {
    let elsewhere = ["limit", "limit_per_model", "models", "servers"];
    let is_elsewhere = |last: &str| elsewhere.contains(&last) && path != "prices.models";
    if !schema.is_object() || path.rsplit('.').next().is_some_and(is_elsewhere) {
        return;
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let inside = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if !has.contains(&inside) {
            missing.push(inside.clone());
        }
        missing_keys(value, &inside, has, missing);
    }
    for part in ["items", "additionalProperties"] {
        missing_keys(&schema[part], path, has, missing);
    }
    for part in ["anyOf", "oneOf", "allOf"] {
        for value in schema[part].as_array().into_iter().flatten() {
            missing_keys(value, path, has, missing);
        }
    }
}

#[test]
fn what_modelgate_takes_the_schema_takes_and_what_has_the_wrong_form_it_refuses() {
    let python = std::env::var_os("MODELGATE_TEST_SCHEMATHESIS");
    let python =
        python.map_or_else(|| Path::new(ROOT).join("target/tools/openapi/bin/python"), PathBuf::from);
    let Some(python) = need(python.exists().then_some(python), "Python with jsonschema") else { return };
    let good: Vec<(String, String)> =
        written().into_iter().filter(|(_, yaml)| check(yaml).is_none()).collect();
    for file in ["full.yaml", "modelgate.example.yaml", "debian/modelgate.yaml", "cloud/modelgate.yaml"] {
        assert!(good.iter().any(|(from, _)| from.ends_with(file)), "{file} is not among the good ones");
    }
    assert!(good.len() >= 12, "{}", good.len());
    let documents: Vec<Value> = good.iter().map(|(_, yaml)| as_json(yaml).expect("JSON")).collect();
    for ((from, yaml), wrong) in good.iter().zip(validate(&python, &documents)) {
        assert_eq!(wrong, None, "{from}:\n{yaml}");
    }

    // What only the reader of a value knows is not in the schema.
    const OF_FORM: [&str; 6] = [
        "unknown key",
        "allowed: keys with values",
        "allowed: a list, each",
        "allowed: a whole number from",
        "found a list",
        "found keys with values",
    ];
    let mut bad = Vec::new();
    for case in include_str!("config/bad.txt").split("\n\n") {
        let (yaml, told): (Vec<&str>, Vec<&str>) = case.lines().partition(|line| line.starts_with('>'));
        let yaml: Vec<&str> = yaml.iter().map(|line| line.get(2..).unwrap_or_default()).collect();
        let told = told.join("\n");
        if let (true, Some(json)) =
            (OF_FORM.iter().any(|part| told.contains(part)), as_json(&yaml.join("\n")))
        {
            bad.push((yaml.join("\n"), told, json));
        }
    }
    assert!(bad.len() >= 25, "{}", bad.len());
    let documents: Vec<Value> = bad.iter().map(|(_, _, json)| json.clone()).collect();
    for ((yaml, told, _), wrong) in bad.iter().zip(validate(&python, &documents)) {
        assert!(wrong.is_some(), "{yaml}\n{told}");
    }
}
