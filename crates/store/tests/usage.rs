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
    Actor, Audit, AuditFilter, Batch, Person, RecostDays, Recosted, Registry, Store, UsageFilter, UsageOrder,
    UsageRow, UsageTable, UsedOn, Writer,
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
    whatever_happens_it_adds_up
}

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
    let costs =
        async |by: &str| -> Vec<i64> { list(&store, by).await.iter().map(|row| row.counts.cost).collect() };
    assert_eq!(costs("day").await, [10 * PRICE, 107 * PRICE, 2 * PRICE]);
    let days = |from: &str, to: Option<&str>| RecostDays {
        from: from.into(),
        to: to.map(Into::into),
        dry_run: false,
    };
    let recost = async |days, price| {
        let operator = Actor { name: "ada".into(), origin: None };
        let audit = Audit::new(&operator, "usage recosted");
        store.recost(&days, |row| price * row.counts.tokens(), audit).await.expect("recosted")
    };
    let only = days("2026-11-21", Some("2026-11-21"));
    let expected = Recosted { rows: 2, free_before: 0, before: 107 * PRICE, after: 107 * 7 };
    assert_eq!(recost(RecostDays { dry_run: true, ..only.clone() }, 7).await, expected);
    assert_eq!(costs("day").await, [10 * PRICE, 107 * PRICE, 2 * PRICE], "nothing was changed");
    assert_eq!(recost(only.clone(), 7).await, expected);
    assert_eq!(costs("day").await, [10 * PRICE, 107 * 7, 2 * PRICE]);
    assert_eq!(costs("hour").await.iter().sum::<i64>(), 12 * PRICE + 107 * 7);
    let again = Recosted { rows: 0, free_before: 0, before: 107 * 7, after: 107 * 7 };
    assert_eq!(recost(only, 7).await, again);
    recost(days("2026-11-20", None), 1).await;
    assert_eq!(costs("day").await, [10, 107, 2]);
    sums_agree(&store).await;
    // What cost nothing, as before there were prices, is told apart.
    let first = days("2026-11-20", Some("2026-11-20"));
    assert_eq!(recost(first.clone(), 0).await.free_before, 0);
    let priced = Recosted { rows: 1, free_before: 1, before: 0, after: 2 * 2 };
    assert_eq!(recost(first, 2).await, priced);
    sums_agree(&store).await;
    let filter = AuditFilter { action: Some("usage recosted".into()), limit: 10, ..AuditFilter::default() };
    let entries = store.audit(&filter).await.expect("the log");
    let oldest = entries.last().expect("five");
    assert_eq!((entries.len(), &*oldest.actor, &*oldest.subject), (5, "ada", "usage"));
    let details: serde_json::Value = serde_json::from_str(&oldest.details.to_string()).expect("JSON");
    assert_eq!(
        details["cost"],
        json!({ "before_in_billionths": 107 * PRICE, "after_in_billionths": 107 * 7 })
    );
}

/// A step of what may happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A key asks, in this or in the next hour.
    Ask { key: usize, later: bool },
    /// One of the open requests is settled: this one, with so many tokens, exactly or by its length.
    Settle { which: usize, used: i64, exact: bool },
    /// What was counted is written; the answer may be lost, so that it is sent again.
    Write { twice: bool },
    /// Modelgate ends: all is written, and another one begins.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3_usize, any::<bool>()).prop_map(|(key, later)| Step::Ask { key, later }),
        8 => (any::<usize>(), 0..2_000_i64, any::<bool>())
            .prop_map(|(which, used, exact)| Step::Settle { which, used, exact }),
        3 => any::<bool>().prop_map(|twice| Step::Write { twice }),
        1 => Just(Step::Restart),
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
        let used = self.usage.take().into_iter().map(|used| {
            let day = if used.hour == HOUR { "2026-11-21" } else { "2026-11-22" };
            UsedOn { day: day.into(), used }
        });
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
            Step::Ask { key, later } => {
                let at = if later { HOUR_LATER } else { HOUR }.start();
                let hour = self.usage.allowed(of(key), at, ESTIMATE);
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
                let is_later = row
                    .hour
                    .map_or(row.day.as_deref() == Some("2026-11-22"), |hour| hour == i64::from(HOUR_LATER.0));
                let hour = if is_later { HOUR_LATER } else { HOUR };
                told.insert((key.parse().expect("a number"), hour), counts);
            }
            assert_eq!(told, self.expected, "{by}");
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
            if matches!(step, Step::Write { .. } | Step::Restart) {
                trial.check(case).await;
            }
        }
        trial.write(false).await;
        trial.check(case).await;
        sums_agree(&trial.store).await;
        trial.store.close().await;
    }
}
