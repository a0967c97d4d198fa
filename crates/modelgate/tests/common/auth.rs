//! `/auth`, asked as Traefik asks it, but without one: for what counts decisions.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use access::KeyDigest;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use testkit::{Stopwatch, load::Load, modelgate::Modelgate, sim::Sim};

/// The configuration: a server, a time zone in which no day ends, and what a test adds.
pub(crate) fn config(sim: &Sim, more: &str) -> String {
    format!("time_zone: {}\nservers: [{{ url: \"{}\" }}]\n{more}", super::noon(), sim.url())
}

/// A key in the file, `mg-` and its name, with limits as YAML between braces.
pub(crate) fn file_key(name: &str, limit: &str) -> String {
    let digest = KeyDigest::of(&format!("mg-{name}")).to_hex();
    format!("keys: [{{ name: {name}, consumer: team, sha256: \"{digest}\", limit: {{ {limit} }} }}]\n")
}

/// Asks one Modelgate.
#[derive(Clone)]
pub(crate) struct Auth {
    client: Client,
    url: String,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// OpenAI's `code` of a refusal.
    pub(crate) code: String,
    pub(crate) took: Duration,
}

fn client() -> Client {
    // Its certificate is its own; who checks it is Traefik, in other tests.
    testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client")
}

/// A client's address that nobody had before: whoever waits for a key asks so often that the address would be slowed for
/// wrong ones, and 401 would be 429.
fn another_address() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) % (1 << 24);
    Ipv4Addr::from_bits(127 << 24 | number).to_string()
}

impl Auth {
    pub(crate) fn of(modelgate: &Modelgate) -> Self {
        Self { client: client(), url: modelgate.requests_url() }
    }

    fn question(&self, key: &str, body: &Value) -> RequestBuilder {
        self.client
            .post(format!("{}/auth", self.url))
            .header("x-forwarded-method", "POST")
            .header("x-forwarded-uri", "/v1/chat/completions")
            .header("x-forwarded-for", another_address())
            .bearer_auth(key)
            .json(body)
    }

    /// Whether a key may ask for `llama`, in a request that is estimated at some ten tokens; `None` if nobody answers.
    pub(crate) async fn try_ask(&self, key: &str) -> Option<Answer> {
        let start = Stopwatch::start();
        let body = serde_json::json!({ "model": "llama", "messages": [], "max_tokens": 10 });
        let answer = self.question(key, &body).timeout(Duration::from_secs(10)).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
        Some(Answer { status, code, took: start.elapsed() })
    }

    pub(crate) async fn ask(&self, key: &str) -> Answer {
        self.try_ask(key).await.expect("an answer")
    }

    pub(crate) async fn status(&self, key: &str) -> u16 {
        self.ask(key).await.status
    }

    /// Waits until a key is answered like that, and says how long it took by a stopwatch.
    pub(crate) async fn until(&self, key: &str, status: u16) -> Duration {
        let start = Stopwatch::start();
        // Just after a start there may be nobody who answers.
        let came = testkit::within(Duration::from_secs(60), || async {
            (self.try_ask(key).await?.status == status).then_some(())
        });
        assert!(came.await.is_some(), "no {status}: {:?}", self.ask(key).await);
        start.elapsed()
    }

    /// Waits until a change is in force, which may take a second.
    #[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
    pub(crate) async fn soon(&self, key: &str, status: u16) {
        let took = self.until(key, status).await;
        eprintln!("{status} after {took:?}");
        assert!(took < Duration::from_secs(1), "{status} after {took:?}");
    }

    /// What `/v1/limits` says of a key.
    pub(crate) async fn limits(&self, key: &str) -> Value {
        let request = self.client.get(format!("{}/v1/limits", self.url)).bearer_auth(key);
        super::send(request).await.json().await.expect("JSON")
    }

    /// The same question again and again.
    pub(crate) fn load(&self, key: &str) -> Load {
        let body = serde_json::json!({ "model": "llama", "messages": [], "max_tokens": 10 });
        Load::post(format!("{}/auth", self.url), &body)
            .key(key)
            .header("x-forwarded-method", "POST")
            .header("x-forwarded-uri", "/v1/chat/completions")
            .client(self.client.clone())
    }
}
