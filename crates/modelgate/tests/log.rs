//! The log: what a line about a decision has, which refusals are logged, and that the level changes while Modelgate runs. And what
//! becomes of a command, and of the server, if nobody reads what they print.

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, pipe},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use common::{KEY, chat, config, send};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use testkit::{
    eventually, free_port,
    modelgate::{Modelgate, command},
    sim::Sim,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Beginning like this, it is not shown anywhere.
const WRONG: &str = "mg-wrong-0123456789012345678901234567890123456789";

/// The lines about decisions, as JSON.
fn decisions(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "decision").collect()
}

/// The fields that docs/monitoring.md explains.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/monitoring.md");
    let text = fs::read_to_string(path).expect("the documentation");
    let (_, from) = text.split_once("| field of a decision |").expect("the table of fields");
    let rows = from.lines().skip(2).take_while(|line| line.starts_with('|'));
    let names = |row: &str| -> Vec<String> {
        let first = row.split('|').nth(1).unwrap_or_default();
        first.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    rows.flat_map(names).collect()
}

fn field(line: &Value, name: &str) -> Value {
    line["fields"][name].clone()
}

/// What is told of refusals at info.
fn sampled(logged: &[Value]) {
    for (reason, key, model) in
        [("invalid_api_key", Value::Null, Value::Null), ("model_not_found", "alice".into(), "nothing".into())]
    {
        let line = logged.iter().find(|line| field(line, "reason") == reason).expect(reason);
        assert_eq!((line["level"].clone(), field(line, "message")), ("INFO".into(), "refused".into()));
        assert_eq!((field(line, "key"), field(line, "model")), (key, model), "{line}");
        assert_eq!((field(line, "trace_id"), field(line, "from")), (TRACE.into(), "192.0.2.7".into()));
        assert_eq!((field(line, "path"), field(line, "more")), ("/v1/chat/completions".into(), 0.into()));
    }
}

#[tokio::test]
async fn each_decision_is_a_line_at_debug_and_the_level_changes_while_it_runs() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let at = |level: &str| config(&[&sim], &format!("log: {{ level: {level:?}, format: json }}\n"));
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &at("info")).await;
    modelgate.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let ask = async |key: &str, model: &str, id: &str| {
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth(key);
        let question = question.header("x-forwarded-method", "POST").header("x-forwarded-for", "192.0.2.7");
        let question = question.header("x-forwarded-uri", "/v1/chat/completions?api-key=hidden");
        let question = question.header("x-request-id", id);
        let question = question.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
        send(question.json(&chat(model))).await.status().as_u16()
    };
    for _ in 0..5 {
        assert_eq!(ask(KEY, "llama", "allowed").await, 200);
        assert_eq!(ask(WRONG, "llama", "wrong").await, 401);
        assert_eq!(ask(KEY, "nothing", "missing").await, 404);
    }
    // One of five is logged.
    let logged = eventually(Duration::from_secs(30), || async {
        Some(decisions(&modelgate.log())).filter(|lines| lines.len() >= 2)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(decisions(&modelgate.log()).len(), 2, "{logged:?}");
    sampled(&logged);
    modelgate.write_config(&at("info,decision=debug"));
    let debug = eventually(Duration::from_secs(60), || async {
        ask(KEY, "llama", "debugged").await;
        ask(WRONG, "llama", "wrong-again").await;
        let lines: Vec<_> =
            decisions(&modelgate.log()).into_iter().filter(|line| line["level"] == "DEBUG").collect();
        let has = |id: &str| lines.iter().any(|line| field(line, "client_request_id") == id);
        (has("debugged") && has("wrong-again")).then_some(lines)
    })
    .await;
    let allowed = debug.iter().find(|line| field(line, "message") == "allowed").expect("an allowed one");
    for (name, value) in
        [("consumer", "alice"), ("model", "llama"), ("method", "POST"), ("client_request_id", "debugged")]
    {
        assert_eq!(field(allowed, name), value, "{allowed}");
    }
    assert!(
        field(allowed, "tokens").as_u64() > Some(0) && field(allowed, "microseconds").as_u64() > Some(0),
        "{allowed}"
    );
    assert_eq!(field(allowed, "request_id").as_str().map(str::len), Some(32));
    let seen: BTreeSet<String> = decisions(&modelgate.log())
        .iter()
        .flat_map(|line| line["fields"].as_object().expect("fields").keys().cloned().collect::<Vec<_>>())
        .collect();
    assert_eq!(seen, documented(), "docs/monitoring.md explains the fields that there are, and no others");
    for secret in [KEY, WRONG, "hidden"] {
        assert!(!modelgate.log().contains(secret), "{secret}");
    }
    modelgate.write_config(&at("warn"));
    eventually(Duration::from_secs(60), || async {
        let before = decisions(&modelgate.log()).len();
        ask(KEY, "llama", "unlogged").await;
        (decisions(&modelgate.log()).len() == before).then_some(())
    })
    .await;
}

/// Requests whose bodies are still on their way at the signal are decided after it. Regression: their refusals were not logged.
#[tokio::test]
async fn what_is_refused_while_modelgate_stops_is_logged() {
    let sim = Sim::start("gpu-1", &["llama"]);
    let config = config(&[&sim], "log: { level: info, format: json }\n");
    let mut modelgate = Modelgate::start_with(env!("CARGO_BIN_EXE_modelgate"), &config).await;
    modelgate.wait_ready().await;
    // It sends the beginning of a body, and the end when it is told to.
    let ask = |begin: String, end: &'static str| {
        let (send_end, told) = tokio::sync::oneshot::channel::<()>();
        let end = stream::once(async move {
            let _ = told.await;
            Ok::<_, io::Error>(end.to_owned())
        });
        let body = stream::iter([Ok(begin)]).chain(end);
        let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
        let question = client.post(format!("{}/auth", modelgate.requests_url())).bearer_auth(KEY);
        let question = question.header("x-forwarded-method", "POST").header("x-forwarded-for", "192.0.2.7");
        let question = question.header("x-forwarded-uri", "/v1/chat/completions");
        let question = question.header("content-type", "application/json");
        let question = question.body(reqwest::Body::wrap_stream(body));
        (send_end, tokio::spawn(send(question)))
    };
    let (end_missing, missing) = ask("{\"messages\":[],\"model\":\"noth".into(), "ing\"}");
    let (end_broken, broken) = ask("{\"messages\":[],\"model\":\"llama".into(), "");
    let reasons = |modelgate: &Modelgate| -> Vec<String> {
        let lines = decisions(&modelgate.log());
        lines.iter().map(|line| field(line, "reason").as_str().expect("a reason").to_owned()).collect()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    modelgate.signal("TERM");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(reasons(&modelgate), [""; 0], "both are still being sent");
    end_missing.send(()).expect("it waits");
    assert_eq!(missing.await.expect("no panic").status(), 404);
    // The other one keeps Modelgate from ending.
    eventually(Duration::from_secs(3), || async {
        (reasons(&modelgate) == ["model_not_found"]).then_some(())
    })
    .await;
    end_broken.send(()).expect("it waits");
    assert_eq!(broken.await.expect("no panic").status(), 400);
    assert!(modelgate.stop().await.success());
    assert_eq!(reasons(&modelgate).len(), 2, "also those of the last moment");
}

/// A pipe whose reader has gone, as of `| head` once it has enough.
fn nobody() -> Stdio {
    pipe().expect("a pipe").1.into()
}

/// Each command that prints ends as it would have, and has done all that it was told.
#[test]
fn a_command_that_nobody_listens_to_ends_quietly_with_its_work_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |line: &str, stdout: Stdio, stderr: Stdio| -> Output {
        let mut command = command(env!("CARGO_BIN_EXE_modelgate"));
        command.args(line.split(' ')).current_dir(folder.path()).stdout(stdout).stderr(stderr);
        command.env("MODELGATE_STATE_DIR", "state").env("MODELGATE_DOCKER_ENABLED", "false");
        command.spawn().expect("it starts").wait_with_output().expect("it ends")
    };
    let accounts: String = (0..50).map(|n| format!("  - {{ name: key-{n} }}\n")).collect();
    fs::write(folder.path().join("accounts.yaml"), format!("keys:\n{accounts}")).expect("written");
    let kong = "_format_version: \"3.0\"\nconsumers: [{ username: ada, keyauth_credentials: [{ key: kong-key-1 }] }]\n";
    fs::write(folder.path().join("kong.yaml"), kong).expect("written");
    for line in [
        "--help",
        "--version",
        "reference",
        "reference --schema",
        "completions bash",
        "check",
        "check --servers",
        "render",
        "explain middleware llama",
        "explain model llama",
        "keys generate ada",
        "keys import --from kong kong.yaml",
        "keys import --from kong --store kong.yaml",
        "apply -f accounts.yaml",
        "keys create made",
        "keys show nobody",
        "keys rotate made",
        "keys show made",
        "keys list",
        "keys list --json",
        "keys revoke made",
        "plans list",
        "consumers list",
        "usage",
        "audit",
        "audit --jsonl",
        "export",
        "backup kept.db",
        "usage erase --consumer nobody",
        "admin token --new",
        "no-such-command",
    ] {
        let heard = run(line, Stdio::piped(), Stdio::piped());
        let (out, error) = (String::from_utf8_lossy(&heard.stdout), String::from_utf8_lossy(&heard.stderr));
        assert!(!out.is_empty() || !error.is_empty(), "{line}: it prints");
        let _ = fs::remove_file(folder.path().join("kept.db"));
        if ["apply", "keys create", "keys revoke"].iter().any(|work| line.starts_with(work)) {
            fs::remove_dir_all(folder.path().join("state")).expect("removed");
            if line == "keys revoke made" {
                run("keys create made", Stdio::null(), Stdio::null());
            }
        }
        let quiet = run(line, nobody(), Stdio::piped());
        let error = String::from_utf8_lossy(&quiet.stderr);
        assert_eq!(quiet.status.code(), heard.status.code(), "{line}: {error}");
        assert!(!error.contains("panicked") && !error.contains("pipe"), "{line}: {error}");
        let _ = fs::remove_file(folder.path().join("kept.db"));
        let silent = run(line, nobody(), nobody()).status.code();
        assert!(silent.is_some_and(|code| code != 101), "{line}: {silent:?}");
        if line.starts_with("apply") {
            let listed = run("keys list --json", Stdio::piped(), Stdio::null()).stdout;
            let listed: Value = serde_json::from_slice(&listed).expect("JSON");
            assert_eq!(listed.as_array().map(Vec::len), Some(50), "{line}: all of it is done");
        }
    }
    for line in ["check", "reference", "keys list", "completions zsh", "export"] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let output = run(line, full.into(), Stdio::piped());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {error}");
        assert!(error.contains("No space left on device") && !error.contains("panicked"), "{line}: {error}");
    }
}

/// Each reload is a line of the log, or some. One that is in force shows that the line of the one before was tried.
#[tokio::test]
async fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let at = |level: &str| {
        // Nobody answers there, which is told at debug.
        format!(
            "log: {{ level: {level} }}\nstore: {{ first_key: true }}\n\
             servers: [{{ url: \"http://127.0.0.1:{}\", name: with-{level} }}]\n",
            free_port()
        )
    };
    let builder = Modelgate::builder(env!("CARGO_BIN_EXE_modelgate"), &at("debug")).keep_state();
    let mut modelgate = builder.unread().start().await;
    for level in ["info", "debug", "warn"] {
        modelgate.write_config(&at(level));
        eventually(Duration::from_secs(60), || async {
            let servers = modelgate.readyz().await["servers"].clone();
            let is_in_force =
                servers.as_array()?.iter().any(|server| server["name"] == format!("with-{level}"));
            is_in_force.then_some(())
        })
        .await;
    }
    assert_eq!(modelgate.log(), "", "nobody reads it");
    assert!(modelgate.stop().await.success());
}
