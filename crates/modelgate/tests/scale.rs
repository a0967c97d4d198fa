//! 100,000 keys: how soon it serves, how soon a change is in force, how much memory it takes, and what a decision costs.
//!
//! Measured with the optimised program, which `cargo xtask test --install` builds and names in `MODELGATE_TEST_RELEASE`.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use access::KeyDigest;
use common::auth::{Auth, config, file_key};
use serde_json::json;
use testkit::{
    Stopwatch, cost_ratio, eventually,
    load::Until,
    memory,
    modelgate::{Modelgate, command, optimised},
    need,
    sim::Sim,
};
use tokio::task::JoinSet;

/// Keys `mg-0`, `mg-1`, … put into SQLite by its own library: a hundred thousand commands would take minutes. Half of them
/// have their limits of a plan.
const FILL: &str = r#"
import hashlib, json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
def row(i):
    digest = hashlib.sha256(f"mg-{i}".encode()).hexdigest()
    limit = {"requests_per_minute": 60000000, "tokens_per_day": 1000000000000}
    document = {"name": f"key-{i}", "consumer": f"team-{i % 1000}", "sha256": digest, "models": ["llama*"], "note": "one of many"}
    document |= {"limit": limit} if i % 2 else {"plan": "gold"}
    return ("key", document["name"], json.dumps(document), document["consumer"], digest, document.get("plan"), 0, 0)
rows = map(row, range(int(sys.argv[2])))
insert = "INSERT INTO accounts (kind, name, document, consumer, sha256, plan, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
db.execute(insert, ("plan", "gold", json.dumps({"name": "gold", "limit": {"requests_per_minute": 60000000}}), None, None, None, 0, 0))
db.executemany(insert, rows)
db.commit()
"#;

/// A Modelgate with so many keys in its store, and how long its second start took.
async fn with_keys(binary: &PathBuf, sim: &Sim, count: u32) -> (Modelgate, Duration) {
    let mut modelgate = Modelgate::builder(binary, &config(sim, "")).keep_state().start().await;
    modelgate.stop().await;
    let file = modelgate.folder().join("state/modelgate.db");
    let filled = Command::new("python3").arg("-c").arg(FILL).arg(file).arg(count.to_string()).status();
    assert!(filled.expect("Python runs").success());
    let start = Stopwatch::start();
    modelgate.restart().await;
    let took = start.elapsed();
    modelgate.wait_ready().await;
    (modelgate, took)
}

/// Keys `sk-0`, `sk-1`, … as LiteLLM lists them: enough for a Modelgate that follows to read everything anew.
fn more_keys() -> String {
    let key =
        |i| json!({ "token": KeyDigest::of(&format!("sk-{i}")).to_hex(), "key_alias": format!("more-{i}") });
    let keys: Vec<_> = (0..10_000).map(key).collect();
    json!({ "keys": keys, "total_count": keys.len() }).to_string()
}

/// The most memory that a process ever had, in MiB.
fn peak_memory(id: u32) -> u64 {
    memory(id, "VmHWM") / 1024 / 1024
}

/// The time that a process has computed so far, in clock ticks (proc(5)).
fn ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    let behind_name = stat.rsplit_once(')').expect("a name").1;
    behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys_cost_a_second_and_some_memory_but_no_speed() {
    let Some(binary) = need(optimised(), "the optimised program") else { return };
    let sim = Sim::start("a", &["llama"]);
    let (few, _) = with_keys(&binary, &sim, 10).await;
    let (many, start) = with_keys(&binary, &sim, 100_000).await;
    let keys = ["mg-7", "mg-77777"];
    let auths = [Auth::of(&few), Auth::of(&many)];
    for (auth, key) in auths.iter().zip(keys) {
        eventually(Duration::from_secs(60), || async { (auth.status(key).await == 200).then_some(()) }).await;
    }
    assert_eq!(auths[0].status("mg-77777").await, 401, "few know few");
    eprintln!("100,000 keys: up within {start:?}, at most {} MiB", peak_memory(many.id()));
    assert!(start < Duration::from_secs(2), "{start:?}");
    assert!(peak_memory(many.id()) < 150, "{} MiB", peak_memory(many.id()));

    changes_are_in_force_within_a_second(&binary, &sim, &many, &auths[1]).await;
    auths[1].soon(keys[1], 200).await;
    many_cost_no_speed([few.id(), many.id()], &auths, keys).await;
}

#[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
async fn changes_are_in_force_within_a_second(binary: &Path, sim: &Sim, many: &Modelgate, auth: &Auth) {
    let change = |arguments: &[&str]| {
        let mut command = command(binary);
        command.args(arguments).arg("--config").arg(many.folder().join("modelgate.yaml"));
        command.env("MODELGATE_STATE_DIR", many.folder().join("state")).current_dir(many.folder());
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for round in 5..10 {
        let (team, of_team) = (format!("team-{round}"), format!("mg-{}", 1_000 + round));
        change(&["consumers", "set", &team, "--disabled", "true"]);
        auth.soon(&of_team, 401).await;
        change(&["plans", "set", "gold", "--limit", "requests_per_minute=1"]);
        auth.soon("mg-70000", 429).await;
        change(&["consumers", "set", &team, "--disabled", "false"]);
        auth.soon(&of_team, 200).await;
        change(&["plans", "set", "gold", "--limit", "requests_per_minute=60000000"]);
        auth.soon("mg-70000", 200).await;
    }
    eprintln!("after 20 changes: at most {} MiB", peak_memory(many.id()));
    fs::write(many.folder().join("more.json"), more_keys()).expect("written");
    change(&["keys", "import", "--from", "litellm", "--store", "more.json"]);
    auth.soon("sk-9999", 200).await;
    eprintln!("after an import of 10,000 keys: at most {} MiB", peak_memory(many.id()));
    // Another file has everything read anew; who is to be refused meanwhile is.
    many.write_config(&config(sim, &file_key("late", "requests_per_hour: 1000")));
    auth.until("mg-late", 200).await;
    many.write_config(&config(sim, ""));
    change(&["consumers", "set", "team-77", "--disabled", "true"]);
    auth.soon("mg-50077", 401).await;
    auth.until("mg-late", 401).await;
    assert_eq!(auth.status("mg-50077").await, 401);
    eprintln!("after two other files: at most {} MiB", peak_memory(many.id()));
    assert!(peak_memory(many.id()) < 150, "{} MiB", peak_memory(many.id()));
    change(&["consumers", "set", "team-77", "--disabled", "false"]);
}

#[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
async fn many_cost_no_speed(ids: [u32; 2], auths: &[Auth; 2], keys: [&str; 2]) {
    const REQUESTS: usize = 8_000;
    let mut rounds: Vec<[f64; 2]> = Vec::new();
    while rounds.len() < 9 || (cost_ratio(&rounds) < 0.9 && rounds.len() < 27) {
        let mut round = [0.0; 2];
        for (i, id) in ids.into_iter().enumerate() {
            let before = ticks(id);
            let report = auths[i].load(keys[i]).until(Until::Sent(REQUESTS)).run().await;
            assert_eq!(report.statuses.get(&200), Some(&REQUESTS), "{report:?}");
            round[i] = (ticks(id) - before) as f64;
        }
        rounds.push(round);
    }
    eprintln!(
        "ticks for {REQUESTS} requests with 10 keys and with 100,000: {rounds:?}; {:.3}",
        cost_ratio(&rounds)
    );
    assert!(cost_ratio(&rounds) >= 0.9, "{:.3}: {rounds:?}", cost_ratio(&rounds));
}

/// 1,000 consumers, each with a key `mg-0`, `mg-1`, …
fn consumers() -> String {
    let key = |i| {
        let digest = KeyDigest::of(&format!("mg-{i}")).to_hex();
        format!("  - {{ name: key-{i}, consumer: team-{i}, sha256: \"{digest}\" }}\n")
    };
    let keys: String = (0..1_000).map(key).collect();
    format!("keys:\n{keys}")
}

/// With the usual bounds (`metrics.consumers`, `models`, `servers`); what does not depend on them is below 200 series.
const MOST_SERIES: usize = 28 * 201 + 62 * 101 + 41 * 101 + 200;
const SCRAPE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_a_thousand_consumers_and_two_hundred_models_are_few_and_soon_read() {
    let Some(binary) = need(optimised(), "the optimised program") else { return };
    let names: Vec<String> = (0..200).map(|model| format!("model-{model:03}")).collect();
    let sim = Sim::start("a", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let telemetry = format!("listen: {{ telemetry: \"127.0.0.1:{}\" }}\n", testkit::free_port());
    let config = config(&sim, &format!("{}{telemetry}", consumers()));
    let mut modelgate = Modelgate::builder(&binary, &config).keep_state().start().await;
    modelgate.wait_ready().await;
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    // Each consumer asks for four models, so each model is asked for by twenty consumers.
    let mut asking = JoinSet::new();
    for worker in 0..20 {
        let (client, url) = (client.clone(), format!("{}/auth", modelgate.requests_url()));
        asking.spawn(async move {
            for request in (worker..4_000).step_by(20) {
                let (consumer, model) = (request / 4, (request * 53) % 200);
                let question = client.post(&url).bearer_auth(format!("mg-{consumer}"));
                let question = question.header("x-forwarded-method", "POST");
                let question = question.header("x-forwarded-uri", "/v1/chat/completions");
                let body = common::chat(&format!("model-{model:03}"));
                assert_eq!(common::send(question.json(&body)).await.status(), 200);
            }
        });
    }
    asking.join_all().await;
    let url = format!("{}/metrics", modelgate.admin_url());
    let counted = eventually(Duration::from_secs(60), || async {
        let text = common::send(client.get(&url)).await.text().await.expect("text");
        let of = text.lines().filter(|line| line.starts_with("modelgate_consumer_decisions_total"));
        let all: f64 = of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
        (all == 4_000.0).then_some(text)
    })
    .await;
    assert!(
        counted.contains("modelgate_consumer_decisions_total{consumer=\"(others)\",decision=\"allowed\"")
    );
    let series = counted.lines().filter(|line| !line.starts_with('#')).count();
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Stopwatch::start();
        common::send(client.get(&url)).await.text().await.expect("text");
        times.push(start.elapsed());
    }
    println!("{series} series of at most {MOST_SERIES}, {} bytes, read in {times:?}", counted.len());
    assert!((5_000..MOST_SERIES).contains(&series), "{series}");
    assert!(testkit::median(&times) < SCRAPE, "{times:?}");
}
