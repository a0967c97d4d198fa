//! The store behind a running Modelgate: quotas that outlive it, changes that reach every replica, and outages.

mod common;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use access::{KeyDigest, NewKey, UsageHour, Used, UsedCounts};
use accounts::{AccountKind, Accounts, KeySpec};
use common::auth::{Auth, config, file_key};
use serde_json::{Value, json};
use store::{Actor, AuditFilter, Batch, Registry, Store, UsageFilter, UsageRow, UsedOn, Writer};
use testkit::{
    Stopwatch, eventually,
    modelgate::Modelgate,
    need,
    postgres::{Postgres, postgres_binary},
    sim::Sim,
};
use tokio::sync::Mutex;

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
/// Who changes accounts beside Modelgate.
static TESTER: LazyLock<Actor> = LazyLock::new(|| "test".into());
const SECOND: Duration = Duration::from_secs(1);

/// What others write into the same store.
async fn registry(url: &str) -> Registry {
    let registry = Registry::new(Accounts::default());
    registry.set_store(Store::open(url.parse().expect("a URL")).await.expect("a store"));
    registry
}

fn sqlite_url(modelgate: &Modelgate) -> String {
    format!("sqlite://{}", modelgate.folder().join("state/modelgate.db").display())
}

/// Some of the tests measure, so none runs beside another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// What SQLite's own library, in Python, says of the file, and of a key in clear in any file beside it.
fn check_sqlite(folder: &Path, clear: &str) {
    let script = "import sqlite3, sys\nprint(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";
    let file = folder.join("modelgate.db");
    let output = Command::new("python3").arg("-c").arg(script).arg(&file).output().expect("Python runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "ok",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for file in std::fs::read_dir(folder).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).unwrap_or_default();
        assert!(!bytes.windows(clear.len()).any(|part| part == clear.as_bytes()), "a key in clear");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_a_second_of_counts_at_most_and_never_the_file() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_day: 1000000, tokens_per_month: 100000000"));
    let mut modelgate = Modelgate::builder(BINARY, &yaml).keep_state().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    // Killed in the middle of the load, again and again.
    let mut counted_before = 0;
    for round in 0..5 {
        let before = used(&auth).await;
        assert!(before >= counted_before, "{before} after {counted_before}: a restart loses nothing more");
        let workers: Vec<_> = (0..8).map(|_| tokio::spawn(ask_until_nobody_answers(auth.clone()))).collect();
        let stopwatch = Stopwatch::start();
        while stopwatch.elapsed() < Duration::from_millis(1_700 + 130 * round) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let killed = Stopwatch::start();
        modelgate.kill();
        let mut passed = Vec::new();
        for worker in workers {
            passed.extend(worker.await.expect("no panic"));
        }
        modelgate.restart().await;
        auth.until("mg-alice", 200).await;
        counted_before = used(&auth).await - 1;
        let counted = counted_before - before;
        assert!(passed.len() > 200, "a load worth the name");
        assert!(counted <= passed.len() as u64 + 8, "{counted} of {}", passed.len());
        passed.sort_unstable();
        let lost = match passed.get(usize::try_from(counted).expect("few")) {
            Some(first) => first.elapsed().saturating_sub(killed.elapsed()),
            None => Duration::ZERO,
        };
        eprintln!("{} passed, {counted} counted; the last {lost:?} are lost", passed.len());
        assert!(lost < SECOND, "{lost:?}");
    }
    modelgate.stop().await;
    check_sqlite(&modelgate.folder().join("state"), "mg-alice");
}

async fn ask_until_nobody_answers(auth: Auth) -> Vec<Stopwatch> {
    let mut passed = Vec::new();
    while let Some(answer) = auth.try_ask("mg-alice").await {
        assert_eq!(answer.status, 200);
        passed.push(Stopwatch::start());
    }
    passed
}

/// Requests of today, from what is left of a million.
async fn used(auth: &Auth) -> u64 {
    let limits = auth.limits("mg-alice").await;
    let day = limits["limits"].as_array().and_then(|all| all.iter().find(|limit| limit["per"] == "day"));
    1_000_000 - day.expect("a quota")["remaining"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_used_up_once_however_often_one_restarts() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_month: 3"));
    let mut modelgate = Modelgate::builder(BINARY, &yaml).keep_state().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    assert_eq!(auth.status("mg-alice").await, 200);
    modelgate.restart().await;
    auth.until("mg-alice", 200).await;
    for _ in 0..2 {
        let answer = auth.ask("mg-alice").await;
        let told = (answer.status, answer.code.as_str());
        assert_eq!(told, (429, "insufficient_quota"), "{}", modelgate.log());
        modelgate.restart().await;
        auth.until("mg-alice", 429).await;
    }
}

/// Another program that writes to SQLite's file: nobody else can meanwhile.
fn lock_for(seconds: u32, file: &Path) -> Child {
    const SCRIPT: &str = "import sqlite3, sys, time\n\
        db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n\
        db.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\ntime.sleep(int(sys.argv[2]))\ndb.execute('ROLLBACK')";
    let mut python = Command::new("python3");
    let mut child = python
        .args(["-c", SCRIPT])
        .arg(file)
        .arg(seconds.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut line = String::new();
    let output = child.stdout.as_mut().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    assert_eq!(line, "locked\n");
    child
}

/// What was counted since the last write was lost, if the store did not take it within two seconds of the signal to stop:
/// an import or a backup may be writing, or the machine be busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_busy_while_modelgate_stops_gets_the_counts_all_the_same() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_day: 1000000"));
    let mut modelgate = Modelgate::builder(BINARY, &yaml).keep_state().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    let mut other = lock_for(4, &modelgate.folder().join("state/modelgate.db"));
    let counted = used(&auth).await + 20;
    for _ in 0..20 {
        assert_eq!(auth.status("mg-alice").await, 200);
    }
    modelgate.restart().await;
    assert!(other.wait().expect("it ends").success());
    auth.until("mg-alice", 200).await;
    assert_eq!(used(&auth).await, counted + 1, "{}", modelgate.log());
}

/// The files in which a stop has kept what it could not write.
fn kept_files(modelgate: &Modelgate) -> Vec<PathBuf> {
    let all = std::fs::read_dir(modelgate.folder().join("state")).expect("a folder");
    let all = all.map(|file| file.expect("a file").path());
    all.filter(|path| path.display().to_string().contains("unwritten-")).collect()
}

async fn wait_until_used(auth: &Auth, expected: u64, modelgate: &Modelgate) {
    let found = testkit::within(Duration::from_secs(60), || async {
        let found = used(auth).await;
        assert!(found <= expected, "{found}: more than {expected} were asked");
        (found == expected).then_some(())
    });
    assert!(found.await.is_some(), "{} of {expected}\n{}", used(auth).await, modelgate.log());
}

/// Regression: what the store did not take before the end of a stop was lost, so a hard budget could be exceeded by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stop_cannot_write_is_kept_in_a_file_and_written_once() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_day: 1000000"));
    let mut modelgate = Modelgate::builder(BINARY, &yaml).keep_state().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    let mut other = lock_for(300, &modelgate.folder().join("state/modelgate.db"));
    for _ in 0..20 {
        assert_eq!(auth.status("mg-alice").await, 200);
    }
    let counted = used(&auth).await;
    let status = modelgate.stop().await;
    assert_eq!(status.code(), Some(0), "{}", modelgate.log());
    assert!(modelgate.log().contains("they are kept in a file"), "{}", modelgate.log());
    let files = kept_files(&modelgate);
    let [file] = &files[..] else { panic!("{files:?}") };
    let bytes = std::fs::read(file).expect("a file");
    assert!(!bytes.windows(8).any(|part| part == b"mg-alice"), "a key in clear");
    assert_eq!(std::fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
    // A start does not wait for a store that can only be read.
    modelgate.restart().await;
    other.kill().expect("it runs");
    other.wait().expect("it ends");
    wait_until_used(&auth, counted, &modelgate).await;
    eventually(Duration::from_secs(20), || async { kept_files(&modelgate).is_empty().then_some(()) }).await;
    // As if it had been killed after the store had taken it, and before the file was removed.
    modelgate.stop().await;
    std::fs::write(file, &bytes).expect("written");
    modelgate.restart().await;
    assert_eq!(used(&auth).await, counted, "{}", modelgate.log());
    assert_eq!(kept_files(&modelgate), [] as [PathBuf; 0], "{}", modelgate.log());
    modelgate.stop().await;
    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
    modelgate.restart().await;
    modelgate.wait_ready().await;
    assert_eq!(used(&auth).await, counted, "{}", modelgate.log());
    assert_eq!(kept_files(&modelgate), std::slice::from_ref(file), "nobody deletes what cannot be read");
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(modelgate.log().contains(name) && modelgate.log().contains("damaged"), "{}", modelgate.log());
    let finding = "modelgate_issues{code=\"counts_left_in_file\",severity=\"warn\"} 1";
    let is_told = async || metrics(&modelgate).await.contains(finding);
    assert!(is_told().await, "{}", metrics(&modelgate).await);
    std::fs::remove_file(file).expect("removed");
    eventually(Duration::from_secs(20), || async { (!is_told().await).then_some(()) }).await;
}

async fn metrics(modelgate: &Modelgate) -> String {
    let url = format!("{}/metrics", modelgate.admin_url());
    reqwest::get(url).await.expect("an answer").text().await.expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_postgresql_that_hangs_does_not_take_is_kept_or_said_to_be_lost() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let _alone = ALONE.lock().await;
    let mut server = Postgres::start(&binary).await;
    let url = server.create_database().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_day: 1000000"));
    let builder = || Modelgate::builder(BINARY, &yaml).env("MODELGATE_STORE_URL", url.as_str());
    let mut modelgate = builder().keep_state().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    server.freeze();
    for _ in 0..20 {
        assert_eq!(auth.status("mg-alice").await, 200);
    }
    let counted = used(&auth).await;
    assert_eq!(modelgate.stop().await.code(), Some(0), "{}", modelgate.log());
    assert_eq!(kept_files(&modelgate).len(), 1, "{}", modelgate.log());
    // This one never reaches it.
    modelgate.restart().await;
    auth.until("mg-alice", 200).await;
    let more = used(&auth).await;
    assert_eq!(modelgate.stop().await.code(), Some(0), "{}", modelgate.log());
    assert_eq!(kept_files(&modelgate).len(), 2, "{}", modelgate.log());
    server.thaw();
    modelgate.restart().await;
    wait_until_used(&auth, counted + more, &modelgate).await;
    eventually(Duration::from_secs(20), || async { kept_files(&modelgate).is_empty().then_some(()) }).await;
    modelgate.stop().await;
    // Without a folder it can only say so. Regression: it ended with status 0, as if nothing had been lost.
    let mut modelgate = builder().start().await;
    let auth = Auth::of(&modelgate);
    auth.until("mg-alice", 200).await;
    server.freeze();
    assert_eq!(auth.status("mg-alice").await, 200);
    assert_eq!(modelgate.stop().await.code(), Some(1), "{}", modelgate.log());
    assert!(modelgate.log().contains("error: the last counts could not be written"), "{}", modelgate.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_one_replica_has_used_up_is_used_up_at_the_other() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let _alone = ALONE.lock().await;
    let server = Postgres::shared(&binary).await;
    let url = server.create_database().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("alice", "requests_per_month: 3"));
    let start = || Modelgate::builder(BINARY, &yaml).env("MODELGATE_STORE_URL", url.as_str()).start();
    let (first, second) = (start().await, start().await);
    let (first, second) = (Auth::of(&first), Auth::of(&second));
    first.until("mg-alice", 200).await;
    assert_eq!((first.status("mg-alice").await, first.status("mg-alice").await), (200, 200));
    assert_eq!(first.status("mg-alice").await, 429);
    // Nobody has asked the second one before: it has counted nothing that it could put together with the store's.
    eventually(Duration::from_secs(60), || async {
        let limits = second.limits("mg-alice").await;
        (limits["limits"][0]["remaining"] == 0).then_some(())
    })
    .await;
    let answer = second.ask("mg-alice").await;
    assert_eq!((answer.status, answer.code.as_str()), (429, "insufficient_quota"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_store_come_rotate_expire_and_go_within_a_second_on_both_replicas() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let _alone = ALONE.lock().await;
    let server = Postgres::shared(&binary).await;
    let url = server.create_database().await;
    let sim = Sim::start("a", &["llama"]);
    let start =
        || Modelgate::builder(BINARY, &config(&sim, "")).env("MODELGATE_STORE_URL", url.as_str()).start();
    let (first, second) = (start().await, start().await);
    let replicas = [Auth::of(&first), Auth::of(&second)];
    let registry = registry(&url).await;
    let (_, key) = registry.create_key(&json!({ "name": "first" }), &TESTER).await.expect("a key");
    let probe = key.expect("new");
    for replica in &replicas {
        replica.until(probe.reveal(), 200).await;
    }
    let both = Both { replicas, registry };
    for round in 0..2 {
        let mut keys = both.a_key_comes_rotates_and_expires(&format!("alice-{round}")).await;
        keys.push(both.a_plan_limits_its_keys(&format!("bob-{round}"), &format!("plan-{round}")).await);
        for modelgate in [&first, &second] {
            for key in &keys {
                assert!(!modelgate.log().contains(key.reveal()));
            }
        }
    }
}

/// Two replicas, and what changes their store.
struct Both {
    replicas: [Auth; 2],
    registry: Registry,
}

impl Both {
    /// Waits until a key is answered like that at both, and says how long the slower took.
    async fn slowest(&self, key: &NewKey, status: u16) -> Duration {
        let [first, second] = &self.replicas;
        let times = tokio::join!(first.until(key.reveal(), status), second.until(key.reveal(), status));
        times.0.max(times.1)
    }

    /// The same, within a second.
    #[expect(clippy::print_stderr, reason = "figures for whoever reads the test's output")]
    async fn soon(&self, what: &str, key: &NewKey, status: u16) {
        let time = self.slowest(key, status).await;
        eprintln!("{what}, on both, after {time:?}");
        assert!(time < SECOND, "{what}: {time:?}");
    }

    async fn create(&self, document: Value) -> NewKey {
        self.registry.create_key(&document, &TESTER).await.expect("a key").1.expect("new")
    }

    async fn a_key_comes_rotates_and_expires(&self, name: &str) -> Vec<NewKey> {
        let change = async |patch: Value| {
            self.registry.patch::<KeySpec>(name, &patch, &TESTER).await.expect("changed");
        };
        let key = self.create(json!({ "name": name, "consumer": "team" })).await;
        self.soon("created", &key, 200).await;
        change(json!({ "disabled": true })).await;
        self.soon("disabled", &key, 401).await;
        change(json!({ "disabled": null })).await;
        self.soon("enabled", &key, 200).await;

        let (item, rotated) = self.registry.rotate(name, 2 * SECOND, &TESTER).await.expect("rotated");
        self.soon("rotated", &rotated, 200).await;
        let grace_ends = item.account.previous.expect("the old one").until;
        for replica in &self.replicas {
            let answer = replica.status(key.reveal()).await;
            assert!(answer == 200 || SystemTime::now() >= grace_ends, "both work");
        }
        sleep_until(grace_ends).await;
        self.soon("the grace is over", &key, 401).await;
        assert_eq!(self.replicas[0].status(rotated.reveal()).await, 200);

        let expires = SystemTime::now() + 2 * SECOND;
        change(json!({ "expires": humantime::format_rfc3339_millis(expires).to_string() })).await;
        let answer = self.replicas[1].status(rotated.reveal()).await;
        assert!(answer == 200 || SystemTime::now() >= expires, "not yet");
        sleep_until(expires).await;
        self.soon("expired", &rotated, 401).await;
        vec![key, rotated]
    }

    /// A plan is changed, and with it the limits of every key that has it.
    async fn a_plan_limits_its_keys(&self, name: &str, plan: &str) -> NewKey {
        let limit = async |amount: u32| {
            let document = json!({ "limit": { "requests_per_hour": amount } });
            self.registry.put::<accounts::Plan>(plan, &document, &TESTER).await.expect("a plan");
        };
        limit(100).await;
        let key = self.create(json!({ "name": name, "plan": plan })).await;
        self.slowest(&key, 200).await;
        limit(1).await;
        self.soon("limited", &key, 429).await;
        self.registry.delete(AccountKind::Key, name, &TESTER).await.expect("deleted");
        self.soon("revoked", &key, 401).await;
        key
    }
}

async fn sleep_until(time: SystemTime) {
    tokio::time::sleep(time.duration_since(SystemTime::now()).unwrap_or_default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_leaves_everything_in_force() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let _alone = ALONE.lock().await;
    let mut server = Postgres::start(&binary).await;
    let url = server.create_database().await;
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, &file_key("of-file", "requests_per_day: 1000000"));
    let mut modelgate =
        Modelgate::builder(BINARY, &yaml).env("MODELGATE_STORE_URL", url.as_str()).start().await;
    let auth = Auth::of(&modelgate);
    let registry = registry(&url).await;
    let new = json!({ "name": "alice", "limit": { "requests_per_day": 1_000_000 } });
    let alice = registry.create_key(&new, &TESTER).await.expect("a key").1.expect("new");
    auth.until(alice.reveal(), 200).await;
    let mut asked = 1;
    let store = async || modelgate.readyz().await["store"].clone();
    assert_eq!(store().await, json!({ "state": "up", "kind": "PostgreSQL" }));

    server.kill();
    let told = eventually(Duration::from_secs(60), || async {
        Some(store().await).filter(|s| s["state"] == "down")
    })
    .await;
    assert!(told["why"].as_str().is_some_and(|why| !why.contains(&url)), "{told}");
    let mut took = Vec::new();
    for _ in 0..50 {
        let answer = auth.ask(alice.reveal()).await;
        assert_eq!(answer.status, 200, "what it said last is in force");
        took.push(answer.took);
    }
    asked += took.len();
    let slow = testkit::percentile(&took, 99.0);
    assert!(slow < Duration::from_millis(200), "nobody waits for the store: {took:?}");
    // The file can be changed meanwhile; what is stored stays.
    modelgate.write_config(&config(&sim, &file_key("other", "requests_per_day: 5")));
    auth.until("mg-other", 200).await;
    assert_eq!((auth.status("mg-of-file").await, auth.status(alice.reveal()).await), (401, 200));

    server.restart().await;
    eventually(Duration::from_secs(60), || async { (store().await["state"] == "up").then_some(()) }).await;
    are_counted(&server, &url, asked + 1).await;
    assert_eq!(auth.status(alice.reveal()).await, 200);

    modelgate.stop().await;
    server.kill();
    modelgate.restart().await;
    it_is_found_when_it_comes(&mut server, &auth, alice.reveal()).await;
}

/// What was counted while the store was down is written when it is back.
async fn are_counted(server: &Postgres, url: &str, asked: usize) {
    eventually(Duration::from_secs(60), || async {
        let used = server.ask(url, "SELECT coalesce(max(used), 0) FROM quota_counts").await;
        (used.trim().parse::<usize>().expect("a number") >= asked).then_some(())
    })
    .await;
}

/// Down at the start: nobody is called wrong.
async fn it_is_found_when_it_comes(server: &mut Postgres, auth: &Auth, of_store: &str) {
    auth.until("mg-other", 200).await;
    let unknown = auth.ask(of_store).await;
    assert_eq!((unknown.status, unknown.code.as_str()), (503, "api_keys_unavailable"));
    server.restart().await;
    auth.until(of_store, 200).await;
    let never = NewKey::generate().expect("a key");
    assert_eq!(auth.status(never.reveal()).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_some_refusals_are_written_down() {
    let _alone = ALONE.lock().await;
    let sim = Sim::start("a", &["llama"]);
    let keys = file_key("alice", "requests_per_hour: 5");
    let revoked = KeyDigest::of("mg-revoked").to_hex();
    let keys = keys.replace(
        "}]",
        &format!("}}, {{ name: revoked, consumer: old, sha256: \"{revoked}\", disabled: true }}]"),
    );
    let mut modelgate = Modelgate::builder(BINARY, &config(&sim, &keys)).keep_state().start().await;
    let auth = Auth::of(&modelgate);
    modelgate.wait_ready().await;
    auth.until("mg-alice", 200).await;
    for _ in 0..30 {
        auth.ask("mg-alice").await;
    }
    // Who still uses it?
    assert_eq!(auth.status("mg-revoked").await, 401);
    let registry = registry(&sqlite_url(&modelgate)).await;
    let store = registry.store().expect("a store");
    let usage = eventually(Duration::from_secs(60), || async {
        let rows = store.usage(&UsageFilter { limit: 10, ..UsageFilter::default() }).await.expect("rows");
        let is_it = |row: &UsageRow| row.counts.requests == 5 && row.counts.refused >= 26;
        rows.into_iter().find(|row| row.model.as_deref() == Some("llama") && is_it(row))
    })
    .await;
    // Ten for the answer and two for the words of the request at least; five requests.
    assert_eq!((usage.key.as_deref(), usage.consumer.as_deref()), (Some("alice"), Some("team")));
    assert_eq!((usage.counts.tokens(), usage.counts.estimated), (50, 50));
    let refusals =
        AuditFilter { action: Some("request refused".into()), limit: 100, ..AuditFilter::default() };
    let entries = eventually(Duration::from_secs(60), || async {
        let entries = store.audit(&refusals).await.expect("entries");
        let has = |reason| entries.iter().any(|entry| entry.details["reason"] == reason);
        (has("rate_limit_exceeded") && has("disabled_api_key")).then_some(entries)
    })
    .await;
    let disabled = entries.iter().find(|entry| entry.details["reason"] == "disabled_api_key");
    let disabled = disabled.expect("an entry");
    assert_eq!(
        (disabled.subject.as_str(), &disabled.details["consumer"]),
        ("key revoked", &Value::from("old"))
    );
    eventually(Duration::from_secs(60), || async {
        let rows = store.usage(&UsageFilter { limit: 10, ..UsageFilter::default() }).await.expect("rows");
        let is_it = |row: &UsageRow| (row.counts.requests, row.counts.refused) == (0, 1);
        rows.into_iter().find(|row| row.key.as_deref() == Some("revoked") && is_it(row))
    })
    .await;
    let limited: Vec<_> =
        entries.iter().filter(|entry| entry.details["reason"] == "rate_limit_exceeded").collect();
    assert_eq!(limited.len(), 1, "one of many equal ones: {limited:?}");
    assert_eq!(
        (limited[0].subject.as_str(), &limited[0].details["model"]),
        ("key alice", &Value::from("llama"))
    );
    assert!(!serde_json::to_string(&entries).expect("JSON").contains("mg-alice"));
}

/// By day as long as the configuration says, by hour for 35 days.
#[tokio::test(flavor = "multi_thread")]
async fn old_usage_is_deleted_in_the_background() {
    let sim = Sim::start("a", &["llama"]);
    let yaml = config(&sim, "usage: { keep: 2400h }\n");
    let mut modelgate = Modelgate::builder(BINARY, &yaml).keep_state().start().await;
    modelgate.wait_ready().await;
    modelgate.stop().await;
    let registry = registry(&sqlite_url(&modelgate)).await;
    let store = registry.store().expect("a store");
    let now = jiff::Timestamp::now().as_second();
    let used = |days: i64, key: &str| {
        let seconds = (now - days * 86_400) / 3_600 * 3_600;
        let day = jiff::Timestamp::from_second(seconds).expect("a time").strftime("%Y-%m-%d").to_string();
        let counts = UsedCounts { requests: 1, ..UsedCounts::default() };
        let [key, consumer, model] = [key, "team", "llama"].map(str::to_owned);
        let hour = UsageHour(u32::try_from(seconds).expect("after 1970"));
        UsedOn { day, used: Used { hour, key, consumer, model, counts } }
    };
    let ages = [(500, 1_200), (102, 1), (98, 1), (37, 1), (33, 1)];
    let all = ages.iter().flat_map(|(days, keys)| (0..*keys).map(move |key| (*days, key)));
    let all: Vec<UsedOn> = all.map(|(days, key)| used(days, &format!("key-{key}"))).collect();
    for (number, used) in (1..).zip(all.chunks(500)) {
        let batch = Batch { number, counts: Vec::new(), used: used.into(), at: SystemTime::now() };
        store.add(&Writer::new(), &batch).await.expect("added");
    }
    modelgate.restart().await;
    for (by, left) in [("day", 3), ("hour", 1)] {
        let filter =
            UsageFilter { by: by.parse().expect("a column"), limit: 5_000, ..UsageFilter::default() };
        eventually(Duration::from_secs(60), || async {
            let rows = store.usage(&filter).await.expect("rows");
            (rows.len() == left && rows.iter().all(|row| row.counts.requests == 1)).then_some(())
        })
        .await;
    }
}

/// Status, `retry-after` and code of `/auth`'s answer about a model.
async fn told(modelgate: &Modelgate, key: &str, model: &str) -> (u16, Option<String>, String) {
    let client = testkit::client_builder().danger_accept_invalid_certs(true).build().expect("a client");
    let question = client
        .post(format!("{}/auth", modelgate.requests_url()))
        .header("x-forwarded-method", "POST")
        .header("x-forwarded-uri", "/v1/chat/completions")
        .bearer_auth(key)
        .json(&json!({ "model": model, "messages": [] }));
    let answer = question.timeout(Duration::from_secs(10)).send().await.expect("an answer");
    let retry_after =
        answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    (status, retry_after, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

async fn until_told(modelgate: &Modelgate, model: &str, status: u16) {
    eventually(Duration::from_secs(30), || async {
        (told(modelgate, "mg-alice", model).await.0 == status).then_some(())
    })
    .await;
}

/// After a restart of everything clients were told that their model does not exist, if its server came later. And a server that was
/// never reached made every mistyped name one to wait for, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_was_there_before_a_restart_is_waited_for_and_no_other() {
    let postgres = match need(postgres_binary(), "PostgreSQL") {
        Some(binary) => Some(Postgres::shared(&binary).await),
        None => None,
    };
    let mut urls = vec![None];
    if let Some(postgres) = &postgres {
        urls.push(Some(postgres.create_database().await));
    }
    for url in urls {
        let keys = format!(
            "requests: {{ loading_time: 4s }}\nkeys:\n  - {{ name: alice, consumer: team, sha256: \"{}\" }}\n  - {{ name: bob, \
             consumer: team, sha256: \"{}\", models: [other] }}\n",
            KeyDigest::of("mg-alice").to_hex(),
            KeyDigest::of("mg-bob").to_hex()
        );
        let sim = Sim::start("a", &["llama"]);
        let yaml = format!("servers: [{{ url: \"{}\", name: a, aliases: [fast=llama] }}]\n{keys}", sim.url());
        let builder = Modelgate::builder(BINARY, &yaml).keep_state();
        let builder = match &url {
            Some(url) => builder.env("MODELGATE_STORE_URL", url.as_str()),
            None => builder,
        };
        let mut modelgate = builder.start().await;
        until_told(&modelgate, "llama", 200).await;
        let store_url = url.clone().unwrap_or_else(|| sqlite_url(&modelgate));
        let store = Store::open(store_url.parse().expect("a URL")).await.expect("a store");
        eventually(Duration::from_secs(30), || async {
            let names = store.model_names(SystemTime::UNIX_EPOCH, 9).await.expect("names");
            (names == ["fast", "llama"]).then_some(())
        })
        .await;
        assert_eq!(store.own_model_name("fast").await.expect("a name").as_deref(), Some("llama"));
        modelgate.stop().await;
        sim.stop().await;

        // Its server does not answer yet. It may have any model, for a while.
        modelgate.restart().await;
        modelgate.wait_ready().await;
        // It was ready before, and counts as ready until it has been asked.
        until_told(&modelgate, "fast", 503).await;
        let (status, retry_after, code) = told(&modelgate, "mg-alice", "fast").await;
        assert_eq!((status, code.as_str()), (503, "model_not_ready"));
        assert!(retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        until_told(&modelgate, "never", 404).await;
        assert_eq!(told(&modelgate, "mg-alice", "llama").await.0, 503, "it is still to come");
        assert_eq!(told(&modelgate, "mg-bob", "llama").await.0, 404, "names do not leak");

        // No server is left that could have it: after a start it is waited for all the same, but not for long.
        modelgate.write_config(&keys);
        modelgate.restart().await;
        modelgate.wait_ready().await;
        assert_eq!(told(&modelgate, "mg-alice", "llama").await.0, 503);
        assert_eq!(told(&modelgate, "mg-alice", "never").await.0, 404);
        until_told(&modelgate, "llama", 404).await;
        modelgate.stop().await;

        // What was not seen for days is forgotten, and of too many names the oldest.
        let later = SystemTime::now() + Duration::from_secs(10);
        store
            .note_model_names(&[("new", "new"), ("newer", "new")], later, Duration::from_secs(1), 9)
            .await
            .expect("noted");
        assert_eq!(store.model_names(SystemTime::UNIX_EPOCH, 9).await.expect("names"), ["new", "newer"]);
        assert_eq!(store.own_model_name("newer").await.expect("a name").as_deref(), Some("new"));
        assert_eq!(store.own_model_name("new").await.expect("a name"), None);
        let last = later + Duration::from_secs(1);
        store.note_model_names(&[("newer", "new")], last, Duration::from_secs(60), 1).await.expect("noted");
        assert_eq!(store.model_names(SystemTime::UNIX_EPOCH, 9).await.expect("names"), ["newer"]);
    }
}
