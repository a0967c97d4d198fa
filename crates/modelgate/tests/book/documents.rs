//! Blocks that a program reads: Modelgate's configuration, Compose files, JSON.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use catalogue::{LABELS, OPT_IN, Setting};
use serde_yaml::Value;
use testkit::docker::compose_binary;

use crate::{BINARY, blocks::Block, root};

/// Whose YAML a mark may name: that of Traefik, and of programs that people come from.
const OTHERS: [&str; 5] = ["Traefik", "LiteLLM", "Olla", "llama-swap", "lw-inference-proxy"];
/// In place of what a reader puts in.
const VARIABLES: [(&str, &str); 4] = [
    ("OPENAI_API_KEY", "sk-of-a-provider"),
    ("LITELLM_KEY", "sk-of-a-gateway"),
    ("SLACK_WEBHOOK", "https://hooks.example.com/x"),
    ("NTFY_URL", "https://ntfy.example.com/x"),
];
const COMPOSE_VARIABLES: [(&str, &str); 2] = [("POSTGRES_PASSWORD", "x"), ("VALKEY_PASSWORD", "x")];

/// What is wrong with a block.
pub(crate) fn fault(block: &Block) -> Option<String> {
    match block.language.as_str() {
        "yaml" => of_yaml(block),
        "json" => serde_json::from_str::<serde_json::Value>(&block.text).err().map(|error| error.to_string()),
        "sh" => None,
        // Drawings and options of other programs.
        "" => {
            let is_command = |line: &str| {
                let (program, rest) = line.split_once(' ').unwrap_or_default();
                ["modelgate", "curl", "docker", "cargo"].contains(&program)
                    && rest.starts_with(|c: char| c.is_ascii())
            };
            block.text.lines().find(|line| is_command(line)).map(|line| format!("{line}: commands are sh"))
        }
        "python" | "js" | "toml" if block.place.starts_with("docs/clients/") => None,
        "nginx" if block.place.starts_with("docs/moving/nginx.md") => None,
        other => Some(format!("nobody reads {other}")),
    }
}

fn of_yaml(block: &Block) -> Option<String> {
    let mut yaml: Value = match serde_yaml::from_str(&block.text) {
        Ok(yaml) => yaml,
        Err(error) => return Some(error.to_string()),
    };
    if let Err(error) = yaml.apply_merge() {
        return Some(error.to_string());
    }
    if let Some(whose) = block.marked("yaml of ") {
        return (!OTHERS.contains(&whose)).then(|| format!("{whose} is nobody whose YAML is known"));
    }
    let has = |key: &str| yaml.get(key).is_some();
    match () {
        () if block.marked("file: ").is_some_and(|name| name != "modelgate.yaml") => None,
        () if has("scrape_configs") => None,
        () if has("services") => of_compose(&block.text, &yaml),
        () if has("labels") => of_labels(&yaml["labels"]),
        () => of_configuration(&block.text),
    }
}

/// What `modelgate check` says against it.
fn of_configuration(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("written");
    let mut parts = text.split("sha256: \"…\"");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for (number, part) in parts.enumerate() {
        whole += &format!("sha256: \"{:064x}\"{part}", number + 1);
    }
    let secret = secret.display().to_string();
    let mut whole = whole.replace('…', "word");
    for name in ["pager", "mail"] {
        whole = whole.replace(&format!("/run/secrets/{name}"), &secret);
    }
    let file = folder.path().join("modelgate.yaml");
    fs::write(&file, whole).expect("written");
    let mut check = testkit::modelgate::command(BINARY);
    check.args(["check", "--config"]).arg(&file).current_dir(folder.path()).envs(VARIABLES);
    let output = check.output().expect("it runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What is wrong with labels, with what Modelgate is told, or with the file as Compose reads it.
fn of_compose(text: &str, yaml: &Value) -> Option<String> {
    let services = yaml["services"].as_mapping()?;
    if let Some(fault) = services.iter().find_map(|(_, service)| of_labels(&service["labels"])) {
        return Some(fault);
    }
    let is_whole = yaml["services"]["modelgate"].get("image").is_some();
    let told = is_whole.then(|| of_environment(&yaml["services"]["modelgate"]["environment"])).flatten();
    told.or_else(|| read_by_compose(text))
}

fn of_labels(labels: &Value) -> Option<String> {
    let labels = labels.as_mapping().into_iter().flatten();
    let texts = labels.filter_map(|(name, value)| Some((name.as_str()?, value.as_str().unwrap_or_default())));
    texts.filter_map(|(name, value)| of_label(name, value)).next()
}

fn of_label(name: &str, value: &str) -> Option<String> {
    let key = name.strip_prefix("inference.")?;
    if name == OPT_IN {
        return (value != "true").then(|| format!("{name}={value}"));
    }
    if LABELS.iter().any(|label| label.name == name) {
        return None;
    }
    let Some(setting) = Setting::find(key) else { return Some(format!("there is no label {name}")) };
    let read = setting.read(
        value,
        &mut catalogue::ServerSettings::default(),
        &mut catalogue::GivenModelSettings::default(),
    );
    read.err().map(|error| format!("{name}={value}: {error}"))
}

fn of_environment(environment: &Value) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut check = testkit::modelgate::command(BINARY);
    for (name, value) in environment.as_mapping().into_iter().flatten() {
        check.env(name.as_str()?, value.as_str()?);
    }
    // As in the image.
    check.env("MODELGATE_STATE_DIR", folder.path()).arg("check").current_dir(folder.path());
    let output = check.output().expect("it runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Reads it alone or, as a part of one, over `deploy/compose.yaml`.
fn read_by_compose(text: &str) -> Option<String> {
    let Some(compose) = compose_binary() else {
        assert!(std::env::var_os("MODELGATE_TEST_REQUIRE").is_none(), "Docker Compose is missing");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("compose.yaml");
    fs::write(&file, text).expect("written");
    let read = |below: &[PathBuf]| {
        let mut command = Command::new(&compose);
        let files = below.iter().chain([&file]).flat_map(|file| [OsStr::new("--file"), file.as_os_str()]);
        command.args(files).args(["config", "--quiet"]).envs(COMPOSE_VARIABLES).current_dir(folder.path());
        let output = command.output().expect("it runs");
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let alone = read(&[])?;
    let as_part = read(&[root().join("deploy/compose.yaml")])?;
    Some(format!("alone: {alone}; as a part of deploy/compose.yaml: {as_part}"))
}
