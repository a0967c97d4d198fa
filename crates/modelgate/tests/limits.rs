//! Keys, consumers, plans and limits, through a real Traefik.

mod common;

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant, SystemTime},
};

use common::{NEWEST, chat, refusal, send};
use reqwest::{RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use testkit::{
    Stopwatch, eventually,
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

struct Stack {
    traefik: Traefik,
    modelgate: Modelgate,
    client: reqwest::Client,
}

fn digest(key: &str) -> String {
    access::KeyDigest::of(key).to_hex()
}

async fn start(sim: &Sim, yaml: &str) -> Option<Stack> {
    let binary = need(traefik_binary(NEWEST), "Traefik")?;
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &with_server(sim, yaml)).await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    Some(Stack { traefik, modelgate, client: testkit::client() })
}

fn with_server(sim: &Sim, yaml: &str) -> String {
    format!("traefik: {{ version: {NEWEST:?} }}\nservers: [{{ url: \"{}\" }}]\n{yaml}", sim.url())
}

impl Stack {
    fn ask(&self, key: &str, body: &Value) -> RequestBuilder {
        let request = self.client.post(format!("{}/v1/chat/completions", self.traefik.url()));
        request.bearer_auth(key).json(body)
    }

    async fn status(&self, key: &str) -> u16 {
        send(self.ask(key, &chat("llama"))).await.status().as_u16()
    }

    /// Waits until a key is answered like that, and says how long it took. It asks from an address of its own: who waits for
    /// a key asks so often that the address is slowed for wrong ones.
    async fn until(&self, key: &str, status: u16) -> Duration {
        static LAST: AtomicU8 = AtomicU8::new(1);
        let address = IpAddr::from([127, 0, 1, LAST.fetch_add(1, Ordering::Relaxed)]);
        let client = testkit::client_builder().local_address(address).build().expect("a client");
        let url = format!("{}/v1/chat/completions", self.traefik.url());
        let start = Stopwatch::start();
        eventually(Duration::from_secs(60), || async {
            let answer = send(client.post(&url).bearer_auth(key).json(&chat("llama"))).await;
            (answer.status() == status).then_some(())
        })
        .await;
        start.elapsed()
    }

    async fn limits(&self, key: &str, query: &str) -> Value {
        let request = self.client.get(format!("{}/v1/limits{query}", self.traefik.url())).bearer_auth(key);
        send(request).await.json().await.expect("JSON")
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_limit_keys_and_consumers_and_callers_see_what_is_left() {
    let sim = Sim::start("a", &["llama", "qwen"]);
    let yaml = format!(
        "plans:\n  - {{ name: free, models: [\"llama*\"], limit: {{ requests_per_hour: 4 }} }}\nconsumers:\n  - {{ name: \
         team, limit_per_model: {{ requests_per_hour: 60, burst: 5 }} }}\nkeys:\n  - {{ name: a, consumer: team, plan: \
         free, sha256: \"{}\" }}\n  - {{ name: b, consumer: team, sha256: \"{}\" }}\n",
        digest("mg-a"),
        digest("mg-b")
    );
    let Some(stack) = start(&sim, &yaml).await else { return };
    eventually(Duration::from_secs(60), || async {
        (stack.limits("mg-a", "").await["limits"][0]["remaining"] == 4).then_some(())
    })
    .await;
    assert_eq!(stack.status("mg-a").await, 200);
    let left = stack.limits("mg-a", "?model=llama").await;
    assert_eq!((&left["key"], &left["consumer"]), (&json!("a"), &json!("team")));
    let found: Vec<(&str, u64)> = left["limits"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| (l["scope"].as_str().expect("text"), l["remaining"].as_u64().expect("a number")))
        .collect();
    assert_eq!(found, [("key", 3), ("consumer_and_model", 4)]);
    for _ in 0..3 {
        assert_eq!(stack.status("mg-a").await, 200);
    }
    let (status, body) = refusal(stack.ask("mg-a", &chat("llama"))).await;
    assert_eq!(status, 429);
    assert!(body["error"]["message"].as_str().expect("text").contains("4 requests an hour"), "{body}");
    assert_eq!(stack.status("mg-b").await, 200, "b has no plan");
    let (status, body) = refusal(stack.ask("mg-b", &chat("llama"))).await;
    assert!(status == 429 && body["error"]["message"].to_string().contains("consumer"), "{body}");
    assert_eq!(refusal(stack.ask("mg-a", &chat("qwen"))).await.0, 404, "the plan's models");
    assert_eq!(stack.limits("mg-a", "?model=qwen").await["error"]["code"], "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_as_estimated_and_hints_reach_the_client() {
    let sim = Sim::start("a", &["llama"]);
    let yaml = format!(
        "keys: [{{ name: a, consumer: a, sha256: \"{}\", limit: {{ tokens_per_minute: 120, tokens_burst: 100 }} }}]\n",
        digest("mg-a")
    );
    let Some(stack) = start(&sim, &yaml).await else { return };
    let body = |max_tokens: u32| {
        let mut body = chat("llama");
        body["max_tokens"] = max_tokens.into();
        body
    };
    eventually(Duration::from_secs(60), || async {
        (send(stack.ask("mg-a", &body(1))).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(send(stack.ask("mg-a", &body(80))).await.status(), 200);
    let limited = send(stack.ask("mg-a", &body(90))).await;
    assert_eq!(limited.status(), 429);
    let headers = limited.headers();
    assert_eq!(header(headers, "x-ratelimit-limit-tokens"), Some("120"));
    let wait: u64 = header(headers, "retry-after-ms").expect("a hint").parse().expect("a number");
    assert!((15_000..47_500).contains(&wait), "90 tokens at two a second: {wait} ms");
    assert_eq!(header(headers, "x-should-retry"), None, "a client may wait for less than a minute");
    let never = send(stack.ask("mg-a", &body(500))).await;
    assert_eq!((never.status().as_u16(), header(never.headers(), "x-should-retry")), (429, Some("false")));
    assert_eq!(header(never.headers(), "retry-after"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_revoked_rotated_and_expire_within_a_second() {
    let sim = Sim::start("a", &["llama"]);
    let entry = |name: &str, key: &str, more: &str| {
        format!("  - {{ name: {name}, consumer: team, sha256: \"{}\", {more} }}\n", digest(key))
    };
    let yaml = format!("keys:\n{}", entry("a", "mg-a", ""));
    let Some(stack) = start(&sim, &yaml).await else { return };
    stack.until("mg-a", 200).await;
    // Rotated, with a grace; and keys that are bound, disabled and about to expire.
    let ends = SystemTime::now() + Duration::from_secs(6);
    let time = humantime::format_rfc3339_millis(ends);
    let previous = format!("previous: {{ sha256: \"{}\", until: \"{time}\" }}", digest("mg-a"));
    let yaml = format!(
        "keys:\n{}{}{}{}{}",
        entry("a", "mg-new", &previous),
        entry("here", "mg-here", "networks: [127.0.0.0/8]"),
        entry("there", "mg-there", "networks: [10.0.0.0/8]"),
        entry("off", "mg-off", "disabled: true"),
        entry("brief", "mg-brief", &format!("expires: \"{time}\"")),
    );
    stack.modelgate.write_config(&with_server(&sim, &yaml));
    stack.until("mg-new", 200).await;
    for (key, expected) in [("mg-here", 200), ("mg-there", 401), ("mg-off", 401)] {
        assert_eq!(stack.status(key).await, expected, "{key}");
    }
    for key in ["mg-a", "mg-brief"] {
        let status = stack.status(key).await;
        assert!(status == 200 || SystemTime::now() >= ends, "{key}: {status}");
    }
    let over = ends + Duration::from_secs(1);
    tokio::time::sleep(over.duration_since(SystemTime::now()).unwrap_or_default()).await;
    for (key, status) in [("mg-a", 401), ("mg-new", 200), ("mg-brief", 401)] {
        assert_eq!(stack.status(key).await, status, "{key}");
    }

    // How soon a key is in force that is written into the file, and out of force that stands there no more.
    for _ in 0..3 {
        stack.modelgate.write_config(&with_server(&sim, &format!("keys:\n{}", entry("x", "mg-x", ""))));
        let come = stack.until("mg-x", 200).await;
        stack.modelgate.write_config(&with_server(&sim, &format!("keys:\n{}", entry("y", "mg-y", ""))));
        let gone = stack.until("mg-x", 401).await;
        assert!(come.max(gone) < Duration::from_secs(1), "come after {come:?}, gone after {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_told_to_wait_and_mistakes_are_named() {
    let sim = Sim::start("a", &["llama"]);
    let key = access::NewKey::generate().expect("randomness");
    let yaml = format!("keys: [{{ name: a, consumer: a, sha256: \"{}\" }}]\n", key.digest().to_hex());
    let Some(stack) = start(&sim, &yaml).await else { return };
    eventually(Duration::from_secs(60), || async { (stack.status(key.reveal()).await == 200).then_some(()) })
        .await;
    let cut = &key.reveal()[..key.reveal().len() - 1];
    let (status, body) = refusal(stack.ask(cut, &chat("llama"))).await;
    assert!(status == 401 && body["error"]["message"].to_string().contains("mistyped"), "{body}");
    let mut statuses = Vec::new();
    let start = Instant::now();
    for guess in 0..40 {
        statuses.push(stack.status(&format!("mg-guess-{guess}")).await);
    }
    // One guess came before them. While they are made, one more is allowed every two seconds.
    let most = 31 + start.elapsed().as_secs() / 2;
    let allowed = statuses.iter().filter(|status| **status == 401).count() as u64;
    let refused = statuses.iter().filter(|status| **status == 429).count() as u64;
    assert!(refused + allowed == 40 && (25..=most).contains(&allowed), "30 a minute: {statuses:?}");
    assert_eq!(stack.status(key.reveal()).await, 200, "the good key still works from there");
}
