//! The program `sim-server`, as it runs in a container: configured by environment, stopped by SIGTERM.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use testkit::{
    client, eventually, free_port,
    load::{Load, Until},
};

const TIMEOUT: Duration = Duration::from_secs(10);
const PROGRAM: &str = env!("CARGO_BIN_EXE_sim-server");

/// Killed on drop, so that a failing test leaves nothing behind.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn is_configured_by_environment_and_flags() {
    let env =
        [("SIM_NAME", "gpu-7"), ("SIM_MODELS", "a, b"), ("SIM_BASE_PATH", "/api/v3"), ("SIM_CHUNKS", "1")];
    let server = Server::start(&env, &["--model", "with, comma"]).await;
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
    let server = Server::start(&[], &[]).await;
    assert!(server.is_healthy());
    let unhealthy =
        client().post(format!("{}/sim/health", server.url())).body("{\"healthy\": false}").send().await;
    assert_eq!(unhealthy.expect("an answer").status(), 204);
    assert!(!server.is_healthy());
}

#[tokio::test]
async fn finishes_streams_on_sigterm_then_ends() {
    let env = [("SIM_MODELS", "llama"), ("SIM_CHUNKS", "10"), ("SIM_CHUNK_DELAY_MS", "50")];
    let mut server = Server::start(&env, &[]).await;
    let load =
        tokio::spawn(Load::chat(&server.url(), "llama", true).connections(3).until(Until::Sent(3)).run());
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
