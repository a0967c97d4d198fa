//! Labels of containers: whatever they say becomes a server or a finding, and never a document that Traefik would reject or read
//! otherwise.

use std::collections::{BTreeMap, BTreeSet};

use catalogue::{
    Catalogue, ContainerRecord, ContainerStatus, Interpretation, Kind, ModelCard, ModelName, NetworkView,
    OPT_IN, Problem, ServerRecord, ServerState, interpret,
};
use serde_json::Value;
use traefik_config::{Gateway, RenderOptions, render};

/// What Go's `strconv.ParseBool` takes for true, as Traefik does.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];

/// Each line is a label, `key=value`.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let labels: BTreeMap<String, String> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let is_enabled = labels.get(OPT_IN).is_some_and(|value| TRUE.contains(&value.trim()));
    let container = container(labels);
    let view = NetworkView::default();
    let (read, problems) = interpret(&container, &view);
    problems.iter().for_each(assert_printable);
    let Interpretation::Server(spec, _) = read else { return };
    assert!(is_enabled, "a server that nobody has enabled");
    let card = |name: &str| ModelCard::named(ModelName::new(name).expect("a name"));
    let models = vec![card("cheap"), card("org/cheap:latest")];
    let server = ServerRecord {
        spec: *spec,
        state: ServerState::Ready,
        listed_as: Kind::Other,
        has_others: false,
        models,
    };
    let catalogue = Catalogue::assemble([server], problems);
    catalogue.problems().iter().chain(catalogue.hints()).for_each(assert_printable);
    assert_renders(&catalogue, data);
}

fn container(labels: BTreeMap<String, String>) -> ContainerRecord {
    ContainerRecord {
        id: "0123456789abcdef".repeat(4),
        name: "llama".into(),
        image: "vllm/vllm-openai".into(),
        labels,
        status: ContainerStatus::Running,
        health: None,
        started_at: "2026-01-01T00:00:00Z".into(),
        networks: BTreeMap::from([("bridge".into(), "172.17.0.2".into())]),
        network_mode: "bridge".into(),
        exposed_ports: BTreeSet::from([8000]),
        published_ports: Vec::new(),
    }
}

/// Asserts that a problem can be printed: a terminal obeys control characters.
pub(crate) fn assert_printable(problem: &Problem) {
    for text in [problem.to_string(), problem.finding.advice().to_string()] {
        assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
    }
}

/// Asserts that the document has no name and no rule that Traefik would read otherwise, and is always the same. Rendering takes longer
/// than all else, so it is done for one input of 32, with one of the two layouts.
pub(crate) fn assert_renders(catalogue: &Catalogue, data: &[u8]) {
    let chance = data.iter().fold(0_u8, |sum, byte| sum.rotate_left(1) ^ byte);
    let version = match chance % 32 {
        0 if chance & 32 == 0 => "3.7.15",
        0 => "3.0.4",
        _ => return,
    };
    let gateway = Gateway { authority: "modelgate:8101".into(), ca_pem: String::new() };
    let options = RenderOptions { version: version.parse().expect("a version"), ..RenderOptions::default() };
    let document = render(catalogue, &options, &gateway).to_json();
    if chance & 64 != 0 {
        assert_eq!(document, render(catalogue, &options, &gateway).to_json(), "the same bytes");
    }
    let json: Value = serde_json::from_slice(&document).expect("JSON");
    for part in ["routers", "services", "middlewares"] {
        for (name, value) in json["http"][part].as_object().into_iter().flatten() {
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            assert!(is_plain && !name.is_empty(), "{part}: {name:?}");
            if let Some(rule) = value["rule"].as_str() {
                assert_rule(rule);
            }
        }
    }
}

/// A rule's texts stand between backquotes, or in Go's quotes with escapes; outside of them there are only words and operators.
fn assert_rule(rule: &str) {
    let mut within = None;
    let mut escaped = false;
    let mut depth = 0_i32;
    for c in rule.chars() {
        match within {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(quote) if c == quote => within = None,
            Some(_) => assert!(!c.is_control(), "{rule:?}"),
            None if c == '`' || c == '"' => within = Some(c),
            None => {
                depth += i32::from(c == '(') - i32::from(c == ')');
                assert!(depth >= 0, "{rule:?}");
                assert!(c.is_ascii_alphanumeric() || "()!&|, ".contains(c), "{c:?} in {rule:?}");
            }
        }
    }
    assert!(within.is_none() && depth == 0, "{rule:?}");
}
