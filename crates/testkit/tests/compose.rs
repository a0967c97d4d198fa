//! Compose projects with images under other people's names.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    client,
    docker::{Compose, ComposeFile, Engine, StandIn, available, compose_binary},
    eventually, need,
    traefik::traefik_binary,
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// As in the wild: each server with its own command line and health check.
const SERVERS: &str = r#"
services:
  vllm:
    image: ${VLLM_IMAGE}
    command: ["--model", "org/llama", "--served-model-name", "llama", "--port", "9000", "--gpu-memory-utilization", "0.9"]
    ports: ["127.0.0.1::9000"]
    volumes: [cache:/cache]
    healthcheck: { test: ["CMD", "curl", "-f", "http://localhost:9000/health"], interval: 300ms, retries: 20 }
  sglang:
    image: ${SGLANG_IMAGE}
    command: python3 -m sglang.launch_server --model-path org/qwen --port 30000
    ports: ["127.0.0.1::30000"]
    healthcheck: { test: "python -c \"import requests; requests.get('http://localhost:30000/health')\"", interval: 300ms, retries: 20 }
  ollama:
    image: ${OLLAMA_IMAGE}
    command: serve
    ports: ["127.0.0.1::11434"]
    healthcheck: { test: ["CMD", "ollama", "list"], interval: 300ms, retries: 20 }
  last:
    image: ${LLAMA_CPP_IMAGE}
    command: -m /models/tiny.gguf --alias tiny
    depends_on:
      vllm: { condition: service_healthy }
      sglang: { condition: service_healthy }
      ollama: { condition: service_healthy }
volumes:
  cache:
"#;

/// Images for this test only, removed at its end.
struct Images(Vec<String>);

impl Images {
    async fn make(&mut self, what: &str, stand_in: StandIn) -> String {
        let name = format!("modelgate-test/{what}:{}", std::process::id());
        let name = stand_in.tag(&name).await.expect("the image is made");
        self.0.push(name.clone());
        name
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["image", "rm"]).args(&self.0).output();
    }
}

async fn models(port: u16) -> Option<Vec<String>> {
    let answer = client().get(format!("http://127.0.0.1:{port}/v1/models")).send().await.ok()?;
    let listing: Value = answer.json().await.ok()?;
    listing["data"].as_array()?.iter().map(|card| card["id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_project_of_stand_ins_comes_and_goes() {
    if need(available().await, "Docker Engine").is_none()
        || need(compose_binary(), "Docker Compose").is_none()
    {
        return;
    }
    let mut images = Images(Vec::new());
    let mut file =
        ComposeFile::text(SERVERS).over("services: { last: { environment: { SIM_NAME: last-1 } } }");
    for (variable, what, stand_in) in [
        ("VLLM_IMAGE", "vllm", StandIn::Vllm),
        ("SGLANG_IMAGE", "sglang", StandIn::Sglang),
        ("OLLAMA_IMAGE", "ollama", StandIn::Ollama),
        ("LLAMA_CPP_IMAGE", "llama-cpp", StandIn::LlamaCpp),
    ] {
        file = file.env(variable, images.make(what, stand_in).await);
    }
    // That it comes up at all means that the health checks pass.
    let project = Compose::up(file, "servers").await.expect("the project comes up");
    for (service, port, expected) in
        [("vllm", 9000, "llama"), ("sglang", 30000, "org/qwen"), ("ollama", 11434, "llama3")]
    {
        let port = project.published_port(service, port).await.expect("a port");
        assert_eq!(models(port).await, Some(vec![expected.to_owned()]), "{service}");
    }
    assert!(project.published_port("vllm", 1).await.is_err());
    let [last] = &project.containers("last").await.expect("containers")[..] else { panic!("one container") };
    eventually(TIMEOUT, || async {
        project.logs().await.ok()?.contains("last-1 serves [\"tiny\"] on 0.0.0.0:8080").then_some(())
    })
    .await;

    let port = project.published_port("vllm", 9000).await.expect("a port");
    let unhealthy = client().post(format!("http://127.0.0.1:{port}/sim/health"));
    unhealthy.json(&json!({"healthy": false})).send().await.expect("an answer");
    let [vllm] = &project.containers("vllm").await.expect("containers")[..] else { panic!("one container") };
    eventually(TIMEOUT, || async {
        let args = ["inspect", "--format", "{{.State.Health.Status}}", vllm];
        (Engine::local().docker(&args).await.ok()? == "unhealthy").then_some(())
    })
    .await;
    project.run(&["kill", "vllm"]).await.expect("killed");
    assert_eq!(models(port).await, None);

    let (last, name) = (last.clone(), project.project().to_owned());
    drop(project);
    assert!(Engine::local().docker(&["inspect", &last]).await.is_err(), "the container stays");
    for list in [["network", "ls"], ["volume", "ls"]] {
        let args = [&list[..], &["--quiet", "--filter", &format!("label=com.docker.compose.project={name}")]];
        assert_eq!(Engine::local().docker(&args.concat()).await.as_deref(), Ok(""), "{list:?}");
    }
}

#[tokio::test]
async fn what_compose_says_of_a_bad_file_is_told() {
    if need(available().await, "Docker Engine").is_none()
        || need(compose_binary(), "Docker Compose").is_none()
    {
        return;
    }
    let error =
        Compose::up(ComposeFile::text("services: { a: { imagine: b } }"), "bad").await.expect_err("refused");
    assert!(error.to_string().contains("imagine"), "{error}");
}

#[tokio::test]
async fn a_real_traefik_under_its_usual_name() {
    if need(available().await, "Docker Engine").is_none() {
        return;
    }
    let Some(binary) = need(traefik_binary("3.0.4"), "Traefik 3.0.4") else { return };
    let mut images = Images(Vec::new());
    let image = images.make("traefik", StandIn::Traefik(binary)).await;
    let version = Engine::local().docker(&["run", "--rm", &image, "version"]).await.expect("it runs");
    assert!(version.contains("3.0.4"), "{version}");
}
