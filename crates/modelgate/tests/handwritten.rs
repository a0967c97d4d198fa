//! Routers that the user writes, with Modelgate's check attached.

mod common;

use common::{KEY, LLAMA_KEY, NEWEST, chat, config_of, refusal, send, server};
use serde_json::json;
use testkit::{
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

struct Started {
    traefik: Traefik,
    _modelgate: Modelgate,
    _folder: tempfile::TempDir,
}

/// A Traefik with a file of the user's own beside what Modelgate says.
async fn start(version: &str, dynamic: impl Fn(&Modelgate) -> String) -> Option<Started> {
    let binary = need(traefik_binary(version), &format!("Traefik {version}"))?;
    let layered = version.starts_with("3.7") || version.starts_with("3.6");
    let yaml = config_of(&[], &format!("traefik: {{ version: {version:?} }}\n"));
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &yaml).await;
    modelgate.wait_ready().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mine.yaml"), dynamic(&modelgate)).expect("written");
    let builder = Traefik::builder(binary).endpoint(modelgate.provider_endpoint());
    let traefik =
        builder.arg(format!("--providers.file.directory={}", folder.path().display())).start().await;
    if layered {
        traefik.wait_configured().await;
    }
    Some(Started { traefik, _modelgate: modelgate, _folder: folder })
}

fn router(middleware: &str, sim: &Sim) -> String {
    format!(
        "http:\n  routers:\n    mine:\n      rule: PathPrefix(`/mine`)\n      middlewares: [{middleware}]\n      \
         service: mine\n  services:\n    mine:\n      loadBalancer:\n        servers: [{{ url: {:?} }}]\n",
        sim.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_ones_own_with_our_middleware() {
    let sim = Sim::start("mine", &["llama", "qwen"]);
    for version in ["3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let Some(stack) = start(version, |_| router("modelgate@http", &sim)).await else { continue };
        let client = testkit::client();
        let url = format!("{}/mine/v1/chat/completions", stack.traefik.url());
        let ask =
            |key: &str, body: &serde_json::Value| client.post(&url).bearer_auth(key.to_owned()).json(body);
        testkit::eventually(std::time::Duration::from_secs(60), || async {
            (send(ask("mg-wrong", &chat("llama"))).await.status() == 401).then_some(())
        })
        .await;
        sim.forget_requests();
        // The simulated server knows no /mine; that it answers is what counts.
        assert_eq!(server(&send(ask(KEY, &chat("qwen"))).await), "mine", "{version}");
        assert_eq!(server(&send(ask(LLAMA_KEY, &chat("llama"))).await), "mine", "{version}");
        let seen = sim.posts();
        assert!(seen.iter().all(|p| p.header("authorization").is_none()), "{version}");
        assert_eq!(seen[0].header("x-inference-consumer"), Some("alice"), "{version}");
        for (key, body, status) in [
            (LLAMA_KEY, chat("qwen"), 404),
            (LLAMA_KEY, json!({ "text": "no model" }), 400),
            ("mg-wrong", chat("llama"), 401),
        ] {
            let (found, body) = refusal(ask(key, &body)).await;
            assert_eq!(found, status, "{version}: {body}");
        }
    }
}

/// What `modelgate explain middleware --yaml` prints, below `http`.
fn explained(modelgate: &Modelgate, version: &str) -> String {
    let requests = modelgate.requests_url();
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    command
        .args(["explain", "middleware", "llama-embed", "--yaml"])
        .env("MODELGATE_TRAEFIK_VERSION", version);
    command.env("MODELGATE_LISTEN_REQUESTS", requests.trim_start_matches("https://"));
    let output = command.output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let (note, yaml) = text.split_once("\nhttp:\n").unwrap_or_else(|| panic!("{text}"));
    assert!(note.contains("listen.requests"), "{note}");
    yaml.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_middleware_of_ones_own_with_our_address_and_a_model() {
    let sim = Sim::start("mine", &["llama-embed"]);
    for version in ["3.0.4", "3.3.6", "3.5.3", "3.6.2", "3.6.15", "3.7.0", NEWEST] {
        let forwards_body = !version.starts_with("3.0");
        let dynamic = |modelgate: &Modelgate| {
            if forwards_body {
                return format!("{}{}", router("check", &sim), explained(modelgate, version));
            }
            let address =
                format!("{}/auth?model=llama-embed&body=none&single_model", modelgate.requests_url());
            format!(
                "{}  middlewares:\n    check:\n      forwardAuth:\n        address: {address:?}\n        tls: {{ \
                 insecureSkipVerify: true }}\n        authResponseHeaders: [Authorization, X-Inference-Consumer]\n",
                router("check", &sim)
            )
        };
        let Some(stack) = start(version, dynamic).await else { continue };
        let client = testkit::client();
        let url = format!("{}/mine/predict", stack.traefik.url());
        let ask =
            |key: &str, body: &serde_json::Value| client.post(&url).bearer_auth(key.to_owned()).json(body);
        testkit::eventually(std::time::Duration::from_secs(60), || async {
            (send(ask("mg-wrong", &json!({}))).await.status() == 401).then_some(())
        })
        .await;
        sim.forget_requests();
        let answer = send(ask(LLAMA_KEY, &json!({ "text": "Hello" }))).await;
        assert_eq!(server(&answer), "mine", "{version}: llama-embed is one of bob's models");
        assert!(sim.posts().iter().all(|p| p.header("authorization").is_none()), "{version}");
        if forwards_body {
            let (status, body) = refusal(ask(KEY, &json!({ "model": "qwen" }))).await;
            assert_eq!(status, 400, "{version}: the body names another model: {body}");
        }
    }
}
