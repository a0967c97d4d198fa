//! The real Traefik with a provider made of a fixed document.

use std::time::Duration;

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};
use testkit::{
    client, client_builder, eventually,
    load::{ChatAnswer, Load, Until},
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Serves one document at `/traefik`, as long as the test lasts.
async fn provider(document: Value) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let app = Router::new().route("/traefik", get(async move || Json(document.clone())));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/traefik")
}

fn document(sim: &Sim) -> Value {
    json!({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "sims", "entryPoints": ["web"]}},
        "services": {"sims": {"loadBalancer": {"servers": [{"url": sim.url()}]}}},
    }})
}

async fn routes_and_survives_a_restart(version: &str) {
    let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { return };
    let sim = Sim::start("gpu-1", &["llama"]);
    let endpoint = provider(document(&sim)).await;
    let mut traefik = Traefik::builder(binary).endpoint(endpoint).log_level("DEBUG").start().await;
    traefik.wait_configured().await;
    let (major, minor, patch) = traefik.version();
    assert_eq!(format!("{major}.{minor}.{patch}"), version);
    assert_eq!(traefik.routers().await, ["all"]);
    assert_eq!(traefik.api("/api/http/services/sims@http").await["serverStatus"][sim.url()], "UP");

    // A slash in a model's name arrives as it was sent.
    let answer =
        client().get(format!("{}/v1/models/org%2Fname", traefik.url())).send().await.expect("an answer");
    assert_eq!(answer.headers()["x-sim-server"], "gpu-1");
    assert_eq!(sim.requests()[0].path, "/v1/models/org%2Fname");

    let load = Load::chat(&traefik.url(), "llama", ChatAnswer::Streamed)
        .key("secret")
        .connections(2)
        .until(Until::Sent(6));
    let report = load.run().await;
    assert_eq!(report.servers.get("gpu-1"), Some(&6), "{report:?}");
    assert_eq!(sim.posts()[0].header("authorization"), Some("Bearer secret"));

    let url = traefik.url();
    traefik.kill();
    assert!(client().get(&url).send().await.is_err());
    traefik.restart().await;
    assert_eq!(traefik.url(), url);
    eventually(TIMEOUT, || async {
        let answer = client().get(format!("{url}/health")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_newest_version() {
    routes_and_survives_a_restart("3.7.15").await;
}

#[tokio::test]
async fn the_oldest_layered_version() {
    routes_and_survives_a_restart("3.6.2").await;
}

#[tokio::test]
async fn the_oldest_version() {
    routes_and_survives_a_restart("3.0.4").await;
}

fn prefix_router(prefix: &str, sim: &Sim) -> String {
    format!(
        "http:\n  routers:\n    mine:\n      rule: PathPrefix(`{prefix}`)\n      service: mine\n  services:\n    mine:\n      \
         loadBalancer:\n        servers: [{{ url: \"{}\" }}]\n",
        sim.url()
    )
}

async fn routes_of_a_file(version: &str) {
    let Some(binary) = need(traefik_binary(version), &format!("Traefik {version}")) else { return };
    let sim = Sim::start("mine", &["llama"]);
    let builder = Traefik::builder(binary).tls_entry_point("websecure").entry_point("internal");
    let traefik = builder.dynamic(prefix_router("/v1", &sim)).arg("--accesslog=true").start().await;
    traefik.wait_router("mine@file").await;
    let client = client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let plain = |entry_point| format!("http://{}/v1/models", traefik.addr(entry_point));
    let secure = format!("https://{}/v1/models", traefik.addr("websecure"));
    for url in [plain("web"), plain("internal"), secure] {
        let answer = client.get(&url).send().await.expect("an answer");
        assert_eq!(answer.headers()["x-sim-server"], "mine", "{version}: {url}");
    }
    assert!(
        client.get(plain("websecure")).send().await.is_ok_and(|answer| answer.status() == 404),
        "{version}"
    );
    // The access log that was asked for.
    eventually(TIMEOUT, || async { traefik.log().contains("/v1/models").then_some(()) }).await;
    assert_eq!(traefik.api("/api/rawdata").await["services"]["mine@file"]["status"], "enabled", "{version}");

    traefik.write_dynamic(&prefix_router("/other", &sim));
    eventually(TIMEOUT, || async {
        let answer = client.get(plain("web")).send().await.ok()?;
        (answer.status() == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn entry_points_and_routers_of_ones_own() {
    for version in ["3.0.4", "3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", "3.7.15"] {
        routes_of_a_file(version).await;
    }
}
