//! The reference is what the program says, and the other documents do not contradict it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use testkit::traefik::traefik_binary;

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
    let prices = "prompt, cached_prompt, completion, request, second, image, minute, characters";
    assert_eq!(others.matches("\n| `").count(), prices.split(',').count(), "{prices}");
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
    for folder in ["docs", "docs/clients", "docs/moving"] {
        let pages = fs::read_dir(format!("{}/../../{folder}", env!("CARGO_MANIFEST_DIR"))).expect("the book");
        let names = pages.flatten().map(|page| page.file_name().to_string_lossy().into_owned());
        files.extend(names.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}/{name}")));
    }
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

/// A text of a Compose file with its variables replaced, by their defaults or by their names.
fn substituted(text: &str) -> String {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, after) = part.split_once('}').expect("a closing brace");
        match inside.split_once(":-") {
            Some((_, default)) => whole.push_str(default),
            None => {
                let name = inside.split(':').next().unwrap_or_default();
                whole.push_str("a-");
                whole.push_str(&name.to_lowercase().replace('_', "-"));
            }
        }
        whole.push_str(after);
    }
    whole
}

/// A variable that Modelgate does not know, or a value that it does not allow, would stop it at the start.
#[test]
fn what_compose_files_tell_modelgate_is_what_it_takes() {
    let mut checked = BTreeSet::new();
    for (file, yaml) in compose_files() {
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
        checked.insert(file.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    for name in ["compose.yaml", "two-modelgates.yaml", "tls.yaml", "swarm.yaml"] {
        assert!(checked.contains(&Some(name.to_owned())), "{name} has no Modelgate");
    }
}

/// All Compose files of deploy/ and examples/.
fn compose_files() -> Vec<(PathBuf, serde_yaml::Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list =
        |folder: &str| fs::read_dir(root.join(folder)).expect("a folder").flatten().map(|entry| entry.path());
    let examples = list("examples").map(|path| if path.is_dir() { path.join("compose.yaml") } else { path });
    let mut found = Vec::new();
    for file in
        examples.chain(list("deploy")).filter(|path| path.extension().is_some_and(|end| end == "yaml"))
    {
        // `!override` and the like are for Compose.
        let text = fs::read_to_string(&file).expect("a file").replace("!override", "").replace("!reset", "");
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
        if yaml["services"].is_mapping() {
            found.push((file, yaml));
        }
    }
    found
}

/// What the files of deploy/ mount from there is there, and Grafana is told of the places where it is mounted.
#[test]
fn what_deploy_mounts_is_there() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let mut mounts = Vec::new();
    for (file, yaml) in compose_files().into_iter().filter(|(file, _)| file.parent() == Some(&deploy)) {
        for (_, service) in yaml["services"].as_mapping().expect("services") {
            for volume in
                service["volumes"].as_sequence().into_iter().flatten().filter_map(|volume| volume.as_str())
            {
                let mut parts = volume.split(':');
                if let (Some(here), Some(there)) =
                    (parts.next().and_then(|here| here.strip_prefix("./")), parts.next())
                {
                    assert!(deploy.join(here).exists(), "{}: {volume}", file.display());
                    mounts.push((here.to_owned(), there.to_owned()));
                }
            }
        }
        for (_, config) in yaml["configs"].as_mapping().into_iter().flatten() {
            assert!(deploy.join(config["file"].as_str().expect("a file")).is_file(), "{}", file.display());
        }
    }
    let of = |path: &str| -> serde_yaml::Value {
        serde_yaml::from_str(&fs::read_to_string(deploy.join(path)).expect(path)).expect("YAML")
    };
    let dashboards = of("grafana/provisioning/dashboards/modelgate.yaml");
    let folder = dashboards["providers"][0]["options"]["path"].as_str().expect("a folder");
    let (_, mounted) =
        mounts.iter().find(|(here, _)| here == "grafana/modelgate.json").expect("the dashboard");
    assert_eq!(Path::new(mounted).parent(), Some(Path::new(folder)));
    let sources = of("grafana/provisioning/datasources/prometheus.yaml");
    assert_eq!(sources["datasources"][0]["url"], "http://prometheus:9090");
    assert!(mounts.len() >= 4, "{mounts:?}");
}

/// Traefik ends at once if it is given an option that it does not have.
#[test]
fn what_compose_files_tell_traefik_is_what_it_takes() {
    let Some(traefik) = testkit::need(traefik_binary("3.7.15"), "Traefik") else { return };
    let mut checked = BTreeSet::new();
    for (file, yaml) in compose_files() {
        let Some(command) = yaml["services"]["traefik"]["command"].as_sequence() else { continue };
        let arguments = command.iter().map(|argument| substituted(argument.as_str().expect("text")));
        // No port of this machine is taken.
        let arguments = arguments.map(|argument| match argument.split_once(".address=:") {
            Some((entry_point, _)) => format!("{entry_point}.address=127.0.0.1:0"),
            None => argument,
        });
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let output = fs::File::create(&log).expect("a file");
        let mut process = Command::new(&traefik)
            .args(arguments)
            .args(["--log.level=INFO", "--global.checkNewVersion=false"])
            .current_dir(folder.path())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("Traefik");
        let began = Instant::now();
        let said = loop {
            let said = fs::read_to_string(&log).expect("its log");
            let has_ended = process.try_wait().expect("its end").is_some();
            if has_ended || said.contains("Starting provider") || began.elapsed() > Duration::from_secs(30) {
                break said;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let is_alive = process.try_wait().expect("its end").is_none();
        process.kill().expect("killed");
        process.wait().expect("its end");
        assert!(is_alive && said.contains("Starting provider"), "{}: {said}", file.display());
        checked.insert(file.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    for name in ["compose.yaml", "tls.yaml", "swarm.yaml"] {
        assert!(checked.contains(&Some(name.to_owned())), "{name} has no Traefik");
    }
}

/// What tests each file of deploy/: a test or a step of CI, and by which name it knows the file. Programs and services that a registry
/// would have are those of Debian there; Let's Encrypt and Grafana are not reached.
const TESTED_BY: [(&str, &str, &str); 21] = [
    ("Dockerfile", "xtask/src/image.rs", "deploy/Dockerfile"),
    ("Dockerfile.dockerignore", "crates/modelgate/tests/reference.rs", "deploy/Dockerfile.dockerignore"),
    ("compose.yaml", "xtask/src/demo/containers.rs", "deploy/compose.yaml"),
    ("debian/modelgate.yaml", "xtask/src/package.rs", "etc/modelgate/modelgate.yaml"),
    // Of the package, which is installed, upgraded and purged.
    ("debian/postinst", "crates/modelgate/Cargo.toml", "maintainer-scripts = \"../../deploy/debian\""),
    ("docker-socket-proxy.cfg", "xtask/src/demo/containers/stand_ins.rs", "haproxy.cfg"),
    ("grafana/modelgate.json", "crates/modelgate/tests/prometheus.rs", "grafana/modelgate.json"),
    ("grafana/provisioning/dashboards/modelgate.yaml", "crates/modelgate/tests/reference.rs", "grafana/"),
    ("grafana/provisioning/datasources/prometheus.yaml", "crates/modelgate/tests/reference.rs", "grafana/"),
    ("modelgate.example.yaml", "crates/modelgate/tests/config.rs", "modelgate.example.yaml"),
    ("modelgate.schema.json", "crates/modelgate/tests/schema.rs", "modelgate.schema.json"),
    ("monitoring.yaml", "xtask/src/demo/containers/others.rs", "deploy/monitoring.yaml"),
    // It is mounted by monitoring.yaml, whose Prometheus must find all its targets.
    ("prometheus/prometheus.yml", "xtask/src/demo/containers/others.rs", "fn monitoring"),
    ("prometheus/rules.yml", "crates/modelgate/tests/prometheus.rs", "prometheus/rules.yml"),
    ("prometheus/rules_test.yml", "crates/modelgate/tests/prometheus.rs", "prometheus/rules_test.yml"),
    ("reference.md", "crates/modelgate/tests/reference.rs", "deploy/reference.md"),
    // Parsed with all others; it was started by hand on a real Swarm.
    ("swarm.yaml", "crates/modelgate/tests/reference.rs", "swarm.yaml"),
    ("systemd/modelgate.service", "xtask/src/package.rs", "modelgate.service"),
    ("systemd/modelgate.socket", "xtask/src/package.rs", "modelgate.socket"),
    ("tls.yaml", "xtask/src/demo/containers/others.rs", "deploy/tls.yaml"),
    ("two-modelgates.yaml", "xtask/src/demo/containers/others.rs", "deploy/two-modelgates.yaml"),
];

#[test]
fn each_file_of_deploy_has_its_test() {
    fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                files(&entry.path(), found);
            } else {
                found.insert(entry.path());
            }
        }
    }
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let mut found = BTreeSet::new();
    files(&deploy, &mut found);
    let found: BTreeSet<String> = found
        .iter()
        .map(|path| path.strip_prefix(&deploy).expect("below it").to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, TESTED_BY.map(|(file, ..)| file.to_owned()).into());
    for (file, by, name) in TESTED_BY {
        let text = read(by);
        let own = text.split("const TESTED_BY").next().unwrap_or_default().to_owned()
            + text.split_once("fn each_file_of_deploy").map_or("", |(_, after)| after);
        let mut lines = own.lines().filter(|line| !line.trim_start().starts_with("//"));
        assert!(lines.any(|line| line.contains(name)), "{file}: {by} does not name {name}");
    }
}

/// The image is built from what is not ignored. Cargo must find all packages of the workspace there.
#[test]
fn the_image_is_built_from_all_that_cargo_needs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    let folder = tempfile::tempdir().expect("a folder");
    let ignored = read("deploy/Dockerfile.dockerignore");
    assert!(ignored.lines().any(|line| line == "*"), "all but what is named is ignored");
    for name in ignored.lines().filter_map(|line| line.strip_prefix('!')) {
        std::os::unix::fs::symlink(root.join(name), folder.path().join(name)).expect("a link");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let output = metadata.current_dir(folder.path()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
