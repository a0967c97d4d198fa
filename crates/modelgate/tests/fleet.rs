//! A thousand models on five thousand servers: the overview is painted at once, and each event is soon in force. Measured
//! with the optimised program, as `scale.rs` is.
#![expect(clippy::print_stdout, reason = "what is measured is the result")]

mod common;
#[path = "common/dashboard.rs"]
mod dashboard;

use std::{
    fmt::Write as _,
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, connect_info::Connected},
    routing::get,
    serve::IncomingStream,
};
use common::{NEWEST, send};
use dashboard::{TOKEN, sign_in};
use serde_json::{Value, json};
use testkit::{
    Stopwatch,
    browser::{Browser, chromium},
    cpu_time, eventually, median,
    modelgate::{Modelgate, optimised},
    need,
    traefik::{Traefik, traefik_binary},
};
use tokio::net::TcpListener;

/// What the dashboard is said to bear.
const MODELS: usize = 1_000;
const SERVERS: usize = 3_000;
const KEYS: usize = 100_000;

/// An address of its own on this machine for each server.
fn address(server: usize) -> String {
    format!("127.1.{}.{}", server / 250, server % 250 + 1)
}

/// The server that a connection has reached, by its address.
#[derive(Debug, Clone, Copy)]
struct Reached(usize);

impl Connected<IncomingStream<'_, TcpListener>> for Reached {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let IpAddr::V4(address) = stream.io().local_addr().expect("an address").ip() else {
            panic!("not an IPv4 address")
        };
        let [_, _, high, low] = address.octets().map(usize::from);
        Self(high * 250 + low - 1)
    }
}

/// One program in place of all servers, each at an address of its own: several have the same model.
async fn many_servers() -> u16 {
    let list = async |ConnectInfo(Reached(server)): ConnectInfo<Reached>| {
        let model = format!("model-{:04}", server % MODELS);
        Json(json!({ "object": "list", "data": [{ "id": model, "object": "model" }] }))
    };
    let app = Router::new().route("/v1/models", get(list));
    let app = app.into_make_service_with_connect_info::<Reached>();
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

async fn large_fleet(binary: &Path) -> Modelgate {
    let port = many_servers().await;
    let mut config = String::from("servers:\n");
    for server in 0..SERVERS {
        let url = format!("http://{}:{port}", address(server));
        let _ = writeln!(config, "  - {{ url: {url:?}, name: server-{server:04} }}");
    }
    config.push_str("keys:\n");
    for key in 0..KEYS {
        let _ = writeln!(
            config,
            "  - {{ name: key-{key:06}, consumer: team-{:03}, sha256: \"{key:064x}\" }}",
            key % 500
        );
    }
    let builder = Modelgate::builder(binary, &config);
    let mut modelgate = builder.env("MODELGATE_ADMIN_TOKEN", TOKEN).start().await;
    modelgate.wait_ready().await;
    modelgate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_is_painted_at_once_and_so_is_each_event_told() {
    let Some(programs) = need(chromium(), "Chromium") else { return };
    let Some(traefik) = need(traefik_binary(NEWEST), "Traefik") else { return };
    let Some(binary) = need(optimised(), "the optimised program") else { return };
    let modelgate = large_fleet(&binary).await;
    let models = modelgate.readyz().await["models"].as_array().map_or(0, Vec::len);
    assert_eq!(models, MODELS);
    let browser = Browser::start(&programs).await;
    sign_in(&browser, &modelgate.admin_url(), TOKEN).await;
    let mut paints = Vec::new();
    for _ in 0..7 {
        let stopwatch = Stopwatch::start();
        browser.goto(modelgate.admin_url()).await.expect("the overview");
        paints.push(browser.first_paint().await.saturating_sub(stopwatch.held_up()));
    }
    println!("first paint: {paints:?}");
    assert!(median(&paints) < Duration::from_millis(200), "{paints:?}");
    browser.assert_clean().await;
    drop(browser);
    let fleet = Fleet::new(&modelgate);
    an_event_is_told_at_once(&fleet).await;
    a_storm_of_events_is_told_together(&fleet).await;
    traefik_takes_the_document(&fleet, &traefik).await;
}

/// A Modelgate with many servers, of which some are cordoned and resumed.
struct Fleet<'m> {
    modelgate: &'m Modelgate,
    /// For one connection, as a Traefik has: its polls are answered when there is something new.
    poller: reqwest::Client,
    operator: reqwest::Client,
}

/// The first servers; these come and go.
const RESTLESS: usize = 10;

impl<'m> Fleet<'m> {
    fn new(modelgate: &'m Modelgate) -> Self {
        Self { modelgate, poller: testkit::client(), operator: testkit::client() }
    }

    /// The next document that Traefik would get.
    fn document(&self) -> impl Future<Output = String> + use<> {
        let poll = self.poller.get(self.modelgate.provider_endpoint());
        async move { send(poll).await.text().await.expect("a document") }
    }

    /// The document as it is now: a new connection is answered at once.
    async fn document_now(&self) -> String {
        let poll = testkit::client().get(self.modelgate.provider_endpoint());
        send(poll).await.text().await.expect("a document")
    }

    async fn act(&self, server: usize, action: &str) {
        let url = format!("{}/servers/file%3Aserver-{server:04}", self.modelgate.admin_url());
        let request = self.operator.post(url).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(format!("action={action}"));
        assert_eq!(send(request).await.status(), 303, "{action} {server}");
    }

    /// Waits until all of them get requests.
    async fn all_in_force(&self) {
        eventually(Duration::from_secs(60), || async { has_all(&self.document_now().await).then_some(()) })
            .await;
    }

    /// Waits until that has been told on the connection that polls, too.
    async fn rest(&self) {
        self.all_in_force().await;
        while !has_all(&self.document().await) {}
    }
}

fn has(document: &str, server: usize) -> bool {
    document.contains(&format!("//{}:", address(server)))
}

fn has_all(document: &str) -> bool {
    (0..RESTLESS).all(|server| has(document, server))
}

/// From an operator's click to the last byte of the new document.
async fn an_event_is_told_at_once(fleet: &Fleet<'_>) {
    let mut times = Vec::new();
    for server in 0..9 {
        fleet.rest().await;
        let poll = tokio::spawn(fleet.document());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stopwatch = Stopwatch::start();
        let told = async {
            let document = poll.await.expect("a document");
            times.push(stopwatch.elapsed());
            document
        };
        let (document, ()) = tokio::join!(told, fleet.act(server, "pause"));
        assert!(!has(&document, server), "{server}");
        fleet.act(server, "resume").await;
    }
    println!("from an event to the document: {times:?}");
    assert!(median(&times) < Duration::from_millis(100), "{times:?}");
}

/// So many events come, at 500 a second.
const STORM: usize = 1_000;

async fn a_storm_of_events_is_told_together(fleet: &Fleet<'_>) {
    fleet.rest().await;
    let cpu = cpu_time(fleet.modelgate.id());
    let documents = AtomicU64::new(0);
    // A server's events come one after another, those of several at once.
    let start = Stopwatch::start();
    let events = (0..RESTLESS).map(|server| async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(2 * RESTLESS as u64));
        for event in 0..STORM / RESTLESS {
            ticks.tick().await;
            fleet.act(server, if event % 2 == 0 { "pause" } else { "resume" }).await;
        }
    });
    let events = futures_util::future::join_all(events);
    let polls = async {
        loop {
            fleet.document().await;
            documents.fetch_add(1, Relaxed);
        }
    };
    let took = tokio::select! {
        _ = events => start.elapsed(),
        () = polls => unreachable!("it polls for ever"),
    };
    let last = Stopwatch::start();
    fleet.all_in_force().await;
    let last = last.elapsed();
    let cpu = cpu_time(fleet.modelgate.id()).saturating_sub(cpu);
    let documents = documents.load(Relaxed);
    println!(
        "{STORM} events in {took:?}: {documents} documents, {cpu:?} of a processor; the last is in force after {last:?}"
    );
    assert!(documents > 0 && documents * 5 < STORM as u64, "{documents} documents");
    assert!(last < Duration::from_secs(1), "{last:?}");
}

/// A model whose servers are all cordoned is gone from Traefik within a second.
async fn traefik_takes_the_document(fleet: &Fleet<'_>, binary: &Path) {
    let builder = Traefik::builder(binary).endpoint(fleet.modelgate.provider_endpoint());
    let mut traefik = builder.provider("100ms", "5s", "100ms").start().await;
    traefik.wait_ready().await;
    let mut times = Vec::new();
    for model in 0..5 {
        fleet.rest().await;
        let router = router_of(&fleet.document_now().await, model);
        let path = format!("/api/http/routers/{router}@http");
        let is_there = async || traefik.api(&path).await["status"] == "enabled";
        let becomes = async |wanted: bool| {
            eventually(Duration::from_secs(60), || async { (is_there().await == wanted).then_some(()) })
                .await;
        };
        becomes(true).await;
        for server in (model..SERVERS).step_by(MODELS).skip(1) {
            fleet.act(server, "pause").await;
        }
        // Traefik has nothing to do any more.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let stopwatch = Stopwatch::start();
        fleet.act(model, "pause").await;
        becomes(false).await;
        times.push(stopwatch.elapsed());
        for server in (model..SERVERS).step_by(MODELS) {
            fleet.act(server, "resume").await;
        }
    }
    println!("from an event to what Traefik does: {times:?}");
    assert!(median(&times) < Duration::from_secs(1), "{times:?}");
}

/// What Traefik calls the router of a server's model.
fn router_of(document: &str, server: usize) -> String {
    let document: Value = serde_json::from_str(document).expect("JSON");
    let all = |what: &str| document["http"][what].as_object().expect(what).clone();
    let services = all("services");
    // A service may stand for others, and in the end for a balancer.
    let mut wanted =
        services.iter().find(|(_, it)| has(&it.to_string(), server)).expect("a service").0.clone();
    loop {
        if let Some((router, _)) = all("routers").into_iter().find(|(_, it)| it["service"] == wanted) {
            return router;
        }
        let quoted = format!("\"{wanted}\"");
        let above = services.iter().find(|(_, it)| it.to_string().contains(&quoted));
        wanted = above.expect("a service above").0.clone();
    }
}
