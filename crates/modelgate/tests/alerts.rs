//! Alerts reach webhooks: addresses that answer, fail, hang and redirect.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    net::SocketAddr,
    process::Output,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::LOCATION},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use common::{KEY, config, openmetrics::Exposition, send};
use ring::hmac;
use serde_json::{Value, json};
use testkit::{
    eventually,
    modelgate::{Modelgate, command},
    sim::Sim,
};
use tokio::net::TcpListener;

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");

/// How a sink answers.
#[derive(Debug, Clone, PartialEq)]
enum SinkAnswer {
    Status(u16),
    Hang,
    Redirect(String),
}

/// One message that has come.
#[derive(Debug, Clone)]
struct Came {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Came {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }

    /// Whether a signature of Standard Webhooks by this secret is among its own.
    fn is_signed_by(&self, secret: &[u8]) -> bool {
        let signed =
            format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        let expected = format!("v1,{}", BASE64_STANDARD.encode(tag));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

#[derive(Debug, Default)]
struct Inbox {
    came: Vec<Came>,
    /// The answers to the next messages; after them 204.
    answers: VecDeque<SinkAnswer>,
}

/// A real HTTP server that keeps what comes.
#[derive(Debug, Clone)]
struct Sink {
    at: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl Sink {
    async fn start(answers: &[SinkAnswer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let inbox =
            Arc::new(Mutex::new(Inbox { came: Vec::new(), answers: answers.iter().cloned().collect() }));
        let router = Router::new().fallback(take).with_state(Arc::clone(&inbox));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { at, inbox }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    fn came(&self) -> Vec<Came> {
        self.inbox.lock().expect("no panic").came.clone()
    }

    /// Waits until so many messages have come.
    async fn wait(&self, count: usize) -> Vec<Came> {
        eventually(Duration::from_secs(60), || async { Some(self.came()).filter(|came| came.len() >= count) })
            .await
    }
}

async fn take(State(inbox): State<Arc<Mutex<Inbox>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).expect("text");
    let answer = {
        let mut inbox = inbox.lock().expect("no panic");
        inbox.came.push(Came { path: uri.path().to_owned(), headers, body });
        inbox.answers.pop_front().unwrap_or(SinkAnswer::Status(204))
    };
    match answer {
        SinkAnswer::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        SinkAnswer::Hang => std::future::pending().await,
        SinkAnswer::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to)]).into_response(),
    }
}

/// The codes and subjects of a message in the standard form.
fn told(came: &Came) -> Vec<(String, String)> {
    let message = came.json();
    let kind = message["type"].as_str().expect("a type").to_owned();
    let alerts = message["data"]["alerts"].as_array().expect("a list").iter();
    alerts
        .map(|alert| {
            let text = |name: &str| alert[name].as_str().expect("text").to_owned();
            (kind.clone(), format!("{} {}", text("code"), text("about")))
        })
        .collect()
}

/// Starts a Modelgate whose one server has been there, and with it a file that lists the webhooks.
async fn modelgate(sim: &Sim, alerts: &str) -> Modelgate {
    let config = config(&[sim], &format!("docker: {{ enabled: false }}\nalerts: {alerts}\n"));
    let builder = Modelgate::builder(BINARY, &config);
    let mut modelgate = builder.env("NEW_SECRET", secret(1)).env("OLD_SECRET", secret(2)).start().await;
    modelgate.wait_ready().await;
    modelgate
}

fn secret(seed: u8) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode([seed; 32]))
}

#[tokio::test]
async fn a_lost_model_is_told_once_to_each_webhook_and_then_that_it_is_over() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let (good, failing, hanging) = (
        Sink::start(&[]).await,
        Sink::start(&[SinkAnswer::Status(500), SinkAnswer::Status(503)]).await,
        Sink::start(&[SinkAnswer::Hang]).await,
    );
    let elsewhere = Sink::start(&[]).await;
    let redirecting = Sink::start(&[SinkAnswer::Redirect(elsewhere.url("/metadata"))]).await;
    let webhooks = [
        format!(
            "{{ name: good, url: {:?}, secret: {{ env: NEW_SECRET }}, previous_secret: {{ env: OLD_SECRET }} }}",
            good.url("/hook")
        ),
        format!("{{ name: failing, url: {:?} }}", failing.url("/hook")),
        format!("{{ name: hanging, url: {:?} }}", hanging.url("/hook")),
        format!("{{ name: redirecting, url: {:?} }}", redirecting.url("/hook")),
        format!("{{ name: slack, form: slack, url: {:?} }}", good.url("/slack")),
        format!("{{ name: ntfy, form: ntfy, url: {:?} }}", good.url("/ntfy")),
        format!("{{ name: discord, form: discord, url: {:?} }}", good.url("/discord")),
        format!("{{ name: asleep, quiet: 00:00-23:59, url: {:?} }}", good.url("/asleep")),
    ];
    // In this zone it is about noon, and not the minute before midnight that is left.
    let alerts = format!(
        "{{ after: 1s, dashboard: https://admin.example.com, webhooks: [{}] }}\ntime_zone: {}",
        webhooks.join(", "),
        common::noon()
    );
    let modelgate = modelgate(&sim, &alerts).await;
    sim.stop().await;
    in_each_form(&good).await;
    again_until_it_arrives(&failing, &hanging).await;
    assert_eq!(elsewhere.came().len(), 0, "a redirect is not followed");
    tokio::time::sleep(Duration::from_secs(3)).await;
    for sink in [&redirecting, &failing, &hanging] {
        told_once(&sink.came());
    }
    is_counted_and_logged(&modelgate).await;
}

/// The standard form, signed, Slack's, ntfy's and Discord's; nothing in quiet hours.
async fn in_each_form(good: &Sink) {
    let came = good.wait(4).await;
    let of =
        |path: &str| came.iter().find(|came| came.path == path).unwrap_or_else(|| panic!("{path}: {came:?}"));
    let hook = of("/hook");
    assert!(
        told(hook).iter().any(|(kind, alert)| kind == "alert.firing" && alert.ends_with("server gpu-1")),
        "{hook:?}"
    );
    assert!(hook.is_signed_by(&[1; 32]) && hook.is_signed_by(&[2; 32]) && !hook.is_signed_by(&[3; 32]));
    assert_eq!(hook.header("content-type"), "application/json");
    assert!(
        hook.json()["data"]["alerts"][0]["link"]
            .as_str()
            .is_some_and(|link| link.starts_with("https://admin.example.com/"))
    );
    assert!(of("/slack").json()["text"].as_str().is_some_and(|text| text.contains("gpu-1")));
    assert_eq!(of("/discord").json()["allowed_mentions"], json!({ "parse": [] }));
    assert_eq!((of("/ntfy").header("priority"), of("/ntfy").header("webhook-signature")), ("high", ""));
    assert!(!came.iter().any(|came| came.path == "/asleep"), "quiet hours");
}

/// It is the same message each time.
async fn again_until_it_arrives(failing: &Sink, hanging: &Sink) {
    let failed = failing.wait(3).await;
    let ids: Vec<&str> = failed[..3].iter().map(|came| came.header("webhook-id")).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && failed[0].body == failed[2].body, "{ids:?}");
    let hung = hanging.wait(2).await;
    assert_eq!(hung[0].header("webhook-id"), hung[1].header("webhook-id"));
}

/// No two messages, but the same one again, tell the same.
fn told_once(came: &[Came]) {
    let messages: BTreeMap<&str, &Came> = came.iter().map(|came| (came.header("webhook-id"), came)).collect();
    let all: Vec<_> = messages.into_values().flat_map(told).collect();
    let different: BTreeSet<_> = all.iter().collect();
    assert!(!all.is_empty() && different.len() == all.len(), "{all:?}");
}

async fn is_counted_and_logged(modelgate: &Modelgate) {
    let metrics = send(
        testkit::client()
            .get(format!("{}/metrics", modelgate.admin_url()))
            .header("accept", "application/openmetrics-text"),
    );
    let metrics = Exposition::parse(&metrics.await.text().await.expect("text")).expect("metrics");
    let count = |webhook, outcome| {
        metrics.value("modelgate_alerts", "_total", &[("webhook", webhook), ("outcome", outcome)])
    };
    assert!(count("good", "delivered") >= 1.0 && count("failing", "failed") == 2.0);
    assert!(count("redirecting", "given_up") >= 1.0 && count("redirecting", "delivered") == 0.0);
    let log = modelgate.log();
    assert!(
        log.contains("a redirect, which is not followed") && !log.contains("/hook"),
        "no URL is logged: {log}"
    );
}

#[tokio::test]
async fn what_is_over_and_what_is_revoked_is_told() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let sink = Sink::start(&[]).await;
    let digest = access::KeyDigest::of("mg-revoked").to_hex();
    let revoked = format!(
        "consumers: [{{ name: gone, disabled: true }}]\nkeys: [{{ name: old, consumer: gone, sha256: \"{digest}\" }}]\n"
    );
    let servers = format!("servers: [{{ url: {:?}, name: gpu-1 }}]\n", sim.url());
    let alerts =
        format!("alerts: {{ after: 0s, webhooks: [{{ name: ops, url: {:?} }}] }}\n", sink.url("/hook"));
    let mut modelgate = Modelgate::start_with(BINARY, &format!("{revoked}{servers}{alerts}")).await;
    modelgate.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth("mg-revoked");
    let question =
        question.header("x-forwarded-method", "POST").header("x-forwarded-uri", "/v1/chat/completions");
    assert_eq!(send(question.json(&common::chat("llama"))).await.status(), 401);
    let all = async |wanted: &str| {
        eventually(Duration::from_secs(60), || async {
            let all: Vec<_> =
                sink.came().iter().flat_map(told).map(|(kind, alert)| format!("{kind} {alert}")).collect();
            all.iter().any(|told| told == wanted).then_some(all)
        })
        .await
    };
    all("alert.firing revoked_key_used key old").await;
    let at = sim.addr();
    sim.stop().await;
    let lost = eventually(Duration::from_secs(60), || async {
        let all: Vec<_> = sink.came().iter().flat_map(told).collect();
        all.into_iter().find(|(kind, alert)| kind == "alert.firing" && alert.ends_with("server gpu-1"))
    })
    .await;
    let _back = Sim::start_at(at, testkit::sim::Options::named("gpu-1", &["llama"]));
    let all = all(&format!("alert.resolved {}", lost.1)).await;
    assert_eq!(all.iter().filter(|told| **told == format!("alert.firing {}", lost.1)).count(), 1, "{all:?}");
    assert!(!modelgate.log().contains(KEY));
}

/// `modelgate alerts test`.
async fn test(alerts: &str, name: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("modelgate.yaml"), format!("alerts: {alerts}\n")).expect("written");
    let mut command = command(BINARY);
    command.args(["alerts", "test"]).args(name).current_dir(folder.path());
    tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic")
}

#[tokio::test]
async fn a_test_says_what_came_of_each_message() {
    let (good, refusing) = (Sink::start(&[]).await, Sink::start(&[SinkAnswer::Status(404)]).await);
    let gone = format!("http://127.0.0.1:{}/secret", testkit::free_port());
    let alerts = format!(
        "{{ webhooks: [{{ name: good, url: {:?} }}, {{ name: refusing, url: {:?} }}, {{ name: gone, url: {gone:?} }}] }}",
        good.url("/a"),
        refusing.url("/secret")
    );
    let output = test(&alerts, &[]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("good: it has arrived\nrefusing: it answers 404 Not Found\ngone: "),
        "{said}{error}"
    );
    assert!(!output.status.success() && error.contains("2 webhooks were not reached"), "{error}");
    assert!(!said.contains("/secret") && !error.contains("/secret"), "{said}{error}");
    assert_eq!(told(&good.came()[0])[0], ("alert.test".into(), "test Modelgate".into()));
    let output = test(&alerts, &["good"]).await;
    assert!(output.status.success());
    assert_eq!((good.came().len(), refusing.came().len()), (2, 1));
    let output = test(&alerts, &["nobody"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are: good, refusing, gone"));
}
