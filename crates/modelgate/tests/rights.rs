//! What a key reaches beside the model that it was given, through a real Traefik: nothing. Each test tells of a way that
//! was once open.

mod common;

use access::KeyDigest;
use common::{NEWEST, Stack, refusal, send, stack_of};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::sim::{Options, Received, Sim};

/// May use the model `one`, `hand`, `app`, `vllm`, `gpt`, and nothing else.
const KEY: &str = "mg-key-for-single-models";
/// The same, and may manage servers.
const MANAGER: &str = "mg-key-that-manages-them";
/// The same, and may use what servers store.
const ARCHIVIST: &str = "mg-key-for-stored-data";
/// Everything, stored data as well.
const ROOT: &str = "mg-key-for-everything";

fn configuration(servers: &[(&Sim, &str)]) -> String {
    let digest = |key: &str| KeyDigest::of(key).to_hex();
    let models = r#"models: ["one", "hand", "app", "vllm", "gpt"]"#;
    let mut yaml = format!(
        "traefik: {{ version: {NEWEST:?}, trusted_addresses: [127.0.0.0/8] }}\nkeys:\n  \
         - {{ name: key, consumer: c, sha256: \"{}\", {models} }}\n  \
         - {{ name: manager, consumer: c, sha256: \"{}\", {models}, manage: true }}\n  \
         - {{ name: archivist, consumer: c, sha256: \"{}\", {models}, stored_data: true }}\n  \
         - {{ name: root, consumer: c, sha256: \"{}\", stored_data: true }}\nservers:\n",
        digest(KEY),
        digest(MANAGER),
        digest(ARCHIVIST),
        digest(ROOT),
    );
    for (sim, settings) in servers {
        yaml.push_str(&format!("  - {{ url: \"{}\", name: {}, {settings} }}\n", sim.url(), sim.name()));
    }
    yaml
}

fn sim(name: &str, models: &[&str], owned_by: &str) -> Sim {
    Sim::start_with(Options { owned_by: owned_by.into(), accept_any: true, ..Options::named(name, models) })
}

fn ask(stack: &Stack, method: &str, path: &str) -> RequestBuilder {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    stack.client.request(method, format!("{}{path}", stack.traefik.url()))
}

/// The status and OpenAI's `code`.
async fn told(request: RequestBuilder) -> (u16, String) {
    let (status, body) = refusal(request).await;
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// What reached a server since this was asked last, but for the questions of Modelgate itself.
fn arrived(sim: &Sim) -> Vec<Received> {
    let seen = sim.requests().into_iter().filter(|seen| seen.header("x-inference-key").is_some()).collect();
    sim.forget_requests();
    seen
}

/// A list is not all that a server runs, and `models:` by hand says nothing of what else is there. A key for the one
/// model reached others by a body that nobody had read.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_passes_only_where_nothing_can_be_chosen() {
    let (swap, hand, app) = (
        sim("swap", &["one"], "llama-swap"),
        sim("hand", &["hand", "secret"], "vllm"),
        sim("app", &["app"], "me"),
    );
    let yaml =
        configuration(&[(&swap, ""), (&hand, "models: [hand]"), (&app, "models: [app], single_model: true")]);
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    let secret = r#"{"model":"secret","messages":[]}"#;
    let utf16: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies: [(&str, &str, &str, Vec<u8>); 8] = [
        ("as text", "content-type", "text/plain", secret.into()),
        ("without a type", "x-nothing", "x", secret.into()),
        ("as a form", "content-type", "application/x-www-form-urlencoded", secret.into()),
        ("with a wrong type", "content-type", "image/png", secret.into()),
        ("with two types", "content-type", "application/json, text/plain", secret.into()),
        ("in UTF-16", "content-type", "application/json", utf16),
        ("with a mark", "content-type", "application/json", format!("\u{feff}{secret}").into()),
        ("packed", "content-encoding", "zstd", secret.into()),
    ];
    for (how, header, value, body) in &bodies {
        for model in ["one", "hand"] {
            for path in [
                format!("/models/{model}/v1/chat/completions"),
                format!("/openai/deployments/{model}/chat/completions"),
            ] {
                let request = ask(&stack, "POST", &path).bearer_auth(KEY).header(*header, *value);
                let (status, code) = told(request.body(body.clone())).await;
                assert!(matches!(status, 400 | 415), "{how} to {path}: {status} {code}");
            }
        }
        let own =
            ask(&stack, "POST", "/models/app/v1/chat/completions").bearer_auth(KEY).header(*header, *value);
        let (status, code) = told(own.body(body.clone())).await;
        // The server itself may not take it; Modelgate does.
        assert!(!code.starts_with("unsupported"), "{how}: {status} {code}");
    }
    assert!(arrived(&swap).is_empty() && arrived(&hand).is_empty());
    assert_eq!(arrived(&app).len(), bodies.len());
    // What is read passes as ever.
    for model in ["one", "hand"] {
        let body = json!({ "model": model, "messages": [] });
        assert_eq!(
            told(ask(&stack, "POST", "/v1/chat/completions").bearer_auth(KEY).json(&body)).await.0,
            200
        );
    }
}

/// The list of what is closed aged: each of these was open.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_known_server_opens_is_what_is_named() {
    let vllm = sim("vllm", &["vllm"], "vllm");
    let app = sim("app", &["app"], "me");
    let narrow = "models: [app], single_model: true, paths: \"/predict, /jobs/*\"";
    let yaml = configuration(&[(&vllm, ""), (&app, narrow)]);
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    for (method, path) in [
        ("POST", "/weights_checker"),
        ("POST", "/begin_weight_update"),
        ("POST", "/end_weight_update"),
        ("PUT", "/hicache/storage-backend"),
        ("POST", "/add_external_corpus"),
        ("POST", "/pd_role_switch"),
        ("POST", "/set_trace_level"),
        ("POST", "/dumper/start"),
        ("GET", "/get_weights_checksum"),
        ("POST", "/v1/set_lora"),
        ("POST", "/v1/merge_lora_weights"),
        ("POST", "/fault_tolerance/apply"),
        ("POST", "/api/signout"),
        ("POST", "/api/me"),
        ("DELETE", "/api/user/keys/x"),
        ("GET", "/metricsx"),
        // Nobody knows it yet.
        ("POST", "/v1/tomorrow"),
        ("DELETE", "/v1/chat/completions"),
    ] {
        let request = || ask(&stack, method, &format!("/models/vllm{path}"));
        // Ollama's libraries read `{"error": "text"}`, which has no code.
        let code = if path.starts_with("/api/") { "" } else { "not_found" };
        assert_eq!(told(request().bearer_auth(KEY)).await, (404, code.into()), "{method} {path}");
        send(request().bearer_auth(MANAGER)).await;
        let seen = arrived(&vllm);
        assert_eq!(seen.len(), 1, "{method} {path} with a key that may manage: {seen:?}");
    }
    // Those that lead elsewhere are for nobody.
    for path in
        ["/api/experimental/web_search", "/invocations", "/cors-proxy", "/register_transfer_engine_info"]
    {
        let request = ask(&stack, "POST", &format!("/models/vllm{path}")).bearer_auth(MANAGER);
        assert_eq!(told(request).await.0, 404, "{path}");
    }
    for (path, open) in
        [("/predict", true), ("/jobs/7", true), ("/jobs", false), ("/admin", false), ("/v1/x", false)]
    {
        let request = ask(&stack, "POST", &format!("/models/app{path}")).bearer_auth(KEY).body("text");
        send(request).await;
        assert_eq!(arrived(&app).len(), usize::from(open), "{path}");
    }
}

/// All keys share the account of a provider, and what a server stores.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_for_all_is_for_keys_with_that_right() {
    let token = "sk-of-the-account";
    let provider = Sim::start_with(Options {
        required_key: Some(token.into()),
        accept_any: true,
        ..Options::named("provider", &["gpt", "gpt-large"])
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, token).expect("written");
    let credential = format!("credential: {{ file: {file:?} }}");
    let Some(stack) = stack_of(NEWEST, &configuration(&[(&provider, &credential)])).await else { return };
    by_path(&stack, &provider).await;
    by_reference(&stack, &provider).await;
    // Models and adapters that stand elsewhere are for nobody.
    for more in [
        json!({ "lora_request": { "lora_path": "/x" } }),
        json!({ "tools": [{ "type": "image_generation", "model": "gpt-image" }] }),
        json!({ "parameters": { "adapter_id": "x" } }),
    ] {
        let body = with(&more);
        let request = ask(&stack, "POST", "/v1/responses").bearer_auth(ROOT).json(&body);
        assert_eq!(told(request).await, (400, "field_not_accepted".into()), "{body}");
    }
    let usual =
        with(&json!({ "previous_response_id": null, "tools": [{ "type": "function", "name": "file_id" }] }));
    assert_eq!(told(ask(&stack, "POST", "/v1/responses").bearer_auth(KEY).json(&usual)).await.0, 200);
}

async fn by_path(stack: &Stack, provider: &Sim) {
    for (method, path, jobs) in [
        ("GET", "/v1/files", false),
        ("DELETE", "/v1/files/file-1", false),
        ("GET", "/v1/responses/resp_1", false),
        ("DELETE", "/v1/conversations/conv_1", false),
        ("GET", "/v1/vector_stores", false),
        ("GET", "/v1/chat/completions", false),
        ("POST", "/v1/batches", true),
        ("POST", "/v1/messages/batches", true),
        ("POST", "/v1/fine_tuning/jobs", true),
        ("POST", "/v1/evals", true),
        ("POST", "/v1/realtime/client_secrets", true),
    ] {
        let url = format!("/models/gpt{path}?model=gpt");
        let request = |key: &str| ask(stack, method, &url).bearer_auth(key.to_owned());
        assert_eq!(told(request(KEY)).await.0, 403, "{method} {path}");
        assert_eq!(told(request(MANAGER)).await.0, 403, "{method} {path}");
        assert!(arrived(provider).is_empty(), "{method} {path}");
        for (key, passes) in [(ARCHIVIST, !jobs), (ROOT, true)] {
            let mut request = request(key);
            if method == "POST" {
                request = request.json(&json!({ "model": "gpt" }));
            }
            send(request).await;
            assert_eq!(arrived(provider).len(), usize::from(passes), "{key}: {method} {path}");
        }
    }
    assert_eq!(told(ask(stack, "GET", "/models/gpt/v1/organization/users").bearer_auth(ROOT)).await.0, 404);
}

/// A request's body, and more in it.
fn with(more: &Value) -> Value {
    let mut body = json!({ "model": "gpt", "input": "Hello", "messages": [] });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// At the top and deeper.
async fn by_reference(stack: &Stack, provider: &Sim) {
    for more in [
        json!({ "previous_response_id": "resp_1" }),
        json!({ "conversation": "conv_1" }),
        json!({ "conversation": { "id": "conv_1" } }),
        json!({ "prompt": { "id": "pmpt_1" } }),
        json!({ "input": [{ "role": "user", "content": [{ "type": "input_file", "file_id": "file-1" }] }] }),
        json!({ "input": [{ "type": "item_reference", "id": "msg_1" }] }),
        json!({ "tools": [{ "type": "file_search", "vector_store_ids": ["vs_1"] }] }),
        json!({ "messages": [{ "role": "user", "content": [{ "type": "file", "file": { "file_id": "f" } }] }] }),
    ] {
        let body = with(&more);
        let request = |key: &str| ask(stack, "POST", "/v1/responses").bearer_auth(key.to_owned()).json(&body);
        assert_eq!(told(request(KEY)).await, (400, "field_not_accepted".into()), "{body}");
        send(request(ARCHIVIST)).await;
        assert_eq!(arrived(provider).len(), 1, "{body}");
    }
}

/// Their messages are not seen here.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_needs_a_server_whose_messages_choose_nothing() {
    let (vllm, app, swap) =
        (sim("vllm", &["vllm"], "vllm"), sim("app", &["app"], "me"), sim("swap", &["one"], "llama-swap"));
    let several = sim("several", &["gpt", "hand"], "me");
    let yaml = configuration(&[
        (&vllm, ""),
        (&app, "models: [app], single_model: true"),
        (&swap, ""),
        (&several, "websockets: true"),
    ]);
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    for (model, passes) in [("vllm", true), ("app", true), ("gpt", true), ("one", false)] {
        for path in
            [format!("/v1/realtime?model={model}"), format!("/models/{model}/v1/realtime?model={model}")]
        {
            let request = ask(&stack, "GET", &path).bearer_auth(KEY);
            let request = request
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg==");
            let answer = send(request).await;
            assert_eq!(answer.status() == 101, passes, "{path}: {}", answer.status());
        }
    }
    arrived(&swap);
    // Without the headers of a handshake it was no WebSocket to us, and one to servers that do not insist on them.
    for (header, value) in
        [("x-nothing", "x"), ("sec_websocket_key", "eA=="), ("sec-websocket-version", "13")]
    {
        let request = ask(&stack, "GET", "/v1/realtime?model=one").bearer_auth(KEY);
        let request =
            request.header("connection", "Upgrade").header("upgrade", "websocket").header(header, value);
        assert_eq!(told(request).await, (400, "invalid_websocket".into()), "{header}");
    }
    assert!(arrived(&swap).is_empty());
}
