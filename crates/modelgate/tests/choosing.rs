//! The ways to choose a model, through a real Traefik.

mod common;

use common::{KEY, LAYERED, LLAMA_KEY, NEWEST, Stack, chat, config_of, refusal, send, server, stack_of};
use reqwest::RequestBuilder;
use serde_json::json;
use testkit::sim::{Options, Sim};

async fn with(version: &str, servers: &[(&Sim, &str)], more: &str) -> Option<Stack> {
    let more = format!(
        "{more}\ntraefik: {{ version: {version:?}, apis: [openai, models, azure, ollama, llamacpp] }}\n"
    );
    let stack = stack_of(version, &config_of(servers, &more)).await?;
    // Traefik has the routes once its fallback no longer answers.
    stack.traefik.wait_configured().await;
    Some(stack)
}

async fn answered_by(request: RequestBuilder) -> String {
    let response = send(request).await;
    let status = response.status();
    match status.as_u16() {
        200 => server(&response),
        _ => format!("{status}: {}", response.text().await.expect("text")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_chooses_and_is_taken_off() {
    let (embeddings, llama) =
        (Sim::start("embeddings", &["all-MiniLM"]), Sim::start("llama", &["org/llama"]));
    let root = Sim::start_with(Options { base_path: String::new(), ..Options::named("root", &["rooted"]) });
    for version in LAYERED {
        let servers = [
            (&embeddings, "models: [embeddings], single_model: true"),
            (&llama, ""),
            (&root, "base_path: /"),
        ];
        let Some(stack) = with(version, &servers, "").await else { continue };
        for (path, body, by, seen) in [
            ("/models/embeddings/predict", json!({ "text": "Hello" }), "embeddings", "/predict"),
            ("/models/org/llama/v1/chat/completions", chat("org/llama"), "llama", "/v1/chat/completions"),
            ("/models/rooted/v1/chat/completions", chat("rooted"), "root", "/chat/completions"),
            (
                "/openai/deployments/org/llama/chat/completions?api-version=2024-10-21",
                chat("org/llama"),
                "llama",
                "/v1/chat/completions?api-version=2024-10-21",
            ),
        ] {
            for sim in [&embeddings, &llama, &root] {
                sim.forget_requests();
            }
            assert_eq!(answered_by(stack.post(path, &body)).await, by, "{version} {path}");
            let sim = [&embeddings, &llama, &root].into_iter().find(|s| s.name() == by).expect("one of them");
            assert_eq!(sim.posts()[0].path, seen, "{version} {path}");
        }
        for (path, body, code) in [
            ("/models/embeddings/predict", json!({ "model": "org/llama" }), "model_ambiguous"),
            ("/models/nothing/predict", json!({}), "model_not_found"),
            ("/models/embeddings/v1/load_lora_adapter", json!({}), "not_found"),
        ] {
            let (_, found) = refusal(stack.post(path, &body)).await;
            assert_eq!(found["error"]["code"], code, "{version} {path}: {found}");
        }
        let image = stack.client.post(format!("{}/models/embeddings/predict", stack.traefik.url()));
        let image = image.bearer_auth(KEY).header("content-type", "image/png").body(vec![0u8; 3000]);
        assert_eq!(
            answered_by(image).await,
            "embeddings",
            "{version}: a server with one model takes any body"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_a_query_or_a_host_chooses() {
    let (small, large) = (Sim::start("small", &["llama"]), Sim::start("large", &["llama"]));
    let (fast, code) = (Sim::start("fast", &["tiny"]), Sim::start("code", &["coder"]));
    for version in LAYERED {
        let servers = [
            (&small, "select: { header: \"X-Model-Size: 8b\" }"),
            (&large, "select: { header_regexp: \"X-Model: llama.*|.*70b\" }"),
            (&fast, "select: { query: fast=true }"),
            (&code, "select: { host: code.example.com }"),
        ];
        let Some(stack) = with(version, &servers, "").await else { continue };
        let path = "/v1/chat/completions";
        let no_model = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
        let llama = || stack.post(path, &chat("llama"));
        for (request, by) in [
            (llama().header("x-model-size", "8b"), "small"),
            (llama().header("x-model", "llama-any"), "large"),
            (llama().header("x-model", "the-70b"), "large"),
            (stack.post("/v1/chat/completions?fast=true", &chat("tiny")), "fast"),
            (stack.post(path, &chat("coder")).header("host", "code.example.com"), "code"),
        ] {
            assert_eq!(answered_by(request).await, by, "{version}");
        }
        for (request, code) in [
            (llama(), "model_not_found"),
            (llama().header("x-model-size", "9b"), "model_not_found"),
            (stack.post("/v1/chat/completions?fast=true", &chat("llama")), "model_not_served_there"),
            (stack.post("/v1/chat/completions?fast=false", &chat("tiny")), "model_not_found"),
            (stack.post(path, &no_model), "model_missing"),
        ] {
            let (_, body) = refusal(request).await;
            assert_eq!(body["error"]["code"], code, "{version}: {body}");
        }
        // The only model of what was chosen need not be named again.
        let unnamed = stack.post("/models/tiny/v1/chat/completions?fast=true", &no_model);
        let (status, body) = refusal(unnamed).await;
        assert_ne!(status, 404, "{version}: chosen twice, consistently: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_a_name_with_the_same_rights_and_limits() {
    let any = Sim::start_with(Options { accept_any: true, ..Options::named("any", &["llama"]) });
    let more = "models:\n  - { match: llama, limit: { requests_per_hour: 60, burst: 3 } }\n";
    let Some(stack) = with(NEWEST, &[(&any, "aliases: [gpt-4o, fast]")], more).await else { return };
    let list = stack.get("/v1/models").send().await.expect("an answer").text().await.expect("text");
    for name in ["llama", "gpt-4o", "fast"] {
        assert!(list.contains(&format!("{name:?}")), "{list}");
    }
    let bobs =
        stack.client.post(format!("{}/v1/chat/completions", stack.traefik.url())).bearer_auth(LLAMA_KEY);
    assert_eq!(
        answered_by(bobs.json(&chat("gpt-4o"))).await,
        "any",
        "bob may use llama*, which it stands for"
    );
    assert_eq!(answered_by(stack.post("/models/fast/v1/chat/completions", &chat("llama"))).await, "any");
    assert_eq!(answered_by(stack.post("/v1/chat/completions", &chat("fast"))).await, "any");
    let (status, body) = refusal(stack.post("/v1/chat/completions", &chat("gpt-4o"))).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (429, Some("rate_limit_exceeded")),
        "one limit for all its names"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_and_llama_cpps_own_apis() {
    let ollama =
        Options { owned_by: "library".into(), ..Options::named("ollama", &["llama3:latest", "qwen:7b"]) };
    let (ollama, cpp) = (Sim::start_with(ollama), Sim::start("cpp", &["tiny"]));
    let Some(stack) = with(NEWEST, &[(&ollama, ""), (&cpp, "")], "").await else { return };
    for (path, body, by) in [
        ("/api/chat", json!({ "model": "llama3", "messages": [], "stream": false }), "ollama"),
        ("/api/generate", json!({ "model": "qwen:7b", "prompt": "Hello", "stream": false }), "ollama"),
        ("/api/embed", json!({ "model": "llama3:latest", "input": "Hello" }), "ollama"),
        ("/api/show", json!({ "model": "qwen:7b" }), "ollama"),
        ("/completion", json!({ "model": "tiny", "prompt": "Hello" }), "cpp"),
        ("/tokenize", json!({ "model": "tiny", "content": "Hello" }), "cpp"),
    ] {
        assert_eq!(answered_by(stack.post(path, &body)).await, by, "{path}");
    }
    for path in ["/api/tags", "/api/ps"] {
        let (status, body) = refusal(stack.get(path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        let names: Vec<_> =
            body["models"].as_array().expect("a list").iter().map(|m| m["name"].clone()).collect();
        assert_eq!(names, ["llama3:latest", "qwen:7b", "tiny"], "{path}");
    }
    for path in ["/api/pull", "/api/delete", "/api/create", "/api/push", "/api/copy"] {
        assert_eq!(refusal(stack.post(path, &json!({ "model": "llama3" }))).await.0, 404, "{path}");
    }
    let (status, body) =
        refusal(stack.post("/api/show", &json!({ "model": "qwen:7b", "name": "llama3" }))).await;
    assert_eq!(status, 400, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn management_needs_a_key_with_that_right() {
    let vllm = Sim::start("vllm", &["llama"]);
    let digest = access::KeyDigest::of("mg-test-key-of-the-operator").to_hex();
    let yaml = config_of(&[(&vllm, "")], "").replace(
        "servers:",
        &format!(
            "  - {{ name: operator, consumer: operator, sha256: \"{digest}\", manage: true }}\nservers:"
        ),
    );
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    stack.wait_for("llama").await;
    let ask = |key: &str| {
        let request = stack.client.get(format!("{}/models/llama/metrics", stack.traefik.url()));
        request.bearer_auth(key.to_owned())
    };
    assert_eq!(refusal(ask(KEY)).await.0, 404);
    assert_eq!(answered_by(ask("mg-test-key-of-the-operator")).await, "vllm");
}
