//! Each Compose file under `examples/` is started as it is, on a real Docker Engine, and does what it says.
//!
//! Images that a registry would have are stood in for: the simulated server in place of vLLM, Ollama
//! and the like, and the machine's own Traefik. An override makes health checks quick and leaves GPUs out.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use common::{KEY, NEWEST, chat, refusal, send, server};
use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder, redirect::Policy};
use serde_json::{Value, json};
use testkit::{
    Failure,
    docker::{self, Compose, ComposeFile, Container, Engine, RunOptions, StandIn},
    eventually, free_port, need,
    traefik::{Traefik, traefik_binary},
};

/// The engine, and the networks of the examples, are shared.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const LLAMA: &str = "meta-llama/Llama-3.1-8B-Instruct";
const UPDATE_TIMEOUT: Duration = Duration::from_secs(60);

struct Example {
    compose: Compose,
    http: u16,
    https: u16,
    client: Client,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Example {
    /// Starts an example with an override; `None` if a part is missing and may be.
    async fn up(name: &str, overrides: &str) -> Option<Self> {
        let alone = ALONE.lock().await;
        need(docker::available().await, "a Docker Engine")?;
        need(docker::compose_binary(), "Docker Compose (cargo xtask test --install)")?;
        need(stand_ins().await, "the stand-in images")?;
        let (http, https) = (free_port(), free_port());
        testkit::install_crypto();
        let address = ([127, 0, 0, 1], https).into();
        let client = Client::builder()
            .danger_accept_invalid_certs(true)
            .no_proxy()
            .redirect(Policy::none())
            .resolve("models.yourdomain.com", address)
            .resolve("api.yourdomain.com", address)
            .build();
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"));
        let file = ComposeFile::at(folder.join(name).join("compose.yaml"))
            .over(overrides)
            .env("MODELGATE_API_KEY", KEY)
            .env("PROVIDER_AUTH_TOKEN", "sk-provider")
            .env("HTTP_PORT", http.to_string())
            .env("HTTPS_PORT", https.to_string());
        let compose = Compose::up(file, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        Some(Self { compose, http, https, client: client.expect("a client"), _alone: alone })
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("http://127.0.0.1:{}{path}", self.http)).bearer_auth(KEY).json(body)
    }

    fn chat(&self, model: &str) -> RequestBuilder {
        self.post("/v1/chat/completions", &chat(model))
    }

    /// Waits until a request is answered by a server, and says which.
    async fn answered(&self, request: impl Fn() -> RequestBuilder) -> String {
        let began = Instant::now();
        loop {
            let last = match request().timeout(Duration::from_secs(20)).send().await {
                Ok(answer) if answer.status() == 200 => return server(&answer),
                Ok(answer) => format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > UPDATE_TIMEOUT {
                let logs = self.compose.run(&["logs", "--tail", "40"]).await.unwrap_or_default();
                panic!(
                    "{}: {last}
{logs}",
                    self.compose.project()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Which containers answer so many requests, by the service's name and number.
    async fn spread(&self, count: usize, request: impl Fn() -> RequestBuilder) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for _ in 0..count {
            *servers.entry(self.answered(&request).await).or_insert(0) += 1;
        }
        servers
    }

    /// The id of a service's only container. Its name for itself is how this begins.
    async fn container(&self, service: &str) -> String {
        let mut containers = self.compose.containers(service).await.expect("containers");
        assert_eq!(containers.len(), 1, "{service}");
        containers.remove(0)
    }

    /// Waits until a request is answered by so many different servers.
    async fn settle(&self, servers: usize, request: impl Fn() -> RequestBuilder) {
        eventually(UPDATE_TIMEOUT, || async {
            let answers = (0..servers * 3).map(|_| self.answered(&request));
            let answered: BTreeSet<String> = join_all(answers).await.into_iter().collect();
            (answered.len() == servers).then_some(())
        })
        .await;
    }
}

/// How Traefik's default rule calls a container, and other names under which somebody may try.
fn hosts(container: &Value) -> Vec<String> {
    let name = container["Name"].as_str().expect("a name").trim_start_matches('/');
    let label = |name: &str| container["Config"]["Labels"][name].as_str().unwrap_or_default().to_owned();
    let (service, project) = (label("com.docker.compose.service"), label("com.docker.compose.project"));
    let normal = |text: &str| text.replace(|c: char| !c.is_alphanumeric(), "-");
    vec![normal(&format!("{service}-{project}")), normal(name), name.to_owned(), service]
}

/// Paths that a server, Modelgate or Traefik would answer: lists, figures, what manages them.
const DOORS: [&str; 8] = [
    "/v1/models",
    "/metrics",
    "/health",
    "/v1/load_lora_adapter",
    "/api/tags",
    "/traefik",
    "/auth",
    "/api/rawdata",
];

impl Example {
    /// Nobody gets anywhere past Modelgate: neither through the example's own Traefik, by any name of a container, nor
    /// through one beside it that exposes whatever it is not told to leave alone. `routed` says to how many containers
    /// routers of the user's own lead, which Modelgate guards.
    async fn is_closed(&self, routed: usize) {
        let engine = Engine::local();
        let filter = format!("label=com.docker.compose.project={}", self.compose.project());
        let ids = engine.docker(&["ps", "--quiet", "--filter", &filter]).await.expect("a list");
        let ids: Vec<&str> = ids.lines().collect();
        let all = engine.docker(&[&["inspect"], &ids[..]].concat()).await.expect("inspected");
        let all: Vec<Value> = serde_json::from_str(&all).expect("JSON");
        let is_traefik = |c: &Value| c["Config"]["Labels"]["com.docker.compose.service"] == "traefik";
        let containers: Vec<&Value> = all.iter().filter(|c| !is_traefik(c)).collect();
        assert!(containers.len() >= 2, "Modelgate and a server");
        let enabled = containers.iter().filter(|c| c["Config"]["Labels"]["traefik.enable"] != "false");
        assert_eq!(enabled.count(), routed, "the others carry the label traefik.enable=false");

        // It exposes by default; one container that nobody has closed shows that it has looked.
        let image = docker::sim_image().await.expect("the image of the simulated server");
        let canary = Container::run(RunOptions::new(image).name("canary")).await.expect("a container");
        let beside = Traefik::builder(traefik_binary(NEWEST).expect("Traefik"));
        let beside = beside.arg(format!("--providers.docker.endpoint={}", engine.endpoint())).start().await;
        let (outside, inside) = (beside.url(), format!("http://127.0.0.1:{}", self.http));
        let ask = |url: &str, host: &str, path: &str| {
            let request = self.client.get(format!("{url}{path}")).header("host", host);
            async { request.timeout(Duration::from_secs(20)).send().await.expect("an answer") }
        };
        eventually(UPDATE_TIMEOUT, || async {
            (ask(&outside, canary.name(), "/v1/models").await.status() == 200).then_some(())
        })
        .await;
        for host in containers.iter().flat_map(|container| hosts(container)) {
            let answers = DOORS.iter().flat_map(|path| [&outside, &inside].map(|url| ask(url, &host, path)));
            for (at, answer) in join_all(answers).await.into_iter().enumerate() {
                let status = answer.status().as_u16();
                let by_server = answer.headers().contains_key("x-sim-server");
                // Traefik's own 404, or a redirection to https; through Modelgate's routers its 401 or 404.
                let is_refused = matches!(status, 301 | 308 | 401 | 404) && !by_server;
                assert!(is_refused, "{}: {host}{}: {status}", self.compose.project(), DOORS[at / 2]);
            }
        }
    }
}

/// Makes the images that the examples name.
async fn stand_ins() -> Result<(), Failure> {
    let traefik = traefik_binary(NEWEST).ok_or_else(|| Failure::Missing("Traefik is missing".into()))?;
    let modelgate = env!("CARGO_BIN_EXE_modelgate").into();
    for (stand_in, name) in [
        (StandIn::Traefik(traefik), "traefik:v3.7"),
        (StandIn::Modelgate(modelgate), "modelgate:local"),
        (StandIn::Vllm, "vllm/vllm-openai:latest"),
        (StandIn::Sglang, "lmsysorg/sglang:latest"),
        (StandIn::Ollama, "ollama/ollama:latest"),
        (StandIn::FastApi, "fastapi-model:local"),
    ] {
        stand_in.tag(name).await?;
    }
    Ok(())
}

/// An override for services: their health checks are quick, and they need no GPU.
fn quick(services: &[&str]) -> String {
    let check = "{ interval: 500ms, start_period: 1s }";
    let service = |name: &&str| format!("  {name}: {{ healthcheck: {check} }}\n");
    format!("services:\n{}", services.iter().map(service).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi() {
    let Some(example) = Example::up("fastapi", "services: {}").await else { return };
    for (model, service) in [("embeddings", "embeddings"), ("classification", "classification")] {
        let predict = || example.post(&format!("/models/{model}/predict"), &json!({ "text": "Hello" }));
        let answer = example.answered(predict).await;
        assert!(!answer.is_empty(), "{service}");
        let body: Value = send(predict()).await.json().await.expect("JSON");
        assert_eq!(body["path"], "/predict", "the prefix is taken off: {body}");
    }
    let (status, _) = refusal(
        example
            .client
            .post(format!("http://127.0.0.1:{}/models/embeddings/predict", example.http))
            .json(&json!({})),
    )
    .await;
    assert_eq!(status, 401);
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_production() {
    // Time compressed: a server that takes 3 s is not cut off by a limit of 120 s.
    let overrides = "services:\n  embeddings: { healthcheck: { interval: 500ms, start_period: 1s } }\n  classification: { \
                     healthcheck: { interval: 500ms, start_period: 1s }, environment: [SIM_LATENCY_MS=3000] }\n";
    let Some(example) = Example::up("fastapi-production", overrides).await else { return };
    let predict =
        |model: &str| example.post(&format!("/models/{model}/predict"), &json!({ "text": "Hello" }));
    // Whatever comes later makes Traefik begin a new turn: all of it has to be there before the turns are counted.
    for model in ["embeddings", "classification"] {
        example.settle(2, || predict(model)).await;
    }
    let spread = example.spread(10, || predict("embeddings")).await;
    assert_eq!(spread.values().copied().collect::<Vec<_>>(), [5, 5], "both replicas: {spread:?}");
    let began = Instant::now();
    example.answered(|| predict("classification")).await;
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    // 200 at once, and a hundred more each second that this takes.
    let mut statuses = BTreeMap::new();
    for _ in 0..20 {
        let burst: Vec<_> = (0..320)
            .map(|_| {
                tokio::spawn(refusal(example.post("/models/embeddings/predict", &json!({ "text": "Hello" }))))
            })
            .collect();
        for request in burst {
            *statuses.entry(request.await.expect("an answer").0).or_insert(0) += 1;
        }
        if statuses.contains_key(&429) {
            break;
        }
    }
    assert!(statuses.contains_key(&429) && statuses[&200] >= 150, "more than 200 at once: {statuses:?}");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_tls() {
    let Some(example) = Example::up("fastapi-tls", "services: {}").await else { return };
    let url = format!("https://models.yourdomain.com:{}/models/embeddings/predict", example.https);
    example.answered(|| example.client.post(&url).bearer_auth(KEY).json(&json!({ "text": "Hello" }))).await;
    let plain =
        example.post("/models/embeddings/predict", &json!({})).header("host", "models.yourdomain.com");
    let plain = send(plain).await;
    assert!([301, 308].contains(&plain.status().as_u16()), "{}", plain.status());
    assert_eq!(plain.headers()["location"], "https://models.yourdomain.com/models/embeddings/predict");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kong() {
    let Some(example) = Example::up("kong", "services: {}").await else { return };
    let with_x_api_key = || {
        let request = example.client.post(format!("http://127.0.0.1:{}/v1/chat/completions", example.http));
        request.header("x-api-key", KEY).header("origin", "https://any.example").json(&chat(LLAMA))
    };
    example.answered(with_x_api_key).await;
    assert_eq!(send(with_x_api_key()).await.headers()["access-control-allow-origin"], "*");
    let embed = || example.post("/v1/embeddings", &json!({ "model": "BAAI/bge-m3", "input": "Hello" }));
    example.answered(embed).await;
    // 60 at once, and one more each second that this takes.
    let mut asked = 0;
    let refused = loop {
        let (status, body) = refusal(embed()).await;
        asked += 1;
        if status != 200 || asked == 600 {
            break (status, body["error"]["code"].clone());
        }
    };
    assert!(
        refused == (429, json!("rate_limit_exceeded")) && asked > 50,
        "60 a minute: {asked}, {refused:?}"
    );
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kong_model_size() {
    let Some(example) = Example::up("kong-model-size", "services: {}").await else { return };
    let large = "meta-llama/Llama-3.1-70B-Instruct";
    let small = example.answered(|| example.chat(LLAMA).header("x-model-size", "8b")).await;
    let other = example.answered(|| example.chat(large).header("x-model-size", "70b")).await;
    assert_ne!(small, other);
    assert_eq!(refusal(example.chat(large).header("x-model-size", "8b")).await.0, 400);
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vllm_tls() {
    let Some(example) = Example::up("vllm-tls", "services: { vllm-llama: {} }").await else { return };
    let url = format!("https://api.yourdomain.com:{}/v1/chat/completions", example.https);
    example.answered(|| example.client.post(&url).bearer_auth(KEY).json(&chat(LLAMA))).await;
    assert_eq!(send(example.chat(LLAMA)).await.status(), 404, "not over plain http");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama() {
    let no_gpu = "services:\n  ollama-1: { deploy: !reset null }\n  ollama-2: { deploy: !reset null }\n";
    let Some(example) = Example::up("ollama", no_gpu).await else { return };
    example.settle(2, || example.chat("llama3")).await;
    let own = || example.post("/api/chat", &json!({ "model": "llama3", "messages": [], "stream": false }));
    let spread = example.spread(8, own).await;
    assert_eq!(spread.values().copied().collect::<Vec<_>>(), [4, 4], "{spread:?}");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama_code() {
    let Some(example) = Example::up("ollama-code", "services: {}").await else { return };
    let with = |content_type: &'static str| {
        let request = example.client.post(format!("http://127.0.0.1:{}/v1/chat/completions", example.http));
        request.bearer_auth(KEY).header("content-type", content_type).body(chat("llama3").to_string())
    };
    let plain = example.answered(|| with("application/json")).await;
    // While one of the two is all that there is, it answers both.
    let code = eventually(UPDATE_TIMEOUT, || async {
        Some(example.answered(|| with("application/json; profile=code")).await).filter(|code| *code != plain)
    })
    .await;
    for _ in 0..4 {
        assert_eq!(example.answered(|| with("application/json; profile=code")).await, code);
        assert_eq!(example.answered(|| with("application/json")).await, plain);
    }
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_weights() {
    let Some(example) = Example::up("nginx-weights", "services: {}").await else { return };
    example.settle(3, || example.chat("llama3")).await;
    let spread = example.spread(20, || example.chat("llama3")).await;
    let mut shares: Vec<_> = spread.values().copied().collect();
    shares.sort_unstable();
    // A turn of ten has 2, 3 and 5; twenty in a row may begin in the middle of one.
    let near = shares.iter().zip([4, 6, 10]).all(|(found, share)| found.abs_diff(share) <= 1);
    assert!(shares.len() == 3 && near, "{spread:?}");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_backup() {
    let Some(example) = Example::up("nginx-backup", "services: {}").await else { return };
    let [primary, backup] = [example.container("ollama-1").await, example.container("ollama-2").await];
    // Whichever is ready first answers until the other one is, too.
    let by = async |id: &str| {
        eventually(UPDATE_TIMEOUT, || async {
            id.starts_with(&example.answered(|| example.chat("llama3")).await).then_some(())
        })
        .await;
    };
    by(&primary).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spread = example.spread(6, || example.chat("llama3")).await;
    assert!(spread.keys().all(|server| primary.starts_with(server)), "the backup gets nothing: {spread:?}");
    example.compose.run(&["kill", "ollama-1"]).await.expect("killed");
    by(&backup).await;
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama_health() {
    // Loaded when it is told to.
    let overrides = "services:\n  ollama:\n    environment: [SIM_LOADED_AFTER=3600]\n    healthcheck: { interval: 500ms, start_period: 1s }\n";
    let Some(example) = Example::up("ollama-health", overrides).await else { return };
    // Before Traefik is up, Docker takes connections for it and drops them.
    eventually(UPDATE_TIMEOUT, || async {
        let answer = example.chat("llama3").send().await;
        answer.is_ok_and(|answer| answer.status() == 503).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(send(example.chat("llama3")).await.status(), 503, "only once the model is loaded");
    }
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let container = example.container("ollama").await;
    let address = Engine::local().docker(&["inspect", "--format", address, &container]).await;
    let url = format!("http://{}:11434/sim/loaded", address.expect("an address"));
    assert_eq!(send(example.client.post(url).json(&json!({ "loaded": true }))).await.status(), 204);
    example.answered(|| example.chat("llama3")).await;
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sticky() {
    let Some(example) = Example::up("sticky", "services: {}").await else { return };
    example.settle(2, || example.chat("llama3")).await;
    let first = send(example.chat("llama3")).await;
    let cookie = first.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.starts_with("llm_backend=") && cookie.contains("Secure"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    let spread = example.spread(6, || example.chat("llama3").header("cookie", &pair)).await;
    assert_eq!(spread.into_keys().collect::<Vec<_>>(), [server(&first)]);
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit() {
    let Some(example) = Example::up("rate-limit", "services: {}").await else { return };
    example.answered(|| example.chat("llama3")).await;
    let start = Instant::now();
    let burst: Vec<_> = (0..200).map(|_| tokio::spawn(refusal(example.chat("llama3")))).collect();
    let mut passed = 0;
    for request in burst {
        let (status, body) = request.await.expect("an answer");
        assert!([200, 429].contains(&status), "{status}: {body}");
        passed += u64::from(status == 200);
    }
    let most = 20 + 10 * (start.elapsed().as_secs() + 1);
    assert!((19..=most).contains(&passed), "20 at once, and ten more a second: {passed} of {most}");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_model() {
    let Some(example) = Example::up("multi-model", "services: {}").await else { return };
    let fast = || example.post("/v1/chat/completions?fast=true", &chat("llama3"));
    let servers = [
        example.answered(|| example.chat("llama3").header("x-model", "llama3:70b")).await,
        example.answered(|| example.chat("llama3").header("x-model", "deepseek-coder")).await,
        example.answered(fast).await,
    ];
    for _ in 0..3 {
        assert_eq!(
            example.answered(|| example.chat("llama3").header("x-model", "codellama")).await,
            servers[1]
        );
        assert_eq!(example.answered(fast).await, servers[2]);
    }
    assert!(servers[0] != servers[1] && servers[1] != servers[2] && servers[0] != servers[2], "{servers:?}");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama_production() {
    let overrides = "services:\n  ollama-main: { deploy: !reset null, healthcheck: { interval: 500ms, start_period: 1s } }\n";
    let Some(example) = Example::up("ollama-production", overrides).await else { return };
    example.answered(|| example.chat("llama3")).await;
    // Traefik's access log has it once all is sent.
    eventually(UPDATE_TIMEOUT, || async {
        let log = example.compose.run(&["logs", "traefik"]).await.expect("a log");
        log.contains("/v1/chat/completions").then_some(())
    })
    .await;
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lw_inference_proxy() {
    let Some(example) = Example::up("lw-inference-proxy", &quick(&["vllm", "sglang"])).await else { return };
    for model in [LLAMA, "Qwen/Qwen2.5-7B-Instruct"] {
        example.answered(|| example.chat(model)).await;
    }
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud() {
    // The provider is stood in for by a server on the example's network that demands the token.
    let config =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/cloud/modelgate.yaml"));
    let config = config.expect("the example").replace("https://api.ofox.ai", "http://provider:8000");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("modelgate.yaml"), config).expect("written");
    let mount = folder.path().join("modelgate.yaml").display().to_string();
    let overrides = format!(
        "services:\n  modelgate: {{ volumes: [\"{mount}:/modelgate.yaml:ro\"] }}\n  provider:\n    image: \
         vllm/vllm-openai:latest\n    labels: [traefik.enable=false]\n    environment: {{ SIM_NAME: provider, SIM_REQUIRE_KEY: sk-provider, SIM_MODELS: \
         claude-3-5-sonnet-20241022 }}\n"
    );
    let Some(example) = Example::up("cloud", &overrides).await else { return };
    let answer = example.answered(|| example.chat("claude-3-5-sonnet-20241022")).await;
    assert_eq!(answer, "provider");
    example.is_closed(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_router() {
    let Some(example) = Example::up("own-router", "services: {}").await else { return };
    let embeddings = || example.post("/mine/predict", &json!({ "text": "Hello" }));
    example.answered(embeddings).await;
    let body: Value = send(embeddings()).await.json().await.expect("JSON");
    assert_eq!(body["path"], "/predict", "the user's own middleware: {body}");
    let chat = || example.post("/chat/v1/chat/completions", &chat(LLAMA));
    example.answered(chat).await;
    for path in ["/mine/predict", "/chat/v1/chat/completions"] {
        let url = format!("http://127.0.0.1:{}{path}", example.http);
        assert_eq!(refusal(example.client.post(url).json(&json!({ "model": LLAMA }))).await.0, 401, "{path}");
    }
    assert_eq!(refusal(example.post("/mine/predict", &json!({ "model": LLAMA }))).await.0, 400);
    example.is_closed(2).await;
}

#[test]
fn every_example_has_a_test() {
    let source = include_str!("examples.rs");
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"));
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the examples").flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().replace('-', "_");
        assert!(source.contains(&format!("async fn {name}()")), "examples/{name} has no test");
        count += 1;
    }
    assert!(count >= 17, "{count}");
}

/// What the started examples show of themselves, every recipe has as it stands in its file.
#[test]
fn every_recipe_leaves_no_door_beside_modelgate() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let examples = fs::read_dir(root.join("examples")).expect("the examples").flatten();
    let examples =
        examples.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().join("compose.yaml"));
    let others =
        ["deploy/compose.yaml", "deploy/swarm.yaml", "examples/gateway.yaml"].map(|file| root.join(file));
    for file in examples.chain(others) {
        let text = fs::read_to_string(&file).expect("a Compose file");
        let lines: Vec<&str> = text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
        for (at, line) in lines.iter().enumerate() {
            let next = lines.get(at + 1).copied().unwrap_or_default();
            let is_closed = [line, next].iter().any(|line| line.contains("traefik.enable"));
            assert!(!line.contains("inference.enable") || is_closed, "{}: {line}", file.display());
            let is_docker = line.contains("--providers.docker") || line.contains("--providers.swarm");
            let is_strict = lines.iter().any(|line| line.contains(".exposedByDefault=false"));
            assert!(!is_docker || is_strict, "{}: {line}", file.display());
        }
    }
}
