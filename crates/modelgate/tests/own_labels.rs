//! The middleware that the book has operators write as labels: as it stands there, through Traefik's Docker provider.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{KEY, NEWEST, config_of, send};
use serde_json::{Value, json};
use testkit::{
    docker::{self, Container, Engine, RunOptions},
    modelgate::{Modelgate, command},
    need,
    traefik::{Traefik, traefik_binary},
};

type Labels = BTreeMap<String, String>;

/// All labels in the section about routers of one's own: `traefik.… : value`, as YAML has it.
fn labels_of_the_book() -> Labels {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/traefik.md"));
    let page = page.expect("docs/traefik.md");
    let section = page.split_once("## Routers of your own").expect("the section").1;
    labels(section.split("\n## ").next().unwrap_or_default().lines())
}

/// `modelgate explain middleware`, which prints the same for a version.
fn explained_labels(version: &str) -> Labels {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("modelgate.yaml");
    std::fs::write(&file, format!("traefik: {{ version: {version:?} }}\n")).expect("written");
    let mut command = command(env!("CARGO_BIN_EXE_modelgate"));
    let output = command
        .args(["explain", "middleware", "embeddings", "--config"])
        .arg(file)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    labels(String::from_utf8(output.stdout).expect("text").lines())
}

fn labels<'l>(lines: impl Iterator<Item = &'l str>) -> Labels {
    let pairs =
        lines.filter_map(|line| line.trim().strip_prefix("traefik.").and_then(|line| line.split_once(": ")));
    let unquoted = |value: &str| value.trim_matches('"').to_owned();
    pairs.map(|(name, value)| (format!("traefik.{name}"), unquoted(value))).collect()
}

fn of_middleware(labels: &Labels) -> Vec<(&str, &str)> {
    let all = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    all.filter(|(name, _)| name.starts_with("traefik.http.middlewares.check.")).collect()
}

/// They say what is rendered for `modelgate@http`: where that changes, the book must.
#[test]
fn the_book_has_what_the_program_prints() {
    let (book, explained) = (labels_of_the_book(), explained_labels("3.3.0"));
    assert_eq!(of_middleware(&book), of_middleware(&explained), "modelgate explain middleware embeddings");
    assert!(of_middleware(&book).len() >= 6, "{book:?}");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/own-router/compose.yaml");
    let example = std::fs::read_to_string(example).expect("the example");
    assert_eq!(of_middleware(&labels(example.lines())), of_middleware(&explained), "examples/own-router");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_nothing_made_up_gets_to_the_server() {
    if need(docker::available().await, "a Docker Engine").is_none() {
        return;
    }
    let Some(image) = need(docker::sim_image().await, "the image of the simulated server") else { return };
    let book = labels_of_the_book();
    for version in ["3.0.4", "3.3.6", "3.6.2", NEWEST] {
        let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { continue };
        let mut modelgate = start_modelgate(version).await;
        modelgate.wait_ready().await;
        // Before 3.3 the lines are others; the router stays.
        let mut labels = book.clone();
        if version == "3.0.4" {
            labels.retain(|name, _| !name.starts_with("traefik.http.middlewares."));
            labels.extend(explained_labels("3.0.0"));
        }
        let container = start_server(&image, &labels, &modelgate).await;
        let builder = Traefik::builder(binary)
            .arg(format!("--providers.docker.endpoint={}", Engine::local().endpoint()))
            .arg("--providers.docker.exposedByDefault=false");
        let traefik = builder.start().await;
        let client = testkit::client();
        let url = format!("{}/mine/predict", traefik.url());
        let ask = |key: &str| client.post(&url).bearer_auth(key.to_owned()).json(&json!({ "text": "Hello" }));
        testkit::eventually(Duration::from_secs(60), || async {
            (send(ask("mg-wrong")).await.status() == 401).then_some(())
        })
        .await;
        let mut request =
            ask(KEY).header("sec-websocket-protocol", format!("realtime, openai-insecure-api-key.{KEY}"));
        for name in
            ["x-api-key", "api-key", "x_api_key", "api_key", "apikey", "x-goog-api-key", "x.auth.token"]
        {
            request = request.header(name, KEY);
        }
        for name in ["x-inference-consumer", "x_inference_consumer", "x-inference-route", "x.inference.key"] {
            request = request.header(name, "made-up");
        }
        let status = send(request).await.status();
        assert_eq!(
            status, 404,
            "{version}: the simulated server knows no /mine; that it answers is what counts"
        );
        check_what_arrived(&container, version).await;
    }
}

async fn start_modelgate(version: &str) -> Modelgate {
    let yaml = config_of(&[], &format!("traefik: {{ version: {version:?} }}\n"));
    Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await
}

async fn start_server(image: &str, labels: &Labels, modelgate: &Modelgate) -> Container {
    let authority = modelgate.requests_url().trim_start_matches("https://").to_owned();
    let mut options = RunOptions::new(image).env("SIM_MODELS", "embeddings").label("traefik.enable", "true");
    for (name, value) in labels {
        // Nothing else of them is changed: Modelgate runs on this machine, under no name.
        options = options.label(name, &value.replace("modelgate:8101", &authority));
    }
    Container::run(options).await.expect("a container")
}

async fn check_what_arrived(container: &Container, version: &str) {
    let address = container.ip().await.expect("an address");
    let received =
        testkit::client().get(format!("http://{address}:8000/sim/requests")).send().await.expect("an answer");
    let received: Value = received.json().await.expect("JSON");
    let text = received.to_string();
    assert!(text.contains("/mine/predict"), "{version}: {text}");
    assert!(!text.contains(KEY) && !text.contains("made-up"), "{version}: {text}");
    assert!(
        text.to_lowercase().contains("x-inference-consumer") && text.contains("alice"),
        "{version}: {text}"
    );
    assert!(text.contains("\"realtime\""), "{version}: the other protocols are left: {text}");
}
