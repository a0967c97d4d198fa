//! 100,000 keys: how soon it serves, how much memory it takes, and what a decision costs.
//!
//! Measured with the optimised program, which `cargo xtask test --install` builds and names in `MODELGATE_TEST_RELEASE`.

mod common;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use common::auth::Auth;
use testkit::{
    Stopwatch, cost_ratio, eventually,
    load::Until,
    modelgate::{Modelgate, optimised},
    need,
    sim::Sim,
};

/// Keys `mg-0`, `mg-1`, … put into SQLite by its own library: a hundred thousand commands would take minutes.
const FILL: &str = r#"
import hashlib, json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
def row(i):
    digest = hashlib.sha256(f"mg-{i}".encode()).hexdigest()
    limit = {"requests_per_minute": 60000000, "tokens_per_day": 1000000000000}
    document = {"name": f"key-{i}", "consumer": f"team-{i % 1000}", "sha256": digest, "models": ["llama*"], "limit": limit, "note": "one of many"}
    return ("key", document["name"], json.dumps(document), document["consumer"], digest, 0, 0)
rows = map(row, range(int(sys.argv[2])))
db.executemany("INSERT INTO accounts (kind, name, document, consumer, sha256, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
db.commit()
"#;

/// A Modelgate with so many keys in its store, and how long its second start took.
async fn with_keys(binary: &PathBuf, sim: &Sim, count: u32) -> (Modelgate, Duration) {
    let yaml = format!("servers: [{{ url: \"{}\" }}]\n", sim.url());
    let mut modelgate = Modelgate::builder(binary, &yaml).keep_state().start().await;
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

/// What Linux says of a process, in MiB (proc(5)): the most memory that it ever had.
fn peak_memory(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
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

    const REQUESTS: usize = 8_000;
    let mut rounds: Vec<[f64; 2]> = Vec::new();
    while rounds.len() < 9 || (cost_ratio(&rounds) < 0.9 && rounds.len() < 27) {
        let mut round = [0.0; 2];
        for (i, id) in [few.id(), many.id()].into_iter().enumerate() {
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
