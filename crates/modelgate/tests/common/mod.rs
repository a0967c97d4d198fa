//! A real Traefik in front of Modelgate in front of simulated servers.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod auth;
pub(crate) mod both;
pub(crate) mod openmetrics;
pub(crate) mod relay;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use testkit::{
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

pub(crate) const NEWEST: &str = "3.7.15";
/// The versions that the layered layout is tested with.
pub(crate) const LAYERED: [&str; 4] = ["3.6.2", "3.6.15", "3.7.0", NEWEST];

/// May use everything.
pub(crate) const KEY: &str = "mg-test-key-of-alice";
/// May use `llama*` only.
pub(crate) const LLAMA_KEY: &str = "mg-test-key-of-bob";

pub(crate) struct Stack {
    pub(crate) traefik: Traefik,
    pub(crate) modelgate: Modelgate,
    pub(crate) client: reqwest::Client,
}

/// The configuration: the servers, two keys and whatever a test adds.
pub(crate) fn config(sims: &[&Sim], more: &str) -> String {
    let plain: Vec<(&Sim, &str)> = sims.iter().map(|sim| (*sim, "")).collect();
    config_of(&plain, more)
}

/// The same; each server with settings of its own, as YAML between braces: `weight: 3, priority: 1`.
pub(crate) fn config_of(servers: &[(&Sim, &str)], more: &str) -> String {
    let mut yaml = String::from("keys:\n");
    for (name, key, models) in [("alice", KEY, "*"), ("bob", LLAMA_KEY, "llama*")] {
        let digest = access::KeyDigest::of(key).to_hex();
        let _ = writeln!(
            yaml,
            "  - {{ name: {name}, consumer: {name}, sha256: \"{digest}\", models: [\"{models}\"] }}"
        );
    }
    if !servers.is_empty() {
        yaml.push_str("servers:\n");
    }
    for (sim, settings) in servers {
        let _ = writeln!(yaml, "  - {{ url: \"{}\", name: {}, {settings} }}", sim.url(), sim.name());
    }
    yaml.push_str(more);
    yaml
}

/// A time zone in which it is about noon: no day and no month ends while a test counts what is used in it.
pub(crate) fn noon() -> &'static str {
    static ZONE: LazyLock<String> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        // Etc/GMT-3 is three hours ahead.
        let hour = i64::try_from(now / 3600 % 24).expect("below 24");
        format!("Etc/GMT{:+}", hour - 12)
    });
    &ZONE
}

/// Starts it all; `None` if that Traefik is not installed and may be missing.
pub(crate) async fn stack(version: &str, sims: &[&Sim], more: &str) -> Option<Stack> {
    stack_of(version, &config(sims, more)).await
}

/// The same with a configuration of its own. What the document may hold depends on the version, so
/// Modelgate is told.
pub(crate) async fn stack_of(version: &str, config: &str) -> Option<Stack> {
    let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), config).await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    Some(Stack { traefik, modelgate, client: testkit::client() })
}

impl Stack {
    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.traefik.url())).bearer_auth(KEY).json(body)
    }

    pub(crate) fn raw(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.traefik.url())).bearer_auth(KEY);
        request.header("content-type", content_type).body(body)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.traefik.url())).bearer_auth(KEY)
    }

    pub(crate) async fn chat(&self, model: &str) -> Response {
        send(self.post("/v1/chat/completions", &chat(model))).await
    }

    /// Waits until the model answers.
    pub(crate) async fn wait_for(&self, model: &str) {
        testkit::eventually(Duration::from_secs(60), || async {
            (self.chat(model).await.status() == 200).then_some(())
        })
        .await;
    }
}

pub(crate) fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }] })
}

pub(crate) async fn send(request: RequestBuilder) -> Response {
    request.timeout(Duration::from_secs(60)).send().await.expect("an answer")
}

/// Status and body.
pub(crate) async fn refusal(request: RequestBuilder) -> (u16, Value) {
    let response = send(request).await;
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Which simulated servers answered so many requests, and how many each.
pub(crate) async fn spread(stack: &Stack, model: &str, count: usize) -> BTreeMap<String, usize> {
    let mut servers = BTreeMap::new();
    for _ in 0..count {
        let response = stack.chat(model).await;
        assert_eq!(response.status(), 200);
        *servers.entry(server(&response)).or_insert(0) += 1;
    }
    servers
}

/// Which simulated server answered.
pub(crate) fn server(response: &Response) -> String {
    response.headers()["x-sim-server"].to_str().expect("text").to_owned()
}
