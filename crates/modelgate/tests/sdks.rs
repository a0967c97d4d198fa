//! The clients that people use, as they are, through one real Traefik and one Modelgate: each does what its users do first, runs
//! the lines of its page in `docs/clients`, and meets each refusal. The expectations are what its user sees.
//!
//! A client's cases are in one script in `sdks/`, which prints a line of JSON for each.

#[path = "sdks/client.rs"]
mod client;
mod common;
#[path = "sdks/expected.rs"]
mod expected;
#[path = "sdks/stage.rs"]
mod stage;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use client::Client;
use expected::CLIENTS;
use serde_json::{Value, json};
use stage::Stage;
use tokio::sync::Semaphore;

/// More than there are cores, because clients that are told to come back wait for seconds.
const AT_ONCE: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_client_works_and_shows_why_it_is_refused() {
    let clients: Vec<&'static Client> = CLIENTS.iter().filter(|client| client.is_there()).collect();
    if clients.is_empty() {
        return;
    }
    let Some(stage) = Stage::start(&clients).await else { return };
    let stage = Arc::new(stage);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let runs = clients.into_iter().map(|client| {
        let (stage, turns) = (Arc::clone(&stage), Arc::clone(&turns));
        tokio::spawn(async move {
            let _turn = turns.acquire().await.expect("open");
            tokio::task::spawn_blocking(move || run(client, &stage)).await.expect("it ran")
        })
    });
    let mut wrong = String::new();
    for run in runs.collect::<Vec<_>>() {
        wrong += &run.await.expect("it ran");
    }
    let elsewhere = stage.called_elsewhere();
    assert!(wrong.is_empty() && elsewhere.is_empty(), "{wrong}\ncalled elsewhere: {elsewhere:?}");
}

/// Runs a client's script, and says in which cases its user saw anything but what is expected.
fn run(client: &Client, stage: &Stage) -> String {
    let output = start(client, stage);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines: Vec<Value> =
        text(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut wrong = String::new();
    for (case, seen) in client.cases {
        match lines.iter().find(|line| line["case"] == *case) {
            Some(line) if seen.fits(line) => {}
            found => {
                let _ = writeln!(wrong, "{} {case}: {seen:?}, but: {found:?}", client.name);
            }
        }
    }
    for line in &lines {
        if !client.cases.iter().any(|(case, _)| line["case"] == *case) {
            let _ = writeln!(wrong, "{}: nothing is expected of {line}", client.name);
        }
    }
    for (key, status, count) in client.requests {
        let found = stage.count(client, key, *status);
        if found != *count {
            let _ = writeln!(
                wrong,
                "{}: {found} answers of {status} to its key {key:?}, not {count}",
                client.name
            );
        }
    }
    if !output.status.success() {
        let _ = writeln!(wrong, "{}: {} {}", client.name, output.status, text(&output.stderr));
    }
    wrong
}

/// The script runs in a folder of its own with nothing of the environment, so that it finds no other key or address.
fn start(client: &Client, stage: &Stage) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    for script in fs::read_dir(here("tests/sdks")).expect("the scripts").flatten() {
        fs::copy(script.path(), folder.path().join(script.file_name())).expect("a copy");
    }
    if let Some(packages) = client::node_packages() {
        std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).expect("a link");
    }
    let page = fs::read_to_string(here("../../docs/clients").join(client.page)).expect("the client's page");
    let settings = json!({
        "url": stage.url(),
        "keys": stage::keys_of(client),
        "page": stage.with_address(&page, client),
        "folder": folder.path(),
    });
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "300"])
        .arg(client.interpreter().expect("it is there"))
        .arg(client.script);
    command.current_dir(folder.path()).env_clear().envs(stage.environment(folder.path()));
    command.env("MODELGATE_SDK_SETTINGS", settings.to_string()).output().expect("it runs")
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
