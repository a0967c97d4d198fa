//! The simulated server behaves like the servers that it stands for.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use testkit::{
    Stopwatch, client, client_builder, eventually,
    load::{ChatAnswer, Load, Until},
    sim::{FailureMode, Options, RawListing, Received, Sim},
    tls::Authority,
    websocket::WebSocket,
};

const TIMEOUT: Duration = Duration::from_secs(60);

async fn post(sim: &Sim, path: &str, body: &Value) -> reqwest::Response {
    client().post(format!("{}{path}", sim.url())).json(body).send().await.expect("an answer")
}

async fn get(sim: &Sim, path: &str) -> reqwest::Response {
    client().get(format!("{}{path}", sim.url())).send().await.expect("an answer")
}

#[tokio::test]
async fn says_which_server_answered() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let answer = post(&sim, "/v1/chat/completions", &json!({"model": "llama", "messages": []})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-sim-server"], "gpu-1");
    let answer: Value = answer.json().await.expect("JSON");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(text.starts_with("Answer from gpu-1 for llama."), "{text}");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn answers_404_for_a_model_that_it_does_not_serve() {
    let sim = Sim::start("gpu-1", &["llama"]);
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]
    {
        let answer = post(&sim, path, &json!({"model": "qwen", "input": "x"})).await;
        assert_eq!(answer.status(), 404, "{path}");
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["error"]["type"], "NotFoundError", "{path}");
        assert_eq!(answer["error"]["message"], "The model `qwen` does not exist.", "{path}");
        let answer = post(&sim, path, &json!({"model": "llama", "input": "x"})).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn streams_chunk_by_chunk() {
    let delay = Duration::from_secs(1);
    let sim =
        Sim::start_with(Options { chunk_delay: delay, chunks: 4, ..Options::named("gpu-1", &["llama"]) });
    let body = json!({"model": "llama", "stream": true, "stream_options": {"include_usage": true}});
    let sent = Instant::now();
    let mut stream = post(&sim, "/v1/chat/completions", &body).await.bytes_stream();
    let begin = Stopwatch::start();
    let mut text = String::new();
    let mut times = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.expect("bytes");
        times.push(begin.elapsed());
        text.push_str(std::str::from_utf8(&bytes).expect("text"));
    }
    let first = times.first().expect("a chunk");
    assert!(*first < delay, "the first chunk came after {first:?}");
    assert!(sent.elapsed() >= delay * 3, "all was over after {:?}", sent.elapsed());
    let events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("data")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let events: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let content: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "Answer from gpu-1 for llama. word1 word2 word3");
    let usage = events.last().expect("the usage");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(4)));
}

#[tokio::test]
async fn streams_messages_with_anthropics_events() {
    let sim = Sim::start_with(Options { chunks: 2, ..Options::named("gpu-1", &["llama"]) });
    let text = post(&sim, "/v1/messages", &json!({"model": "llama", "stream": true}))
        .await
        .text()
        .await
        .expect("text");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let delta = "content_block_delta";
    let expected = [
        "message_start",
        "content_block_start",
        delta,
        delta,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let types = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| {
        let data: Value = serde_json::from_str(data).expect("JSON");
        data["type"].as_str().expect("a type").to_owned()
    });
    assert_eq!(types.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn remembers_what_it_received() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let request =
        client().post(format!("{}/v1/embeddings?a=%2F", sim.url())).header("X-Inference-Model", "llama");
    request.json(&json!({"model": "llama", "input": ["a", "b"]})).send().await.expect("an answer");
    let requests: Vec<Received> = get(&sim, "/sim/requests").await.json().await.expect("requests");
    assert_eq!(requests, sim.requests());
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/embeddings?a=%2F"));
    assert_eq!(request.header("x-inference-model"), Some("llama"));
    assert_eq!(request.model.as_deref(), Some("llama"));
    assert_eq!(request.body_length, r#"{"input":["a","b"],"model":"llama"}"#.len());
}

#[tokio::test]
async fn changes_while_it_runs() {
    let sim = Sim::start("gpu-1", &["llama"]);
    assert_eq!(get(&sim, "/health").await.status(), 200);
    assert_eq!(post(&sim, "/sim/health", &json!({"healthy": false})).await.status(), 204);
    assert_eq!(get(&sim, "/health").await.status(), 503);

    post(&sim, "/sim/models", &json!({"models": ["qwen", "a\"b\n"]})).await;
    let listing: Value = get(&sim, "/v1/models").await.json().await.expect("JSON");
    let ids: Vec<&Value> =
        listing["data"].as_array().expect("models").iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["qwen", "a\"b\n"]);
    assert_eq!(listing["data"][0]["max_model_len"], 8192);

    sim.set_raw_listing(Some(RawListing { status: 418, ..RawListing::json("{\"data\": [") }));
    let answer = get(&sim, "/v1/models").await;
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.text().await.expect("text"), "{\"data\": [");

    sim.set_failure(FailureMode { status: Some(429), retry_after: Some(7), ..FailureMode::default() });
    let answer = post(&sim, "/v1/completions", &json!({"model": "qwen"})).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"7".parse().expect("a value"))
    );
}

#[tokio::test]
async fn is_unavailable_while_it_loads() {
    let startup_delay = Duration::from_secs(8);
    let sim = Sim::start_with(Options { startup_delay, ..Options::named("gpu-1", &["llama"]) });
    assert_eq!(get(&sim, "/health").await.status(), 503);
    assert_eq!(get(&sim, "/v1/models").await.status(), 503);
    eventually(TIMEOUT, || async { (get(&sim, "/health").await.status() == 200).then_some(()) }).await;
    assert_eq!(get(&sim, "/v1/models").await.status(), 200);
}

#[tokio::test]
async fn transcribes_a_form() {
    let sim = Sim::start("gpu-1", &["whisper"]);
    let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n12345\r\n\
        --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n";
    let request = client().post(format!("{}/v1/audio/transcriptions", sim.url()));
    let request = request.header("content-type", "multipart/form-data; boundary=b").body(body);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer, json!({"text": "gpu-1 heard 5 bytes for whisper"}));
    assert_eq!(sim.requests()[0].model.as_deref(), Some("whisper"));
}

#[tokio::test]
async fn counts_who_runs_and_who_waits() {
    let latency = Duration::from_secs(30);
    let sim = Sim::start_with(Options { max_running: 2, latency, ..Options::named("gpu-1", &["llama"]) });
    let load = tokio::spawn(
        Load::chat(&sim.url(), "llama", ChatAnswer::Whole).connections(5).until(Until::Sent(5)).run(),
    );
    eventually(TIMEOUT, || async { (sim.running_and_waiting() == (2, 3)).then_some(()) }).await;
    let metrics = get(&sim, "/metrics").await.text().await.expect("text");
    assert!(
        metrics.contains("vllm:num_requests_running{engine=\"0\",model_name=\"llama\"} 2.0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("vllm:num_requests_waiting{engine=\"0\",model_name=\"llama\"} 3.0\n"),
        "{metrics}"
    );
    assert_eq!((sim.queued(), sim.pages()), (3, 1));
    // Those that run are answered when a test says so, and two others run.
    sim.answer_now();
    eventually(TIMEOUT, || async { (sim.running_and_waiting() == (2, 1)).then_some(()) }).await;
    // One page more, and whoever asks then waits.
    sim.allow_pages(Some(1));
    assert_eq!(get(&sim, "/metrics").await.status(), 200);
    let mut page = Box::pin(get(&sim, "/metrics"));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut page).await.is_err());
    sim.allow_pages(None);
    assert_eq!((page.await.status().as_u16(), sim.pages()), (200, 3));
    // The clients leave, and the server notices.
    load.abort();
    eventually(TIMEOUT, || async { (sim.running_and_waiting() == (0, 0)).then_some(()) }).await;
    assert!(sim.abandoned() >= 2, "{}", sim.abandoned());
}

#[tokio::test]
async fn finishes_a_stream_before_it_stops() {
    let options = Options {
        chunks: 160,
        chunk_delay: Duration::from_millis(50),
        ..Options::named("gpu-1", &["llama"])
    };
    let sim = Sim::start_with(options);
    let url = sim.url();
    let load = tokio::spawn(
        Load::chat(&url, "llama", ChatAnswer::Streamed).connections(3).until(Until::Sent(3)).run(),
    );
    eventually(TIMEOUT, || async { (sim.running_and_waiting().0 == 3).then_some(()) }).await;
    sim.stop().await;
    let report = load.await.expect("a report");
    assert_eq!((report.answered(200), report.errors.len()), (3, 0), "{report:?}");
    assert!(client().get(format!("{url}/health")).send().await.is_err(), "it still listens");
}

#[tokio::test]
async fn breaks_a_stream_when_told_to_or_dropped() {
    let options = Options {
        chunks: 200,
        chunk_delay: Duration::from_millis(50),
        ..Options::named("gpu-1", &["llama"])
    };
    let sim = Sim::start_with(options.clone());
    sim.set_failure(FailureMode { break_after: Some(2), ..FailureMode::default() });
    let report = Load::chat(&sim.url(), "llama", ChatAnswer::Streamed).until(Until::Sent(4)).run().await;
    assert_eq!((report.answers(), report.errors.len()), (0, 4), "{report:?}");

    sim.set_failure(FailureMode::default());
    let addr = sim.addr();
    let load = tokio::spawn(
        Load::chat(&sim.url(), "llama", ChatAnswer::Streamed).connections(1).until(Until::Sent(1)).run(),
    );
    eventually(TIMEOUT, || async { (sim.running_and_waiting().0 == 1).then_some(()) }).await;
    drop(sim);
    assert_eq!(load.await.expect("a report").errors.len(), 1);
    let again = Sim::start_at(addr, options);
    assert_eq!(again.addr(), addr);
}

#[tokio::test]
async fn speaks_ollamas_and_llama_cpps_own_apis() {
    let options = Options {
        owned_by: "library".into(),
        loaded_after: Duration::from_secs(8),
        ..Options::named("gpu-1", &["llama3:latest"])
    };
    let sim = Sim::start_with(options);
    let url = |path: &str| format!("{}{path}", sim.url());
    let ps =
        async || client().get(url("/api/ps")).send().await.expect("an answer").text().await.expect("text");
    assert_eq!(ps().await, r#"{"models":[]}"#);
    eventually(TIMEOUT, || async { ps().await.contains("llama3").then_some(()) }).await;
    for (path, body, status) in [
        ("/api/chat", json!({"model": "llama3"}), 200),
        ("/api/show", json!({"Name": "llama3"}), 200),
        ("/api/chat", json!({"model": "other"}), 404),
        ("/tokenize", json!({"content": "x"}), 200),
        ("/v1/chat/completions", json!({"model": "llama3", "messages": []}), 200),
        ("/v1/rerank", json!({"model": "llama3", "documents": ["a"]}), 200),
    ] {
        let answer = client().post(url(path)).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path} {body}");
    }
    // Go's decoder takes fields in any case, and the last one counts.
    for (body, status) in
        [(r#"{"model": "other", "MODEL": "llama3"}"#, 200), (r#"{"Model": "llama3", "model": "x"}"#, 404)]
    {
        let answer = client().post(url("/api/embed")).body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{body}");
    }
    sim.set_loaded(false);
    assert_eq!(ps().await, r#"{"models":[]}"#);
    post(&sim, "/sim/loaded", &json!({"loaded": true})).await;
    assert!(ps().await.contains("llama3"));
}

#[tokio::test]
async fn streams_lines_as_ollama_and_events_as_llama_cpp() {
    let delay = Duration::from_millis(100);
    let sim =
        Sim::start_with(Options { chunk_delay: delay, chunks: 3, ..Options::named("gpu-1", &["llama"]) });
    let begin = Instant::now();
    let answer = post(&sim, "/api/generate", &json!({"model": "llama"})).await;
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.expect("text");
    assert!(begin.elapsed() >= delay * 2, "all was over after {:?}", begin.elapsed());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let said: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!(said, "Answer from gpu-1 for llama. word1 word2");
    let done: Vec<&Value> = lines.iter().map(|line| &line["done"]).collect();
    assert_eq!(done, [false, false, false, true]);

    let whole: Value = post(&sim, "/api/chat", &json!({"model": "llama", "Stream": false}))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(whole["message"]["content"], said);

    let text = post(&sim, "/completion", &json!({"stream": true})).await.text().await.expect("text");
    let pieces = text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let pieces: Vec<Value> = pieces.map(|piece| serde_json::from_str(piece).expect("JSON")).collect();
    assert_eq!(pieces.iter().filter_map(|piece| piece["content"].as_str()).collect::<String>(), said);
    assert_eq!(pieces.last().expect("an end")["stop"], true);

    sim.set_failure(FailureMode { status: Some(500), ..FailureMode::default() });
    for path in ["/api/chat", "/completion", "/predict"] {
        assert_eq!(post(&sim, path, &json!({"model": "llama"})).await.status(), 500, "{path}");
    }
}

#[tokio::test]
async fn predicts_like_a_fastapi_server() {
    let sim = Sim::start("classifier-1", &["classification"]);
    for request in
        [client().get(format!("{}/predict?x=1", sim.url())), client().post(format!("{}/predict", sim.url()))]
    {
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["server"], "classifier-1");
        assert_eq!(answer["path"], "/predict");
        assert_eq!(answer["model_type"], "classification");
    }
    let begin = Instant::now();
    post(&sim, "/sim/latency", &json!({"milliseconds": 200})).await;
    assert_eq!(post(&sim, "/predict", &json!({"text": "x"})).await.status(), 200);
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    sim.set_latency(Duration::ZERO);
    assert_eq!(get(&sim, "/models/classification/predict").await.status(), 404);
}

#[tokio::test]
async fn echoes_over_a_websocket() {
    let sim = Sim::start("gpu-1", &["voice"]);
    let url = format!("ws://{}/v1/realtime?model=voice", sim.addr());
    let protocols = ["realtime", "openai-beta.realtime-v1"];
    let mut socket = WebSocket::connect(&url, &[("x-test", "1")], &protocols).await.expect("an upgrade");
    assert_eq!(socket.protocol(), Some("realtime"));
    assert_eq!(socket.headers()["x-sim-server"], "gpu-1");
    let greeting: Value = serde_json::from_str(&socket.receive().await.expect("a greeting")).expect("JSON");
    assert_eq!(
        greeting,
        json!({"server": "gpu-1", "model": "voice", "protocols": protocols.join(", "), "protocol": "realtime"})
    );
    socket.send("one").await;
    assert_eq!(socket.receive().await.as_deref(), Some("one"));
    assert_eq!(sim.requests()[0].header("x-test"), Some("1"));

    let plain = WebSocket::connect(&url, &[], &[]).await.expect("an upgrade");
    assert_eq!(plain.protocol(), None);
    let refusal =
        WebSocket::connect(&url.replace("voice", "other"), &[], &[]).await.expect_err("no such model");
    assert_eq!(refusal.status, 404);
}

#[tokio::test]
async fn takes_a_large_upload() {
    let size = 200 * 1024 * 1024;
    let sim = Sim::start("gpu-1", &["whisper"]);
    let mut body = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n\
        --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n"
        .to_vec();
    body.resize(body.len() + size, b'x');
    body.extend(b"\r\n--b--\r\n");
    let request = client().post(format!("{}/v1/audio/transcriptions", sim.url()));
    let request = request.header("content-type", "multipart/form-data; boundary=b").body(body);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer, json!({"text": format!("gpu-1 heard {size} bytes for whisper")}));
}

#[tokio::test]
async fn listens_with_a_certificate_of_the_tests_own_authority() {
    let authority = Authority::new();
    let tls = Some(authority.identity(&["127.0.0.1", "api.example.com"]));
    let sim = Sim::start_with(Options { tls, ..Options::named("cloud", &["claude"]) });
    let ask = |client: reqwest::Client, host: &str| {
        client.get(format!("https://{host}:{}/v1/models", sim.addr().port())).send()
    };
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("a certificate");
    let trusting = || client_builder().tls_certs_only([ca.clone()]).resolve("api.example.com", sim.addr());
    for host in ["127.0.0.1", "api.example.com"] {
        let answer = ask(trusting().build().expect("a client"), host).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{host}");
    }
    assert!(sim.url().starts_with("https://"), "{}", sim.url());
    let other = Authority::new();
    let ca = reqwest::Certificate::from_pem(other.pem().as_bytes()).expect("a certificate");
    let distrusting = client_builder().tls_certs_only([ca]).build().expect("a client");
    assert!(ask(distrusting, "127.0.0.1").await.is_err(), "another authority's certificate was accepted");
    // Whoever connects and says nothing keeps nobody waiting.
    let _silent = std::net::TcpStream::connect(sim.addr()).expect("a connection");
    let client = trusting().build().expect("a client");
    assert_eq!(ask(client, "127.0.0.1").await.expect("an answer").status(), 200);
    sim.stop().await;
}

#[tokio::test]
async fn demands_a_key_and_accepts_any_name_when_told() {
    let options = Options {
        required_key: Some("sk-1".into()),
        required_header: "x-api-key".into(),
        accept_any: true,
        ..Options::named("cloud", &["claude"])
    };
    let sim = Sim::start_with(options);
    let ask = |key: &str| {
        let request = client().post(format!("{}/v1/messages", sim.url())).header("x-api-key", key.to_owned());
        request.json(&json!({"model": "any", "messages": []})).send()
    };
    assert_eq!(ask("sk-1").await.expect("an answer").status(), 200);
    assert_eq!(ask("sk-2").await.expect("an answer").status(), 401);
    sim.set_required_key(Some("sk-2"));
    assert_eq!(ask("sk-2").await.expect("an answer").status(), 200);
    post(&sim, "/sim/key", &json!({"key": null})).await;
    assert_eq!(ask("sk-3").await.expect("an answer").status(), 200);

    let sim = Sim::start_with(Options {
        required_key: Some("sk-1".into()),
        ..Options::named("cloud", &["claude"])
    });
    for (header, value, status) in
        [("authorization", "Bearer sk-1", 200), ("authorization", "sk-1", 401), ("x-api-key", "sk-1", 401)]
    {
        let answer = client().get(format!("{}/v1/models", sim.url())).header(header, value).send().await;
        assert_eq!(answer.expect("an answer").status(), status, "{header}: {value}");
    }
    assert_eq!(get(&sim, "/health").await.status(), 200);
}
