//! The log: what a line about a decision has, which refusals are logged, and that the level changes while Modelgate runs.

mod common;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use common::{KEY, chat, config, send};
use serde_json::Value;
use testkit::{eventually, modelgate::Modelgate, sim::Sim};

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
