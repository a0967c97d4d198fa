//! Servers that demand a credential of their own.

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{KEY, NEWEST, chat, config_of, refusal, send, server};
use testkit::{
    modelgate::Modelgate,
    need,
    sim::{Options, Sim},
    traefik::{Traefik, traefik_binary},
};

/// What the provider demands. Neither this nor the client's key may be seen anywhere else.
const TOKEN: &str = "sk-provider-secret-7d1f";

fn provider() -> Options {
    Options { required_key: Some(TOKEN.into()), ..Options::named("provider", &["claude"]) }
}

fn configuration(servers: &[(&Sim, &str)], trust: &str) -> String {
    config_of(servers, &format!("traefik: {{ version: {NEWEST:?}, {trust} }}\nlog: {{ level: debug }}\n"))
}

struct Started {
    traefik: Traefik,
    modelgate: Modelgate,
}

async fn start(yaml: &str, variable: &str) -> Option<Started> {
    let binary = need(traefik_binary(NEWEST), "Traefik")?;
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), yaml);
    let mut modelgate = builder.env(variable, TOKEN).start().await;
    modelgate.wait_ready().await;
    let traefik = Traefik::builder(binary).endpoint(modelgate.provider_endpoint()).start().await;
    traefik.wait_configured().await;
    Some(Started { traefik, modelgate })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_gets_its_own_token_and_nobody_else_sees_either() {
    for (header, name) in [("bearer", "authorization"), ("x-api-key", "x-api-key"), ("api-key", "api-key")] {
        let provider = Sim::start_with(Options { required_header: name.into(), ..provider() });
        let credential = format!("credential: {{ header: {header}, env: PROVIDER_TOKEN }}");
        let yaml = configuration(&[(&provider, &credential)], "trusted_addresses: [127.0.0.0/8]");
        let Some(stack) = start(&yaml, "PROVIDER_TOKEN").await else { continue };
        let client = testkit::client();
        let url = format!("{}/v1/chat/completions", stack.traefik.url());
        let answer = send(client.post(&url).bearer_auth(KEY).json(&chat("claude"))).await;
        assert_eq!((answer.status().as_u16(), server(&answer)), (200, "provider".into()), "{header}");
        let seen = provider.posts();
        let given = seen[0].header(name).expect("a credential");
        assert!(given.ends_with(TOKEN), "{header}");
        for (other, value) in &seen[0].headers {
            assert!(!value.contains(KEY), "{other} holds the client's key");
        }
        let wrong = send(client.post(&url).bearer_auth("mg-wrong").json(&chat("claude"))).await;
        let refusals = wrong.text().await.expect("text");
        let get = async |url: String| send(client.get(url)).await.text().await.expect("text");
        let places = [
            ("Modelgate's log", stack.modelgate.log()),
            ("Traefik's log", stack.traefik.log()),
            ("the rendered document", get(stack.modelgate.provider_endpoint()).await),
            ("Traefik's API", stack.traefik.api("/api/rawdata").await.to_string()),
            ("/readyz", get(format!("{}/readyz", stack.modelgate.admin_url())).await),
            ("a refusal", refusals),
        ];
        for (place, text) in places {
            assert!(!text.is_empty(), "{place} is there to be looked at");
            assert!(!text.contains(TOKEN) && !text.contains(KEY), "{header}: {place} holds a secret");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_proven_to_be_traefik_gets_no_credential() {
    let provider = Sim::start_with(provider());
    let credential = "credential: { env: PROVIDER_TOKEN }";
    let yaml = configuration(&[(&provider, credential)], "trusted_addresses: [10.99.0.1]");
    let Some(stack) = start(&yaml, "PROVIDER_TOKEN").await else { return };
    let client = testkit::client();
    let url = format!("{}/v1/chat/completions", stack.traefik.url());
    let (status, body) = refusal(client.post(&url).bearer_auth(KEY).json(&chat("claude"))).await;
    assert_eq!(status, 503, "{body}");
    let anybody =
        reqwest::Client::builder().danger_accept_invalid_certs(true).no_proxy().build().expect("a client");
    let direct = anybody
        .post(format!("{}/auth", stack.modelgate.requests_url()))
        .header("x-forwarded-method", "POST")
        .header("x-forwarded-uri", "/v1/chat/completions")
        .bearer_auth(KEY)
        .json(&chat("claude"));
    let direct = send(direct).await;
    assert_eq!(direct.status(), 503);
    assert!(direct.headers().values().all(|value| !value.to_str().unwrap_or_default().contains(TOKEN)));
    assert!(provider.posts().is_empty());
    assert!(stack.modelgate.log().contains("trusted_addresses"), "the log says what to do");
}

#[test]
fn a_credential_without_anybody_to_trust_is_refused_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("modelgate.yaml");
    std::fs::write(&file, "servers: [{ url: \"https://api.example.com\", credential: { env: T } }]\n")
        .expect("written");
    let mut command = testkit::modelgate::command(env!("CARGO_BIN_EXE_modelgate"));
    let output = command.arg("check").arg("--config").arg(&file).env("T", TOKEN).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64));
    assert!(told.contains("client_certificate") && !told.contains(TOKEN), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_proves_traefik() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, cert, key) = certificates(folder.path());
    let provider = Sim::start_with(provider());
    let trust = format!("client_certificate: {{ ca: {ca:?}, cert: {cert:?}, key: {key:?} }}");
    let yaml = configuration(&[(&provider, "credential: { env: PROVIDER_TOKEN }")], &trust);
    let Some(stack) = start(&yaml, "PROVIDER_TOKEN").await else { return };
    let client = testkit::client();
    let url = format!("{}/v1/chat/completions", stack.traefik.url());
    let answer = send(client.post(&url).bearer_auth(KEY).json(&chat("claude"))).await;
    assert_eq!(answer.status(), 200);
    let document = send(client.get(stack.modelgate.provider_endpoint())).await.text().await.expect("text");
    assert!(
        document.contains(&key) && !document.contains("PRIVATE KEY"),
        "the key's path travels, not the key"
    );
}

/// A CA, and a certificate for Traefik with its key: paths of PEM files.
fn certificates(folder: &std::path::Path) -> (String, String, String) {
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca_params = rcgen::CertificateParams::default();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).expect("a CA");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["traefik".into()]).expect("a name");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = rcgen::Issuer::new(ca_params, ca_key);
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    (
        write("ca.pem", ca.pem()),
        write("traefik.pem", cert.pem()),
        write("traefik-key.pem", key.serialize_pem()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_is_asked_only_while_no_local_server_has_the_model() {
    let (provider, local) = (Sim::start_with(provider()), Sim::start("local", &["claude"]));
    let address: SocketAddr = local.addr();
    let servers = [(&provider, "credential: { env: PROVIDER_TOKEN }, priority: 1"), (&local, "")];
    let yaml = configuration(&servers, "trusted_addresses: [127.0.0.1]");
    let Some(stack) = start(&yaml, "PROVIDER_TOKEN").await else { return };
    let client = testkit::client();
    let url = format!("{}/v1/chat/completions", stack.traefik.url());
    let ask = async || {
        let answer = send(client.post(&url).bearer_auth(KEY).json(&chat("claude"))).await;
        if answer.status() == 200 { server(&answer) } else { String::new() }
    };
    for _ in 0..5 {
        assert_eq!(ask().await, "local");
    }
    assert!(local.posts().iter().all(|p| p.headers.iter().all(|(_, value)| !value.contains(TOKEN))));
    drop(local);
    testkit::eventually(Duration::from_secs(60), || async { (ask().await == "provider").then_some(()) })
        .await;
    let _local = Sim::start_at(address, Options::named("local", &["claude"]));
    testkit::eventually(Duration::from_secs(60), || async { (ask().await == "local").then_some(()) }).await;
}
