//! Alerts reach webhooks: addresses that answer, fail, hang and redirect.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    net::SocketAddr,
    process::Output,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
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
    need,
    receivers::{TestReceiver, receivers},
    sim::Sim,
    tls::Authority,
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
    let builder = Modelgate::builder(BINARY, &format!("{revoked}{servers}{alerts}"));
    let mut modelgate = builder.keep_state().start().await;
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
    deleted_keys_are_told(&mut modelgate, &sink, &format!("{servers}{alerts}")).await;
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

/// A key that was deleted from the store, also after a restart; one that was replaced twice; and one that stands in the file no more.
/// Clients hear the same as about a key that never was.
async fn deleted_keys_are_told(modelgate: &mut Modelgate, sink: &Sink, without_keys: &str) {
    let keys = async |modelgate: &Modelgate, args: &[&str]| {
        let mut command = command(BINARY);
        command.arg("keys").args(args).arg("--json").current_dir(modelgate.folder());
        command.env("MODELGATE_STATE_DIR", "state");
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        let output = output.await.expect("no panic");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer["api_key"].as_str().unwrap_or_default().to_owned()
    };
    let ask = async |modelgate: &Modelgate, key: &str| {
        let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth(key);
        let question =
            question.header("x-forwarded-method", "POST").header("x-forwarded-uri", "/v1/chat/completions");
        let answer = send(question.json(&common::chat("llama"))).await;
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let until = async |modelgate: &Modelgate, key: &str, status: u16| {
        eventually(Duration::from_secs(60), || async {
            (ask(modelgate, key).await.0 == status).then_some(())
        })
        .await;
    };
    let firing = async |name: &str, count: usize| {
        let told_of = || {
            let told: Vec<_> = sink.came().iter().flat_map(told).collect();
            let is_it = |(kind, alert): &&(String, String)| {
                kind == "alert.firing" && *alert == format!("revoked_key_used key {name}")
            };
            told.iter().filter(is_it).count()
        };
        eventually(Duration::from_secs(60), || async { (told_of() >= count).then_some(()) }).await;
        assert_eq!(told_of(), count, "{name}: once in the life of a Modelgate");
    };
    let deleted = keys(modelgate, &["create", "lost"]).await;
    let first = keys(modelgate, &["create", "turned"]).await;
    let second = keys(modelgate, &["rotate", "turned", "--grace", "0s"]).await;
    let third = keys(modelgate, &["rotate", "turned", "--grace", "0s"]).await;
    until(modelgate, &deleted, 200).await;
    until(modelgate, &third, 200).await;
    keys(modelgate, &["revoke", "lost"]).await;
    modelgate.write_config(without_keys);
    until(modelgate, &deleted, 401).await;
    until(modelgate, &first, 401).await;
    // The one before says so itself, since it may be one of somebody who was late.
    assert!(ask(modelgate, &second).await.1.contains("expired"));
    eventually(Duration::from_secs(60), || async {
        ask(modelgate, "mg-revoked").await.1.contains("Incorrect API key").then_some(())
    })
    .await;
    let never = ask(modelgate, access::NewKey::generate().expect("randomness").reveal()).await;
    for key in [&*deleted, &first, "mg-revoked"] {
        assert_eq!(ask(modelgate, key).await, never);
    }
    firing("lost", 1).await;
    firing("turned", 1).await;
    let mut explain = command(BINARY);
    explain.args(["explain", "request", "http://localhost/v1/models", "-H"]);
    explain.arg(format!("Authorization: Bearer {first}")).current_dir(modelgate.folder());
    explain.env("MODELGATE_STATE_DIR", "state");
    let output = tokio::task::spawn_blocking(move || explain.output().expect("it runs"));
    let said = String::from_utf8(output.await.expect("no panic").stdout).expect("text");
    assert!(said.contains(": the API key \"turned\" of consumer \"turned\""), "{said}");
    modelgate.restart().await;
    until(modelgate, &third, 200).await;
    assert_eq!(ask(modelgate, &deleted).await, never);
    firing("lost", 2).await;
    assert!(!modelgate.log().contains(&deleted));
}

/// The networks of a key are those of two hours ago. A restart tells no known one, and again the one that is new.
#[tokio::test]
async fn a_key_from_a_new_network_is_told_also_after_a_restart() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let sink = Sink::start(&[]).await;
    let alerts = format!(
        "alerts: {{ after: 0s, new_networks: true, webhooks: [{{ name: ops, url: {:?} }}] }}\n",
        sink.url("/hook")
    );
    let builder = Modelgate::builder(BINARY, &config(&[&sim], &alerts));
    let mut modelgate = builder.keep_state().start().await;
    modelgate.wait_ready().await;
    let url = store::StoreUrl::in_folder(&modelgate.folder().join("state"));
    let store = store::Store::open(url).await.expect("the store");
    eventually(Duration::from_secs(60), || async { store.networks_watched().await.expect("an answer") })
        .await;
    let known = store::KeyNetwork { key: "alice".into(), network: "192.0.2.0/24".into() };
    let earlier = SystemTime::now() - Duration::from_secs(7_200);
    store.note_networks(&[known], earlier, |_| false).await.expect("noted");
    let ask = async |modelgate: &Modelgate, from: &str| {
        let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth(KEY);
        let question = question.header("x-forwarded-method", "POST").header("x-forwarded-for", from);
        let question = question.header("x-forwarded-uri", "/v1/chat/completions");
        assert_eq!(send(question.json(&common::chat("llama"))).await.status(), 200);
    };
    let firing = || {
        let all: Vec<_> = sink.came().iter().flat_map(told).collect();
        let new = all.into_iter().filter(|(kind, alert)| kind == "alert.firing" && alert.contains("network"));
        new.map(|(_, alert)| alert).collect::<Vec<_>>()
    };
    let new = "key_from_new_network key alice from 203.0.113.0/24";
    for times in [1, 2] {
        modelgate.restart().await;
        modelgate.wait_ready().await;
        for from in ["192.0.2.7", "203.0.113.9", "192.0.2.8"] {
            ask(&modelgate, from).await;
        }
        eventually(Duration::from_secs(60), || async { (firing().len() >= times).then_some(()) }).await;
        assert_eq!(firing(), vec![new; times]);
    }
}

/// A request costs 1; the key has this budget, and the sink is told at once.
fn with_budget(sim: &Sim, sink: &Sink, key: &str, budget: u32) -> String {
    let digest = access::KeyDigest::of(&format!("mg-{key}")).to_hex();
    format!(
        "keys: [{{ name: {key}, consumer: team, sha256: \"{digest}\", limit: {{ budget_total: {budget} }} }}]\n\
         prices: {{ currency: EUR, models: [{{ match: \"*\", request: 1 }}] }}\nservers: [{{ url: {:?}, name: gpu-1 }}]\n\
         alerts: {{ after: 0s, webhooks: [{{ name: ops, warnings: true, url: {:?} }}] }}\n",
        sim.url(),
        sink.url("/hook")
    )
}

/// Each level once, however often requests are refused; all of them are over once the budget is reset.
#[tokio::test]
async fn a_budget_is_told_at_each_level_and_that_it_was_reset() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let sink = Sink::start(&[]).await;
    let config = with_budget(&sim, &sink, "spender", 10);
    let mut modelgate = Modelgate::builder(BINARY, &config).keep_state().start().await;
    modelgate.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let ask = async |modelgate: &Modelgate| {
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth("mg-spender");
        let question =
            question.header("x-forwarded-method", "POST").header("x-forwarded-uri", "/v1/chat/completions");
        send(question.json(&common::chat("llama"))).await.status().as_u16()
    };
    let all = || -> Vec<String> {
        let told = sink
            .came()
            .iter()
            .flat_map(told)
            .map(|(kind, alert)| format!("{kind} {alert}"))
            .collect::<Vec<_>>();
        told.into_iter().filter(|told| told.contains("budget")).collect()
    };
    let wait = async |wanted: &str| {
        let wanted = format!("{wanted} budget of key spender");
        let came =
            testkit::within(Duration::from_secs(60), || async { all().contains(&wanted).then_some(()) });
        assert!(came.await.is_some(), "{wanted}: {:?}", all());
    };
    for (requests, level) in [(5, "50"), (3, "80"), (2, "100")] {
        for _ in 0..requests {
            assert_eq!(ask(&modelgate).await, 200);
        }
        wait(&format!("alert.firing budget_{level}")).await;
    }
    for _ in 0..5 {
        assert_eq!(ask(&modelgate).await, 402);
    }
    let metrics = async |modelgate: &Modelgate| {
        let metrics = testkit::client().get(format!("{}/metrics", modelgate.admin_url()));
        let metrics = send(metrics.header("accept", "application/openmetrics-text")).await;
        let metrics = metrics.text().await.expect("text");
        if !metrics.contains("modelgate_budget_used_ratio") {
            return (0.0, 0.0);
        }
        let metrics = Exposition::parse(&metrics).expect("metrics");
        let labels = [("owner", "key"), ("name", "spender"), ("model", ""), ("per", "ever")];
        let at_all = metrics.value("modelgate_budgets_at_level", "", &[("percent", "100")]);
        (metrics.value("modelgate_budget_used_ratio", "", &labels), at_all)
    };
    assert_eq!(metrics(&modelgate).await, (1.0, 1.0));
    let url = store::StoreUrl::in_folder(&modelgate.folder().join("state"));
    let store = store::Store::open(url).await.expect("the store");
    let noted = async || {
        let told = store.told_alerts().await.expect("an answer");
        told.into_iter().map(|told| (told.receiver, told.code)).collect::<Vec<_>>()
    };
    // That each was told is noted in the background.
    let levels = ["budget_100", "budget_50", "budget_80"].map(|code| ("ops".to_owned(), code.to_owned()));
    eventually(Duration::from_secs(60), || async { (noted().await == levels).then_some(()) }).await;
    // After a restart the metrics are what they were, before anything is spent.
    modelgate.restart().await;
    modelgate.wait_ready().await;
    eventually(Duration::from_secs(20), || async { (metrics(&modelgate).await == (1.0, 1.0)).then_some(()) })
        .await;
    // It is reset while no Modelgate runs. What was told is still known then.
    modelgate.stop().await;
    assert_eq!(noted().await, levels);
    reset_budget(&modelgate, "spender").await;
    modelgate.restart().await;
    modelgate.wait_ready().await;
    for level in ["50", "80", "100"] {
        wait(&format!("alert.resolved budget_{level}")).await;
    }
    eventually(Duration::from_secs(60), || async { noted().await.is_empty().then_some(()) }).await;
    assert_eq!(ask(&modelgate).await, 200);
    assert_eq!(metrics(&modelgate).await, (0.1, 0.0));
    let told = all();
    let different: BTreeSet<_> = told.iter().collect();
    assert_eq!((told.len(), different.len()), (6, 6), "{told:?}");
}

/// Regression: one request that took a budget past 50, 80 and 100 % caused three alerts. Nor may a restart tell the lower ones.
#[tokio::test]
async fn of_levels_that_one_request_reaches_only_the_highest_is_told() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let sink = Sink::start(&[]).await;
    let config = with_budget(&sim, &sink, "leaper", 1);
    let mut modelgate = Modelgate::builder(BINARY, &config).keep_state().start().await;
    modelgate.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth("mg-leaper");
    let question =
        question.header("x-forwarded-method", "POST").header("x-forwarded-uri", "/v1/chat/completions");
    assert_eq!(send(question.json(&common::chat("llama"))).await.status().as_u16(), 200);
    let of_budget = || -> Vec<(String, String)> {
        let came = sink.came();
        came.iter().flat_map(told).filter(|(_, alert)| alert.contains("budget")).collect()
    };
    let highest = ("alert.firing".to_owned(), "budget_100 budget of key leaper".to_owned());
    eventually(Duration::from_secs(60), || async { of_budget().contains(&highest).then_some(()) }).await;
    modelgate.restart().await;
    modelgate.wait_ready().await;
    reset_budget(&modelgate, "leaper").await;
    let over = ("alert.resolved".to_owned(), highest.1.clone());
    eventually(Duration::from_secs(60), || async { of_budget().contains(&over).then_some(()) }).await;
    assert_eq!(of_budget(), [highest, over]);
}

/// By the command line.
async fn reset_budget(modelgate: &Modelgate, key: &str) {
    let mut reset = command(BINARY);
    reset.args(["budgets", "reset", "--key", key, "--per", "ever"]);
    reset.current_dir(modelgate.folder()).env("MODELGATE_STATE_DIR", "state");
    let output =
        tokio::task::spawn_blocking(move || reset.output().expect("it runs")).await.expect("no panic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
    assert!(!output.status.success() && error.contains("2 receivers were not reached"), "{error}");
    assert!(!said.contains("/secret") && !error.contains("/secret"), "{said}{error}");
    assert_eq!(told(&good.came()[0])[0], ("alert.test".into(), "test Modelgate".into()));
    let output = test(&alerts, &["good"]).await;
    assert!(output.status.success());
    assert_eq!((good.came().len(), refusing.came().len()), (2, 1));
    let output = test(&alerts, &["nobody"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are: good, refusing, gone"));
}

/// A mail server that demands TLS and a password, and refuses the first message for now: it is sent again, the same.
#[tokio::test]
async fn mail_goes_over_tls_with_a_password_and_is_sent_again() {
    let Some(python) = need(receivers(), "a mail server") else { return };
    let authority = Authority::new();
    let identity = authority.identity(&["127.0.0.1", "localhost"]);
    let (starttls, tls) = (
        TestReceiver::mail(&python, &identity, false, 1).await,
        TestReceiver::mail(&python, &identity, true, 0).await,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ca, password) = (file("ca.pem", authority.pem()), file("password", "päss word\n"));
    let wrong = file("wrong", "s3cret-of-nobody");
    let mail = |name: &str, port: u16, more: &str, password: &str| {
        format!(
            "{{ name: {name}, server: \"localhost:{port}\", ca: {ca:?}, user: gate, password: {{ file: {password:?} }}, \
             from: \"Modelgate <gate@example.com>\", to: [ops@example.com, boss@example.com]{more} }}"
        )
    };
    let all = [
        mail("office", starttls.port(), "", &password),
        mail("pager", tls.port(), ", security: tls", &password),
        mail("locked-out", tls.port(), ", security: tls", &wrong),
    ];
    let sim = Sim::start("gpu-1", &["llama"]);
    let modelgate = modelgate(&sim, &format!("{{ after: 1s, mail: [{}] }}", all.join(", "))).await;
    sim.stop().await;
    let refused = starttls.wait(|item| !item["refused"].is_null()).await["refused"].clone();
    let taken = starttls.wait(|item| !item["taken"].is_null()).await["taken"].clone();
    assert_eq!(refused, taken, "the same message");
    let at_once = tls.wait(|item| !item["taken"].is_null()).await["taken"].clone();
    for mail in [&taken, &at_once] {
        assert_eq!((&mail["from"], &mail["user"]), (&json!("gate@example.com"), &json!("gate")));
        assert_eq!(
            (&mail["to"], &mail["encrypted"]),
            (&json!(["ops@example.com", "boss@example.com"]), &json!(true))
        );
        let text = mail["message"].as_str().expect("a text");
        assert!(text.contains("gpu-1") && text.contains("Subject: Modelgate: "), "{text}");
    }
    eventually(Duration::from_secs(60), || async {
        modelgate.log().contains("the mail server answers 535").then_some(())
    })
    .await;
    assert!(!modelgate.log().contains("päss word") && !modelgate.log().contains("s3cret-of-nobody"));
    // An authority that nobody named is not trusted.
    let untrusted = all[1].replace(&format!("ca: {ca:?}, "), "");
    let output = test(&format!("{{ mail: [{untrusted}, {}] }}", all[1].replace("pager", "good")), &[]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("good: it has arrived") && !said.contains("pager: it has arrived"), "{said}");
}
