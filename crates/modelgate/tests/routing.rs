//! Requests through a real Traefik, routed, refused and limited.

mod common;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use common::{KEY, LAYERED, LLAMA_KEY, NEWEST, chat, config_of, refusal, send, server, stack, stack_of};
use serde_json::{Value, json};
use testkit::{
    Stopwatch,
    sim::{Options, Sim},
};

#[tokio::test]
async fn requests_go_to_the_servers_of_their_model() {
    for version in LAYERED {
        let (a, b) = (Sim::start("a", &["llama", "org/qwen"]), Sim::start("b", &["llama"]));
        let Some(stack) = stack(version, &[&a, &b], "").await else { continue };
        stack.wait_for("llama").await;
        assert_eq!(server(&stack.chat("org/qwen").await), "a", "{version}");
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            seen.insert(server(&stack.chat("llama").await));
        }
        assert_eq!(seen, BTreeSet::from(["a".into(), "b".into()]), "{version}: both servers share the load");

        let list: Value = send(stack.get("/v1/models")).await.json().await.expect("JSON");
        let ids: Vec<_> = list["data"].as_array().expect("a list").iter().map(|m| m["id"].clone()).collect();
        assert_eq!(ids, ["llama", "org/qwen"], "{version}");
        for id in ["org/qwen", "org%2Fqwen"] {
            let model: Value = send(stack.get(&format!("/v1/models/{id}"))).await.json().await.expect("JSON");
            assert_eq!(model["id"], "org/qwen", "{version}: {model}");
        }
        let url = format!("{}/v1/models", stack.traefik.url());
        let list: Value =
            send(stack.client.get(&url).bearer_auth(LLAMA_KEY)).await.json().await.expect("JSON");
        assert_eq!(
            list["data"].as_array().expect("a list").len(),
            1,
            "{version}: only what this key may use"
        );
    }
}

#[tokio::test]
async fn refusals_look_native() {
    for version in LAYERED {
        let sim = Sim::start("a", &["llama", "qwen"]);
        let Some(stack) = stack(version, &[&sim], "").await else { continue };
        stack.wait_for("llama").await;
        sim.forget_requests();
        let url = |path: &str| format!("{}{path}", stack.traefik.url());
        let chat_url = url("/v1/chat/completions");

        let (status, body) = refusal(stack.client.post(&chat_url).json(&chat("llama"))).await;
        assert_eq!((status, body["error"]["code"].as_str()), (401, Some("invalid_api_key")), "{version}");
        let (status, body) =
            refusal(stack.client.post(&chat_url).bearer_auth("mg-wrong").json(&chat("llama"))).await;
        assert_eq!((status, body["error"]["code"].as_str()), (401, Some("invalid_api_key")), "{version}");
        let (status, body) = refusal(stack.post("/v1/chat/completions", &chat("nope"))).await;
        assert_eq!((status, body["error"]["code"].as_str()), (404, Some("model_not_found")), "{version}");
        let (not_allowed, other) =
            refusal(stack.client.post(&chat_url).bearer_auth(LLAMA_KEY).json(&chat("qwen"))).await;
        let same = |body: &Value, model: &str| body.to_string().replace(model, "?");
        assert_eq!(
            (not_allowed, same(&other, "qwen")),
            (404, same(&body, "nope")),
            "{version}: names do not leak"
        );
        let (status, body) = refusal(stack.post("/v1/chat/completions", &json!({}))).await;
        assert_eq!((status, body["error"]["param"].as_str()), (400, Some("model")), "{version}");
        let anthropic = stack.client.post(url("/v1/messages")).header("x-api-key", KEY).json(&chat("nope"));
        let (status, body) = refusal(anthropic).await;
        assert_eq!((status, body["error"]["type"].as_str()), (404, Some("not_found_error")), "{version}");
        assert!(body["request_id"].is_string(), "{version}");
        assert!(sim.posts().is_empty(), "{version}: nothing refused reaches a server");
    }
}

#[tokio::test]
async fn what_a_client_forges_gains_nothing_and_reaches_no_server() {
    for version in LAYERED {
        let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["qwen"]));
        let Some(stack) = stack(version, &[&a, &b], "").await else { continue };
        stack.wait_for("llama").await;
        stack.wait_for("qwen").await;
        a.forget_requests();
        let routers = stack.traefik.routers().await;
        let qwen = routers.iter().find(|r| r.starts_with("qwen-")).expect("a router for qwen");
        let request = stack
            .client
            .post(format!("{}/v1/chat/completions", stack.traefik.url()))
            .bearer_auth(LLAMA_KEY)
            .header("x-api-key", LLAMA_KEY)
            .header("X-Inference-Route", qwen)
            .header("X-Inference-Consumer", "forged")
            .header("X_Inference_Consumer", "forged")
            .header("X-Inference-Anything", "forged")
            .header("X-Inference-Client-Request-Id", "forged")
            .header("X-Request-Id", "theirs")
            .header("X-Forwarded-Uri", "/v1/models")
            .header("X-Forwarded-Method", "OPTIONS")
            .json(&chat("llama"));
        let response = send(request).await;
        assert_eq!((response.status().as_u16(), server(&response).as_str()), (200, "a"), "{version}");
        let posts = a.posts();
        let received = posts.last().expect("the request");
        assert_eq!(received.header("x-inference-consumer"), Some("bob"), "{version}");
        assert_eq!(received.header("x-inference-model"), Some("llama"), "{version}");
        assert_eq!(received.header("x-inference-client-request-id"), Some("theirs"), "{version}");
        assert!(
            received.header("x-request-id").is_some_and(|id| id.len() == 32 && id != "theirs"),
            "{version}"
        );
        for (name, value) in &received.headers {
            assert!(!value.contains("forged") && !value.contains(LLAMA_KEY), "{version}: {name}: {value}");
            assert!(!matches!(name.as_str(), "authorization" | "x-api-key" | "api-key"), "{version}: {name}");
        }
    }
}

#[tokio::test]
async fn a_key_is_limited_per_model_and_told_when_to_come_back() {
    let sim = Sim::start("a", &["llama", "qwen"]);
    let models = "models:\n  - { match: \"qwen\", limit: { requests_per_minute: 12, burst: 2 } }\n";
    let Some(stack) = stack(NEWEST, &[&sim], models).await else { return };
    stack.wait_for("llama").await;
    assert_eq!(stack.chat("qwen").await.status(), 200);
    assert_eq!(stack.chat("qwen").await.status(), 200);
    let refused = stack.chat("qwen").await;
    assert_eq!(refused.status(), 429);
    for name in ["retry-after", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-reset-requests"]
    {
        assert!(refused.headers().contains_key(name), "{name}");
    }
    assert_eq!(stack.chat("llama").await.status(), 200, "the limit is qwen's alone");
    let wait: u64 = refused.headers()["retry-after-ms"].to_str().expect("text").parse().expect("a number");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(stack.chat("qwen").await.status(), 200, "after waiting as told");
}

#[tokio::test]
async fn every_reading_trick_is_refused() {
    let sim = Sim::start("a", &["llama", "qwen"]);
    let Some(stack) = stack(NEWEST, &[&sim], "").await else { return };
    stack.wait_for("llama").await;
    sim.forget_requests();
    let path = "/v1/chat/completions";
    let utf16: Vec<u8> = r#"{"model":"llama"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let part =
        |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n");
    let form = |parts: &[String]| format!("{}--b--\r\n", parts.concat()).into_bytes();
    let json = "application/json";
    let multipart = "multipart/form-data; boundary=b";
    for (what, content_type, body, status) in [
        ("duplicate keys", json, br#"{"model":"llama","model":"qwen"}"#.to_vec(), 400),
        ("another case", json, br#"{"model":"llama","Model":"qwen"}"#.to_vec(), 400),
        ("an escape in the key", json, br#"{"model":"llama","mod\u0065l":"qwen"}"#.to_vec(), 400),
        ("UTF-16", json, utf16, 415),
        ("a byte order mark", json, b"\xef\xbb\xbf{\"model\":\"llama\"}".to_vec(), 415),
        ("two values", json, br#"{"model":"llama"}{"model":"qwen"}"#.to_vec(), 400),
        ("no object", json, br#"["llama"]"#.to_vec(), 400),
        ("JSON under another type", "text/plain", br#"{"model":"llama"}"#.to_vec(), 415),
        ("an adapter by another field", json, br#"{"model":"llama","lora_path":"qwen"}"#.to_vec(), 400),
        (
            "two model parts",
            multipart,
            form(&[part("name=\"model\"", "llama"), part("name=\"model\"", "qwen")]),
            400,
        ),
        (
            "a model part that is a file",
            multipart,
            form(&[part("name=\"model\"; filename=\"x\"", "llama")]),
            400,
        ),
    ] {
        let (found, body) = refusal(stack.raw(path, content_type, body)).await;
        assert_eq!(found, status, "{what}: {body}");
        assert!(body["error"]["message"].is_string(), "{what}: {body}");
    }
    let (status, _) =
        refusal(stack.raw(path, json, r#"{"model":"llama"}"#).header("content-encoding", "gzip")).await;
    assert_eq!(status, 415, "compressed");
    let (status, _) = refusal(stack.raw(path, json, r#"{"model":"llama"}"#).header("x-model", "qwen")).await;
    assert_eq!(status, 400, "body and header disagree");
    let (status, _) =
        refusal(stack.raw("/v1/chat/completions?model=qwen", json, r#"{"model":"llama"}"#)).await;
    assert_eq!(status, 400, "body and query disagree");
    let get_with_body =
        stack.get("/v1/realtime?model=llama").header("content-type", json).body(r#"{"model":"qwen"}"#);
    assert_eq!(refusal(get_with_body).await.0, 400, "a GET with a body is read as well");
    assert!(sim.posts().is_empty(), "nothing of it reached the server");
}

#[tokio::test]
async fn a_hostile_model_name_changes_no_rule() {
    let hostile = "x`) || PathPrefix(`/";
    let sim = Sim::start("a", &[hostile, "llama"]);
    let Some(stack) = stack(NEWEST, &[&sim], "").await else { return };
    stack.wait_for("llama").await;
    for router in stack.traefik.api("/api/http/routers").await.as_array().expect("routers") {
        assert!(!router["rule"].as_str().unwrap_or_default().contains(hostile), "{router}");
        assert!(router["status"] == "enabled", "{router}");
    }
    assert_eq!(stack.chat(hostile).await.status(), 200, "it is a name like any other");
    assert_eq!(stack.chat("nope").await.status(), 404);
}

#[tokio::test]
async fn bodies_up_to_the_limit_pass_and_larger_ones_get_a_413() {
    let sim = Sim::start("a", &["llama"]);
    let Some(stack) = stack(NEWEST, &[&sim], "requests: { max_body: 12MiB }\n").await else { return };
    stack.wait_for("llama").await;
    let body = |bytes: usize| {
        let image = format!("data:image/png;base64,{}", "A".repeat(bytes));
        json!({ "model": "llama", "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": image } }] }] })
    };
    for bytes in [1_000, 20_000, 2_000_000, 10_000_000] {
        assert_eq!(send(stack.post("/v1/chat/completions", &body(bytes))).await.status(), 200, "{bytes}");
    }
    let (status, answer) = refusal(stack.post("/v1/chat/completions", &body(13_000_000))).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (413, Some("request_too_large")));
    // Without a Content-Length: up to 1 MiB.
    let chunked = |bytes: usize| {
        let text = body(bytes).to_string();
        let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(text)]);
        stack.raw("/v1/chat/completions", "application/json", reqwest::Body::wrap_stream(chunks))
    };
    assert_eq!(send(chunked(1_000)).await.status(), 200);
    let (status, answer) = refusal(chunked(2_000_000)).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (413, Some("request_too_large")));
    assert!(answer["error"]["message"].as_str().expect("text").contains("Content-Length"), "{answer}");
}

#[tokio::test]
async fn a_streamed_answer_arrives_chunk_by_chunk() {
    let options =
        Options { chunks: 10, chunk_delay: Duration::from_millis(200), ..Options::named("a", &["llama"]) };
    let sim = Sim::start_with(options);
    let Some(stack) = stack(NEWEST, &[&sim], "").await else { return };
    testkit::eventually(Duration::from_secs(60), || async {
        (send(stack.get("/v1/models/llama")).await.status() == 200).then_some(())
    })
    .await;
    let mut request = chat("llama");
    request["stream"] = json!(true);
    let started = Instant::now();
    let mut response = send(stack.post("/v1/chat/completions", &request)).await;
    assert_eq!(response.status(), 200);
    let stopwatch = Stopwatch::start();
    let mut first = None;
    while let Some(_chunk) = response.chunk().await.expect("a chunk") {
        first.get_or_insert_with(|| stopwatch.elapsed());
    }
    let (first, all) = (first.expect("chunks"), started.elapsed());
    assert!(all > Duration::from_secs(1) && first < all / 2, "first after {first:?}, all after {all:?}");
}

#[tokio::test]
async fn restarts_lose_no_route() {
    let sim = Sim::start("a", &["llama"]);
    let Some(mut stack) = stack(NEWEST, &[&sim], "").await else { return };
    stack.wait_for("llama").await;
    stack.traefik.restart().await;
    stack.wait_for("llama").await;
    stack.traefik.wait_configured().await;
    let before = stack.traefik.routers().await;
    stack.modelgate.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.traefik.routers().await, before, "Traefik keeps its routes");
    stack.modelgate.restart().await;
    for _ in 0..40 {
        assert_eq!(stack.traefik.routers().await, before, "no document lacks a route");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    stack.wait_for("llama").await;
}

#[tokio::test]
async fn a_good_configuration_takes_effect_and_a_bad_one_does_not() {
    let (a, b) = (Sim::start("a", &["llama"]), Sim::start("b", &["qwen"]));
    let limit = "models:\n  - { match: \"llama\", limit: { requests_per_hour: 1, burst: 2 } }\n";
    let Some(stack) = stack(NEWEST, &[&a], limit).await else { return };
    testkit::eventually(Duration::from_secs(60), || async {
        (send(stack.get("/v1/models/llama")).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(stack.chat("llama").await.status(), 200);
    assert_eq!(stack.chat("llama").await.status(), 200);
    stack.modelgate.write_config(&common::config(&[&a, &b], limit));
    stack.wait_for("qwen").await;
    assert_eq!(stack.chat("llama").await.status(), 429, "what was used up stays used up");
    let told = async |state: &str, words: &str| {
        let told = testkit::within(Duration::from_secs(60), || async {
            let told = stack.modelgate.readyz().await["configuration"].take();
            (told["state"] == state && told["problems"].to_string().contains(words)).then_some(())
        });
        assert!(told.await.is_some(), "{state}, {words}: {}", stack.modelgate.readyz().await);
        let metrics = stack.client.get(format!("{}/metrics", stack.modelgate.admin_url()));
        send(metrics).await.text().await.expect("text")
    };
    stack.modelgate.write_config("kyes: []\n");
    let metrics = told("refused", "kyes").await;
    assert!(metrics.contains("modelgate_config_last_reload_successful 0.0\n"), "{metrics}");
    let finding = stack.modelgate.readyz().await["configuration"]["findings"][0].take();
    assert_eq!(finding["code"], "configuration_refused", "{finding}");
    assert_eq!(stack.chat("qwen").await.status(), 200, "the old configuration stays");
    // A good one again, of which a part waits for the next start, however often the file changes.
    for more in ["log: { format: json }\n", "log: { format: json }\ntime_zone: Europe/Paris\n"] {
        stack.modelgate.write_config(&common::config(&[&a, &b], more));
        let metrics =
            told("in force", "log.format has changed, which takes effect only after a restart").await;
        assert!(metrics.contains("modelgate_config_last_reload_successful 1.0\n"), "{metrics}");
    }
    stack.modelgate.write_config(&common::config(&[&a, &b], ""));
    told("in force", "[]").await;
}

#[tokio::test]
async fn a_thousand_models_on_three_servers_are_accepted_without_a_warning() {
    let names: Vec<String> = (0..1000).map(|i| format!("model-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (a, b, c) = (Sim::start("a", &names), Sim::start("b", &names), Sim::start("c", &names));
    for version in ["3.6.2", "3.7.0", NEWEST] {
        let more = format!("traefik: {{ version: {version} }}\n");
        let Some(stack) = stack(version, &[&a, &b, &c], &more).await else { continue };
        stack.wait_for("model-999").await;
        testkit::eventually(Duration::from_secs(60), || async {
            let routers = stack.traefik.routers().await;
            (routers.iter().filter(|r| r.starts_with("model-")).count() == 1000).then_some(())
        })
        .await;
        // Their routes stand in sixteen groups.
        for model in names.iter().step_by(13) {
            let answer = stack.chat(model).await;
            assert_eq!(answer.status(), 200, "{version} {model}");
            let answer: Value = answer.json().await.expect("JSON");
            assert_eq!(answer["model"], *model, "{version}");
        }
        let log = stack.traefik.log();
        // That a poll came to nothing says how busy the machine is.
        let is_ours = |l: &&str| (l.contains("WRN") || l.contains("ERR")) && !l.contains("Client.Timeout");
        let warnings: Vec<&str> = log.lines().filter(is_ours).collect();
        let ours: Vec<_> =
            warnings.iter().filter(|l| l.contains("@http") || l.contains("providerName=http")).collect();
        assert!(ours.is_empty(), "{version}: {ours:#?}");
    }
}

/// A prefix in place of `/v1` is replaced before `/auth` is asked: the path that is decided about is the one that goes on.
#[tokio::test]
async fn a_prefix_stands_in_place_of_v1() {
    for version in ["3.0.4", "3.3.6", "3.6.2", NEWEST] {
        let sim = Sim::start("a", &["llama"]);
        let root = Sim::start_with(Options { base_path: String::new(), ..Options::named("b", &["llama"]) });
        // Two base paths, so that routers behind `/auth` also look at the path. Before 3.2 there is only one.
        let mut servers = vec![(&sim, "single_model: true")];
        if version != "3.0.4" {
            servers.push((&root, "base_path: /, single_model: true"));
        }
        let more = format!("traefik: {{ version: {version}, path_prefixes: [/v1, /llm, /api/openai.v2] }}\n");
        let Some(stack) = stack_of(version, &config_of(&servers, &more)).await else { continue };
        stack.wait_for("llama").await;
        let paths = || -> BTreeSet<String> {
            [&sim, &root].iter().flat_map(|sim| sim.posts()).map(|received| received.path).collect()
        };
        for (asked, seen) in [
            ("/llm/chat/completions?x=%2F", "/v1/chat/completions?x=%2F"),
            ("/api/openai.v2/chat/completions", "/v1/chat/completions"),
            ("/llm/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions", "/v1/chat/completions"),
        ] {
            sim.forget_requests();
            root.forget_requests();
            for _ in &servers {
                let answer = send(stack.post(asked, &chat("llama"))).await;
                assert_eq!(answer.status(), 200, "{version}: {asked}");
            }
            let expected = [seen, seen.trim_start_matches("/v1")].into_iter().take(servers.len());
            assert_eq!(paths(), expected.map(str::to_owned).collect(), "{version}: {asked}");
        }
        for path in ["/llm/models", "/llm/v1/models", "/api/openai.v2/models"] {
            let list: Value = send(stack.get(path)).await.json().await.expect("JSON");
            assert_eq!(list["data"][0]["id"], "llama", "{version}: {path}: {list}");
        }
        // Whatever the prefix is written like, the server gets what was decided about, or nothing.
        sim.forget_requests();
        root.forget_requests();
        for path in [
            "/llm/load_lora_adapter",
            "/llm//load_lora_adapter",
            "/llm/v1/v1/load_lora_adapter",
            "/llm%2Fload_lora_adapter",
            "/%6Clm/load_lora_adapter",
            "/llm/%2e%2e/load_lora_adapter",
            "/llm/..%2Fload_lora_adapter",
            "/llm/v1%2Fload_lora_adapter",
            "/api/openaiXv2/chat/completions",
            "/llmx/chat/completions",
        ] {
            let (status, body) = refusal(stack.post(path, &chat("llama"))).await;
            assert!((400..500).contains(&status), "{version}: {path}: {status} {body}");
        }
        assert_eq!(paths(), BTreeSet::new(), "{version}");
    }
}
