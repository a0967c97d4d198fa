//! What a store may do to a Modelgate: lose an answer, hold what cannot be read, or hang.

mod common;

use std::time::{Duration, Instant};

use access::KeyDigest;
use common::{
    auth::{Auth, config, file_key},
    both::{ADMIN, TestStore},
    relay::Relay,
};
use serde_json::{Value, json};
use testkit::{
    eventually,
    modelgate::Modelgate,
    need,
    postgres::{Postgres, postgres_binary},
    sim::Sim,
};

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");

with_both! {
    what_cannot_be_read_takes_nothing_else_away
}

/// What the database has of the one quota that is counted, and of usage.
async fn counted(server: &Postgres, url: &str) -> (u64, u64) {
    let number = async |statement: &str| server.ask(url, statement).await.parse::<u64>().expect("a number");
    (
        number("SELECT coalesce(max(used), 0) FROM quota_counts").await,
        number("SELECT coalesce(sum(requests), 0) FROM usage").await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_whose_answer_was_lost_count_once() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let server = Postgres::shared(&binary).await;
    let url = server.create_database().await;
    let relay = Relay::to(server.port()).await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_month: 1000000"));
    let behind = relay.url(&url, server.port());
    let modelgate = Modelgate::builder(BINARY, &yaml).env("MODELGATE_STORE_URL", behind).start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    let mut asked = 1;
    let are_counted = async |asked: u64| {
        eventually(Duration::from_secs(60), || async {
            let found = counted(&server, &url).await;
            assert!(found.0 <= asked && found.1 <= asked, "{found:?} of {asked}");
            (found == (asked, asked)).then_some(())
        })
        .await;
    };
    are_counted(asked).await;
    for round in 1..=3 {
        relay.lose(1);
        while relay.lost() < round {
            assert_eq!(auth.status("mg-alice").await, 200, "nobody waits for the store");
            asked += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        are_counted(asked).await;
        let limits = auth.limits("mg-alice").await;
        assert_eq!(limits["limits"][0]["remaining"], 1_000_000 - asked, "{limits}");
    }
    // They stay what they are.
    assert_eq!(auth.status("mg-alice").await, 200);
    are_counted(asked + 1).await;
    assert!(modelgate.log().contains("the store is back"), "{}", modelgate.log());
}

/// A newer Modelgate, or somebody by hand, has written what this one cannot read.
async fn what_cannot_be_read_takes_nothing_else_away(place: TestStore) {
    let sim = Sim::start("sim", &["llama"]);
    let mut modelgate = place.start(&sim).await;
    let auth = Auth::of(&modelgate);
    json(&place, &["plans", "set", "gold", "--limit", "requests_per_day=1000"]);
    json(&place, &["consumers", "set", "sick", "--limit", "requests_per_day=1000"]);
    let mut keys = std::collections::HashMap::new();
    for (name, more) in [
        ("good", [].as_slice()),
        ("bad", &[]),
        ("golden", &["--plan", "gold"]),
        ("of-sick", &["--consumer", "sick"]),
    ] {
        let made = json(&place, &[&["keys", "create", name], more].concat());
        keys.insert(name, made["api_key"].as_str().expect("a key").to_owned());
    }
    for key in keys.values() {
        auth.until(key, 200).await;
    }
    let digest = KeyDigest::of(&keys["bad"]).to_hex();
    documents_are_spoilt(&place, &digest).await;
    auth.until(&keys["good"], 200).await;
    // Also after a restart.
    what_depends_on_them_is_refused(&modelgate, &auth, &keys).await;
    modelgate.restart().await;
    modelgate.wait_ready().await;
    what_depends_on_them_is_refused(&modelgate, &auth, &keys).await;
    lists_name_them_and_show_the_rest(&place, &modelgate, &digest).await;
    they_are_deleted(&place, &modelgate).await;
    assert_eq!(auth.status(&keys["good"]).await, 200);
    assert!(!modelgate.log().contains(&digest));
}

/// What a command says as JSON.
fn json(place: &TestStore, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = place.run(&[arguments, &["--json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

async fn documents_are_spoilt(place: &TestStore, digest: &str) {
    let documents = [
        ("key", "bad", json!({ "name": "bad", "consumer": "team", "sha256": digest, "colour": "red" })),
        ("plan", "gold", json!({ "name": "gold", "limit": { "requests_per_fortnight": 5 } })),
        ("consumer", "sick", json!({ "name": "another", "limit": { "requests_per_day": 1000 } })),
    ];
    for (kind, name, document) in &documents {
        // One transaction, as each of its statements alone might be seen.
        let change = format!(
            "BEGIN; UPDATE revision SET value = value + 1; \
             UPDATE accounts SET document = '{document}' WHERE kind = '{kind}' AND name = '{name}'; \
             INSERT INTO changes SELECT value, '{kind}', '{name}' FROM revision; COMMIT"
        );
        place.change(&change).await;
    }
}

/// As its limits are not known; the rest lives.
async fn what_depends_on_them_is_refused(
    modelgate: &Modelgate,
    auth: &Auth,
    keys: &std::collections::HashMap<&str, String>,
) {
    for name in ["bad", "golden", "of-sick"] {
        auth.until(&keys[name], 401).await;
    }
    assert_eq!(auth.status(&keys["good"]).await, 200);
    let store = modelgate.readyz().await["store"].clone();
    assert_eq!(store["state"], "up", "{store}");
    for part in [
        "key \"bad\" is not in force: it cannot be read: the document: unknown key `colour`",
        "plan \"gold\" is not in force: it cannot be read: limit: unknown key `requests_per_fortnight`",
        "key \"golden\" is not in force: its plan \"gold\" does not exist",
        "consumer \"sick\" is not in force: it cannot be read: the document contains another name",
    ] {
        let problems = store["problems"].as_array().expect("problems");
        let named = problems.iter().filter(|problem| problem.as_str().is_some_and(|p| p.starts_with(part)));
        assert_eq!(named.count(), 1, "{part}: {store}");
        let logged = part.replace('"', "\\\"");
        assert!(modelgate.log().contains(&logged), "{part}: {}", modelgate.log());
    }
    let findings = store["findings"].as_array().expect("findings").iter();
    let mut codes: Vec<_> = findings.map(|f| (f["about"].as_str(), f["code"].as_str())).collect();
    codes.sort_unstable();
    let expected = [
        ("consumer sick", "unreadable_account"),
        ("key bad", "unreadable_account"),
        ("key golden", "account_without_plan"),
        ("plan gold", "unreadable_account"),
    ];
    assert_eq!(codes, expected.map(|(about, code)| (Some(about), Some(code))), "{store}");
}

async fn lists_name_them_and_show_the_rest(place: &TestStore, modelgate: &Modelgate, digest: &str) {
    let names = |rows: &Value| -> Vec<String> {
        let rows = rows.as_array().expect("a list").iter();
        rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    };
    for (kind, rest, bad) in [
        ("keys", &["golden", "good", "in-file", "of-sick"][..], "bad"),
        ("plans", &["file-plan"], "gold"),
        ("consumers", &["bad", "file-team", "golden", "good"], "sick"),
    ] {
        let (code, stdout, told) = place.run(&[kind, "list", "--json"]);
        assert_eq!(
            (code, names(&serde_json::from_str(&stdout).expect("JSON"))),
            (Some(0), rest.iter().map(|n| (*n).to_owned()).collect())
        );
        assert!(
            told.starts_with("left out: the ") && told.contains(&format!("{bad:?} cannot be read")),
            "{told}"
        );
        let url = format!("{}/api/v1/{kind}", modelgate.admin_url());
        let listed: Value =
            common::send(testkit::client().get(url).bearer_auth(ADMIN)).await.json().await.expect("JSON");
        assert_eq!(names(&listed["items"]), rest);
        let about = format!("{} {bad}", &kind[..kind.len() - 1]);
        assert_eq!(
            (&listed["problems"][0]["about"], &listed["total"]),
            (&json!(about), &json!(rest.len() + 1))
        );
        let (code, stdout, told) = place.run(&[kind, "show", bad]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(told.contains("cannot be read") && told.contains("delete it and make it anew"), "{told}");
        for text in [told, listed.to_string()] {
            assert!(!text.contains(digest), "a digest: {text}");
        }
    }
    assert_eq!(json(place, &["keys", "show", "of-sick"])["state"], "disabled");
    let api = format!("{}/api/v1/keys/bad", modelgate.admin_url());
    let answer = common::send(testkit::client().get(api).bearer_auth(ADMIN)).await;
    assert_eq!(answer.status(), 409);
    assert_eq!(answer.json::<Value>().await.expect("JSON")["code"], "unreadable_account");
}

/// What can be done about it: what the message says.
async fn they_are_deleted(place: &TestStore, modelgate: &Modelgate) {
    assert_eq!(json(place, &["keys", "delete", "bad"])["deleted"], true);
    json(place, &["keys", "delete", "golden"]);
    json(place, &["plans", "delete", "gold"]);
    json(place, &["keys", "delete", "of-sick"]);
    json(place, &["consumers", "delete", "sick"]);
    eventually(Duration::from_secs(60), || async {
        (modelgate.readyz().await["store"].get("problems").is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_keeps_no_command_waiting_for_ever() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let mut server = Postgres::start(&binary).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("modelgate.yaml"), "docker: { enabled: false }\n").expect("written");
    let url = server.url();
    let run = |arguments: &[&str]| {
        let mut command = testkit::modelgate::command(BINARY);
        command.env("MODELGATE_STORE_URL", &url).current_dir(folder.path()).args(arguments);
        let start = Instant::now();
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), start.elapsed())
    };
    assert_eq!(run(&["keys", "create", "a"]).0, Some(0));
    server.freeze();
    for arguments in [&["keys", "list"][..], &["keys", "disable", "a"], &["usage"], &["audit"]] {
        let (code, told, took) = run(arguments);
        assert_eq!(code, Some(1), "{told}");
        assert!(
            told.contains("does not answer") && told.contains("MODELGATE_STORE_URL"),
            "what to do: {told}"
        );
        assert!(!told.contains("a-password"), "{told}");
        assert!(took < Duration::from_secs(25), "{took:?}");
    }
}
