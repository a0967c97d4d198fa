//! What a store does, in SQLite and in PostgreSQL.

mod common;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use access::{Consumer, Key, KeyDigest, NewKey, UsedCounts};
use accounts::{AccountKind, Accounts, ConsumerSpec, KeySpec, Plan, parse};
use common::{TestStore, key, used};
use limits::{Calendar, Period, QuotaId, Subject};
use serde_json::{Value, json};
use store::{
    AccountSource, Actor, Added, Audit, AuditFilter, Batch, BudgetChange, BudgetOf, BudgetOwner, Change,
    Conflict, Filter, KeyNetwork, Origin, Person, Registry, RegistryError, Store, StoreError, ToldAlert,
    Unwritten, UsageFilter, UsedOn, Writer,
};

with_both! {
    accounts_are_written_once_and_read_as_they_were
    pages_follow_each_other_and_a_search_is_not_a_pattern
    what_is_in_use_is_not_deleted
    a_replica_hears_of_every_change_within_a_second
    counts_of_two_replicas_add_up
    a_batch_that_is_given_again_counts_once
    a_batch_from_a_file_counts_once
    a_batch_may_be_large
    what_others_have_counted_is_heard_of
    writers_at_once_lose_nothing
    the_registry_checks_writes_and_audits
    entries_say_when_and_from_where_it_was_and_are_there_once
    whoever_asks_for_the_command_line_finds_all_of_its_users
    keys_are_made_rotated_and_shown_once
    a_consumer_of_many_keys_is_erased
    a_file_comes_first
    changes_at_once_undo_nothing
    old_changes_are_forgotten
    a_budget_of_an_alias_is_that_of_its_model_and_told_alerts_are_kept
    a_reset_leaves_what_open_requests_have_reserved
}

static ANN: LazyLock<Actor> = LazyLock::new(|| "ann".into());
static BOB: LazyLock<Actor> = LazyLock::new(|| "bob".into());
static CAROL: LazyLock<Actor> = LazyLock::new(|| "carol".into());

fn audit() -> Audit {
    Audit::new("tester", "tested")
}

fn conflict(error: StoreError) -> Conflict {
    match error {
        StoreError::Conflict(conflict) => conflict,
        other => panic!("{other}"),
    }
}

async fn accounts_are_written_once_and_read_as_they_were(place: TestStore) {
    let store = place.open().await;
    let alice = KeySpec { note: Some("O'Brien \"%_\\ é".into()), ..key("alice") };
    let created = store.create(&alice, audit()).await.expect("new").created;
    assert_eq!(
        conflict(store.create(&alice, audit()).await.expect_err("twice")),
        Conflict::Exists(AccountKind::Key, "alice".into())
    );
    let same = KeySpec { name: "bob".into(), ..alice.clone() };
    assert_eq!(
        conflict(store.create(&same, audit()).await.expect_err("the same key")),
        Conflict::SameKey("alice".into())
    );
    assert_eq!(
        conflict(store.replace(&key("carol"), audit()).await.expect_err("none")),
        Conflict::Missing(AccountKind::Key, "carol".into())
    );
    // Names of one kind do not collide with those of another.
    let consumer: ConsumerSpec = parse(&json!({ "name": "alice" }), None).expect("a consumer");
    store.create(&consumer, audit()).await.expect("another kind");
    store.close().await;

    let store = place.open().await;
    let found = store.get::<KeySpec>("alice").await.expect("an answer").expect("it is there");
    assert_eq!(found.account, alice);
    assert_eq!(found.created, created);
    let changed = KeySpec { disabled: true, ..alice };
    store.put(&changed, audit()).await.expect("changed");
    let found = store.get::<KeySpec>("alice").await.expect("an answer").expect("it is there");
    assert!(found.account.disabled && found.changed >= found.created);
    assert!(store.delete(AccountKind::Key, "alice", audit()).await.expect("deleted"));
    assert!(!store.delete(AccountKind::Key, "alice", audit()).await.expect("no error"), "twice");
    assert_eq!(store.get::<KeySpec>("alice").await.expect("an answer"), None);
    assert!(store.get::<ConsumerSpec>("alice").await.expect("an answer").is_some());
}

async fn pages_follow_each_other_and_a_search_is_not_a_pattern(place: TestStore) {
    let store = place.open().await;
    let keys: Vec<KeySpec> = (0..25).map(|i| key(&format!("key-{i:02}"))).collect();
    assert_eq!(store.create_all(&keys, &audit()).await.expect("written"), []);
    let other = KeySpec { consumer: "Sales".into(), ..key("under_score") };
    let again = [key("key-03"), other, KeySpec { name: "twin".into(), ..key("key-04") }];
    let left = store.create_all(&again, &audit()).await.expect("written");
    assert_eq!(
        left,
        [
            Conflict::Exists(AccountKind::Key, "key-03".into()),
            Conflict::Exists(AccountKind::Key, "twin".into())
        ]
    );
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let filter = Filter { after, limit: 10, ..Filter::default() };
        let page = store.list::<KeySpec>(&filter).await.expect("a page");
        assert_eq!(page.total, 26);
        let of_page: Vec<String> =
            page.items.into_iter().map(|item| item.expect("it can be read").account.name).collect();
        after = of_page.last().cloned();
        names.extend(of_page);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 26);
    assert!(names.is_sorted());
    let found = async |search: &str| {
        let filter = Filter { search: Some(search.into()), limit: 100, ..Filter::default() };
        store.list::<KeySpec>(&filter).await.expect("a page").total
    };
    assert_eq!(found("KEY-1").await, 10, "upper and lower case");
    assert_eq!(found("_").await, 1, "no wildcard");
    assert_eq!(
        (found("%").await, found("sales").await, found("'; DROP TABLE accounts; --").await),
        (0, 1, 0)
    );
    let of = Filter { consumer: Some("Sales".into()), limit: 100, ..Filter::default() };
    assert_eq!(store.list::<KeySpec>(&of).await.expect("a page").items.len(), 1);
}

async fn what_is_in_use_is_not_deleted(place: TestStore) {
    let store = place.open().await;
    let plan: Plan =
        parse(&json!({ "name": "gold", "limit": { "requests_per_day": 5 } }), None).expect("a plan");
    store.create(&plan, audit()).await.expect("new");
    let consumer: ConsumerSpec = parse(&json!({ "name": "team", "plan": "gold" }), None).expect("a consumer");
    store.create(&consumer, audit()).await.expect("new");
    store.create(&key("alice"), audit()).await.expect("new");
    let refused = conflict(store.delete(AccountKind::Plan, "gold", audit()).await.expect_err("in use"));
    assert_eq!(refused.to_string(), "the plan \"gold\" is in use by consumer \"team\"");
    let refused = conflict(store.delete(AccountKind::Consumer, "team", audit()).await.expect_err("in use"));
    assert_eq!(refused.to_string(), "the consumer \"team\" is in use by key \"alice\"");
    for (kind, name) in
        [(AccountKind::Key, "alice"), (AccountKind::Consumer, "team"), (AccountKind::Plan, "gold")]
    {
        assert!(store.delete(kind, name, audit()).await.expect("no more"));
    }
}

async fn a_replica_hears_of_every_change_within_a_second(place: TestStore) {
    let (writer, reader) = (place.open().await, place.open().await);
    writer.create(&key("before"), audit()).await.expect("new");
    let mut following = reader.follow().await.expect("it follows");
    assert_eq!(following.changed(Duration::from_millis(300)).await.expect("an answer"), None, "nothing new");
    let mut slowest = Duration::ZERO;
    for i in 0..7 {
        let name = format!("key-{i}");
        writer.create(&key(&name), audit()).await.expect("new");
        let start = testkit::Stopwatch::start();
        let change = loop {
            if let Some(change) = following.changed(Duration::from_secs(5)).await.expect("an answer") {
                break change;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "nothing heard");
        };
        slowest = slowest.max(start.elapsed());
        let accounts = vec![(AccountKind::Key, name)];
        assert_eq!(change, Change::Some { accounts, erased: Vec::new() });
    }
    assert!(slowest < Duration::from_millis(700), "{slowest:?} in {:?}", place.url);
    writer.delete(AccountKind::Key, "key-1", audit()).await.expect("deleted");
    writer.put(&KeySpec { disabled: true, ..key("key-2") }, audit()).await.expect("changed");
    let mut heard = HashSet::new();
    while heard.len() < 2 {
        match following.changed(Duration::from_secs(60)).await.expect("an answer") {
            Some(Change::Some { accounts, .. }) => heard.extend(accounts),
            other => panic!("{other:?}"),
        }
    }
    let expected = ["key-1", "key-2"].map(|name| (AccountKind::Key, name.to_owned()));
    assert_eq!(heard, HashSet::from(expected));
    let many: Vec<KeySpec> = (0..2_500).map(|i| key(&format!("many-{i}"))).collect();
    writer.create_all(&many, &audit()).await.expect("written");
    let change = following.changed(Duration::from_secs(60)).await.expect("an answer");
    assert_eq!(change, Some(Change::All), "too many to name");
    let (all, unreadable) = reader.all::<KeySpec>().await.expect("an answer");
    assert_eq!((all.len(), unreadable.len()), (2_507, 0));
}

fn quota(who: char, period: &str) -> QuotaId {
    let subject = format!("{}{}64", who.to_string().repeat(32), "0".repeat(32));
    QuotaId::parse(&subject, period).expect("an id")
}

fn batch(number: i64, counts: &[(QuotaId, i64)], used: &[UsedOn]) -> Batch {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_301_940_123);
    Batch { number, counts: counts.into(), used: used.into(), at }
}

/// A store, and somebody who adds what was counted.
struct Counter(Store, Writer, i64);

impl Counter {
    async fn of(place: &TestStore) -> Self {
        Self(place.open().await, Writer::new(), 0)
    }

    async fn add_counts(&mut self, counts: &[(QuotaId, i64)]) -> Vec<(QuotaId, u64)> {
        self.2 += 1;
        self.0.add(&self.1, &batch(self.2, counts, &[])).await.expect("added").counts
    }
}

async fn counts_of_two_replicas_add_up(place: TestStore) {
    let (mut a, mut b) = (Counter::of(&place).await, Counter::of(&place).await);
    let (day, month) = (quota('1', "2026-11-21"), quota('1', "2026-11"));
    let first = a.add_counts(&[(day, 5), (month, 7)]).await;
    assert_eq!(HashSet::from_iter(first), HashSet::from([(day, 5), (month, 7)]));
    assert_eq!(
        b.add_counts(&[(day, 3), (quota('2', "2026-11-21"), 1)]).await.iter().find(|(id, _)| *id == day),
        Some(&(day, 8))
    );
    assert_eq!(a.add_counts(&[(day, -2)]).await, [(day, 6)], "given back");
    let (a, b) = (a.0, b.0);
    let of_day = b.counts(&["2026-11-21".into()]).await.expect("an answer");
    assert_eq!(HashSet::from_iter(of_day), HashSet::from([(day, 6), (quota('2', "2026-11-21"), 1)]));
    let (week, ever) = (quota('1', "2026-W47"), quota('1', "ever"));
    a.add(&Writer::new(), &batch(1, &[(week, 8), (ever, 9)], &[])).await.expect("added");
    let earliest = ["2026-11-22", "2026-11", "2026-W48", "ever"].map(str::to_owned);
    assert_eq!(a.forget_counts_before(&earliest).await.expect("forgotten"), 3);
    let kept = b.counts(&["2026-11-21", "2026-11", "2026-W47", "ever"].map(str::to_owned)).await;
    assert_eq!(kept.expect("an answer"), [(month, 7), (ever, 9)]);
}

/// An answer may be lost, and then one does not know whether the batch has arrived.
async fn a_batch_that_is_given_again_counts_once(place: TestStore) {
    let store = place.open().await;
    let (first, second) = (Writer::new(), Writer::new());
    let id = quota('4', "2026-11");
    let used = used("alice", UsedCounts { requests: 2, refused: 1, ..UsedCounts::default() });
    let batch = |number| batch(number, &[(id, 5)], std::slice::from_ref(&used));
    let counted = async || {
        let usage = store.usage(&UsageFilter { limit: 10, ..UsageFilter::default() }).await.expect("usage");
        let UsedCounts { requests, refused, .. } = usage[0].counts;
        (store.counts(&["2026-11".into()]).await.expect("counts")[0].1, requests, refused)
    };
    for _ in 0..3 {
        assert_eq!(store.add(&first, &batch(1)).await.expect("added").counts, [(id, 5)]);
        assert_eq!(counted().await, (5, 2, 1));
    }
    // Of another process, which numbers its own.
    assert_eq!(store.add(&second, &batch(1)).await.expect("added").counts, [(id, 10)]);
    let known = store.add(&first, &batch(1)).await.expect("known");
    assert_eq!(known, Added { counts: vec![(id, 10)], batch: None }, "what others have added, too");
    assert_eq!(store.add(&first, &batch(2)).await.expect("added").counts, [(id, 15)]);
    assert_eq!(counted().await, (15, 6, 3));
    // The same at once, as when the first attempt is still under way.
    let (third, other) = (batch(3), place.open().await);
    let (a, b) = tokio::join!(store.add(&first, &third), other.add(&first, &third));
    let (a, b) = (a.expect("one of them"), b.expect("the other"));
    assert_eq!((a.counts, b.counts), (vec![(id, 20)], vec![(id, 20)]));
    assert_eq!(a.batch.xor(b.batch), Some(4), "one of them, the fourth batch of all");
    assert_eq!(counted().await, (20, 8, 4));
    // Those that have ended are forgotten some time.
    assert_eq!(
        store.forget_writers_before(SystemTime::now() - Duration::from_secs(60)).await.expect("none"),
        0
    );
    assert_eq!(
        store.forget_writers_before(SystemTime::now() + Duration::from_secs(60)).await.expect("two"),
        2
    );
}

async fn what_others_have_counted_is_heard_of(place: TestStore) {
    let (mut a, mut b) = (Counter::of(&place).await, Counter::of(&place).await);
    let (one, other) = (quota('5', "2026-11"), quota('6', "2026-11-21"));
    let reader = place.open().await;
    assert_eq!(reader.batches().await.expect("none"), 0);
    a.add_counts(&[(one, 5), (other, 1)]).await;
    b.add_counts(&[(one, 2)]).await;
    assert_eq!(reader.batches().await.expect("two"), 2);
    let between =
        async |after, up_to| HashSet::from_iter(reader.counts_between(after, up_to).await.expect("counts"));
    assert_eq!(between(0, 2).await, HashSet::from([(one, 7), (other, 1)]));
    assert_eq!(between(1, 2).await, HashSet::from([(one, 7)]), "not what nobody has changed since");
    assert_eq!(between(2, 2).await, HashSet::new());
}

/// What a process could not write before it ended is written by another one, which may be killed before it removes the file.
async fn a_batch_from_a_file_counts_once(place: TestStore) {
    let store = place.open().await;
    let (writer, id) = (Writer::new(), quota('4', "2026-11"));
    let used = used("alice", UsedCounts { requests: 2, cost: -7, milliseconds: 9, ..UsedCounts::default() });
    let batch = |number| batch(number, &[(id, 5), (quota('5', "2026-W47"), -3)], std::slice::from_ref(&used));
    // The answer to the second was lost: whether it is written was not known.
    for number in 1..=2 {
        store.add(&writer, &batch(number)).await.expect("added");
    }
    let kept = Unwritten { writer: writer.clone(), batches: vec![batch(2), batch(3)] };
    let bytes = kept.to_json().expect("JSON");
    let read = Unwritten::parse(&bytes).expect("batches");
    assert_eq!(read, kept);
    let other = place.open().await;
    for _ in 0..2 {
        let (one, two) = tokio::join!(store.add_unwritten(&read), other.add_unwritten(&read));
        one.and(two).expect("added");
        let usage = store.usage(&UsageFilter { limit: 10, ..UsageFilter::default() }).await.expect("usage");
        let UsedCounts { requests, cost, milliseconds, .. } = usage[0].counts;
        let counts = store.counts(&["2026-11".into()]).await.expect("counts");
        assert_eq!((counts[0], requests, cost, milliseconds), ((id, 15), 6, -21, 27));
    }
    for length in 0..bytes.len() {
        assert!(Unwritten::parse(&bytes[..length]).is_err(), "{length} bytes of it");
    }
    let text = String::from_utf8(bytes).expect("text");
    for (right, wrong, why) in [
        ("\"form\":1", "\"form\":2", "newer Modelgate"),
        ("\"number\":2", "\"number\":3", "not in order"),
        ("2026-W47", "2026-W99", "cannot be"),
        ("\"day\":\"2026-11-21\"", "\"day\":\"2026-11\"", "cannot be"),
        ("\"cost\":-7", "\"price\":-7", "cannot be"),
        ("\"cost\":-7", "\"cost\":\"alice\"", "damaged"),
        ("\"hour\"", "\"alice\"", "damaged"),
    ] {
        assert!(text.contains(right), "{text}");
        let error = Unwritten::parse(text.replacen(right, wrong, 1).as_bytes()).expect_err(wrong).to_string();
        assert!(error.contains(why) && !error.contains("alice"), "{wrong}: {error}");
    }
}

async fn a_batch_may_be_large(place: TestStore) {
    let store = place.open().await;
    let counts: Vec<(QuotaId, i64)> = (0..1_200)
        .map(|i| (QuotaId::parse(&format!("{i:064x}64"), "2026-11").expect("an id"), 1 + i))
        .collect();
    let three = UsedCounts { requests: 1, refused: 3, ..UsedCounts::default() };
    let used: Vec<UsedOn> = (0..1_200).map(|i| used(&format!("key-{i}"), three)).collect();
    let (writer, batch) = (Writer::new(), batch(1, &counts, &used));
    let sum = |stored: Vec<(QuotaId, u64)>| stored.iter().map(|(_, used)| used).sum::<u64>();
    for _ in 0..2 {
        assert_eq!(sum(store.add(&writer, &batch).await.expect("added").counts), 1_200 * 1_201 / 2);
    }
    assert_eq!(sum(store.counts(&["2026-11".into()]).await.expect("counts")), 1_200 * 1_201 / 2);
    let usage = store.usage(&UsageFilter { limit: 5_000, ..UsageFilter::default() }).await.expect("usage");
    assert_eq!((usage.len(), usage.iter().map(|row| row.counts.refused).sum::<i64>()), (1_200, 3_600));
}

async fn writers_at_once_lose_nothing(place: TestStore) {
    let (a, b) = (place.open().await, place.open().await);
    let id = quota('3', "2026-11");
    let writer = |store: Store, half: usize| async move {
        let writer = Writer::new();
        for i in 0..40 {
            store.create(&key(&format!("w{half}-{i}")), audit()).await.expect("written");
            store.add(&writer, &batch(i + 1, &[(id, 1)], &[])).await.expect("added");
        }
    };
    tokio::join!(writer(a.clone(), 0), writer(b.clone(), 1), writer(a.clone(), 2), writer(b, 3));
    let all = Filter { limit: 1_000, ..Filter::default() };
    assert_eq!(a.list::<KeySpec>(&all).await.expect("a page").total, 160);
    assert_eq!(a.counts(&["2026-11".into()]).await.expect("an answer"), [(id, 160)]);
}

async fn the_registry_checks_writes_and_audits(place: TestStore) {
    let registry = Registry::new(Accounts::default());
    assert!(matches!(
        registry.create::<Plan>(&json!({ "name": "gold" }), &ANN).await,
        Err(RegistryError::NoStore)
    ));
    registry.set_store(place.open().await);
    let invalid = registry.create_key(&json!({ "name": "alice", "plan": "gold", "colour": 1 }), &ANN).await;
    let RegistryError::Invalid(errors) = invalid.expect_err("refused") else { panic!("invalid") };
    assert!(
        errors.to_string().contains("there are none") && errors.to_string().contains("colour"),
        "{errors}"
    );
    registry
        .create::<Plan>(&json!({ "name": "gold", "limit": { "requests_per_minute": 5 } }), &ANN)
        .await
        .expect("new");
    registry.create_key(&json!({ "name": "alice", "plan": "gold" }), &ANN).await.expect("new");
    changes_are_checked(&registry).await;
    assert!(registry.delete(AccountKind::Key, "alice", &BOB).await.expect("deleted"));
    what_was_done_is_said(&registry).await;
}

async fn changes_are_checked(registry: &Registry) {
    let put = json!({ "plan": "gold", "consumer": "alice", "note": "n" });
    registry.put_key("alice", &put, &BOB).await.expect("changed");
    registry.put_key("alice", &put, &BOB).await.expect("the same again");
    let patched = registry
        .patch::<KeySpec>(
            "alice",
            &json!({ "disabled": true, "note": null, "limit": { "tokens_per_day": 9 } }),
            &BOB,
        )
        .await;
    let patched = patched.expect("changed").account;
    assert!(
        patched.disabled
            && patched.note.is_none()
            && patched.limits.is_some()
            && patched.plan.as_deref() == Some("gold")
    );
    // The last limit is taken away: then it has none of its own.
    let unlimited = json!({ "limit": { "tokens_per_day": null } });
    let unlimited = registry.patch::<KeySpec>("alice", &unlimited, &BOB).await.expect("changed").account;
    assert!(unlimited.limits.is_none() && unlimited.disabled, "{unlimited:?}");
    for (patch, part) in [
        (json!({ "name": "eve" }), "found \"eve\""),
        (json!({ "limit": 5 }), "limit: found"),
        (json!([]), "the document"),
    ] {
        let refused =
            registry.patch::<KeySpec>("alice", &patch, &BOB).await.expect_err("refused").to_string();
        assert!(refused.contains(part), "{patch}: {refused}");
    }
    let missing = registry.patch::<KeySpec>("eve", &json!({}), &BOB).await.expect_err("none").to_string();
    assert_eq!(missing, "there is no key \"eve\"");
}

async fn what_was_done_is_said(registry: &Registry) {
    let store = registry.store().expect("a store");
    let entries = store.audit(&AuditFilter { limit: 100, ..AuditFilter::default() }).await.expect("entries");
    let said: Vec<String> = entries
        .iter()
        .rev()
        .map(|entry| format!("{} {} {}", entry.actor, entry.action, entry.subject))
        .collect();
    assert_eq!(
        said,
        [
            "ann plan created plan gold",
            "ann key created key alice",
            "bob key changed key alice",
            "bob key changed key alice",
            "bob key changed key alice",
            "bob key deleted key alice",
        ],
        "what changed nothing is not said"
    );
    assert_eq!(entries[2].details["disabled"], json!({ "before": null, "after": true }));
    let newer = AuditFilter {
        before: Some(entries[1].id.clone()),
        action: Some("key".into()),
        limit: 1,
        ..AuditFilter::default()
    };
    assert_eq!(store.audit(&newer).await.expect("entries"), [entries[2].clone()]);
}

/// They had the time at which they could be written, which may be an outage later.
async fn entries_say_when_and_from_where_it_was_and_are_there_once(place: TestStore) {
    let store = place.open().await;
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
    let address = "2001:db8::7".parse().expect("an address");
    let refused = Audit::new(Actor::at("/auth", address), "request refused").happened(then);
    let host = Actor { name: "command line".into(), origin: Some(Origin::Host("gpu-1".into())) };
    let signed_in = Audit::new(host, "signed in").happened(then + Duration::from_secs(1));
    store.record(&[refused.clone(), signed_in]).await.expect("written");
    store.record(&[refused]).await.expect("the same again, as after an answer that was lost");
    let deed = Audit::new("ann", "key created").happened(then + Duration::from_secs(2));
    let made = store.create(&key("alice"), deed).await.expect("new");
    let entries = store.audit(&AuditFilter { limit: 9, ..AuditFilter::default() }).await.expect("entries");
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.at_ms, entry.address.as_deref(), entry.host.as_deref(), entry.subject.as_str()))
        .collect();
    let expected = [
        (1_795_000_002_123, None, None, "key alice"),
        (1_795_000_001_123, None, Some("gpu-1"), ""),
        (1_795_000_000_123, Some("2001:db8::7"), None, ""),
    ];
    assert_eq!(told, expected);
    assert_eq!((made.created, made.changed), (entries[0].at(), entries[0].at()), "one time for both");
}

async fn whoever_asks_for_the_command_line_finds_all_of_its_users(place: TestStore) {
    let store = place.open().await;
    let actors =
        ["command line", "command line (ada)", "command line (adam)", "command lines (x)", "command"];
    store.record(&actors.map(|actor| Audit::new(actor, "key created"))).await.expect("written");
    let found = async |actor: &str| {
        let filter = AuditFilter { actor: Some(actor.into()), limit: 100, ..AuditFilter::default() };
        let entries = store.audit(&filter).await.expect("entries");
        let mut actors: Vec<String> = entries.into_iter().map(|entry| entry.actor).collect();
        actors.sort();
        actors
    };
    assert_eq!(found("command line").await, actors[..3]);
    assert_eq!(found("command line (ada)").await, ["command line (ada)"]);
    assert_eq!(found("command").await, ["command"]);
    assert_eq!(found("command line (").await, [""; 0]);
    assert_eq!(found("%").await, [""; 0], "no pattern");
}

async fn keys_are_made_rotated_and_shown_once(place: TestStore) {
    let registry = Registry::new(Accounts::default());
    registry.set_store(place.open().await);
    let (item, new) = registry.create_key(&json!({ "name": "alice" }), &ANN).await.expect("new");
    let first = new.expect("a key was made");
    assert_eq!((item.account.sha256, item.account.consumer.as_str()), (first.digest(), "alice"));
    let (item, second) = registry.rotate("alice", Duration::from_secs(3600), &ANN).await.expect("rotated");
    let previous = item.account.previous.expect("the old one");
    assert_eq!((item.account.sha256, previous.sha256), (second.digest(), first.digest()));
    let grace = previous.until.duration_since(SystemTime::now()).expect("in the future");
    assert!(grace > Duration::from_secs(3500) && grace <= Duration::from_secs(3600), "{grace:?}");
    // It was promised that the old one works; another rotation would end that.
    let refused = registry.rotate("alice", Duration::from_secs(1), &ANN).await;
    let refused = refused.expect_err("within its grace");
    assert!(refused.to_string().starts_with("the key \"alice\" was rotated before"), "{refused}");
    // To change the rest of it is not to change the key.
    let (item, new) = registry.put_key("alice", &json!({ "consumer": "team" }), &ANN).await.expect("changed");
    assert!(
        new.is_none() && item.account.sha256 == second.digest() && item.account.previous == Some(previous)
    );
    // Whoever gives no grace means all that is old, and may.
    let (item, third) = registry.rotate("alice", Duration::ZERO, &ANN).await.expect("rotated");
    let previous = item.account.previous.expect("the old one");
    assert_eq!((item.account.sha256, previous.sha256), (third.digest(), second.digest()));
    assert!(previous.until <= SystemTime::now());
    let own = NewKey::generate().expect("a key");
    let given = json!({ "name": "bob", "sha256": own.digest().to_hex() });
    assert!(registry.create_key(&given, &ANN).await.expect("new").1.is_none(), "its owner has it");
    // Nothing of what was written holds a key.
    let store = registry.store().expect("a store");
    let entries = store.audit(&AuditFilter { limit: 100, ..AuditFilter::default() }).await.expect("entries");
    let said = serde_json::to_string(&entries).expect("JSON");
    for key in [&first, &second, &third, &own] {
        assert!(!said.contains(key.reveal()) && !said.contains(&key.digest().to_hex()), "{said}");
    }
    what_is_gone_is_known_until_the_name_is_erased(&registry, &[first, second, third]).await;
}

/// The first key was replaced twice; then all of them are deleted.
async fn what_is_gone_is_known_until_the_name_is_erased(registry: &Registry, keys: &[NewKey; 3]) {
    let store = registry.store().expect("a store");
    let revoked = async || {
        let mut found: Vec<_> = store.revoked_keys().await.expect("a list").into_iter().collect();
        found.sort_by_key(|key| keys.iter().position(|known| known.digest() == key.digest));
        found.into_iter().map(|key| (key.digest, key.name, key.consumer)).collect::<Vec<_>>()
    };
    let known = |key: &NewKey| (key.digest(), "alice".to_owned(), "team".to_owned());
    let [first, second, third] = keys;
    assert_eq!(revoked().await, [known(first)], "the one before still belongs to the key");
    let seen = |network: &str| KeyNetwork { key: "alice".into(), network: network.into() };
    let both = [seen("192.0.2.0/24"), seen("198.51.100.0/24"), seen("192.0.2.0/24")];
    let at = SystemTime::now();
    let note = async |seen: &[KeyNetwork]| {
        let noted = store.note_networks(seen, at, |_| true).await.expect("noted");
        noted
            .iter()
            .map(|noted| (noted.before.map(|before| before.has_network), noted.is_new))
            .collect::<Vec<_>>()
    };
    let (nothing, known_one, new_one) = ((None, false), (Some(true), false), (Some(false), true));
    assert_eq!(note(&both).await, [nothing; 3]);
    assert_eq!(note(&[both[1].clone(), seen("203.0.113.0/24")]).await, [known_one, new_one]);
    // A network in daily use is not the first to be forgotten, whether it is noted again or its use is.
    let further =
        |from: usize| (from..from + 63).map(|i| seen(&format!("10.0.{i}.0/24"))).collect::<Vec<_>>();
    assert_eq!(note(&both[..1]).await, [known_one]);
    assert_eq!(note(&further(0)).await, [new_one; 63]);
    store.note_keys_used(&both[..1], at).await.expect("noted");
    assert_eq!(note(&further(63)).await, [new_one; 63]);
    assert_eq!(note(&both[..2]).await, [known_one, new_one], "the second was forgotten");
    let an_hour_ago = at - Duration::from_secs(3_600);
    assert_eq!(store.new_networks(an_hour_ago, 999).await.expect("a list").len(), 1 + 2 * 63 + 1);
    let told = ToldAlert {
        receiver: "ops".into(),
        code: "budget_50".into(),
        about: "budget of key alice".into(),
        owner: "key alice".into(),
        what: "5 of 10".into(),
        page: "/keys/alice".into(),
        at,
        refused: None,
    };
    let others = ToldAlert { about: "budget of key bob".into(), owner: "key bob".into(), ..told.clone() };
    store.note_told_alerts(&[told, others], &[]).await.expect("noted");

    registry.delete(AccountKind::Key, "alice", &ANN).await.expect("deleted");
    assert_eq!(revoked().await, [known(first), known(second), known(third)]);
    assert_eq!(store.revoked_keys_named(&["alice".into()]).await.expect("a list").len(), 3);
    assert_eq!(note(&both[..1]).await, [nothing], "of another key");
    let mut changes = store.follow().await.expect("followed");
    registry.erase(&Person::Consumer("team".into()), &ANN).await.expect("erased");
    assert_eq!(revoked().await, []);
    let told: Vec<String> =
        store.told_alerts().await.expect("told").into_iter().map(|told| told.owner).collect();
    assert_eq!(told, ["key bob"], "no name of the consumer's keys is left");
    assert_eq!(note(&both[..1]).await, [nothing], "forgotten");
    assert_eq!(store.new_networks(an_hour_ago, 9).await.expect("a list"), []);
    let heard = changes.changed(Duration::from_secs(5)).await.expect("an answer");
    let accounts = vec![(AccountKind::Key, "alice".into())];
    assert_eq!(heard, Some(Change::Some { accounts, erased: vec!["team".into()] }));
}

/// More keys than a statement has.
async fn a_consumer_of_many_keys_is_erased(place: TestStore) {
    let store = place.open().await;
    let keys: Vec<KeySpec> = (0..1_001).map(|n| key(&format!("k{n}"))).collect();
    let keys: Vec<KeySpec> = keys.into_iter().map(|key| KeySpec { consumer: "team".into(), ..key }).collect();
    store.create_all(&keys, &audit()).await.expect("written");
    let (names, at) =
        (keys.iter().map(|key| key.name.clone()), SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    let told: Vec<ToldAlert> = names
        .map(|name| ToldAlert {
            receiver: "ops".into(),
            code: "budget_50".into(),
            about: format!("budget of key {name}"),
            owner: format!("key {name}"),
            what: "5 of 10".into(),
            page: "/keys".into(),
            at,
            refused: None,
        })
        .collect();
    store.note_told_alerts(&told, &[]).await.expect("noted");
    assert_eq!(store.told_alerts().await.expect("told").len(), 1_001);
    let over: Vec<[String; 3]> = told[..700]
        .iter()
        .map(|told| [told.receiver.clone(), told.code.clone(), told.about.clone()])
        .collect();
    store.note_told_alerts(&told[700..], &over).await.expect("noted");
    let left: BTreeSet<String> =
        store.told_alerts().await.expect("told").into_iter().map(|told| told.owner).collect();
    assert_eq!(left, told[700..].iter().map(|told| told.owner.clone()).collect());
    let mut changes = store.follow().await.expect("followed");
    store.erase(&Person::Consumer("team".into()), audit()).await.expect("erased");
    assert_eq!(store.told_alerts().await.expect("told"), []);
    let Some(Change::Some { accounts, erased }) =
        changes.changed(Duration::from_secs(5)).await.expect("an answer")
    else {
        panic!("each is named")
    };
    assert_eq!((accounts.len(), erased), (1_001, vec!["team".to_owned()]));
}

async fn a_file_comes_first(place: TestStore) {
    let declared = Accounts {
        plans: vec![parse(&json!({ "name": "file-plan" }), None).expect("a plan")],
        consumers: Vec::new(),
        keys: vec![key("b"), key("d")],
    };
    let registry = Registry::new(declared);
    registry.set_store(place.open().await);
    for name in ["a", "c", "e"] {
        registry
            .create_key(&json!({ "name": name, "plan": "file-plan", "consumer": "team" }), &ANN)
            .await
            .expect("new");
    }
    let refusal = |result: Result<(), RegistryError>| result.expect_err("refused").to_string();
    assert_eq!(
        refusal(registry.create_key(&json!({ "name": "b" }), &ANN).await.map(drop)),
        "the key \"b\" is in the configuration file; change it there"
    );
    assert!(
        refusal(registry.delete(AccountKind::Key, "b", &ANN).await.map(drop)).contains("configuration file")
    );
    assert!(
        refusal(registry.rotate("b", Duration::ZERO, &ANN).await.map(drop)).contains("configuration file")
    );
    let same: Value = json!({ "name": "x", "sha256": key("b").sha256.to_hex() });
    assert_eq!(refusal(registry.create_key(&same, &ANN).await.map(drop)), "key \"b\" is the same API key");
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let filter = Filter { after, limit: 2, ..Filter::default() };
        let page = registry.list::<KeySpec>(&filter).await.expect("a page");
        assert_eq!(page.total, 5);
        seen.extend(
            page.items.iter().map(|item| (item.account.name.clone(), item.source == AccountSource::File)),
        );
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected = [("a", false), ("b", true), ("c", false), ("d", true), ("e", false)];
    assert_eq!(seen, expected.map(|(name, is_file)| (name.to_owned(), is_file)));
    assert_eq!(
        registry.get::<KeySpec>("d").await.expect("an answer").expect("it is there").source,
        AccountSource::File
    );
}

async fn changes_at_once_undo_nothing(place: TestStore) {
    let registry = Registry::new(Accounts::default());
    registry.set_store(place.open().await);
    let registry = Arc::new(registry);
    registry.create_key(&json!({ "name": "alice", "consumer": "team" }), &ANN).await.expect("new");
    for round in 0..15 {
        let disabled = json!({ "disabled": round % 2 == 0 });
        let off = registry.patch::<KeySpec>("alice", &disabled, &ANN);
        let noted = json!({ "note": format!("round {round}") });
        let note = registry.patch::<KeySpec>("alice", &noted, &BOB);
        let rotated = registry.rotate("alice", Duration::ZERO, &CAROL);
        let (off, note, rotated) = tokio::join!(off, note, rotated);
        off.expect("disabled or not");
        note.expect("noted");
        let now = registry.get::<KeySpec>("alice").await.expect("an answer").expect("it is there").account;
        assert_eq!(now.disabled, round % 2 == 0, "somebody else's change has not undone it");
        assert_eq!(now.note.as_deref(), Some(format!("round {round}").as_str()));
        match rotated {
            Ok((_, key)) => assert_eq!(now.sha256, key.digest(), "a key that was shown works"),
            Err(error) => assert!(error.to_string().contains("changed by somebody else"), "{error}"),
        }
    }
    let store = registry.store().expect("a store");
    let stale = store.get::<KeySpec>("alice").await.expect("an answer").expect("it is there").account;
    registry
        .patch::<KeySpec>("alice", &json!({ "disabled": null, "note": "newest" }), &ANN)
        .await
        .expect("changed");
    let late = KeySpec { note: Some("late".into()), ..stale.clone() };
    let refused = store.change(Some(&stale), &late, audit()).await.expect_err("it was changed");
    assert_eq!(conflict(refused), Conflict::Changed(AccountKind::Key, "alice".into()));
}

async fn old_changes_are_forgotten(place: TestStore) {
    let store = place.open().await;
    let many: Vec<KeySpec> = (0..2_010).map(|i| key(&format!("many-{i}"))).collect();
    store.create_all(&many, &audit()).await.expect("written");
    assert!((10..=12).contains(&store.forget_old_changes().await.expect("forgotten")));
    assert_eq!(store.forget_old_changes().await.expect("nothing more"), 0);
}

async fn a_budget_of_an_alias_is_that_of_its_model_and_told_alerts_are_kept(place: TestStore) {
    let store = place.open().await;
    let (now, week) = (SystemTime::now(), Duration::from_secs(7 * 24 * 3_600));
    store.note_model_names(&[("fast", "llama"), ("llama", "llama")], now, week, 9).await.expect("noted");
    let registry = Registry::new(Accounts::default());
    registry.set_store(store.clone());
    let alice = json!({ "name": "alice", "limit_per_model": { "budget_total": 5 } });
    registry.create_key(&alice, &ANN).await.expect("new");
    let (whose, ever) = (BudgetOwner::Key("alice".into()), "ever".parse::<Period>().expect("a period"));
    let of = |model: &str| BudgetOf { whose: whose.clone(), model: Some(model.into()), per: Calendar::Ever };
    let added = BudgetChange::TopUp(2_000_000_000);
    let own = registry.by_own_model(of("fast"), |_| None).await.expect("as noted");
    let state = registry.change_budget(&own, ever, added, &ANN).await.expect("topped up");
    assert_eq!((state.added, state.model.as_deref()), (2_000_000_000, Some("llama")));
    assert_eq!(registry.budget(&of("llama"), ever).await.expect("a budget"), state);
    assert_eq!(registry.budget(&of("other"), ever).await.expect("a budget").added, 0);
    // By now it is a model of its own, which has not been ready yet.
    let own = registry.by_own_model(of("fast"), |name| Some(name.to_owned())).await.expect("as served");
    let state = registry.change_budget(&own, ever, added, &ANN).await.expect("topped up");
    assert_eq!((state.added, state.model.as_deref()), (2_000_000_000, Some("fast")));

    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_298_400_123);
    let alert = |receiver: &str, code: &str, name: &str| ToldAlert {
        receiver: receiver.into(),
        code: code.into(),
        about: format!("budget of key {name}"),
        owner: format!("key {name}"),
        what: "5 of 5".into(),
        page: format!("/keys/{name}"),
        at,
        refused: None,
    };
    let [first, second, other] = [
        alert("ops", "budget_50", "alice"),
        alert("ops", "budget_80", "alice"),
        alert("ops", "budget_50", "bob"),
    ];
    let told = [first.clone(), second.clone(), other.clone()];
    store.note_told_alerts(&told, &[]).await.expect("noted");
    let refused = Some((at + Duration::from_millis(7), 3_000_000_000));
    let again = ToldAlert { what: "6 of 5".into(), refused, ..first.clone() };
    let over = [second.receiver, second.code, second.about];
    store.note_told_alerts(std::slice::from_ref(&again), &[over]).await.expect("noted");
    assert_eq!(store.told_alerts().await.expect("told"), [again, other.clone()]);
    store.erase(&Person::Key("alice".into()), audit()).await.expect("erased");
    assert_eq!(store.told_alerts().await.expect("told"), [other], "no name of it is left");
}

/// A hard budget of 1, of which 0.9 were reserved when it was reset: once the server had refused that request, twice 0.9 passed.
async fn a_reset_leaves_what_open_requests_have_reserved(place: TestStore) {
    let (store, registry) = (place.open().await, Registry::new(Accounts::default()));
    registry.set_store(store.clone());
    let limit = json!({
        "budget_per_day": 1, "budget_per_week": 1, "budget_per_month": 1, "budget_total": 1, "budget_kind": "hard"
    });
    registry.create_key(&json!({ "name": "alice", "limit": limit }), &ANN).await.expect("new");
    let mut counter = Counter::of(&place).await;
    let who = Key::new("alice", Arc::new(Consumer::new("alice")), KeyDigest::of("")).id;
    for (per, period) in Calendar::ALL.into_iter().zip(["2026-11-21", "2026-11", "2026-W47", "ever"]) {
        let period: Period = period.parse().expect("a period");
        let of = BudgetOf { whose: BudgetOwner::Key("alice".into()), model: None, per };
        let budget = Subject::of(who).budget(per, period);
        let settled = budget.settled().expect("a budget");
        let spent = async || registry.budget(&of, period).await.expect("a budget").spent;
        let change =
            async |change| registry.change_budget(&of, period, change, &ANN).await.expect("changed").spent;
        counter.add_counts(&[(budget, 300), (settled, 300)]).await;
        counter.add_counts(&[(budget, 900)]).await;
        assert_eq!(spent().await, 1_200, "{per:?}");
        assert_eq!(change(BudgetChange::Reset).await, 900, "{per:?}: that is reserved");
        assert_eq!(change(BudgetChange::Reset).await, 900, "{per:?}: again");
        counter.add_counts(&[(budget, -900)]).await;
        assert_eq!(spent().await, 0, "{per:?}: it was given back once");
        counter.add_counts(&[(budget, 700)]).await;
        counter.add_counts(&[(budget, -600), (settled, 100)]).await;
        assert_eq!(change(BudgetChange::Spent(50)).await, 150, "{per:?}");
        assert_eq!(change(BudgetChange::TopUp(7)).await, 150, "{per:?}");
        assert_eq!(change(BudgetChange::Reset).await, 0, "{per:?}");
    }
    let filter = AuditFilter { action: Some("budget reset".into()), limit: 20, ..AuditFilter::default() };
    let entries = store.audit(&filter).await.expect("the log");
    let details: Value =
        serde_json::from_str(&entries.last().expect("the first").details.to_string()).expect("JSON");
    assert_eq!(
        (&details["spent"], &details["still_reserved"]),
        (&"0.0000012".into(), &"0.0000009".into()),
        "{details}"
    );
}
