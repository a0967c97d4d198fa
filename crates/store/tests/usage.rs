//! Usage as it was, in SQLite and in PostgreSQL.

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use access::{UsageEstimate, UsageHour, Used, UsedCounts, estimate::Media};
use common::{HOUR, TestStore, used};
use proptest::{collection::vec, prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::json;
use store::{
    Actor, Audit, AuditEntry, AuditFilter, Batch, LeftOutHours, Person, RecostDays, Recosted, Registry,
    Store, StoreError, StoreUrl, UsageFilter, UsageOrder, UsageRow, UsageTable, UsedOn, Writer,
};

with_both! {
    usage_adds_up_by_time_and_name
    the_most_come_first
    what_is_known_later_corrects_what_was_estimated
    what_is_old_is_deleted_some_at_a_time
    a_name_is_erased_and_sums_stay
    a_name_that_was_erased_does_not_come_back
    older_usage_stays_as_estimated
    a_wrong_price_is_put_right
    hours_with_open_requests_are_not_computed_anew
    who_counts_or_computes_at_the_same_time_changes_nothing
    a_stop_while_costs_are_computed_anew_loses_nothing
    whatever_happens_it_adds_up
}

const HOUR_BEFORE: UsageHour = UsageHour(HOUR.0 - 3_600);
const HOUR_LATER: UsageHour = UsageHour(HOUR.0 + 3_600);

const ESTIMATE: UsageEstimate = UsageEstimate {
    prompt: 10,
    completion: 1_000,
    cost: PRICE * 1_010,
    media: Media { images: 0, sound: 0, characters: 0 },
};

/// What a token costs.
const PRICE: i64 = 150;

/// So many requests that are estimated at so many tokens each.
fn asked(requests: i64, prompt: i64, completion: i64) -> UsedCounts {
    let (prompt, completion) = (requests * prompt, requests * completion);
    let estimated = prompt + completion;
    UsedCounts { requests, prompt, completion, estimated, cost: PRICE * estimated, ..UsedCounts::default() }
}

/// What an exact settlement of a request changes.
fn settled(estimated: [i64; 2], used: [i64; 2]) -> UsedCounts {
    UsedCounts {
        milliseconds: 250,
        prompt: used[0] - estimated[0],
        cached: used[0] / 2,
        completion: used[1] - estimated[1],
        exact: used[0] + used[1],
        estimated: -estimated[0] - estimated[1],
        cost: PRICE * (used[0] + used[1] - estimated[0] - estimated[1]),
        ..UsedCounts::default()
    }
}

async fn add(store: &Store, used: &[UsedOn]) {
    let at = HOUR.start() + Duration::from_millis(3_540_123);
    let batch = Batch { number: 1, counts: Vec::new(), used: used.into(), at };
    assert!(store.add(&Writer::new(), &batch).await.expect("added").batch.is_some());
}

async fn list(store: &Store, by: &str) -> Vec<UsageRow> {
    let by = by.parse().expect("columns");
    let filter = UsageFilter { by, limit: 10_000, ..UsageFilter::default() };
    store.usage(&filter).await.expect("usage")
}

/// Sums by month and of all keys are those of the days.
async fn sums_agree(store: &Store) {
    let old = at(UsageHour(HOUR.0 - 60 * 86_400), "2026-09-22", used("old", asked(1, 1, 1)));
    if told(store, "month,key").await.iter().all(|row| !row.starts_with("2026-09 old")) {
        // Of the month of the oldest day no sum is used.
        add(store, &[old]).await;
    }
    for by in [
        "day",
        "day,model",
        "month",
        "month,key",
        "month,consumer,model",
        "key,consumer,model",
        "consumer",
        "model",
    ] {
        for (from, to) in [(None, None), (Some("2026-10-15"), None), (Some("2026-09-22"), Some("2026-11-21"))]
        {
            let of = async |table| {
                let [from, to] = [from, to].map(|day: Option<&str>| day.map(Into::into));
                let by = by.parse().expect("columns");
                let filter = UsageFilter { by, from, to, table, limit: 10_000, ..UsageFilter::default() };
                store.usage(&filter).await.expect("usage")
            };
            assert_eq!(of(None).await, of(Some(UsageTable::Days)).await, "{by} {from:?} {to:?}");
        }
    }
}

/// Databases sort names in ways of their own.
fn sorted(mut told: Vec<String>) -> Vec<String> {
    told.sort_unstable();
    told
}

/// What the rows are about, with their requests and tokens.
async fn told(store: &Store, by: &str) -> Vec<String> {
    let rows = list(store, by).await;
    let told = rows.into_iter().map(|row| {
        let hour = row.hour.map(|hour| hour.to_string());
        let names = [hour, row.day, row.month, row.key, row.consumer, row.model].into_iter().flatten();
        let names: Vec<String> = names.collect();
        format!("{}: {} {}", names.join(" "), row.counts.requests, row.counts.tokens())
    });
    told.collect()
}

fn at(hour: UsageHour, day: &str, used: UsedOn) -> UsedOn {
    UsedOn { day: day.into(), used: Used { hour, ..used.used } }
}

async fn usage_adds_up_by_time_and_name(place: TestStore) {
    let store = place.open().await;
    let alice = used("alice", asked(2, 10, 40));
    let refused = UsedCounts { refused: 3, ..asked(1, 4, 5) };
    add(&store, &[alice.clone(), used("bob", refused), at(HOUR_LATER, "2026-11-21", alice.clone())]).await;
    add(
        &store,
        &[used("alice", asked(1, 50, 0)), at(HOUR_LATER, "2026-11-22", used("alice", asked(1, 1, 0)))],
    )
    .await;
    assert_eq!(
        told(&store, "day,key,consumer,model").await,
        [
            "2026-11-22 alice team llama: 1 1",
            "2026-11-21 alice team llama: 5 250",
            "2026-11-21 bob team llama: 1 9"
        ]
    );
    assert_eq!(told(&store, "month,key").await, ["2026-11 alice: 6 251", "2026-11 bob: 1 9"]);
    // In a time zone whose midnight is within that hour, its row would be of one of both days.
    assert_eq!(told(&store, "hour").await, ["1795302000: 3 101", "1795298400: 4 159"]);
    assert_eq!(told(&store, "model").await, ["llama: 7 260"]);
    let of =
        async |filter: UsageFilter| store.usage(&UsageFilter { limit: 10, ..filter }).await.expect("rows");
    assert_eq!(of(UsageFilter { to: Some("2026-11-21".into()), ..UsageFilter::default() }).await.len(), 2);
    let bob = of(UsageFilter { key: Some("bob".into()), ..UsageFilter::default() }).await;
    assert_eq!(bob[0].counts, refused);
    assert_eq!(
        store.last_used(&["alice".into(), "bob".into(), "eve".into()]).await.expect("an answer"),
        // The end of the batch's time; none is later than its own hour.
        [("alice".to_owned(), 1_795_301_940_000), ("bob".to_owned(), 1_795_301_940_000)]
    );
}

async fn the_most_come_first(place: TestStore) {
    let store = place.open().await;
    let of = |model: &str, counts| {
        let one = used("alice", counts);
        UsedOn { used: Used { model: model.into(), ..one.used }, ..one }
    };
    let dear = UsedCounts { cost: 1_000_000, ..asked(1, 1, 1) };
    add(
        &store,
        &[of("a", asked(1, 5, 5)), of("b", dear), of("c", asked(1, 90, 10)), of("d", asked(1, 2, 2))],
    )
    .await;
    let of = async |by: &str, order, only: Option<&[&str]>| {
        let only = only
            .map(|names| (store::UsageDimension::Model, names.iter().map(|name| (*name).into()).collect()));
        let by = by.parse().expect("columns");
        let filter = UsageFilter { by, order, only, limit: 10, ..UsageFilter::default() };
        let rows = store.usage(&filter).await.expect("usage");
        let name = |row: UsageRow| format!("{} {}", row.model.unwrap_or_default(), row.counts.tokens());
        rows.into_iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(of("model", UsageOrder::Tokens, None).await, ["c 100", "a 10", "d 4", "b 2"]);
    assert_eq!(of("model", UsageOrder::Cost, None).await, ["b 2", "c 100", "a 10", "d 4"]);
    assert_eq!(of("day,model", UsageOrder::Tokens, Some(&["c", "b"])).await, ["c 100", "b 2"]);
    assert_eq!(of("month,key,model", UsageOrder::Newest, Some(&["c"])).await, ["c 100"]);
    assert_eq!(of("hour,model", UsageOrder::Newest, Some(&[])).await, [""; 0]);
}

async fn what_is_known_later_corrects_what_was_estimated(place: TestStore) {
    let store = place.open().await;
    add(&store, &[used("alice", asked(3, 12, 1_000))]).await;
    let by_day = async || list(&store, "day,key").await.remove(0);
    let before = by_day().await.last_used_ms;
    add(&store, &[used("alice", settled([12, 1_000], [14, 20]))]).await;
    let aborted = UsedCounts {
        aborted: 1,
        measured: 31,
        completion: -981,
        estimated: -1_012,
        cost: -981 * PRICE,
        ..UsedCounts::default()
    };
    add(&store, &[used("alice", aborted)]).await;
    let expected = UsedCounts {
        requests: 3,
        aborted: 1,
        milliseconds: 250,
        prompt: 38,
        cached: 7,
        completion: 1_039,
        exact: 34,
        measured: 31,
        estimated: 1_012,
        cost: (38 + 1_039) * PRICE,
        ..UsedCounts::default()
    };
    let row = by_day().await;
    assert_eq!((row.counts, row.last_used_ms), (expected, before), "to settle is not to use");
    assert_eq!(list(&store, "hour").await[0].counts, expected);
    assert_eq!(expected.tokens(), expected.prompt + expected.completion);
}

async fn what_is_old_is_deleted_some_at_a_time(place: TestStore) {
    let store = place.open().await;
    let many: Vec<UsedOn> = (0..25).map(|i| used(&format!("key-{i}"), asked(1, 1, 0))).collect();
    add(&store, &many).await;
    add(&store, &[at(HOUR_LATER, "2026-11-22", used("key-1", asked(1, 1, 0)))]).await;
    for (table, by) in [(UsageTable::Days, "day,key"), (UsageTable::Hours, "hour")] {
        for (most, deleted) in [(10, 10), (10, 10), (10, 5), (10, 0)] {
            assert_eq!(store.forget_usage_before(table, "2026-11-22", most).await.expect("done"), deleted);
        }
        assert_eq!(list(&store, by).await.len(), 1, "{table:?}");
    }
    assert_eq!(list(&store, "day").await.len(), 2, "of all keys");
    for (table, before, deleted) in [
        (UsageTable::Models, "2026-11-22", 1),
        (UsageTable::Months, "2026-11-30", 0),
        (UsageTable::Months, "2026-12-01", 25),
        (UsageTable::ModelMonths, "2026-12-01", 1),
    ] {
        assert_eq!(store.forget_usage_before(table, before, 100).await.expect("done"), deleted, "{table:?}");
    }
    assert_eq!(list(&store, "day").await.len(), 1);
}

fn entry(actor: &str, action: &str, subject: &str, consumer: &str) -> Audit {
    Audit::new(actor, action).about(subject).with(json!({ "consumer": consumer, "note": "O'Brien" }))
}

async fn audited(store: &Store) -> Vec<String> {
    let filter = AuditFilter { limit: 100, ..AuditFilter::default() };
    let mut told: Vec<_> = store
        .audit(&filter)
        .await
        .expect("entries")
        .iter()
        .map(|entry| {
            let address = entry.address.as_deref().unwrap_or("-");
            format!("{} {} {} {address} {}", entry.actor, entry.action, entry.subject, entry.details)
        })
        .collect();
    told.sort();
    told
}

async fn a_name_is_erased_and_sums_stay(place: TestStore) {
    let store = place.open().await;
    let of = |key: &str, consumer: &str, one: UsedOn| UsedOn {
        used: Used { key: key.into(), consumer: consumer.into(), ..one.used },
        ..one
    };
    let one = used("", asked(1, 4, 6));
    let later = at(HOUR_LATER, "2026-11-22", one.clone());
    let names = [("carol", "carol"), ("carol-phone", "carol"), ("carol", "team"), ("bob", "team")];
    for used in [&one, &later] {
        add(&store, &names.map(|(key, consumer)| of(key, consumer, used.clone()))).await;
    }
    let from = Actor::at("/auth", "192.0.2.7".parse().expect("an address"));
    let seen =
        Audit::new(from, "request refused").about("key carol-phone").with(json!({ "consumer": "carol" }));
    let ann = Actor::at("ann", "192.0.2.8".parse().expect("an address"));
    let made = Audit::new(ann, "key created").about("key carol-phone").with(json!({ "consumer": "carol" }));
    let moved = json!({ "before": "carol", "after": "team" });
    let entries = [
        seen,
        made,
        entry("ann", "key changed", "key bob", "team"),
        entry("ann", "key created", "key unused", "carol"),
        entry("ann", "consumer changed", "consumer carol", ""),
        entry("ann", "key created", "key CAROL", "CAROL"),
        Audit::new("ann", "key changed").about("key moved").with(json!({ "consumer": moved })),
        Audit::new("ann", "key rotated").about("key moved").with(json!({ "consumer": "team" })),
    ];
    store.record(&entries).await.expect("written");
    let (days, hours) = (told(&store, "day,model").await, told(&store, "hour,model").await);

    let registry = Registry::new(accounts::Accounts::default());
    registry.set_store(store.clone());
    let erased = registry.erase(&Person::Consumer("carol".into()), &"dpo".into()).await.expect("done");
    assert_eq!((erased.usage, erased.audit), (8, 5));
    assert_eq!(
        sorted(told(&store, "key,consumer").await),
        ["(erased) (erased): 4 40", "bob team: 2 20", "carol team: 2 20"]
    );
    let mut expected = [
        "/auth request refused key (erased) - {}",
        "ann consumer changed consumer (erased) - {}",
        "ann key changed key (erased) - {}",
        "ann key rotated key moved - {\"consumer\":\"team\"}",
        "ann key changed key bob - {\"consumer\":\"team\",\"note\":\"O'Brien\"}",
        "ann key created key (erased) - {}",
        "ann key created key (erased) 192.0.2.8 {}",
        "ann key created key CAROL - {\"consumer\":\"CAROL\",\"note\":\"O'Brien\"}",
        "dpo usage erased consumer (erased) - {\"entries\":5,\"rows_of_usage\":8}",
    ];
    expected.sort_unstable();
    assert_eq!(audited(&store).await, expected);
    let again = registry.erase(&Person::Consumer("carol".into()), &"dpo".into()).await.expect("done");
    assert_eq!((again.usage, again.audit), (0, 0));
    // A key of a team: the team's usage stays the team's.
    assert_eq!(registry.erase(&Person::Key("carol".into()), &"dpo".into()).await.expect("done").usage, 4);
    let without = ["(erased) (erased): 4 40", "(erased) team: 2 20", "bob team: 2 20"];
    assert_eq!(sorted(told(&store, "key,consumer").await), without);
    for (person, says) in
        [(Person::Key(String::new()), "key: found"), (Person::Consumer("a\0".into()), "consumer:")]
    {
        let refused = registry.erase(&person, &"dpo".into()).await.expect_err("refused").to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let nobody = registry.erase(&Person::Key("(erased)".into()), &"dpo".into()).await.expect("nothing to do");
    assert_eq!(
        (nobody.usage, sorted(told(&store, "key,consumer").await)),
        (0, without.map(str::to_owned).to_vec())
    );
    assert_eq!((told(&store, "day,model").await, told(&store, "hour,model").await), (days, hours));
    sums_agree(&store).await;
}

/// What was open when its key was erased is settled later.
async fn a_name_that_was_erased_does_not_come_back(place: TestStore) {
    let store = place.open().await;
    let bobs = |counts| {
        let one = used("bob", counts);
        UsedOn { used: Used { consumer: "bob".into(), ..one.used }, ..one }
    };
    add(&store, &[used("alice", asked(1, 12, 1_000)), bobs(asked(1, 12, 1_000))]).await;
    for name in ["alice", "bob"] {
        store.erase(&Person::Key(name.into()), Audit::new("dpo", "usage erased")).await.expect("done");
    }
    let exact = settled([12, 1_000], [12, 30]);
    add(&store, &[used("alice", exact), bobs(exact)]).await;
    for by in ["day,key,consumer", "hour,key,consumer"] {
        let rows = list(&store, by).await;
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                (row.key.as_deref(), row.consumer.as_deref(), row.counts.tokens(), row.counts.estimated)
            })
            .collect();
        let erased = Some("(erased)");
        assert_eq!(told, [(erased, erased, 42, 0), (erased, Some("team"), 42, 0)], "{by}");
    }
}

/// Rows of an older Modelgate, and of one that still runs beside this one.
async fn older_usage_stays_as_estimated(place: TestStore) {
    let store = place.open().await;
    let old = "INSERT INTO usage (day, key_name, consumer, model, requests, tokens, refused, last_used)
               VALUES ('2026-11-21', 'alice', 'team', 'llama', 2, 2000, 1, 5)
               ON CONFLICT (key_name, day, model, consumer) DO UPDATE SET requests = usage.requests + excluded.requests,
               tokens = usage.tokens + excluded.tokens, refused = usage.refused + excluded.refused,
               last_used = excluded.last_used";
    place.execute(old).await;
    add(&store, &[used("alice", asked(1, 12, 1_000)), used("alice", settled([12, 1_000], [12, 30]))]).await;
    place.execute(old).await;
    let counts = list(&store, "day,key,consumer,model").await.remove(0).counts;
    let UsedCounts { requests, prompt, completion, exact, estimated, cost, .. } = counts;
    assert_eq!((requests, prompt, completion, exact, estimated), (5, 12, 30, 42, 4_000));
    assert_eq!(cost, 42 * PRICE, "older usage has cost nothing");
    // What clients who ask for endless answers come to is written, too, and does not keep others' counts from being written.
    for _ in 0..3 {
        let endless = UsedCounts { cost: i64::MAX, ..asked(1, 1, 1) };
        add(&store, &[used("eve", endless), used("bob", asked(1, 1, 1))]).await;
    }
    let costs =
        list(&store, "key").await.into_iter().map(|row| (row.key.unwrap_or_default(), row.counts.cost));
    let costs: BTreeMap<String, i64> = costs.collect();
    assert_eq!((costs["bob"], costs["eve"]), (6 * PRICE, 100_000_000_000_000_000));
    // What the older Modelgate has counted comes into sums when they are made anew.
    add(&store, &[at(UsageHour(HOUR.0 - 60 * 86_400), "2026-09-22", used("old", asked(1, 1, 1)))]).await;
    assert_eq!(told(&store, "consumer").await, ["team: 8 56"]);
    store.sum_up("2026-11").await.expect("summed up");
    assert_eq!(told(&store, "consumer").await, ["team: 12 4056"]);
    sums_agree(&store).await;
    store.sum_up("2026-09").await.expect("left as it is");
}

fn recost_days(from: &str, to: Option<&str>, settled_until: SystemTime) -> RecostDays {
    RecostDays { from: from.into(), to: to.map(Into::into), settled_until, dry_run: false }
}

/// From now on a token costs this.
async fn recost(store: &Store, days: &RecostDays, price: i64) -> Result<Recosted, StoreError> {
    let operator = Actor { name: "ada".into(), origin: None };
    let audit = Audit::new(&operator, "usage recosted");
    store.recost(days, |row| price * row.counts.tokens(), audit).await
}

async fn recost_entries(store: &Store) -> Vec<AuditEntry> {
    let filter = AuditFilter { action: Some("usage recosted".into()), limit: 10, ..AuditFilter::default() };
    store.audit(&filter).await.expect("the log")
}

async fn costs(store: &Store, by: &str) -> Vec<i64> {
    list(store, by).await.iter().map(|row| row.counts.cost).collect()
}

async fn a_wrong_price_is_put_right(place: TestStore) {
    let store = place.open().await;
    add(
        &store,
        &[
            at(UsageHour(HOUR.0 - 86_400), "2026-11-20", used("alice", asked(1, 1, 1))),
            used("alice", asked(2, 10, 40)),
            at(HOUR_LATER, "2026-11-21", used("bob", asked(1, 3, 4))),
            at(UsageHour(HOUR.0 + 86_400), "2026-11-22", used("alice", asked(1, 5, 5))),
        ],
    )
    .await;
    let costs = async |by: &str| costs(&store, by).await;
    assert_eq!(costs("day").await, [10 * PRICE, 107 * PRICE, 2 * PRICE]);
    let days = |from, to| recost_days(from, to, SystemTime::now() + Duration::from_secs(86_400 * 365));
    let recost = async |days, price| recost(&store, &days, price).await.expect("recosted");
    let only = days("2026-11-21", Some("2026-11-21"));
    let expected = Recosted { rows: 2, free_before: 0, before: 107 * PRICE, after: 107 * 7, left_out: None };
    assert_eq!(recost(RecostDays { dry_run: true, ..only.clone() }, 7).await, expected);
    assert_eq!(costs("day").await, [10 * PRICE, 107 * PRICE, 2 * PRICE], "nothing was changed");
    assert_eq!(recost(only.clone(), 7).await, expected);
    assert_eq!(costs("day").await, [10 * PRICE, 107 * 7, 2 * PRICE]);
    assert_eq!(costs("hour").await.iter().sum::<i64>(), 12 * PRICE + 107 * 7);
    let again = Recosted { rows: 0, before: 107 * 7, ..expected };
    assert_eq!(recost(only, 7).await, again);
    recost(days("2026-11-20", None), 1).await;
    assert_eq!(costs("day").await, [10, 107, 2]);
    sums_agree(&store).await;
    // What cost nothing, as before there were prices, is told apart.
    let first = days("2026-11-20", Some("2026-11-20"));
    assert_eq!(recost(first.clone(), 0).await.free_before, 0);
    let priced = Recosted { rows: 1, free_before: 1, before: 0, after: 2 * 2, left_out: None };
    assert_eq!(recost(first, 2).await, priced);
    sums_agree(&store).await;
    let none = days("2026-12-01", None);
    assert_eq!(recost(none, 1).await, Recosted::default());
    let entries = recost_entries(&store).await;
    let oldest = entries.last().expect("six");
    assert_eq!((entries.len(), &*oldest.actor, &*oldest.subject), (6, "ada", "usage"));
    let details: serde_json::Value = serde_json::from_str(&oldest.details.to_string()).expect("JSON");
    assert_eq!(
        details["cost"],
        json!({ "before_in_billionths": 107 * PRICE, "after_in_billionths": 107 * 7 })
    );
}

/// Regression: an open request is counted with its estimate. That was computed anew like everything else, and when the request was settled,
/// its row got the difference at the price at which it had come: usage had a cost that no price comes to, or one below zero.
async fn hours_with_open_requests_are_not_computed_anew(place: TestStore) {
    let store = place.open().await;
    let before = |one| at(HOUR_BEFORE, "2026-11-21", one);
    let carol = used("carol", UsedCounts { cost: 0, ..asked(1, 3, 3) });
    add(&store, &[before(used("alice", asked(1, 10, 40))), before(used("bob", asked(1, 1, 1)))]).await;
    // One of alice's two is settled, the other is still open.
    add(&store, &[used("alice", asked(2, 10, 1_000)), used("alice", settled([10, 1_000], [10, 20]))]).await;
    add(&store, &[before(carol), at(HOUR_LATER, "2026-11-22", used("bob", asked(1, 2, 2)))]).await;
    let all = recost_days("2026-11-21", None, HOUR.start());
    let left_out = LeftOutHours { from: HOUR.start(), to: HOUR_LATER.start() + Duration::from_secs(3_600) };
    // 50, 2 and 6 tokens of the hour before, of which the last cost nothing; 1,040 of this hour, and 4 of the next day.
    let (was, is) = ((52 + 1_040 + 4) * PRICE, 58 * 7 + 1_044 * PRICE);
    let expected = Recosted { rows: 3, free_before: 1, before: was, after: is, left_out: Some(left_out) };
    let dry_run = RecostDays { dry_run: true, ..all.clone() };
    assert_eq!(recost(&store, &dry_run, 7).await.expect("planned"), expected);
    assert_eq!(costs(&store, "day").await, [4 * PRICE, 1_092 * PRICE], "nothing was changed");
    assert_eq!(recost(&store, &all, 7).await.expect("recosted"), expected);
    assert_eq!(costs(&store, "hour").await, [4 * PRICE, 1_040 * PRICE, 58 * 7]);
    assert_eq!(costs(&store, "day").await, [4 * PRICE, 58 * 7 + 1_040 * PRICE]);
    let again = Recosted { rows: 0, free_before: 0, before: is, ..expected };
    assert_eq!(recost(&store, &all, 7).await.expect("recosted"), again);
    sums_agree(&store).await;

    add(&store, &[used("alice", settled([10, 1_000], [10, 0]))]).await;
    assert_eq!(costs(&store, "hour").await[1], 40 * PRICE, "by the price at which they came");
    assert_eq!(costs(&store, "day").await[1], 58 * 7 + 40 * PRICE);
    let last = recost_days("2026-11-21", Some("2026-11-21"), HOUR_LATER.start());
    let (before, after) = (58 * 7 + 40 * PRICE, 98 * 7);
    let expected = Recosted { rows: 1, free_before: 0, before, after, left_out: None };
    assert_eq!(recost(&store, &last, 7).await.expect("recosted"), expected);
    assert_eq!(costs(&store, "hour").await[..3], [4 * PRICE, 40 * 7, 58 * 7]);
    assert_eq!(costs(&store, "day").await[..2], [4 * PRICE, 98 * 7]);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(str::to_owned).map(Some);
    let of_key: BTreeMap<_, _> =
        list(&store, "key").await.into_iter().map(|row| (row.key, row.counts.cost)).collect();
    assert_eq!((of_key[&alice], of_key[&bob], of_key[&carol]), (90 * 7, 2 * 7 + 4 * PRICE, 6 * 7));
    sums_agree(&store).await;
}

/// Several Modelgates count, and two operators compute costs anew at once.
async fn who_counts_or_computes_at_the_same_time_changes_nothing(place: TestStore) {
    const BATCHES: i64 = 15;
    let store = place.open().await;
    let names: Vec<String> = (0..40).map(|i| format!("key-{i}")).collect();
    let of_hour = |hour, counts| -> Vec<UsedOn> {
        names.iter().map(|name| at(hour, "2026-11-21", used(name, counts))).collect()
    };
    add(&store, &of_hour(HOUR, asked(1, 10, 40))).await;
    let days = recost_days("2026-11-21", None, HOUR_LATER.start());
    let counting = async |store: Store| {
        for _ in 0..BATCHES {
            add(&store, &of_hour(HOUR_LATER, asked(1, 10, 1_000))).await;
            add(&store, &of_hour(HOUR_LATER, settled([10, 1_000], [10, 20]))).await;
        }
    };
    let computing = async |store: Store| {
        for _ in 0..BATCHES {
            recost(&store, &days, 7).await.expect("recosted");
        }
    };
    let stores = [place.open().await, place.open().await, place.open().await];
    let [one, two, three] = stores;
    tokio::join!(counting(one), counting(two), computing(three), computing(store.clone()));
    let later = 2 * BATCHES * 30 * PRICE;
    let (hour, keys) = (50 * 7, i64::try_from(names.len()).expect("few"));
    assert_eq!(costs(&store, "hour").await, [keys * later, keys * hour]);
    assert_eq!(costs(&store, "day,key").await, vec![hour + later; names.len()]);
    sums_agree(&store).await;
    let last =
        recost_days("2026-11-21", Some("2026-11-21"), SystemTime::now() + Duration::from_secs(86_400 * 365));
    for price in 8..20 {
        let (one, other) = tokio::join!(recost(&store, &last, price), recost(&store, &last, price));
        let changed = [one, other].map(|recosted| recosted.expect("recosted").rows);
        assert_eq!(changed.iter().sum::<u64>(), 40, "one of both has done it: {changed:?}");
        let all = price * (50 + 2 * BATCHES * 30);
        assert_eq!(costs(&store, "day,key").await[..names.len()], vec![all; names.len()]);
    }
    sums_agree(&store).await;
}

/// What stops it here is the last table that a day is added to: nothing of that day may be done.
async fn a_stop_while_costs_are_computed_anew_loses_nothing(place: TestStore) {
    let store = place.open().await;
    let (october, november) = (UsageHour(HOUR.0 - 30 * 86_400), HOUR_LATER);
    add(
        &store,
        &[
            at(october, "2026-10-22", used("alice", asked(1, 10, 40))),
            used("alice", asked(1, 10, 90)),
            at(november, "2026-11-21", used("bob", asked(1, 1, 1))),
        ],
    )
    .await;
    let stopped = match place.url {
        StoreUrl::Sqlite(_) => {
            place
                .execute(
                    "CREATE TRIGGER stop BEFORE UPDATE ON usage_model_months WHEN NEW.month = '2026-11'
                     BEGIN SELECT RAISE(ABORT, 'it stops here'); END",
                )
                .await;
            "DROP TRIGGER stop"
        }
        StoreUrl::Postgres(_) => {
            place
                .execute(
                    "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql
                     AS $$ BEGIN RAISE EXCEPTION 'it stops here'; END $$",
                )
                .await;
            place
                .execute(
                    "CREATE TRIGGER stop BEFORE UPDATE ON usage_model_months FOR EACH ROW
                     WHEN (NEW.month = '2026-11') EXECUTE FUNCTION stop()",
                )
                .await;
            "DROP TRIGGER stop ON usage_model_months"
        }
    };
    // Of November 21 only the first hour can be computed anew.
    let days = recost_days("2026-10-01", None, HOUR_LATER.start());
    let error = recost(&store, &days, 7).await.expect_err("it was stopped").to_string();
    assert!(error.contains("it stops here"), "{error}");
    assert_eq!(costs(&store, "day").await, [102 * PRICE, 50 * 7]);
    assert_eq!(costs(&store, "hour").await, [2 * PRICE, 100 * PRICE, 50 * 7]);
    let entries = recost_entries(&store).await;
    let told = |entry: &AuditEntry| {
        let cost = &entry.details["cost"];
        (
            entry.details["last_day"].clone(),
            cost["before_in_billionths"].clone(),
            cost["after_in_billionths"].clone(),
        )
    };
    assert_eq!(
        entries.iter().map(told).collect::<Vec<_>>(),
        [(json!("2026-10-22"), json!(50 * PRICE), json!(50 * 7))]
    );

    place.execute(stopped).await;
    sums_agree(&store).await;
    let again = recost(&store, &days, 7).await.expect("recosted");
    let (before, after) = (50 * 7 + 102 * PRICE, 50 * 7 + 100 * 7 + 2 * PRICE);
    assert_eq!((again.rows, again.before, again.after), (1, before, after));
    assert_eq!(costs(&store, "day").await[..2], [100 * 7 + 2 * PRICE, 50 * 7]);
    assert_eq!(costs(&store, "hour").await[..3], [2 * PRICE, 100 * 7, 50 * 7]);
    let entries = recost_entries(&store).await;
    let expected = (json!("2026-11-21"), json!(before), json!(after));
    assert_eq!((entries.len(), told(&entries[0])), (2, expected));
    assert_eq!(entries[0].details["left_out_from"], json!("2026-11-21T23:00:00Z"));
    sums_agree(&store).await;
}

/// A step of what may happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A key asks in one of the hours.
    Ask { key: usize, hour: usize },
    /// One of the open requests is settled: this one, with so many tokens, exactly or by its length.
    Settle { which: usize, used: i64, exact: bool },
    /// What was counted is written; the answer may be lost, so that it is sent again.
    Write { twice: bool },
    /// Modelgate ends: all is written, and another one begins.
    Restart,
    /// All is written, and hours without open requests are computed anew: a token costs this now.
    Recost { price: i64 },
}

/// The hours in which keys ask, and their days.
const HOURS: [(UsageHour, &str); 3] =
    [(HOUR_BEFORE, "2026-11-21"), (HOUR, "2026-11-21"), (HOUR_LATER, "2026-11-22")];

fn day_of(hour: UsageHour) -> &'static str {
    HOURS.iter().find(|(other, _)| *other == hour).expect("one of them").1
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3_usize, 0..3_usize).prop_map(|(key, hour)| Step::Ask { key, hour }),
        8 => (any::<usize>(), 0..2_000_i64, any::<bool>())
            .prop_map(|(which, used, exact)| Step::Settle { which, used, exact }),
        3 => any::<bool>().prop_map(|twice| Step::Write { twice }),
        1 => Just(Step::Restart),
        2 => (0..2 * PRICE).prop_map(|price| Step::Recost { price }),
    ];
    vec(step, 1..60)
}

/// A Modelgate, and what it should have counted.
struct Trial {
    store: Store,
    writer: Writer,
    number: i64,
    usage: access::Usage,
    open: Vec<(usize, UsageHour)>,
    /// By key and hour.
    expected: BTreeMap<(usize, UsageHour), UsedCounts>,
}

impl Trial {
    async fn new(place: &TestStore) -> Self {
        let (store, writer) = (place.open().await, Writer::new());
        let usage = access::Usage::default();
        Self { store, writer, number: 0, usage, open: Vec::new(), expected: BTreeMap::new() }
    }

    async fn write(&mut self, twice: bool) {
        self.number += 1;
        let used = self.usage.take().into_iter().map(|used| UsedOn { day: day_of(used.hour).into(), used });
        let batch =
            Batch { number: self.number, counts: Vec::new(), used: used.collect(), at: SystemTime::now() };
        for _ in 0..=u8::from(twice) {
            self.store.add(&self.writer, &batch).await.expect("added");
        }
    }

    async fn step(&mut self, case: u32, step: Step, place: &TestStore) {
        let names: Vec<String> = (0..3).map(|key| format!("case-{case}-{key}")).collect();
        let of = |key: usize| access::UsageOf { key: &names[key], consumer: "team", model: "llama" };
        match step {
            Step::Ask { key, hour } => {
                let hour = self.usage.allowed(of(key), HOURS[hour].0.start(), ESTIMATE);
                self.open.push((key, hour));
                *self.expected.entry((key, hour)).or_default() += asked(1, 10, 1_000);
            }
            Step::Settle { which, used, exact } if !self.open.is_empty() => {
                let (key, hour) = self.open.swap_remove(which % self.open.len());
                let mut by = settled([10, 1_000], [9, used]);
                if !exact {
                    (by.measured, by.exact, by.errors) = (by.exact, 0, 1);
                }
                self.usage.settled(of(key), hour, by);
                *self.expected.entry((key, hour)).or_default() += by;
            }
            Step::Settle { .. } => {}
            Step::Write { twice } => self.write(twice).await,
            Step::Restart => {
                self.write(true).await;
                self.store.close().await;
                // What was open then is never settled.
                let expected = std::mem::take(&mut self.expected);
                *self = Self { expected, ..Self::new(place).await };
            }
            Step::Recost { price } => {
                self.write(false).await;
                let first_open = self.open.iter().map(|(_, hour)| *hour).min();
                let end = UsageHour(HOUR_LATER.0 + 3_600);
                let settled_until = first_open.unwrap_or(end);
                let days = recost_days("2026-11-21", None, settled_until.start());
                recost(&self.store, &days, price).await.expect("recosted");
                for ((_, hour), counts) in &mut self.expected {
                    if *hour < settled_until {
                        counts.cost = price * counts.tokens();
                    }
                }
            }
        }
    }

    /// Each row adds up, and is what it should be.
    async fn check(&self, case: u32) {
        for by in ["hour,key", "day,key"] {
            let mut told = BTreeMap::new();
            for row in list(&self.store, by).await {
                let counts = row.counts;
                assert_eq!(
                    counts.prompt + counts.completion,
                    counts.exact + counts.measured + counts.estimated
                );
                assert!(counts.estimated >= 0 && counts.requests >= 0, "{row:?}");
                let key = row.key.expect("a key");
                let Some(key) = key.strip_prefix(&format!("case-{case}-")) else { continue };
                let key: usize = key.parse().expect("a number");
                let time = row.hour.map_or(row.day.unwrap_or_default(), |hour| hour.to_string());
                told.insert((key, time), counts);
            }
            let mut expected: BTreeMap<_, UsedCounts> = BTreeMap::new();
            for ((key, hour), counts) in &self.expected {
                let time = if by.starts_with("day") { day_of(*hour).to_owned() } else { hour.0.to_string() };
                *expected.entry((*key, time)).or_default() += *counts;
            }
            assert_eq!(told, expected, "{by}");
        }
    }
}

async fn whatever_happens_it_adds_up(place: TestStore) {
    let mut runner = TestRunner::deterministic();
    for case in 0..12 {
        let steps = steps().new_tree(&mut runner).expect("steps").current();
        let mut trial = Trial::new(&place).await;
        for step in steps {
            trial.step(case, step, &place).await;
            if matches!(step, Step::Write { .. } | Step::Restart | Step::Recost { .. }) {
                trial.check(case).await;
            }
        }
        trial.write(false).await;
        trial.check(case).await;
        sums_agree(&trial.store).await;
        trial.store.close().await;
    }
}
