//! A real llama.cpp server in a container.

mod common;

use std::{env, fmt::Write as _, path::PathBuf, time::Duration};

use common::{NEWEST, chat, send};
use serde_json::{Value, json};
use testkit::{
    docker::{self, Container, Engine, Image, RunOptions},
    need,
};

fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools")).join(name);
    let path = env::var_os(variable).map_or(installed, PathBuf::from);
    need(path.exists().then_some(path), name)
}

#[tokio::test]
async fn a_real_llama_cpp_server_is_discovered_answers_and_streams() {
    let Some(server) = tool("MODELGATE_TEST_LLAMA_SERVER", "llama-server") else { return };
    let Some(model) = tool("MODELGATE_TEST_GGUF", "tiny.gguf") else { return };
    if need(docker::available().await, "a Docker Engine").is_none() {
        return;
    }
    let command =
        ["/llama-server", "-m", "/tiny.gguf", "--alias", "tiny-cpp", "--host", "0.0.0.0", "--port", "8080"];
    let image = Image::new("modelgate-test/llama-cpp:local")
        .program(server, "/llama-server")
        .file(model, "/tiny.gguf")
        .entrypoint(&command)
        .change("EXPOSE 8080");
    let image = image.build().await.expect("an image");
    let container = RunOptions::new(image).name("llama-cpp").label("inference.enable", "true");
    let container = Container::run(container).await.expect("a container");

    let mut yaml = String::new();
    let _ = writeln!(yaml, "docker:\n  endpoint: {}", Engine::local().endpoint());
    let Some(stack) = common::stack(NEWEST, &[], &yaml).await else { return };
    let up = testkit::within(Duration::from_secs(60), || async {
        (send(stack.get("/v1/models/tiny-cpp")).await.status() == 200).then_some(())
    });
    if up.await.is_none() {
        panic!("it did not come up: {:?}\n{}", container.logs().await, stack.modelgate.log());
    }
    stack.wait_for("tiny-cpp").await;

    let mut request = chat("tiny-cpp");
    request["max_tokens"] = json!(8);
    let answer: Value = send(stack.post("/v1/chat/completions", &request)).await.json().await.expect("JSON");
    assert!(answer["choices"][0]["message"].is_object(), "{answer}");
    let message: Value = send(stack.post("/v1/messages", &request)).await.json().await.expect("JSON");
    assert_eq!(message["type"], "message", "{message}");
    request["stream"] = json!(true);
    let stream = send(stack.post("/v1/chat/completions", &request)).await.text().await.expect("a stream");
    assert!(stream.matches("data: ").count() > 2 && stream.trim_end().ends_with("data: [DONE]"), "{stream}");
}
