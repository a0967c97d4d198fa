//! Backups: what they hold, how they come back into either database, and tables of older and newer Modelgates.

mod common;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, slice, time::Duration};

use access::UsedCounts;
use accounts::{AccountKind, ConsumerSpec, KeySpec, Plan, parse};
use common::{TestStore, key, used};
use limits::QuotaId;
use serde_json::json;
use sqlx::{AnyConnection, Connection as _, migrate::Migrator};
use std::time::SystemTime;
use store::{
    Audit, AuditFilter, Batch, Change, Filter, KeyNetwork, Present, Store, StoreError, StoreUrl,
    StoredCordon, ToldAlert, UsageFilter, Writer,
};

with_both! {
    everything_comes_back_into_either_database_and_followers_hear_of_it
    what_is_there_is_not_replaced_unless_that_is_asked_for
}

const KEYS: usize = 1_234;

fn audit() -> Audit {
    Audit::new("tester", "tested")
}

/// A store with something in each of its tables.
async fn filled(place: &TestStore) -> Store {
    let store = place.open().await;
    let keys: Vec<KeySpec> = (0..KEYS).map(|i| key(&format!("key-{i:05}"))).collect();
    assert_eq!(store.create_all(&keys, &audit()).await.expect("written"), []);
    let plan: Plan = parse(&json!({ "name": "free", "note": "O'Brien \"\\ é 🙂" }), None).expect("a plan");
    store.create(&plan, audit()).await.expect("written");
    let consumer: ConsumerSpec = parse(&json!({ "name": "team", "plan": "free" }), None).expect("a consumer");
    assert_eq!(store.create_all(&[consumer], &audit()).await.expect("written"), []);
    let quota = QuotaId::parse(&format!("{:064x}64", 1), "2026-11").expect("an id");
    let counts = vec![(quota, 7)];
    let counted = UsedCounts { requests: 3, ..UsedCounts::default() };
    let batch = Batch { number: 1, counts, used: vec![used("key-00001", counted)], at: SystemTime::now() };
    store.add(&Writer::new(), &batch).await.expect("added");
    let cordon = StoredCordon { server: "file:gpu".into(), drained_run: None, by: "ada".into() };
    store.cordon(&cordon, SystemTime::now()).await.expect("written");
    store
        .note_model_names(&[("llama", "llama")], SystemTime::now(), Duration::from_secs(60), 9)
        .await
        .expect("noted");
    told(&store).await;
    store
}

/// What is kept for alerts: what was told, a key that is gone, and a network.
async fn told(store: &Store) {
    let now = SystemTime::now();
    let text = str::to_owned;
    let told = ToldAlert {
        receiver: text("chat"),
        code: text("budget_80"),
        about: text("key alice"),
        owner: text("key alice"),
        what: text("80 %"),
        page: text("/usage"),
        at: now,
        refused: None,
    };
    store.note_told_alerts(&[told], &[]).await.expect("noted");
    assert_eq!(store.create_all(&[key("gone")], &audit()).await.expect("written"), []);
    assert!(store.delete(AccountKind::Key, "gone", audit()).await.expect("deleted"));
    let network = KeyNetwork { key: text("key-00001"), network: text("192.0.2.0/24") };
    let other = KeyNetwork { network: text("198.51.100.0/24"), ..network.clone() };
    for seen in [other, network] {
        store.note_networks(slice::from_ref(&seen), now, |_| true).await.expect("noted");
    }
    store.note_networks_watched(now, now).await.expect("noted");
}

/// What there is to compare.
async fn contents(store: &Store) -> (Vec<String>, Vec<String>, usize, Vec<String>) {
    let filter = Filter { limit: 10_000, ..Filter::default() };
    let keys = store.list::<KeySpec>(&filter).await.expect("keys").items;
    let mut accounts: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    let plans = store.list::<Plan>(&filter).await.expect("plans").items;
    accounts.extend(plans.iter().map(|plan| format!("{plan:?}")));
    let usage = store.usage(&UsageFilter { limit: 100, ..UsageFilter::default() }).await.expect("usage");
    let entries =
        store.audit(&AuditFilter { limit: 10_000, ..AuditFilter::default() }).await.expect("entries");
    let mut others = store.model_names(SystemTime::UNIX_EPOCH, 9).await.expect("names");
    let told = store.told_alerts().await.expect("what was told");
    others.extend(told.iter().map(|told| format!("{} {} {}", told.receiver, told.code, told.about)));
    let revoked = store.revoked_keys().await.expect("keys that are gone");
    others.extend(revoked.iter().map(|key| format!("{key:?}")));
    let networks = store.new_networks(SystemTime::UNIX_EPOCH, 9).await.expect("networks");
    others.extend(networks.iter().map(|(network, _)| format!("{network:?}")));
    others.push(format!("{:?}", store.networks_watched().await.expect("a time")));
    (accounts, usage.iter().map(|row| format!("{row:?}")).collect(), entries.len(), others)
}

async fn everything_comes_back_into_either_database_and_followers_hear_of_it(place: TestStore) {
    let store = filled(&place).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup #1.db");
    let copied = store.back_up(&file).await.expect("a backup");
    assert_eq!(copied.0["accounts"], u64::try_from(KEYS + 2).expect("a count"));
    let empty: BTreeMap<_, _> = copied.0.iter().filter(|(_, rows)| **rows == 0).collect();
    assert!(empty.is_empty(), "nothing is shown of {empty:?}");
    assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "one file is all of it");
    let before = fs::read(&file).expect("a file");
    let places = [Some(TestStore::sqlite()), TestStore::postgres().await];
    for other in places.into_iter().flatten() {
        let to = other.open().await;
        let mut following = to.follow().await.expect("followed");
        let restored = to.restore(&file, Present::Refused, audit()).await.expect("restored");
        assert_eq!(restored, copied);
        let (mut expected, found) = (contents(&store).await, contents(&to).await);
        expected.2 += 1;
        assert_eq!(found, expected, "the same, and an entry of the restoring");
        let change = following.changed(Duration::from_secs(10)).await.expect("an answer");
        assert_eq!(change, Some(Change::All));
        following.close().await;
        // Its tables go on working.
        to.create(&key("new"), audit()).await.expect("written");
        let batch = Batch { number: 1, counts: vec![], used: vec![], at: SystemTime::now() };
        assert!(to.add(&Writer::new(), &batch).await.expect("added").batch > Some(1));
        to.close().await;
    }
    assert_eq!(fs::read(&file).expect("a file"), before, "the file stays as it is");
    let again = store.back_up(&file).await.expect_err("it is there");
    assert!(again.to_string().contains("overwrites nothing"), "{again}");
}

async fn what_is_there_is_not_replaced_unless_that_is_asked_for(place: TestStore) {
    let store = filled(&place).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backup.db");
    store.back_up(&file).await.expect("a backup");
    store.create(&key("since"), audit()).await.expect("written");
    let refused = store.restore(&file, Present::Refused, audit()).await.expect_err("not empty");
    assert!(matches!(refused, StoreError::NotEmpty(_)), "{refused}");
    assert!(refused.to_string().contains("1237 accounts"), "{refused}");
    assert!(store.get::<KeySpec>("since").await.expect("an answer").is_some(), "nothing was changed");
    store.restore(&file, Present::Replaced, audit()).await.expect("restored");
    assert_eq!(store.get::<KeySpec>("since").await.expect("an answer"), None);
    for (name, text) in [("text", "no database"), ("empty", "")] {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        let error = store.restore(&path, Present::Replaced, audit()).await.expect_err(name);
        assert!(error.to_string().contains("it is not a backup"), "{error}");
    }
    let missing =
        store.restore(&folder.path().join("none"), Present::Replaced, audit()).await.expect_err("none");
    assert!(missing.to_string().contains("none: No such file"), "{missing}");
    execute(&file, "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2026-11-28', 1, x'00', 0)").await;
    let newer = store.restore(&file, Present::Replaced, audit()).await.expect_err("newer");
    assert!(newer.to_string().contains("a newer one has made them, by its migration 9999"), "{newer}");
    assert_eq!(contents(&store).await.0.len(), KEYS + 1, "and after all that it is there");
}

async fn execute(file: &Path, statement: &'static str) {
    sqlx::any::install_default_drivers();
    let mut connection =
        AnyConnection::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.expect("SQLite");
    sqlx::query(statement).execute(&mut connection).await.expect("done");
    connection.close().await.expect("closed");
}

#[tokio::test]
async fn an_older_file_is_migrated_and_kept_as_it_was_and_a_newer_one_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("modelgate.db");
    sqlx::any::install_default_drivers();
    let all: Vec<_> = sqlx::migrate!().iter().cloned().collect();
    let newest = all.last().expect("migrations").version;
    let mut connection =
        AnyConnection::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.expect("SQLite");
    Migrator::with_migrations(all[..1].to_vec()).run(&mut connection).await.expect("the first version");
    connection.close().await.expect("closed");
    execute(
        &file,
        "INSERT INTO accounts VALUES ('plan', 'old', '{\"name\": \"old\"}', NULL, NULL, NULL, 1, 1)",
    )
    .await;
    execute(
        &file,
        "INSERT INTO quota_counts SELECT '2026-11', hex(zeroblob(32)) || what, used FROM (
            SELECT '7a' AS what, 5 AS used UNION ALL SELECT '78', 6 UNION ALL SELECT '01', 7)",
    )
    .await;
    let kept = folder.path().join(format!("modelgate.db.before-{newest}"));
    let open = || Store::open(StoreUrl::Sqlite(file.clone()));
    for _ in 0..2 {
        let store = open().await.expect("migrated");
        assert!(store.get::<Plan>("old").await.expect("an answer").is_some());
        store.delete(AccountKind::Plan, "other", audit()).await.expect("no error");
        store.close().await;
        assert_eq!(kept.metadata().expect("a copy").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 2, "one copy");
    // What was spent of budgets can be forgiven.
    let mut connection =
        AnyConnection::connect(&format!("sqlite://{}", file.display())).await.expect("SQLite");
    let counts: Vec<(String, i64)> =
        sqlx::query_as("SELECT subject, used FROM quota_counts ORDER BY subject")
            .fetch_all(&mut connection)
            .await
            .expect("counts");
    connection.close().await.expect("closed");
    let expected = [("01", 7), ("78", 6), ("7a", 5), ("96", 6), ("98", 5)];
    assert_eq!(counts, expected.map(|(what, used)| ("0".repeat(64) + what, used)));
    // The copy is what it was: it can be restored, and is migrated on the way.
    let other = TestStore::sqlite().open().await;
    assert_eq!(other.restore(&kept, Present::Refused, audit()).await.expect("restored").0["accounts"], 1);
    execute(&file, "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2026-11-28', 1, x'00', 0)").await;
    let error = open().await.expect_err("newer");
    assert!(error.to_string().contains("a newer one has made them, by its migration 9999"), "{error}");
}
