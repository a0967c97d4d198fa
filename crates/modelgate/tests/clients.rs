//! What clients do first, and what once ended in a puzzle, through a real Traefik.

mod common;

use common::{KEY, LAYERED, LLAMA_KEY, NEWEST, Stack, config_of, refusal, send, server, stack_of};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::{
    eventually,
    modelgate::Modelgate,
    need,
    sim::{Options, RawListing, Sim},
    traefik::{Traefik, traefik_binary},
};

fn sim(name: &str, models: &[&str], owned_by: &str) -> Sim {
    Sim::start_with(Options { owned_by: owned_by.into(), ..Options::named(name, models) })
}

async fn with(version: &str, servers: &[(&Sim, &str)], more: &str) -> Option<Stack> {
    let traefik =
        format!("traefik: {{ version: {version:?}, apis: [openai, models, azure, ollama]{more} }}\n");
    let stack = stack_of(version, &config_of(servers, &traefik)).await?;
    stack.traefik.wait_configured().await;
    Some(stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_clients_work_and_are_refused_in_its_words() {
    let ollama = sim("ollama", &["llama3:latest", "qwen:7b"], "library");
    let vllm = sim("vllm", &["qwen3"], "vllm");
    for version in ["3.6.2", NEWEST] {
        let Some(stack) = with(version, &[(&ollama, ""), (&vllm, "")], "").await else { continue };
        let url = |path: &str| format!("{}{path}", stack.traefik.url());
        // Its documentation's commands have no Content-Type, and pages send text, for which no browser asks leave.
        let body = r#"{"model":"llama3","messages":[],"stream":false}"#;
        for content_type in
            [None, Some("application/x-www-form-urlencoded"), Some("text/plain;charset=UTF-8")]
        {
            for path in ["/api/chat", "/v1/chat/completions", "/models/llama3/api/generate"] {
                let mut request = stack.client.post(url(path)).bearer_auth(KEY).body(body);
                if let Some(content_type) = content_type {
                    request = request.header("content-type", content_type);
                }
                let answer = send(request).await;
                assert_eq!(answer.status(), 200, "{version} {path} {content_type:?}");
                assert_eq!(server(&answer), "ollama");
            }
        }
        // As its client in Go writes it.
        let show = json!({ "model": "qwen:7b", "system": "", "template": "", "options": null, "name": "" });
        assert_eq!(send(stack.post("/api/show", &show)).await.status(), 200, "{version}");
        let list: Value = send(stack.get("/api/tags")).await.json().await.expect("JSON");
        let names: Vec<&str> =
            list["models"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
        assert_eq!(names, ["llama3:latest", "qwen:7b"], "{version}: vLLM has no such API");
        // Its command line asks this before everything else, and has no key.
        for (method, text) in [(Method::HEAD, ""), (Method::GET, "Ollama is running")] {
            let answer = send(stack.client.request(method, url("/"))).await;
            assert_eq!(answer.status(), 200, "{version}");
            assert_eq!(answer.text().await.expect("text"), text, "{version}");
        }
        // Its libraries print what stands in "error".
        let keyless = stack.client.post(url("/api/chat")).json(&json!({ "model": "llama3" }));
        let typed = stack.raw("/api/chat", "text/plain", r#"{"model":"llama3","model":"qwen:7b"}"#);
        for (request, status, words) in [
            (keyless, 401, "An API key is required"),
            (stack.client.get(url("/api/tags")), 401, "An API key is required"),
            (stack.post("/api/chat", &json!({ "model": "none" })), 404, "does not exist"),
            (stack.post("/models/none/api/show", &json!({})), 404, "does not exist"),
            (stack.post("/api/chat", &json!({ "model": "qwen3" })), 404, "nothing at this path"),
            (stack.post("/api/pull", &json!({ "model": "llama3" })), 404, "nothing at this path"),
            (stack.post("/api/chat", &json!({})), 400, "names no model"),
            (typed, 415, "Content-Type"),
            (stack.raw("/api/chat", "application/json", vec![b' '; 33_554_433]), 413, "too large"),
        ] {
            let (found, body) = refusal(request).await;
            let told = body["error"].as_str().unwrap_or_default();
            assert!(
                found == status && told.contains(words),
                "{version}: {found} {body}, not {status} {words}"
            );
        }
        assert!(vllm.posts().is_empty());
    }
}

/// Ollama answers 403 to an Origin and, on a loopback address, a Host that are not its own.
#[tokio::test(flavor = "multi_thread")]
async fn ollama_gets_neither_the_pages_origin_nor_the_gateways_host() {
    let own_host_only = Options { own_host_only: true, ..Options::named("ollama", &["llama3:latest"]) };
    let ollama = Sim::start_with(Options { owned_by: "library".into(), ..own_host_only });
    let other = sim("other", &["tiny"], "me");
    let servers = [(&ollama, ""), (&other, "")];
    let cors = r#", cors: { origins: ["https://chat.example.com"] }"#;
    for (more, origin, others) in [
        // A page on the gateway's own host: no browser asks whether it may.
        ("", "https://llm.example.com", Some("https://llm.example.com")),
        (cors, "https://chat.example.com", None),
    ] {
        let Some(stack) = with(NEWEST, &servers, more).await else { return };
        for (sim, model, seen) in [(&ollama, "llama3", None), (&other, "tiny", others)] {
            sim.forget_requests();
            let request = stack.post("/v1/chat/completions", &json!({ "model": model, "messages": [] }));
            let request = request.header("origin", origin).header("host", "llm.example.com");
            let answer = send(request).await;
            assert_eq!(answer.status(), 200, "{model} {more}");
            let allowed = answer.headers().get("access-control-allow-origin").is_some();
            assert_eq!(allowed, !more.is_empty(), "what the gateway tells the page");
            let posts = sim.posts();
            assert_eq!(posts[0].header("origin"), seen, "{model} {more}");
            let host = posts[0].header("host").expect("a host");
            assert_eq!(host == "llm.example.com", model == "tiny", "{model}: {host}");
        }
    }
}

/// Codex asks for a WebSocket without a model, and goes on over HTTP at once if it hears 426.
#[tokio::test(flavor = "multi_thread")]
async fn codex_is_sent_to_http_and_claude_code_may_send_its_own_token() {
    let vllm = sim("vllm", &["llama"], "vllm");
    for (version, more) in
        [("3.5.3", ""), ("3.6.2", ""), (NEWEST, "requests: { foreign_credentials: ignore }\n")]
    {
        let yaml = config_of(&[(&vllm, "")], &format!("traefik: {{ version: {version:?} }}\n{more}"));
        let Some(stack) = stack_of(version, &yaml).await else { continue };
        stack.traefik.wait_configured().await;
        for path in ["/v1/responses", "/models/llama/v1/responses"] {
            let request = stack.get(path).header("connection", "Upgrade").header("upgrade", "websocket");
            let request = request.header("sec-websocket-version", "13");
            let (status, body) =
                refusal(request.header("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg==")).await;
            assert_eq!(
                (status, &body["error"]["code"]),
                (426, &"websocket_not_served".into()),
                "{version} {path}"
            );
        }
        let messages = json!({ "model": "llama", "max_tokens": 5, "messages": [] });
        let ask = |own: &str, key: &str| {
            let request = stack.client.post(format!("{}/models/llama/v1/messages", stack.traefik.url()));
            let request = request.bearer_auth(own.to_owned()).header("x-api-key", key.to_owned());
            request.header("anthropic-version", "2023-06-01").json(&messages)
        };
        vllm.forget_requests();
        let (status, body) = refusal(ask("sk-ant-oat01-its-own", KEY)).await;
        if more.is_empty() {
            let told = body["error"]["message"].as_str().unwrap_or_default();
            assert_eq!((status, &body["type"]), (401, &"error".into()), "{version}: {body}");
            assert!(told.contains("authorization") && told.contains("x-api-key"), "{version}: {told}");
            assert!(vllm.posts().is_empty(), "{version}");
            continue;
        }
        assert_eq!(status, 200, "{body}");
        let posts = vllm.posts();
        let headers = &posts[0].headers;
        assert!(
            !headers.iter().any(|(_, value)| value.contains("sk-ant") || value.contains(KEY)),
            "{headers:?}"
        );
        assert_eq!(posts[0].header("x-inference-consumer"), Some("alice"));
        assert_eq!(refusal(ask(LLAMA_KEY, KEY)).await.0, 401, "which of two that are known?");
        assert_eq!(refusal(ask("sk-ant-a", "sk-ant-b")).await.0, 401);
        let told_again = ask("sk-ant-oat01-its-own", KEY).header("x-hf-token", KEY);
        assert_eq!(
            refusal(told_again).await.1["error"]["message"].as_str().map(|told| told.contains("x-hf-token")),
            Some(true)
        );
    }
}

/// What stands in a path, in every Traefik that may have to take it off.
#[tokio::test(flavor = "multi_thread")]
async fn the_path_names_the_model_and_the_body_need_not() {
    let qwen = "/data/models/Qwen";
    let sglang = sim("sglang", &[qwen], "sglang");
    let (vllm, two) = (sim("vllm", &["org/sole"], "vllm"), sim("two", &["sleep", "org/load"], "vllm"));
    let cpp = Sim::start_with(Options {
        owned_by: "llamacpp".into(),
        accept_any: true,
        ..Options::named("cpp", &["tiny"])
    });
    for version in ["3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let traefik = format!("traefik: {{ version: {version:?} }}\n");
        let yaml = config_of(&[(&sglang, ""), (&vllm, ""), (&two, ""), (&cpp, "")], &traefik);
        let Some(stack) = stack_of(version, &yaml).await else { continue };
        stack.traefik.wait_configured().await;
        let silent = || json!({ "messages": [] });
        let null = || json!({ "model": null, "messages": [] });
        let named = |model: &str| json!({ "model": model, "messages": [] });
        for (path, body, by) in [
            ("/models/org%2Fsole/v1/chat/completions", named("org/sole"), &vllm),
            ("/models/org/sole/v1/chat/completions", named("org/sole"), &vllm),
            ("/openai/deployments/org%2fsole/chat/completions?api-version=1", named("org/sole"), &vllm),
            ("/models/%2Fdata%2Fmodels%2FQwen/v1/chat/completions", named(qwen), &sglang),
            ("/openai/deployments/%2Fdata%2Fmodels%2FQwen/chat/completions", named(qwen), &sglang),
            ("/models/sleep/v1/chat/completions", named("sleep"), &two),
            ("/models/org%2Fload/v1/chat/completions", named("org/load"), &two),
            ("/models/tiny/v1/chat/completions", named("gpt-4"), &cpp),
            ("/models/tiny/v1/chat/completions", silent(), &cpp),
            ("/models/tiny/v1/chat/completions", null(), &cpp),
            ("/openai/deployments/tiny/chat/completions", null(), &cpp),
        ] {
            by.forget_requests();
            let answer = send(stack.post(path, &body)).await;
            let (status, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
            let posts = by.posts();
            let seen = posts.last().map(|seen| seen.path.split('?').next().unwrap_or_default());
            assert_eq!(seen, Some("/v1/chat/completions"), "{version} {path} {body}: {status} {text}");
        }
        for sim in [&sglang, &vllm, &two, &cpp] {
            sim.forget_requests();
        }
        for (path, body, status) in [
            ("/models/org%2Fsole%2Fv1/chat/completions", named("org/sole"), 400),
            ("/models/org%2Fsole/v1%2Fchat/completions", named("org/sole"), 400),
            ("/models/sleep/sleep", json!({}), 404),
            ("/models/org%2Fload/models/load", json!({}), 404),
            ("/models/sleep/v1/chat/completions", named("gpt-4"), 400),
            ("/models/sleep/v1/chat/completions", null(), 400),
            ("/models/org/sole/v1/chat/completions", named("gpt-4"), 400),
        ] {
            let (found, answer) = refusal(stack.post(path, &body)).await;
            // Before 3.6 no router has such a path.
            let is_unrouted = !LAYERED.contains(&version) && answer["error"]["code"] == "model_not_named";
            assert!(found == status || is_unrouted, "{version} {path} {body}: {found} {answer}");
        }
        // Written so, some Traefiks would leave the name in the path, others take it off.
        let odd = refusal(stack.post("/model%73/org/load", &json!({}))).await;
        assert!(matches!(odd.0, 400 | 404 | 503), "{version}: {odd:?}");
        assert!([&sglang, &vllm, &two, &cpp].iter().all(|sim| sim.posts().is_empty()), "{version}");
        // The model's own list, and what is asked of no model.
        for (path, id) in [
            ("/models/sleep/v1/models", "sleep"),
            ("/models/org%2Fload/v1/models", "org/load"),
            ("/models/%2Fdata%2Fmodels%2FQwen/v1/models", qwen),
        ] {
            let (status, body) = refusal(stack.get(path)).await;
            let ids: Vec<_> =
                body["data"].as_array().into_iter().flatten().map(|model| model["id"].clone()).collect();
            assert_eq!((status, ids), (200, vec![Value::from(id)]), "{version} {path}: {body}");
        }
        let (status, body) = refusal(stack.get("/models/sleep/v1/models/sleep")).await;
        assert_eq!((status, &body["id"]), (200, &"sleep".into()), "{version}");
        for (path, status) in [
            ("/models/sleep/health", 200),
            ("/models/sleep/v1/models/none", 404),
            ("/models/org/load/v1/models/sleep", 404),
            ("/models/none/v1/models", 404),
            ("/models/sleep/metrics", 404),
        ] {
            assert_eq!(refusal(stack.get(path)).await.0, status, "{version} {path}");
        }
    }
}

/// Lists as servers write them: one odd number hid every model of a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_as_it_is_and_what_is_missing_is_asked() {
    let (odd, host) = (sim("odd", &["x"], "me"), sim("host", &["tiny"], "me"));
    let own = Sim::start_with(Options { own_host_only: true, ..Options::named("own", &["mine"]) });
    // None of its models is of Ollama's own library.
    let hf = sim("hf", &["hf.co/me/llama:Q4"], "library");
    for (sim, listing) in [
        (&odd, &b"\xef\xbb\xbf{\"object\":\"list\",\"data\":[{\"id\":\"odd-model\",\"rope\":NaN,\"about\":\"cut \\ud83d\"}]}"[..]),
        (&hf, br#"{"object":"list","data":[{"id":"hf.co/me/llama:Q4","object":"model","created":1,"owned_by":"me"}]}"#),
    ] {
        sim.set_raw_listing(Some(RawListing::json(listing)));
    }
    let Some(stack) = with(NEWEST, &[(&odd, ""), (&hf, ""), (&host, ""), (&own, "")], "").await else {
        return;
    };
    assert_eq!(send(stack.get("/v1/models/odd-model")).await.status(), 200);
    let shown = send(stack.client.get(format!("{}/readyz", stack.modelgate.admin_url()))).await;
    let shown = shown.text().await.expect("text");
    assert!(shown.contains("odd-model"), "{shown}");
    assert_eq!(shown.matches("lists_for_own_host_only").count(), 1, "{shown}");
    assert_eq!(send(stack.get("/v1/models/mine")).await.status(), 200, "it is used all the same");
    let text = r#"{"model":"hf.co/me/llama:Q4","messages":[],"stream":false}"#;
    let answer = send(stack.raw("/api/chat", "text/plain", text)).await;
    assert_eq!(
        (answer.status().as_u16(), server(&answer).as_str()),
        (200, "hf"),
        "it has said that it is an Ollama"
    );
    // Modelgate asks for the list as requests come: for another host than the server's own.
    let asked = host.requests();
    let asked = asked.iter().filter(|seen| seen.path == "/v1/models").filter_map(|seen| seen.header("host"));
    assert!(asked.clone().all(|host| host == "modelgate-probe.invalid") && asked.count() > 0);
}

/// What only a wrong base URL leads to gets the right one told, unless another application wants it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_base_url_is_told_the_right_one() {
    let (vllm, app) = (sim("vllm", &["llama"], "vllm"), sim("app", &["app"], "me"));
    let dynamic = format!(
        "http:\n  routers:\n    app: {{ rule: \"PathPrefix(`/v3`)\", service: app }}\n  services:\n    app: {{ \
         loadBalancer: {{ servers: [ {{ url: \"{}\" }} ] }} }}\n",
        app.url()
    );
    for version in ["3.0.4", "3.5.3", "3.6.2", NEWEST] {
        let yaml = config_of(&[(&vllm, "")], &format!("traefik: {{ version: {version:?} }}\n"));
        let Some(stack) = stack_beside(version, &yaml, &dynamic).await else { continue };
        let url = |path: &str| format!("{}{path}", stack.traefik.url());
        let chat = json!({ "model": "llama", "messages": [] });
        for (path, right) in [
            ("/chat/completions", "/v1/chat/completions"),
            ("/v1", "/v1/chat/completions"),
            ("/v1/", "/v1/chat/completions"),
            ("/v1/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
            ("/api/v1/chat/completions", "/v1/chat/completions"),
            ("/embeddings", "/v1/embeddings"),
            ("/v2/rerank/", "/v1/rerank"),
        ] {
            let (status, body) = refusal(stack.post(path, &chat)).await;
            let told = body["error"]["message"].as_str().unwrap_or_default();
            assert_eq!(
                (status, &body["error"]["code"]),
                (404, &"not_found".into()),
                "{version} {path}: {body}"
            );
            assert!(told.contains(&format!("the right path is {right}.")), "{version} {path}: {told}");
        }
        let messages = stack.client.post(url("/v1/v1/messages")).header("x-api-key", KEY).json(&chat);
        let (status, body) = refusal(messages.header("anthropic-version", "2023-06-01")).await;
        let told = body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!((status, &body["type"]), (404, &"error".into()), "{version}: {body}");
        assert!(told.contains("/v1/messages") && told.contains("without a path"), "{version}: {told}");
        // Not what others would ask for, nor what others answer.
        for path in ["/", "/messages", "/models", "/app/chat/completions", "/api", "/models2"] {
            let answer = send(stack.client.get(url(path))).await;
            assert_eq!(
                (answer.status().as_u16(), answer.text().await.expect("text").trim()),
                (404, "404 page not found"),
                "{version} {path}"
            );
        }
        let answer = send(stack.post("/v3/chat/completions", &chat)).await;
        assert_eq!(server(&answer), "app", "{version}");
        assert_eq!(
            send(stack.post("/models/llama/v1/chat/completions", &chat)).await.status(),
            200,
            "{version}"
        );
    }
}

/// With routers of other applications on the same Traefik.
async fn stack_beside(version: &str, config: &str, dynamic: &str) -> Option<Stack> {
    let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), config).await;
    modelgate.wait_ready().await;
    let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).dynamic(dynamic);
    let traefik = builder.start().await;
    traefik.wait_configured().await;
    traefik.wait_router("app@file").await;
    Some(Stack { traefik, modelgate, client: testkit::client() })
}

/// Paths outside `/v1`, each with its model and its key; and nothing besides.
#[tokio::test(flavor = "multi_thread")]
async fn paths_outside_v1_have_their_model_and_their_key() {
    let vllm = sim("vllm", &["llama", "qwen"], "vllm");
    let (tei, cohere) = (sim("tei", &["bge"], "me"), sim("cohere", &["command"], "me"));
    let servers = [(&vllm, ""), (&tei, "kind: tei"), (&cohere, "kind: provider")];
    for version in ["3.5.3", "3.6.2", NEWEST] {
        let more = format!(
            "traefik: {{ version: {version:?}, apis: [openai, models, azure, cohere, vllm, tei] }}\n"
        );
        let Some(stack) = stack_of(version, &config_of(&servers, &more)).await else { continue };
        let body = |model: &str| json!({ "model": model, "query": "q", "input": "i", "documents": ["d"] });
        // In the older layout a header chooses, and the body has to agree.
        let ask = |path: &str, key: &str, model: &str, named: &Value| {
            let request = stack.client.post(format!("{}{path}", stack.traefik.url()));
            request.bearer_auth(key).header("x-model", model).json(named)
        };
        for (path, model, at) in [
            ("/score", "llama", ("vllm", "/score")),
            ("/pooling", "qwen", ("vllm", "/pooling")),
            ("/classify", "qwen", ("vllm", "/classify")),
            ("/rerank", "llama", ("vllm", "/rerank")),
            ("/tokenize", "llama", ("vllm", "/tokenize")),
            ("/detokenize", "llama", ("vllm", "/detokenize")),
            ("/v2/rerank", "command", ("cohere", "/v2/rerank")),
            ("/v2/embed", "command", ("cohere", "/v2/embed")),
            ("/embed", "bge", ("tei", "/embed")),
            ("/rerank", "bge", ("tei", "/rerank")),
            ("/similarity", "bge", ("tei", "/similarity")),
            (
                "/openai/v1/chat/completions?api-version=preview",
                "llama",
                ("vllm", "/v1/chat/completions?api-version=preview"),
            ),
            (
                "/openai/responses?api-version=2025-04-01-preview",
                "qwen",
                ("vllm", "/v1/responses?api-version=2025-04-01-preview"),
            ),
        ] {
            [&vllm, &tei, &cohere].into_iter().for_each(Sim::forget_requests);
            send(ask(path, KEY, model, &body(model))).await;
            let posts = [&vllm, &tei, &cohere].map(|sim| (sim.name().to_owned(), sim.posts()));
            let reached: Vec<_> = posts.iter().filter(|(_, posts)| !posts.is_empty()).collect();
            assert_eq!(reached.len(), 1, "{version} {path}: {posts:?}");
            assert_eq!((reached[0].0.as_str(), reached[0].1[0].path.as_str()), at, "{version} {path}");
            // Another's model stays another's, a wrong key opens nothing, and header and body must agree.
            [&vllm, &tei, &cohere].into_iter().for_each(Sim::forget_requests);
            let (status, _) = refusal(ask(path, "mg-wrong", model, &body(model))).await;
            assert_eq!(status, 401, "{version} {path}");
            let (status, _) = refusal(ask(path, KEY, model, &body("other"))).await;
            assert!(matches!(status, 400 | 404) || model == "bge", "{version} {path}: {status}");
            if model != "llama" {
                let (status, _) = refusal(ask(path, LLAMA_KEY, model, &body(model))).await;
                assert!(matches!(status, 404 | 503), "{version} {path}: {status}");
            }
            let silent = refusal(ask(path, KEY, model, &json!({ "query": "q", "input": "i" }))).await;
            assert!(silent.0 == 400 || model == "bge" || model == "command", "{version} {path}: {silent:?}");
            assert!(vllm.posts().is_empty(), "{version} {path}");
        }
        // No kind opens another's paths.
        for (path, model) in [("/embed", "llama"), ("/score", "bge"), ("/pooling", "command")] {
            assert_eq!(refusal(ask(path, KEY, model, &body(model))).await.0, 404, "{version} {path}");
        }
        let info = stack.get("/info").header("x-model", "bge");
        assert_eq!(server(&send(info).await), "tei", "{version}");
        let list: Value = send(stack.get("/openai/v1/models")).await.json().await.expect("JSON");
        assert_eq!(list["data"].as_array().map(Vec::len), Some(4), "{version}: {list}");
        let one: Value = send(stack.get("/openai/v1/models/qwen")).await.json().await.expect("JSON");
        assert_eq!(one["id"], "qwen", "{version}");
        // What manages a server stays closed there, too.
        let (status, body) = refusal(ask("/openai/v1/load_lora_adapter", KEY, "llama", &body("llama"))).await;
        assert_eq!(status, 404, "{version}: {body}");
        assert!(vllm.posts().is_empty(), "{version}");
    }
}
/// What users are told, and what their SDKs do about it.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do_and_whether_to_try_again() {
    let (llama, slow) = (sim("llama", &["llama"], "me"), sim("slow", &["org/slow", "other"], "me"));
    let loading = || RawListing { status: 503, ..RawListing::json("{}") };
    let digest = |key: &str| access::KeyDigest::of(key).to_hex();
    let limited = format!(
        "  - {{ name: few, consumer: few, sha256: \"{}\", limit: {{ tokens_per_day: 1500 }} }}\n",
        digest("mg-few")
    );
    for version in ["3.6.2", NEWEST] {
        slow.set_raw_listing(Some(loading()));
        let yaml = config_of(&[(&llama, ""), (&slow, "")], &format!("traefik: {{ version: {version:?} }}\n"));
        let yaml = yaml.replacen("servers:\n", &format!("{limited}servers:\n"), 1);
        let Some(stack) = stack_of(version, &yaml).await else { continue };
        let url = |path: &str| format!("{}{path}", stack.traefik.url());
        let chat = |key: &str, model: &str| {
            let body = json!({ "model": model, "messages": [{ "role": "user", "content": "12345678" }] });
            stack.client.post(url("/v1/chat/completions")).bearer_auth(key.to_owned()).json(&body)
        };
        stack.wait_for("llama").await;
        let ways = |key: &'static str| {
            let below = |path: &str| stack.client.get(url(path)).bearer_auth(key);
            [chat(key, "org/slow"), below("/models/org/slow/v1/files"), below("/v1/models/org/slow")]
        };
        // A server is loading, and nobody knows what it has; whoever may not use a name hears the same before and after.
        for request in ways(KEY) {
            let (status, headers, body) = told(request).await;
            assert_eq!((status, headers("retry-after").as_deref()), (503, Some("5")), "{version}: {body}");
            assert_eq!(body["error"]["code"], "model_not_ready", "{version}");
        }
        for model in ["org/slow", "none"] {
            assert_eq!(told(chat(LLAMA_KEY, model)).await.0, 404, "{version}");
        }
        slow.set_raw_listing(None);
        eventually(std::time::Duration::from_secs(60), || async {
            (told(chat(KEY, "org/slow")).await.0 == 200).then_some(())
        })
        .await;
        for (key, model) in [(KEY, "none"), (LLAMA_KEY, "org/slow"), (LLAMA_KEY, "none")] {
            assert_eq!(told(chat(key, model)).await.0, 404, "{version} {model}");
        }
        let get = |path: &str| stack.get(path);
        let checks: [(RequestBuilder, u16, Option<&str>, &str); 7] = [
            (chat("wrong", "llama"), 401, Some("false"), "Incorrect API key provided."),
            (stack.client.get(url("/v1/models")), 401, Some("false"), "An API key is required"),
            (
                get("/v1/voices"),
                400,
                None,
                "name it in the path (/models/NAME/...), in the header X-Model or in the query",
            ),
            (stack.post("/v1/embeddings", &json!({})), 400, None, "put it into \"model\" in the body"),
            (chat("mg-few", "llama"), 200, None, ""),
            (
                chat("mg-few", "llama"),
                429,
                Some("false"),
                "The estimate is 2 for the prompt and 1000 for the answer, whose length the request leaves open: send max_tokens",
            ),
            (
                stack
                    .client
                    .post(url("/v1/messages"))
                    .header("anthropic-version", "2023-06-01")
                    .json(&json!({})),
                401,
                Some("false"),
                "An API key is required",
            ),
        ];
        for (request, status, should_retry, words) in checks {
            let (found, headers, body) = told(request).await;
            let message = body["error"]["message"].as_str().unwrap_or_default();
            assert!(
                found == status && message.contains(words),
                "{version}: {found} {body}, not {status} {words}"
            );
            assert_eq!(headers("x-should-retry").as_deref(), should_retry, "{version}: {body}");
        }
    }
}

/// Status, headers and body.
async fn told(request: RequestBuilder) -> (u16, impl Fn(&str) -> Option<String>, Value) {
    let answer = send(request).await;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.json().await.unwrap_or_default();
    let header = move |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    (status, header, body)
}
