//! What the clients meet: Traefik, Modelgate, llama.cpp's server where it can answer, and simulated servers elsewhere.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    modelgate::Modelgate,
    need,
    program::Program,
    sim::{Options, Sim},
    traefik::{Traefik, traefik_binary},
};

use crate::{
    client::{Client, tool},
    common::NEWEST,
};

/// The keys of each client, by what the scripts call them, with their limits. `unknown` is in no configuration.
const KEYS: [(&str, &str); 7] = [
    ("any", ""),
    ("unknown", ""),
    ("llama", "models: [\"llama*\"]"),
    ("hour", "limit: { requests_per_hour: 1 }"),
    ("day", "limit: { requests_per_day: 1 }"),
    // Less than any request costs.
    ("budget", "limit: { budget_total: 0.000001 }"),
    // One in two seconds.
    ("minute", "limit: { requests_per_minute: 30, burst: 1 }"),
];

/// With which the stage itself waits.
const OWN_KEY: &str = "mg-stage";

/// All of it.
pub(crate) struct Stage {
    traefik: Traefik,
    _modelgate: Modelgate,
    _llama: [Program; 2],
    _sims: Vec<Sim>,
    elsewhere: Elsewhere,
    folder: TempDir,
}

/// The keys of a client. Each client has keys of its own, so its limits are its own, and Traefik's log tells the clients apart.
pub(crate) fn keys_of(client: &Client) -> BTreeMap<&'static str, String> {
    KEYS.iter().map(|(name, _)| (*name, format!("mg-{name}-{}", client.name))).collect()
}

impl Stage {
    /// Starts it; `None` if a part is not installed and may be missing.
    pub(crate) async fn start(clients: &[&Client]) -> Option<Self> {
        let traefik = need(traefik_binary(NEWEST), &format!("Traefik {NEWEST}"))?;
        let server = tool("MODELGATE_TEST_LLAMA_SERVER", "llama-server")?;
        let model = tool("MODELGATE_TEST_GGUF", "tiny.gguf")?;
        // The weights are random, so a grammar says what it answers. The prompts of Claude Code and Codex are long.
        let says = ["--grammar", r#"root ::= "Hello from llama.cpp.""#, "-c", "131072", "--parallel", "4"];
        let long =
            ["--override-kv", "llama.context_length=int:32768", "--threads", "1", "--flash-attn", "on"];
        let llama = [
            llama(&server, &model, "llama", &[&says[..], &long].concat()).await,
            llama(&server, &model, "embeddings", &["--embeddings", "--pooling", "mean"]).await,
        ];
        let loading = |name: &str| Options { startup_delay: Duration::from_secs(86_400), ..sim(name, "") };
        let sims = vec![
            Sim::start_with(Options {
                models: vec!["llama-sim".into(), "org/qwen".into()],
                ..sim("sim", "vllm")
            }),
            Sim::start_with(Options { models: vec!["llama3:latest".into()], ..sim("ollama", "library") }),
            Sim::start_with(loading("slow")),
            Sim::start_with(loading("slow3")),
        ];
        let mut modelgate =
            Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &config(clients, &llama, &sims)).await;
        modelgate.wait_ready().await;
        let folder = tempfile::tempdir().expect("a folder");
        let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint());
        let traefik = logging(&folder.path().join("access.log"))
            .into_iter()
            .fold(traefik, testkit::traefik::Builder::arg);
        let traefik = traefik.start().await;
        let stage = Self {
            traefik,
            _modelgate: modelgate,
            _llama: llama,
            _sims: sims,
            elsewhere: Elsewhere::start(),
            folder,
        };
        stage.wait_for_models().await;
        Some(stage)
    }

    /// Until all models but those that never load answer.
    async fn wait_for_models(&self) {
        self.traefik.wait_configured().await;
        let client = testkit::client();
        for (model, path) in [
            ("llama", "chat/completions"),
            ("embeddings", "embeddings"),
            ("llama-sim", "chat/completions"),
            ("llama3", "chat/completions"),
        ] {
            let url = format!("{}/v1/{path}", self.url());
            let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }], "input": "Hello" });
            testkit::eventually(Duration::from_secs(60), || async {
                let answer = client.post(&url).bearer_auth(OWN_KEY).json(&body).send().await.ok()?;
                (answer.status() == 200).then_some(())
            })
            .await;
        }
    }

    pub(crate) fn url(&self) -> String {
        self.traefik.url()
    }

    /// A page with this Traefik's address and the client's key in place of the reader's.
    pub(crate) fn with_address(&self, page: &str, client: &Client) -> String {
        page.replace("http://localhost", &self.url()).replace("mg-…", &keys_of(client)["any"])
    }

    /// The environment of a client: none of the tester's settings, and a proxy for all hosts but this one.
    pub(crate) fn environment(&self, home: &Path) -> Vec<(&'static str, OsString)> {
        let elsewhere = self.elsewhere.url();
        vec![
            ("PATH", env::var_os("PATH").unwrap_or_default()),
            ("HOME", home.into()),
            ("LANG", "C.UTF-8".into()),
            ("HTTPS_PROXY", elsewhere.clone().into()),
            ("https_proxy", elsewhere.into()),
            ("NO_PROXY", "127.0.0.1".into()),
            ("no_proxy", "127.0.0.1".into()),
            // LiteLLM downloads a list of prices when it is imported.
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True".into()),
        ]
    }

    /// How many answers with this status a client got to one of its keys.
    pub(crate) fn count(&self, client: &Client, key: &str, status: u64) -> usize {
        let log = fs::read_to_string(self.folder.path().join("access.log")).expect("Traefik's access log");
        let key = &keys_of(client)[key];
        let is_it = |line: &Value| {
            let sent = ["request_Authorization", "request_X-Api-Key"]
                .map(|name| line[name].as_str().unwrap_or_default());
            line["DownstreamStatus"] == status
                && sent.iter().any(|sent| sent.trim_start_matches("Bearer ") == key)
        };
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_it).count()
    }

    /// The hosts that clients called through the proxy.
    pub(crate) fn called_elsewhere(&self) -> Vec<String> {
        self.elsewhere.called.lock().expect("whole").clone()
    }
}

fn sim(name: &str, owned_by: &str) -> Options {
    Options { owned_by: owned_by.to_owned(), ..Options::named(name, &[]) }
}

async fn llama(server: &Path, model: &Path, alias: &str, more: &[&str]) -> Program {
    let builder = Program::builder(server);
    let port = builder.port().to_string();
    let builder = builder.arg("-m").arg(model);
    let builder = ["--alias", alias, "--host", "127.0.0.1", "--port", &port]
        .iter()
        .chain(more)
        .fold(builder, testkit::program::Builder::arg);
    builder.start().await
}

fn config(clients: &[&Client], llama: &[Program; 2], sims: &[Sim]) -> String {
    let mut yaml = format!(
        "traefik: {{ version: {NEWEST:?}, apis: [openai, models, azure, ollama] }}\n\
         requests: {{ max_body: 512KiB, max_chunked_body: 512KiB }}\n\
         prices: {{ currency: EUR, models: [{{ match: \"llama*\", completion: 1 }}] }}\nkeys:\n"
    );
    let digest = access::KeyDigest::of(OWN_KEY).to_hex();
    let _ = writeln!(yaml, "  - {{ name: stage, consumer: stage, sha256: \"{digest}\" }}");
    for client in clients {
        let keys = keys_of(client);
        for (name, more) in KEYS.iter().filter(|(name, _)| *name != "unknown") {
            let digest = access::KeyDigest::of(&keys[name]).to_hex();
            let name = format!("{name}-{}", client.name);
            let _ = writeln!(yaml, "  - {{ name: {name}, consumer: {name}, sha256: \"{digest}\", {more} }}");
        }
    }
    yaml.push_str("servers:\n");
    let urls = llama.iter().map(Program::url).chain(sims.iter().map(Sim::url));
    let settings = ["", "", "", "", "models: [slow], kind: vllm", "models: [slow3], kind: ollama"];
    for (index, (url, settings)) in urls.zip(settings).enumerate() {
        let _ = writeln!(yaml, "  - {{ name: server-{index}, url: \"{url}\", {settings} }}");
    }
    yaml
}

fn logging(file: &Path) -> Vec<String> {
    let headers =
        ["Authorization", "X-Api-Key"].map(|name| format!("--accesslog.fields.headers.names.{name}=keep"));
    let mut args = vec![
        "--accesslog=true".to_owned(),
        "--accesslog.format=json".to_owned(),
        format!("--accesslog.filepath={}", file.display()),
    ];
    args.extend(headers);
    args
}

/// Stands for the rest of the internet: a proxy that notes for which host it is asked, and does nothing.
struct Elsewhere {
    port: u16,
    called: Arc<Mutex<Vec<String>>>,
}

impl Elsewhere {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let called = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&called);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                let _ = BufReader::new(stream).read_line(&mut line);
                notes.lock().expect("whole").push(line.trim().to_owned());
            }
        });
        Self { port, called }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
