//! The program `sim-server`, as it runs in a container: configured by environment, stopped by SIGTERM.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    client, client_builder, eventually, free_port,
    load::{ChatAnswer, Load, Until},
    tls::Authority,
};

const TIMEOUT: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_sim-server");

/// Killed on drop, so that a failing test leaves nothing behind.
struct SimProcess {
    child: Child,
    port: u16,
}

impl SimProcess {
    async fn start(env: &[(&str, &str)], args: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new(PROGRAM);
        command.env("SIM_PORT", port.to_string()).envs(env.iter().copied()).args(args).stderr(Stdio::null());
        let server = Self { child: command.spawn().expect("sim-server starts"), port };
        eventually(TIMEOUT, || async { server.get("/sim/requests").await }).await;
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn get(&self, path: &str) -> Option<Value> {
        client().get(format!("{}{path}", self.url())).send().await.ok()?.json().await.ok()
    }

    fn is_healthy(&self) -> bool {
        let check = Command::new(PROGRAM)
            .args(["healthcheck", "--port", &self.port.to_string()])
            .stderr(Stdio::null())
            .status();
        check.expect("the health check runs").success()
    }
}

impl Drop for SimProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn is_configured_by_environment_and_flags() {
    let env =
        [("SIM_NAME", "gpu-7"), ("SIM_MODELS", "a, b"), ("SIM_BASE_PATH", "/api/v3"), ("SIM_CHUNKS", "1")];
    let server = SimProcess::start(&env, &["--model", "with, comma"]).await;
    let listing = server.get("/api/v3/models").await.expect("a listing");
    let ids: Vec<&str> =
        listing["data"].as_array().expect("models").iter().filter_map(|card| card["id"].as_str()).collect();
    assert_eq!(ids, ["a", "b", "with, comma"]);
    let body = serde_json::json!({"model": "b"});
    let answer = client().post(format!("{}/api/v3/chat/completions", server.url())).json(&body).send().await;
    assert_eq!(answer.expect("an answer").headers()["x-sim-server"], "gpu-7");
}

#[tokio::test]
async fn its_health_check_follows_its_health() {
    let server = SimProcess::start(&[], &[]).await;
    assert!(server.is_healthy());
    let unhealthy =
        client().post(format!("{}/sim/health", server.url())).body("{\"healthy\": false}").send().await;
    assert_eq!(unhealthy.expect("an answer").status(), 204);
    assert!(!server.is_healthy());
}

#[tokio::test]
async fn finishes_streams_on_sigterm_then_ends() {
    let env = [("SIM_MODELS", "llama"), ("SIM_CHUNKS", "160"), ("SIM_CHUNK_DELAY_MS", "50")];
    let mut server = SimProcess::start(&env, &[]).await;
    let load = tokio::spawn(
        Load::chat(&server.url(), "llama", ChatAnswer::Streamed).connections(3).until(Until::Sent(3)).run(),
    );
    let metrics = format!("{}/metrics", server.url());
    eventually(TIMEOUT, || async {
        let text = client().get(&metrics).send().await.ok()?.text().await.ok()?;
        text.contains("running{engine=\"0\",model_name=\"llama\"} 3.0").then_some(())
    })
    .await;
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", server.child.id())]).status();
    assert!(kill.expect("kill runs").success());
    let report = load.await.expect("a report");
    assert_eq!((report.answered(200), report.errors.len()), (3, 0), "{report:?}");
    let status = eventually(TIMEOUT, || {
        let ended = server.child.try_wait().expect("a child");
        async move { ended }
    })
    .await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn listens_where_and_how_it_is_told() {
    let authority = Authority::new();
    let identity = authority.identity(&["127.0.0.2"]);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
        folder.path().join(name).display().to_string()
    };
    let (certificate, key) =
        (write("cert.pem", &identity.certificate_pem), write("key.pem", &identity.key_pem));
    let port = free_port();
    let mut command = Command::new(PROGRAM);
    command.env("SIM_PORT", port.to_string()).env("SIM_HOST", "127.0.0.2").stderr(Stdio::null());
    command.env("SIM_TLS_CERT", certificate).env("SIM_TLS_KEY", key);
    let _server = SimProcess { child: command.spawn().expect("sim-server starts"), port };
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("a certificate");
    let client = client_builder().tls_certs_only([ca]).build().expect("a client");
    let models = || client.get(format!("https://127.0.0.2:{port}/v1/models")).send();
    eventually(TIMEOUT, || async { (models().await.ok()?.status() == 200).then_some(()) }).await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "it listens elsewhere as well");
}

#[tokio::test]
async fn is_a_health_check_under_other_names() {
    let server = SimProcess::start(&[], &["--model", "llama", "--tensor-parallel-size", "2"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, arguments: &[&str]| {
        let path = folder.path().join(name);
        let _ = std::os::unix::fs::symlink(PROGRAM, &path);
        let output = Command::new(path).args(arguments).env("SIM_PORT", server.port.to_string()).output();
        let output = output.expect("it runs");
        (output.status.code().expect("it ends"), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let health = format!("http://localhost:{}/health", server.port);
    let models = format!("http://localhost:{}/v1/models", server.port);
    let python = format!("import urllib.request; urllib.request.urlopen('{health}')");
    let (code, body) = run("curl", &["-sf", &models]);
    assert!(code == 0 && body.contains("\"llama\""), "{code} {body}");
    assert_eq!(run("python3", &["-c", &python]).0, 0);
    assert_eq!(run("ollama", &["list"]).0, 0);
    let unhealthy =
        client().post(format!("{}/sim/health", server.url())).body("{\"healthy\": false}").send().await;
    assert_eq!(unhealthy.expect("an answer").status(), 204);
    for (name, arguments, code) in [
        ("curl", vec!["-f", health.as_str()], 22),
        ("curl", vec![health.as_str()], 0),
        ("wget", vec!["-q", health.as_str()], 22),
        ("python3", vec!["-c", python.as_str()], 22),
        ("ollama", vec!["list"], 22),
        ("curl", vec!["-f", "http://127.0.0.1:1/health"], 7),
    ] {
        assert_eq!(run(name, &arguments).0, code, "{name} {arguments:?}");
    }
}
