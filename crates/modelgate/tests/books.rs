//! Tokens by key, and servers' own counters beside them, with real parts. What the answers' `usage` says is the truth.
//!
//! `MODELGATE_TEST_METERED=500` sends so many requests to llama.cpp instead of the usual ones. `MODELGATE_TEST_VLLM_FOLDER` and
//! `MODELGATE_TEST_VLLM_START` (a folder with a real vLLM, and a program that serves it: `START FOLDER PORT OTLP-ENDPOINT`) add a
//! test with vLLM; it takes minutes to install, so it is no part of a usual run.

mod common;

use std::{
    collections::BTreeMap,
    env, fmt,
    fmt::Write as _,
    ops::{AddAssign, Range},
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{NEWEST, send};
use futures_util::{StreamExt as _, future::join_all};
use serde_json::{Value, json};
use testkit::{
    free_port,
    modelgate::Modelgate,
    need,
    program::Program,
    redis::{Redis, redis_server},
    sim::{Exporter, Options, Sim},
    traefik::{Traefik, traefik_binary},
};

const TOKEN: &str = "a-token-of-the-receiver";
const KEYS: usize = 5;
const QUOTA: u64 = 1_000_000_000;

/// Tokens of prompts and of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tokens {
    prompt: u64,
    cached: u64,
    completion: u64,
}

impl Tokens {
    fn all(self) -> u64 {
        self.prompt + self.completion
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
    }
}

/// Modelgates that one Traefik asks, the first, and tells, which may be another.
struct Stage {
    modelgates: Vec<Modelgate>,
    traefik: Traefik,
}

impl Stage {
    /// `telemetry`: the port of each Modelgate's receiver. Traefik tells the last.
    async fn start(telemetry: &[u16], yaml: &str) -> Option<Self> {
        let binary = need(traefik_binary(NEWEST), "Traefik")?;
        let mut modelgates = Vec::new();
        for port in telemetry {
            let mut keys = String::from("keys:\n");
            for number in 0..KEYS {
                let digest = access::KeyDigest::of(&key(number)).to_hex();
                let limit = format!("tokens_per_day: {QUOTA}, tokens_per_minute: 60000000");
                let _ = writeln!(
                    keys,
                    "  - {{ name: k{number}, consumer: team, sha256: \"{digest}\", limit: {{ {limit} }} }}"
                );
            }
            let yaml = format!(
                "listen: {{ telemetry: \"127.0.0.1:{port}\" }}\nmetering: {{ scrape: 1s }}\ntime_zone: {}\n{keys}{yaml}",
                common::noon()
            );
            let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &yaml);
            let builder = builder.env("MODELGATE_LISTEN_TELEMETRY_TOKEN", TOKEN);
            let mut modelgate = builder.env("MODELGATE_LOG_LEVEL", "info,modelgate=debug").start().await;
            modelgate.wait_ready().await;
            modelgates.push(modelgate);
        }
        let last = telemetry.last()?;
        let builder = Traefik::builder(&binary).endpoint(modelgates.first()?.provider_endpoint());
        let told = [
            format!("--accesslog.otlp.http.endpoint=http://127.0.0.1:{last}/v1/logs"),
            format!("--accesslog.otlp.http.headers.Authorization=Bearer {TOKEN}"),
        ];
        let traefik = builder.telling(&told).start().await;
        traefik.wait_configured().await;
        Some(Self { modelgates, traefik })
    }

    async fn wait_for(&self, model: &str) {
        testkit::eventually(Duration::from_secs(120), || async {
            let listed =
                testkit::client().get(format!("{}/v1/models", self.traefik.url())).bearer_auth(key(0));
            let listed: Value = send(listed).await.json().await.unwrap_or_default();
            let is_there =
                listed["data"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == model));
            is_there.then_some(())
        })
        .await;
    }

    /// Asks, and reads the answer's `usage`; after so many chunks of a stream it hangs up.
    async fn ask(&self, number: usize, path: &str, body: &Value, hang_up: Option<usize>) -> Answered {
        let request = testkit::client().post(format!("{}{path}", self.traefik.url()));
        let answer = send(request.bearer_auth(key(number)).json(body)).await;
        let status = answer.status().as_u16();
        let (mut text, mut chunks) = (Vec::new(), answer.bytes_stream());
        let mut read = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            text.extend(chunk);
            read += 1;
            if hang_up == Some(read) {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        let parts: Vec<Value> = match body["stream"] == true {
            true => text
                .lines()
                .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
                .collect(),
            false => serde_json::from_str(&text).into_iter().collect(),
        };
        let usage = parts.iter().rev().find_map(|part| part.get("usage").filter(|usage| usage.is_object()));
        let count = |names: [&str; 2]| names.iter().find_map(|name| usage?[*name].as_u64());
        let tokens =
            count(["prompt_tokens", "input_tokens"]).zip(count(["completion_tokens", "output_tokens"]));
        let cached = usage.and_then(|usage| usage["prompt_tokens_details"]["cached_tokens"].as_u64());
        let id = parts.iter().find_map(|part| part["id"].as_str()).unwrap_or_default().to_owned();
        let tokens =
            tokens.map(|(prompt, completion)| Tokens { prompt, cached: cached.unwrap_or(0), completion });
        Answered { number, status, id, tokens }
    }

    /// What is taken from a key's quota.
    async fn used(&self, number: usize) -> u64 {
        let asked =
            testkit::client().get(format!("{}/v1/limits", self.traefik.url())).bearer_auth(key(number));
        let limits: Value = send(asked).await.json().await.expect("JSON");
        let limits = limits["limits"].as_array().expect("limits");
        let limit = limits.iter().find(|limit| limit["per"] == "day").expect("a limit");
        QUOTA - limit["remaining"].as_u64().expect("a number")
    }

    /// Waits until all is settled that was asked, and the counters were read since then.
    async fn wait_settled(&self, requests: f64) {
        let settled = testkit::within(Duration::from_secs(90), || async {
            let (mut settled, mut open) = (0.0, 0.0);
            for modelgate in &self.modelgates {
                let metrics = Metrics::of(modelgate).await;
                settled += metrics.sum("modelgate_settled_requests_total");
                open += metrics.sum("modelgate_open_requests");
            }
            (settled >= requests && open == 0.0).then_some(())
        });
        assert!(
            settled.await.is_some(),
            "{:?}",
            self.modelgates.iter().map(Modelgate::log).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

/// What became of a request.
#[derive(Debug)]
struct Answered {
    number: usize,
    status: u16,
    id: String,
    /// Of one that was answered whole.
    tokens: Option<Tokens>,
}

fn key(number: usize) -> String {
    format!("mg-metered-{number}")
}

/// `/metrics` of a Modelgate or a server.
#[derive(Debug)]
struct Metrics(String);

impl Metrics {
    async fn of(modelgate: &Modelgate) -> Self {
        Self::at(&modelgate.admin_url()).await
    }

    async fn at(url: &str) -> Self {
        Self(send(testkit::client().get(format!("{url}/metrics"))).await.text().await.expect("text"))
    }

    /// The sum of the samples whose name and labels begin like this.
    fn sum(&self, beginning: &str) -> f64 {
        let samples = self.0.lines().filter(|line| line.starts_with(beginning));
        samples
            .map(|line| {
                line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
            })
            .sum()
    }

    fn settled(&self, of: &str) -> u64 {
        let samples = self.0.lines().filter(|line| line.starts_with("modelgate_settled_tokens_total"));
        let samples = samples.filter(|line| line.contains(&format!("type=\"{of}\"")));
        samples
            .map(|line| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()).expect("a number") as u64)
            .sum()
    }
}

/// How far what was settled for each key is from the truth, in percent.
struct ByKey(BTreeMap<usize, (u64, u64)>);

impl ByKey {
    async fn of(stage: &Stage, truth: &BTreeMap<usize, Tokens>) -> Self {
        let mut all = BTreeMap::new();
        for (number, tokens) in truth {
            all.insert(*number, (stage.used(*number).await, tokens.all()));
        }
        Self(all)
    }

    /// Without what was settled before.
    fn since(&self, before: &Self) -> Self {
        let less = |(number, (used, truth)): (&usize, &(u64, u64))| {
            let (used_before, truth_before) = before.0.get(number).copied().unwrap_or_default();
            (*number, (used.saturating_sub(used_before), truth - truth_before))
        };
        Self(self.0.iter().map(less).collect())
    }

    fn worst(&self) -> f64 {
        self.0.values().map(|(used, truth)| off(*used, *truth)).fold(0.0, f64::max)
    }
}

impl fmt::Display for ByKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (used, truth)) in &self.0 {
            write!(f, "k{number}: {used} of {truth} ({:.1} %); ", off(*used, *truth))?;
        }
        Ok(())
    }
}

fn off(found: u64, truth: u64) -> f64 {
    100.0 * found.abs_diff(truth) as f64 / truth.max(1) as f64
}

const WORDS: [&str; 12] = [
    "the", "river", "quietly", "carries", "seven", "yellow", "boats", "beyond", "a", "stone", "bridge",
    "tonight",
];

fn words(from: usize, count: usize) -> String {
    (0..count).map(|at| WORDS[(from * 7 + at * 5 + at * at) % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

/// A chat; streams tell their usage at the end.
fn chat(model: &str, request: usize, streams: bool, max_tokens: usize) -> Value {
    let text = words(request, 5 + request * 13 % 60);
    let mut body = json!({
        "model": model, "messages": [{ "role": "user", "content": text }], "max_tokens": max_tokens,
    });
    if streams {
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
    }
    body
}

fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools")).join(name);
    let path = env::var_os(variable).map_or(installed, PathBuf::from);
    need(path.exists().then_some(path), name)
}

/// llama.cpp exports no spans: tokens are measured by bytes, and its counters say how. With `exclusive` they are corrected, too.
#[tokio::test(flavor = "multi_thread")]
async fn llama_cpp_is_measured_by_its_counters() {
    let Some(program) = tool("MODELGATE_TEST_LLAMA_SERVER", "llama-server") else { return };
    let Some(model) = tool("MODELGATE_TEST_GGUF", "tiny.gguf") else { return };
    let requests = env::var("MODELGATE_TEST_METERED").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for exclusive in [false, true] {
        let server = Program::builder(&program);
        let port = server.port().to_string();
        let server = ["--alias", "tiny-cpp", "--metrics", "-np", "4", "--port", &port]
            .into_iter()
            .fold(server.arg("-m").arg(&model), testkit::program::Builder::arg);
        let server = server.start().await;
        let url = server.url();
        let servers = format!("servers: [{{ url: \"{url}\", metering: {{ exclusive: {exclusive} }} }}]\n");
        let Some(stage) = Stage::start(&[free_port()], &servers).await else { return };
        stage.wait_for("tiny-cpp").await;
        // Its counters are read for the first time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // It learns from the first ones. With `exclusive` they are corrected, too.
        let first = ask_llama_cpp(&stage, 0..FIRST).await;
        stage.wait_settled(FIRST as f64).await;
        let learning = ByKey::of(&stage, &first).await;
        let later = ask_llama_cpp(&stage, FIRST..FIRST + requests).await;
        stage.wait_settled((FIRST + requests) as f64).await;
        let metrics = Metrics::at(&url).await;
        let counted = metrics.sum("llamacpp:tokens_predicted_total ") as u64;
        let prompts = (metrics.sum("llamacpp:prompt_tokens_total ")
            + metrics.sum("llamacpp:prompt_tokens_cached_total ")) as u64;
        // All that it has counted is in the books.
        let balanced = testkit::eventually(Duration::from_secs(60), || async {
            let metrics = Metrics::of(&stage.modelgates[0]).await;
            let sum = metrics.sum("modelgate_metering_counted_tokens_total{type=\"completion\"}");
            (sum as u64 == counted).then_some(metrics)
        })
        .await;
        let mut truth = first;
        for (number, tokens) in &later {
            *truth.entry(*number).or_default() += *tokens;
        }
        let all_of_them = ByKey::of(&stage, &truth).await;
        let used: u64 = all_of_them.0.values().map(|(used, _)| used).sum();
        let by_key = all_of_them.since(&learning);
        eprintln!(
            "llama.cpp, {requests} requests, exclusive: {exclusive}: {by_key}the first {FIRST}: {learning}all: {used} of {counted} + {prompts} counted; {}",
            balanced
                .0
                .lines()
                .filter(|line| line.starts_with("modelgate_metering"))
                .collect::<Vec<_>>()
                .join("; "),
        );
        let all = truth.values().fold(Tokens::default(), |mut sum, tokens| {
            sum += *tokens;
            sum
        });
        assert_eq!(
            (all.completion, all.prompt),
            (counted, prompts),
            "the server counts what its answers say"
        );
        if exclusive {
            let difference = balanced.sum("modelgate_metering_difference_tokens_total{type=\"completion\"");
            assert!(difference.abs() < 0.5, "tokens of answers are what it has counted: {difference}");
            let later = later.values().fold(Tokens::default(), |mut sum, tokens| {
                sum += *tokens;
                sum
            });
            let used: u64 = by_key.0.values().map(|(used, _)| used).sum();
            let prompts = off(used.saturating_sub(later.completion), later.prompt);
            assert!(prompts <= 1.0, "{prompts} % of the prompts' tokens are missing");
        }
        // Of a few requests, each key's differ more from the average.
        let most = if requests < 500 { 10.0 } else { 5.0 };
        assert!(by_key.worst() <= most, "{by_key}");
        let found = testkit::client().get(format!("{}/api/v1/metering", stage.modelgates[0].admin_url()));
        assert_eq!(send(found).await.status(), 401, "only for operators");
    }
}

/// The requests by which it is learned how many tokens a byte stands for.
const FIRST: usize = 36;

/// A few at a time, with pauses as people make them, in which the server is idle.
async fn ask_llama_cpp(stage: &Stage, requests: Range<usize>) -> BTreeMap<usize, Tokens> {
    let mut truth = BTreeMap::<usize, Tokens>::new();
    let mut next = requests.start;
    while next < requests.end {
        let batch = (next..requests.end.min(next + 4)).map(|request| async move {
            let body = chat("tiny-cpp", request, request % 3 != 0, 20 + request * 17 % 100);
            stage.ask(request % KEYS, "/v1/chat/completions", &body, None).await
        });
        for answered in join_all(batch).await {
            assert_eq!(answered.status, 200);
            *truth.entry(answered.number).or_default() += answered.tokens.expect("usage");
        }
        next += 4;
        if next.is_multiple_of(12) {
            stage.wait_quiet(next).await;
        }
    }
    truth
}

impl Stage {
    /// A pause in which what was asked is settled and counted.
    async fn wait_quiet(&self, asked: usize) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            let metrics = Metrics::of(&self.modelgates[0]).await;
            if metrics.sum("modelgate_settled_requests_total") >= asked as f64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
}

/// The server has neither spans nor counters: only Traefik tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_nothing_is_measured_to_15_percent() {
    let sim = Sim::start_with(Options {
        chunks: 60,
        chunk_delay: Duration::ZERO,
        owned_by: "library".to_owned(),
        ..Options::named("sim", &["llama"])
    });
    let servers = format!("servers: [{{ url: \"{}\" }}]\n", sim.url());
    let Some(stage) = Stage::start(&[free_port()], &servers).await else { return };
    stage.wait_for("llama").await;
    let mut truth = BTreeMap::<usize, Tokens>::new();
    for request in 0..60 {
        let mut body = chat("llama", request, request % 2 == 0, 200);
        // The simulated server says of every prompt that it has 7 tokens.
        body["messages"][0]["content"] = json!("the river quietly carries");
        let answered = stage.ask(request % KEYS, "/v1/chat/completions", &body, None).await;
        *truth.entry(answered.number).or_default() += answered.tokens.expect("usage");
    }
    stage.wait_settled(60.0).await;
    let by_key = ByKey::of(&stage, &truth).await;
    eprintln!("the simulated server, 60 requests: {by_key}");
    assert!(by_key.worst() <= 15.0, "{by_key}");
}

/// Traefik asks the first Modelgate; it and one of the servers tell the second one, and the other server tells the first.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_modelgate_is_told_finds_its_way_once() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let ports = [free_port(), free_port()];
    let exporter =
        |port| Some(Exporter { endpoint: format!("http://127.0.0.1:{port}/v1/traces"), token: None });
    let sims = [("llama", ports[1]), ("qwen", ports[0])].map(|(model, port)| {
        Sim::start_with(Options { spans: exporter(port), ..Options::named(model, &[model]) })
    });
    let yaml = format!(
        "shared_limits: {{ url: \"{}\", timeout: 1s }}\nservers: [{{ url: \"{}\" }}, {{ url: \"{}\" }}]\n",
        redis.url(),
        sims[0].url(),
        sims[1].url()
    );
    let Some(stage) = Stage::start(&ports, &yaml).await else { return };
    for modelgate in &stage.modelgates {
        testkit::eventually(Duration::from_secs(60), || async {
            (modelgate.readyz().await["shared_limits"]["replicas"] == 2).then_some(())
        })
        .await;
    }
    stage.wait_for("llama").await;
    stage.wait_for("qwen").await;
    let mut truth = BTreeMap::<usize, Tokens>::new();
    for request in 0..40 {
        let body = chat(["llama", "qwen"][request % 2], request, request % 4 < 2, 50);
        let answered = stage.ask(request % KEYS, "/v1/chat/completions", &body, None).await;
        assert_eq!(answered.status, 200);
        *truth.entry(answered.number).or_default() += answered.tokens.expect("usage");
    }
    stage.wait_settled(40.0).await;
    let by_key = ByKey::of(&stage, &truth).await;
    assert!(by_key.0.values().all(|(used, truth)| used == truth), "{by_key}");
    let [asked, told] = [Metrics::of(&stage.modelgates[0]).await, Metrics::of(&stage.modelgates[1]).await];
    assert_eq!(asked.sum("modelgate_settled_requests_total{known=\"exact\"}"), 40.0, "{asked:?}");
    assert_eq!(told.sum("modelgate_settled_requests_total"), 0.0, "{told:?}");
    // 40 records and 20 spans.
    assert!(told.sum("modelgate_receipts_passed_on_total{direction=\"sent\"}") >= 60.0, "{told:?}");
    assert_eq!(asked.sum("modelgate_receipts_passed_on_total{direction=\"dropped\"}"), 0.0);
    // Once the last request is answered, how long until it is settled?
    let before = asked.sum("modelgate_settled_requests_total");
    let body = chat("llama", 1, false, 50);
    stage.ask(0, "/v1/chat/completions", &body, None).await;
    let start = Instant::now();
    testkit::eventually(Duration::from_secs(30), || async {
        let now = Metrics::of(&stage.modelgates[0]).await.sum("modelgate_settled_requests_total");
        (now > before).then_some(())
    })
    .await;
    eprintln!("told the other Modelgate, settled after {:?}", start.elapsed());
    let log = stage.modelgates.iter().map(Modelgate::log).collect::<String>();
    assert!(!log.contains("panicked"), "{log}");
}

/// A real vLLM: spans are exact to the token; what is broken off is measured.
#[tokio::test(flavor = "multi_thread")]
async fn vllm_is_exact() {
    let (Some(folder), Some(start)) =
        (env::var_os("MODELGATE_TEST_VLLM_FOLDER"), env::var_os("MODELGATE_TEST_VLLM_START"))
    else {
        return eprintln!("no vLLM: MODELGATE_TEST_VLLM_FOLDER and MODELGATE_TEST_VLLM_START are not set");
    };
    let telemetry = free_port();
    let server = Program::builder("bash");
    let port = server.port().to_string();
    let server = server.arg(start).arg(folder).arg(port);
    let server = server.arg(format!("http://127.0.0.1:{telemetry}/v1/traces"));
    let server =
        server.arg("--enable-auto-tool-choice").arg("--tool-call-parser").arg("hermes").start().await;
    let url = server.url();
    let servers = format!("servers: [{{ url: \"{url}\", metering: {{ exclusive: false }} }}]\n");
    let Some(stage) = Stage::start(&[telemetry], &servers).await else { return };
    stage.wait_for("org/tiny").await;
    // Its counters are read for the first time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = Metrics::at(&url).await;
    let answered = ask_vllm(&stage).await;
    stage.wait_settled(answered.iter().filter(|one| one.status != 404).count() as f64).await;
    let settled = settled_in(&stage.modelgates[0].log());
    let (mut truth, mut found) = (BTreeMap::<usize, Tokens>::new(), BTreeMap::<usize, Tokens>::new());
    let (mut finished, mut wrong) = (0, Vec::new());
    for one in &answered {
        let Some(tokens) = one.tokens else { continue };
        let id = one.id.split('-').nth(1).unwrap_or_default();
        let Some(known) = settled.get(id) else { panic!("{one:?} is not settled") };
        finished += 1;
        *truth.entry(one.number).or_default() += Tokens { cached: 0, ..tokens };
        *found.entry(one.number).or_default() += *known;
        if (known.prompt, known.completion) != (tokens.prompt, tokens.completion) {
            wrong.push((one, *known));
        }
    }
    let metrics = Metrics::at(&url).await;
    let more = |name: &str| (metrics.sum(name) - before.sum(name)) as u64;
    let counted = (more("vllm:prompt_tokens_total{"), more("vllm:generation_tokens_total{"));
    let balanced = "modelgate_metering_counted_tokens_total{type=\"prompt\"}";
    let all = testkit::eventually(Duration::from_secs(60), || async {
        let all = Metrics::of(&stage.modelgates[0]).await;
        (all.sum(balanced) as u64 == counted.0).then_some(all)
    })
    .await;
    let errors = answered.iter().filter(|one| one.status >= 400).count();
    let cut = answered.iter().filter(|one| one.status < 400 && one.tokens.is_none()).count();
    eprintln!(
        "vLLM: {} requests, {finished} finished, {cut} broken off, {errors} errors; by key {found:?} of {truth:?}; \
         settled {} + {}, counted {counted:?}; {}",
        answered.len(),
        all.settled("prompt"),
        all.settled("completion"),
        all.0
            .lines()
            .filter(|line| line.starts_with("modelgate_metering") || line.starts_with("modelgate_settled"))
            .collect::<Vec<_>>()
            .join("; "),
    );
    let mut used = 0;
    for number in 0..KEYS {
        used += stage.used(number).await;
    }
    eprintln!("vLLM: quotas say {used}");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(found, truth);
    assert!(cut >= 30 && errors >= 20, "{cut} {errors}");
    let completion = off(all.settled("completion"), counted.1);
    assert!(completion <= 1.0, "{completion} % off");
    // It counts a prompt once for each choice, as the books do.
    let prompt = all.sum("modelgate_metering_difference_tokens_total{type=\"prompt\"");
    let prompt = 100.0 * prompt / counted.0 as f64;
    assert!(prompt <= 1.0, "{prompt} % of the prompts' tokens are off");
}

/// 300 requests of all kinds.
async fn ask_vllm(stage: &Stage) -> Vec<Answered> {
    let mut answered = Vec::new();
    for round in 0..30 {
        let batch = (0..10).map(|kind| async move {
            let request = round * 10 + kind;
            let chats = "/v1/chat/completions";
            let (path, body, hang_up) = match kind {
                0 | 1 => (chats, chat("org/tiny", request, false, 20 + request % 40), None),
                2 | 3 => (chats, chat("tiny-alias", request, true, 20 + request % 50), None),
                4 => {
                    let mut body = chat("org/tiny", request, round % 2 == 0, 15);
                    body["n"] = json!(2);
                    (chats, body, None)
                }
                5 => {
                    let prompts = [words(request, 4), words(request, 9), words(request, 3)];
                    ("/v1/completions", json!({ "model": "org/tiny", "prompt": prompts, "max_tokens": 12 }), None)
                }
                6 => {
                    let mut body = chat("org/tiny", request, false, 25);
                    body["tools"] = json!([{ "type": "function", "function": { "name": "look", "parameters": { "type": "object", "properties": {} } } }]);
                    (chats, body, None)
                }
                7 => {
                    let mut body = chat("org/tiny", request, false, 10);
                    body["max_tokens"] = json!(if round % 2 == 0 { 100_000 } else { 0 });
                    (chats, body, None)
                }
                8 => ("/v1/completions", json!({ "model": "tiny-alias", "prompt": words(request, 8), "max_tokens": 30, "stream": true, "stream_options": { "include_usage": true } }), None),
                _ => {
                    let mut body = chat("org/tiny", request, true, 1_500);
                    body["ignore_eos"] = json!(true);
                    (chats, body, Some(5 + request % 40))
                }
            };
            stage.ask(request % KEYS, path, &body, hang_up).await
        });
        answered.extend(join_all(batch).await);
    }
    answered
}

/// What the log says of each request that was settled.
fn settled_in(log: &str) -> BTreeMap<String, Tokens> {
    let field = |line: &str, name: &str| {
        let value = line.split_once(&format!("{name}="))?.1;
        Some(value.split_whitespace().next()?.to_owned())
    };
    let number = |line: &str, name: &str| field(line, name)?.parse::<u64>().ok();
    let settled = log.lines().filter(|line| line.contains("settled"));
    settled
        .filter_map(|line| {
            let (prompt, completion) = (number(line, "prompt_tokens")?, number(line, "completion_tokens")?);
            Some((field(line, "request_id")?, Tokens { prompt, cached: 0, completion }))
        })
        .collect()
}
