//! The unmodified Python SDKs of OpenAI and Anthropic against a real Traefik.

mod common;

use std::{env, path::PathBuf, process::Command};

use common::{KEY, LLAMA_KEY, NEWEST, stack};
use testkit::{need, sim::Sim};

fn python() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/sdk/bin/python");
    let python = env::var_os("MODELGATE_TEST_PYTHON").map_or_else(|| PathBuf::from(installed), PathBuf::from);
    need(python.exists().then_some(python), "Python with the openai and anthropic packages")
}

#[tokio::test]
async fn the_sdks_work_unmodified_and_raise_their_typed_exceptions() {
    let Some(python) = python() else { return };
    let sim = Sim::start("a", &["llama", "org/qwen", "llama-limited", "llama-hourly"]);
    let limits = "models:\n  - { match: \"llama-limited\", limit: { requests_per_minute: 12, burst: 1 } }\n  \
                  - { match: \"llama-hourly\", limit: { requests_per_hour: 1 } }\n";
    let Some(stack) = stack(NEWEST, &[&sim], limits).await else { return };
    stack.wait_for("llama").await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/client.py");
    let url = stack.traefik.url();
    let run = tokio::task::spawn_blocking(move || {
        Command::new(python).arg(script).args([&url, KEY, LLAMA_KEY]).output().expect("Python runs")
    });
    let output = run.await.expect("it ended");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("all good"), "the script ran to its end");
}
