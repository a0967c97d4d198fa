//! A real llama.cpp server in a container.

mod common;

use std::{env, fmt::Write as _, path::PathBuf, time::Duration};

use access::listed;
use catalogue::Kind;
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

    // By itself it ends an answer when somebody else's request names the same conversation.
    request["ignore_eos"] = json!(true);
    let mut long = request.clone();
    long["max_tokens"] = json!(1_000);
    let ask = |request| stack.post("/v1/chat/completions", request).header("x-conversation-id", "1");
    let mut answer = send(ask(&long)).await;
    let mut stream = answer.chunk().await.expect("a chunk").expect("a beginning").to_vec();
    let other = send(ask(&request)).await.text().await.expect("a stream");
    assert!(other.trim_end().ends_with("data: [DONE]"), "{other}");
    while let Some(chunk) = answer.chunk().await.expect("a chunk") {
        stream.extend(chunk);
    }
    let stream = String::from_utf8_lossy(&stream);
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{} bytes: {stream:.300}", stream.len());
}

/// The paths that the installed program registers stand in it as text. One that our list does not know may be new, and open
/// to nobody until somebody has looked at it.
#[test]
fn every_path_of_the_installed_llama_cpp_is_listed() {
    /// Of the system and of its libraries, or parts of longer texts.
    const NOT_ROUTES: [&str; 12] = [
        "/bin/",
        "/dev/",
        "/etc/",
        "/lib",
        "/proc/",
        "/refs",
        "/run/",
        "/sys/",
        "/tmp",
        "/topology/",
        "/usr/",
        "/var/",
    ];
    let Some(server) = tool("MODELGATE_TEST_LLAMA_SERVER", "llama-server") else { return };
    let program = std::fs::read(server).expect("the program");
    let is_path = |text: &str| {
        let words = text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| {
                let word = part.strip_prefix(':').unwrap_or(part);
                word.len() > 1
                    && word
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_' || b.is_ascii_digit())
            })
        });
        words && text.len() > 5 && !NOT_ROUTES.iter().any(|other| text.starts_with(other))
    };
    let texts = program.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let paths: std::collections::BTreeSet<&str> = texts.filter(|text| is_path(text)).collect();
    assert!(paths.contains("/completion") && paths.contains("/v1/chat/completions"), "{paths:?}");
    let is_listed = |path: &str| {
        let path = path.replace("/:id_slot", "/7");
        ["GET", "POST", "PUT", "DELETE"].iter().any(|method| listed(Kind::LlamaCpp, method, &path).is_some())
    };
    let unknown: Vec<&&str> = paths.iter().filter(|path| !is_listed(path)).collect();
    assert!(unknown.is_empty(), "not in access/src/routes/llamacpp.txt: {unknown:?}");
}

/// The same of a real vLLM, where one runs: `MODELGATE_TEST_VLLM=http://127.0.0.1:8000`, in development mode with
/// `VLLM_ALLOW_RUNTIME_LORA_UPDATING`. It takes minutes to install, so it is no part of a usual run.
#[tokio::test]
async fn every_route_of_a_running_vllm_is_listed() {
    let Ok(url) = env::var("MODELGATE_TEST_VLLM") else {
        return eprintln!("no vLLM to compare with: MODELGATE_TEST_VLLM is not set");
    };
    let document = send(testkit::client().get(format!("{url}/openapi.json"))).await;
    let document: Value = document.json().await.expect("its /openapi.json");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 20, "{document}");
    for (path, methods) in paths {
        let filled = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        let filled = filled.collect::<Vec<_>>().join("/");
        for method in methods.as_object().expect("methods").keys() {
            let method = method.to_uppercase();
            assert!(listed(Kind::Vllm, &method, &filled).is_some(), "{method} {path} is in no list");
        }
    }
}
