//! What stands between clients and models: TLS, hosts, browsers, address lists, odd kinds of traffic.

mod common;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use common::{KEY, NEWEST, chat, config_of, send, server, stack_of};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Client, Method, RequestBuilder, redirect::Policy};
use serde_json::json;
use testkit::{
    free_port,
    modelgate::Modelgate,
    need,
    sim::{Options, Sim},
    traefik::{Traefik, traefik_binary},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

const ORIGIN: &str = "https://app.example.com";

/// A Traefik with entry points `web` and, over TLS with its own certificate, `websecure`.
struct Edge {
    traefik: Traefik,
    _modelgate: Modelgate,
    secure: u16,
    client: Client,
}

async fn edge(version: &str, sims: &[(&Sim, &str)], traefik: &str) -> Option<Edge> {
    let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
    let yaml = config_of(sims, &format!("traefik: {{ version: {version:?}, {traefik} }}\n"));
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
    modelgate.wait_ready().await;
    let secure = free_port();
    let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint());
    let traefik = builder.arg(format!("--entryPoints.websecure.address=127.0.0.1:{secure}")).start().await;
    traefik.wait_configured().await;
    let client = Client::builder()
        .danger_accept_invalid_certs(true)
        .resolve("llm.example.com", ([127, 0, 0, 1], secure).into())
        .redirect(Policy::none())
        .no_proxy()
        .build()
        .expect("a client");
    Some(Edge { traefik, _modelgate: modelgate, secure, client })
}

#[tokio::test(flavor = "multi_thread")]
async fn https_on_a_host_with_a_redirect_and_hsts() {
    let sim = Sim::start("a", &["llama"]);
    let options = "hosts: [llm.example.com], entry_points: [websecure], tls: true, redirect_entry_points: [web], \
                   hsts: { max_age: 1h, include_subdomains: true }";
    for version in ["3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let Some(edge) = edge(version, &[(&sim, "")], options).await else { continue };
        let url = format!("https://llm.example.com:{}/v1/chat/completions", edge.secure);
        let answer = send(edge.client.post(&url).bearer_auth(KEY).json(&chat("llama"))).await;
        assert_eq!(answer.status(), 200, "{version}");
        assert_eq!(
            answer.headers()["strict-transport-security"],
            "max-age=3600; includeSubDomains",
            "{version}"
        );
        assert_eq!(answer.version(), reqwest::Version::HTTP_2, "{version}");
        let refused = send(edge.client.post(&url).json(&chat("llama"))).await;
        assert_eq!(refused.status(), 401, "{version}");
        assert!(refused.headers().contains_key("strict-transport-security"), "{version}");
        let other_host = edge.client.post(format!("https://127.0.0.1:{}/v1/chat/completions", edge.secure));
        assert_eq!(send(other_host.bearer_auth(KEY).json(&chat("llama"))).await.status(), 404, "{version}");
        let plain = edge.client.post(format!("{}/v1/chat/completions", edge.traefik.url()));
        let plain = send(plain.header("host", "llm.example.com").json(&chat("llama"))).await;
        assert!([301, 308].contains(&plain.status().as_u16()), "{version}: {}", plain.status());
        assert_eq!(plain.headers()["location"], "https://llm.example.com/v1/chat/completions", "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_may_ask_from_allowed_origins() {
    let sim = Sim::start("a", &["llama"]);
    let options = format!("cors: {{ origins: [{ORIGIN:?}], max_age: 10m }}");
    for version in ["3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let Some(edge) = edge(version, &[(&sim, "")], &options).await else { continue };
        let url = format!("{}/v1/chat/completions", edge.traefik.url());
        let preflight = |origin: &str| {
            let request = edge.client.request(Method::OPTIONS, &url).header("origin", origin);
            request
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization,content-type")
        };
        let answer = send(preflight(ORIGIN)).await;
        assert_eq!(answer.status(), 200, "{version}: without a key");
        assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN, "{version}");
        assert_eq!(answer.headers()["access-control-max-age"], "600", "{version}");
        let allowed = answer.headers()["access-control-allow-headers"].to_str().expect("text").to_lowercase();
        for header in ["authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-lang"]
        {
            assert!(allowed.contains(header), "{version}: {header} in {allowed}");
        }
        let stranger = send(preflight("https://evil.example.com")).await;
        assert!(!stranger.headers().contains_key("access-control-allow-origin"), "{version}");
        let request = |key: &str| {
            edge.client.post(&url).header("origin", ORIGIN).bearer_auth(key.to_owned()).json(&chat("llama"))
        };
        for (key, status) in [(KEY, 200), ("mg-wrong", 401)] {
            let answer = send(request(key)).await;
            assert_eq!(answer.status(), status, "{version}");
            assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN, "{version}: {status}");
            let exposed =
                answer.headers()["access-control-expose-headers"].to_str().expect("text").to_lowercase();
            for header in ["x-request-id", "retry-after", "x-should-retry", "x-ratelimit-reset-tokens"] {
                assert!(exposed.contains(header), "{version}: {header} in {exposed}");
            }
        }
        // Ollama judges by a list of its own, and refuses pages that it does not know.
        let seen = sim.posts().pop().expect("the request");
        assert_eq!(seen.header("origin"), None, "{version}");
        let too_large = edge.client.post(&url).header("origin", ORIGIN).body(vec![b'x'; 33 << 20]);
        let too_large = send(too_large).await;
        assert_eq!(too_large.status(), 413, "{version}");
        assert_eq!(too_large.headers()["access-control-allow-origin"], ORIGIN, "{version}");
    }
}

/// Through a load balancer, 127.0.0.2, that lets its clients make up whatever they like, and past it.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_clients_own_address_counts() {
    let sim = Sim::start("a", &["llama"]);
    let list = ", allow_ips: [203.0.113.0/24]";
    for (version, list) in [
        ("3.0.4", ""),
        ("3.3.6", ""),
        ("3.6.2", ""),
        ("3.6.15", ""),
        ("3.7.0", ""),
        (NEWEST, ""),
        // Traefik's own list goes by the same address.
        (NEWEST, list),
    ] {
        let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { continue };
        let balanced = Balanced::start(version, list, &binary, &sim).await;
        for path in PATHS {
            balanced.counts_the_clients_address(path).await;
        }
        balanced.slows_one_client_of_the_balancer_and_no_other().await;
    }
}

/// Traefik behind a load balancer that it trusts.
struct Balanced {
    traefik: Traefik,
    _modelgate: Modelgate,
    /// Which Traefik it is, and whether it has a list of its own; for messages.
    what: String,
    is_listed: bool,
    balancer: Client,
    stranger: Client,
    _folder: tempfile::TempDir,
}

const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/models", "/mine/v1/chat/completions"];

impl Balanced {
    async fn start(version: &str, list: &str, binary: &Path, sim: &Sim) -> Self {
        let office = access::KeyDigest::of("mg-office").to_hex();
        let office =
            format!("{{ name: office, consumer: o, sha256: \"{office}\", networks: [203.0.113.0/24] }}");
        let yaml = config_of(
            &[(sim, "single_model: true")],
            &format!("traefik: {{ version: {version:?}, ip_depth: 1{list} }}\n"),
        );
        let yaml = yaml.replacen("keys:\n", &format!("keys:\n  - {office}\n"), 1);
        let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
        modelgate.wait_ready().await;
        let folder = tempfile::tempdir().expect("a folder");
        let mine = format!(
            "http:\n  routers:\n    mine: {{ rule: PathPrefix(`/mine`), middlewares: [modelgate@http], service: mine }}\n  \
             services:\n    mine: {{ loadBalancer: {{ servers: [{{ url: {:?} }}] }} }}\n",
            sim.url()
        );
        std::fs::write(folder.path().join("mine.yaml"), mine).expect("written");
        let traefik = Traefik::builder(binary)
            .endpoint(modelgate.provider_endpoint())
            .arg("--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.2/32")
            .arg(format!("--providers.file.directory={}", folder.path().display()))
            .start()
            .await;
        let [balancer, stranger] = [2, 3].map(|host| {
            let address = std::net::IpAddr::from([127, 0, 0, host]);
            testkit::client_builder().local_address(address).build().expect("a client")
        });
        let (what, is_listed) = (format!("{version}{list}"), !list.is_empty());
        Self { traefik, _modelgate: modelgate, what, is_listed, balancer, stranger, _folder: folder }
    }

    fn ask(&self, client: &Client, path: &str, forwarded_for: &str, key: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.traefik.url());
        let request = match path {
            "/v1/models" => client.get(url),
            _ => client.post(url).header("x-model", "llama").json(&chat("llama")),
        };
        request.header("x-forwarded-for", forwarded_for).bearer_auth(key.to_owned())
    }

    async fn counts_the_clients_address(&self, path: &str) {
        let Self { what, balancer, stranger, .. } = self;
        testkit::eventually(Duration::from_secs(60), || async {
            (send(self.ask(balancer, path, "203.0.113.1", "mg-wrong")).await.status() == 401).then_some(())
        })
        .await;
        for (client, forwarded_for, status) in [
            (balancer, "203.0.113.5", 200),
            (balancer, "198.51.100.7, 203.0.113.5", 200),
            (balancer, "203.0.113.5, 198.51.100.7", 401),
            (balancer, "198.51.100.7", 401),
            (balancer, "", 401),
            (stranger, "203.0.113.5", 401),
            (stranger, "203.0.113.5, 203.0.113.5", 401),
        ] {
            let found = send(self.ask(client, path, forwarded_for, "mg-office")).await.status();
            // The simulated server knows no /mine; that it answers is what counts.
            let found = if path == PATHS[2] && found == 404 { 200 } else { found.as_u16() };
            let is_listed = self.is_listed && path != PATHS[2];
            let status = if is_listed && status == 401 { 403 } else { status };
            assert_eq!(found, status, "{what} {path} {forwarded_for:?}");
        }
        // What a client makes up about its request counts as little as ever.
        let made_up = self
            .ask(balancer, path, "203.0.113.5", KEY)
            .header("x-forwarded-uri", "/v1/models?model=made-up")
            .header("x-forwarded-method", "DELETE")
            .header("x-forwarded-host", "evil.example.com");
        let found = send(made_up).await.status().as_u16();
        assert_eq!(found, if path == PATHS[2] { 404 } else { 200 }, "{what} {path}");
    }

    async fn slows_one_client_of_the_balancer_and_no_other(&self) {
        let guess = async |address| {
            send(self.ask(&self.balancer, PATHS[0], address, "mg-wrong")).await.status().as_u16()
        };
        let mut guesses = Vec::new();
        for _ in 0..40 {
            guesses.push(guess("203.0.113.66").await);
        }
        assert_eq!((guesses[0], guesses[39]), (401, 429), "{}: {guesses:?}", self.what);
        assert_eq!(guess("203.0.113.67").await, 401, "{}: another client of the balancer", self.what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_networks_of_the_list_get_in() {
    let sim = Sim::start("a", &["llama"]);
    for (options, forwarded, status) in [
        ("allow_ips: [127.0.0.0/8]", None, 200),
        ("allow_ips: [10.0.0.0/8]", None, 403),
        ("allow_ips: [10.0.0.0/8]", Some("10.1.2.3"), 403),
    ] {
        let Some(edge) = edge(NEWEST, &[(&sim, "")], options).await else { continue };
        for path in ["/v1/chat/completions", "/v1/models"] {
            let url = format!("{}{path}", edge.traefik.url());
            let mut request = match path {
                "/v1/models" => edge.client.get(url),
                _ => edge.client.post(url).json(&chat("llama")),
            };
            if let Some(address) = forwarded {
                request = request.header("x-forwarded-for", address);
            }
            assert_eq!(send(request.bearer_auth(KEY)).await.status(), status, "{options} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_pass_below_a_raised_limit() {
    let sim = Sim::start("a", &["whisper"]);
    let yaml = config_of(&[(&sim, "")], "requests: { max_body: 101MiB }\n");
    let Some(stack) = stack_of(NEWEST, &yaml).await else { return };
    let size = 100 << 20;
    let form = |model: &str| {
        reqwest::multipart::Form::new()
            .text("model", model.to_owned())
            .part("file", reqwest::multipart::Part::bytes(vec![7u8; size]).file_name("talk.wav"))
    };
    let url = format!("{}/v1/audio/transcriptions", stack.traefik.url());
    let answer = send(stack.client.post(&url).bearer_auth(KEY).multipart(form("whisper"))).await;
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
    assert!(sim.posts()[0].body_length >= size, "all of it arrived");
    let larger = stack.client.post(&url).bearer_auth(KEY).header("content-type", "application/json");
    assert_eq!(send(larger.body(vec![b' '; 102 << 20])).await.status(), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_flows_chunk_by_chunk_over_http_1_and_2() {
    let options =
        Options { chunks: 5, chunk_delay: Duration::from_millis(200), ..Options::named("a", &["llama"]) };
    let sim = Sim::start_with(options);
    let Some(edge) = edge(NEWEST, &[(&sim, "")], "tls: true, entry_points: [websecure]").await else {
        return;
    };
    let http1 = Client::builder()
        .danger_accept_invalid_certs(true)
        .http1_only()
        .no_proxy()
        .build()
        .expect("a client");
    let http2 = Client::builder().danger_accept_invalid_certs(true).no_proxy().build().expect("a client");
    for (client, version) in [(http1, reqwest::Version::HTTP_11), (http2, reqwest::Version::HTTP_2)] {
        let mut body = chat("llama");
        body["stream"] = json!(true);
        let url = format!("https://127.0.0.1:{}/v1/chat/completions", edge.secure);
        let mut longest = Duration::ZERO;
        // A busy machine may hold up the first chunk; a proxy that collects them all does so each time.
        for _ in 0..4 {
            let mut answer = send(client.post(&url).bearer_auth(KEY).json(&body)).await;
            assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
            let mut first = None;
            let mut text = String::new();
            while let Some(chunk) = answer.chunk().await.expect("a chunk") {
                first.get_or_insert_with(Instant::now);
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            assert!(text.contains("[DONE]"), "{text}");
            longest = longest.max(first.expect("a chunk").elapsed());
            if longest > Duration::from_millis(400) {
                break;
            }
        }
        assert!(longest > Duration::from_millis(400), "it came all at once: {longest:?}");
        assert_eq!(server(&answer_of(client.clone(), &edge).await), "a");
    }
}

async fn answer_of(client: Client, edge: &Edge) -> reqwest::Response {
    let url = format!("https://127.0.0.1:{}/v1/chat/completions", edge.secure);
    send(client.post(url).bearer_auth(KEY).json(&chat("llama"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_of_openai_and_anthropic_reaches_its_server() {
    let sim = Sim::start("a", &["llama"]);
    let Some(stack) = stack_of(NEWEST, &config_of(&[(&sim, "")], "")).await else { return };
    stack.wait_for("llama").await;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": "llama", "messages": messages })),
        ("/v1/completions", json!({ "model": "llama", "prompt": "Hello" })),
        ("/v1/embeddings", json!({ "model": "llama", "input": "Hello" })),
        ("/v1/responses", json!({ "model": "llama", "input": "Hello" })),
        ("/v1/rerank", json!({ "model": "llama", "query": "Hello", "documents": ["a", "b"] })),
        ("/v1/moderations", json!({ "model": "llama", "input": "Hello" })),
        ("/v1/images/generations", json!({ "model": "llama", "prompt": "Hello" })),
        ("/v1/messages", json!({ "model": "llama", "max_tokens": 5, "messages": messages })),
        ("/v1/messages/count_tokens", json!({ "model": "llama", "messages": messages })),
    ] {
        let request: RequestBuilder = stack.post(path, &body);
        let answer = send(request).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(server(&answer), "a", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_flows_and_a_pages_key_stays_here() {
    let sim = Sim::start("a", &["voice", "other"]);
    for version in ["3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let Some(edge) = edge(version, &[(&sim, "websockets: true")], "").await else { continue };
        let url = format!("ws://127.0.0.1:{}/v1/realtime?model=voice", edge.traefik.port());
        let protocols = format!("realtime, openai-insecure-api-key.{KEY}, openai-beta.realtime-v1");
        for (header, value) in
            [("authorization", format!("Bearer {KEY}")), ("sec-websocket-protocol", protocols)]
        {
            let mut request = url.as_str().into_client_request().expect("a request");
            request.headers_mut().insert(header, value.parse().expect("a value"));
            let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.expect("an upgrade");
            let greeting =
                socket.next().await.expect("a message").expect("a greeting").into_text().expect("text");
            assert!(
                greeting.contains("\"model\":\"voice\"") && !greeting.contains(KEY),
                "{version}: {greeting}"
            );
            if header == "sec-websocket-protocol" {
                assert_eq!(answer.headers()["sec-websocket-protocol"], "realtime", "{version}");
                assert!(greeting.contains("realtime, openai-beta.realtime-v1"), "{version}: {greeting}");
            }
            for text in ["one", "two"] {
                socket.send(Message::text(text)).await.expect("sent");
                assert_eq!(socket.next().await.expect("a message").expect("an echo"), Message::text(text));
            }
        }
        let mut refused = url.as_str().into_client_request().expect("a request");
        refused.headers_mut().insert("authorization", "Bearer mg-wrong".parse().expect("a value"));
        let error = tokio_tungstenite::connect_async(refused).await.expect_err("refused");
        assert!(error.to_string().contains("401"), "{version}: {error}");
    }
}
