//! Many deciders at once, one collector, and who listens to them.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use telemetry::{Decided, Filter, RECENT, Refused, Telemetry};

const THREADS: usize = 8;

fn decide(telemetry: &Telemetry, number: usize) {
    let refused = match number % 4 {
        0 => Some(("rate_limit_exceeded", "the limit is used up")),
        1 => Some(("model_not_found", "the model does not exist")),
        _ => None,
    };
    telemetry.decided(&Decided {
        at: UNIX_EPOCH + Duration::from_secs(number as u64),
        request_id: &format!("req_{number}"),
        client_request_id: None,
        consumer: Some(if number.is_multiple_of(2) { "even" } else { "odd" }),
        key: Some("key"),
        model: Some("llama"),
        from: None,
        method: "POST",
        uri: "/v1/chat/completions",
        refused: refused.as_ref().map(|(code, words)| Refused { code, words }),
        tokens: None,
        latency: Some(Duration::from_nanos(number as u64 * 100)),
    });
}

#[test]
fn eight_threads_lose_nothing_that_a_collector_keeps_up_with() {
    const EACH: usize = 20_000;
    let telemetry = Telemetry::new();
    let mut live = telemetry.subscribe();
    let mut heard = BTreeSet::new();
    let (done, started) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for of in 0..THREADS {
            let (telemetry, done) = (&telemetry, &done);
            scope.spawn(move || {
                for i in 0..EACH {
                    decide(telemetry, of * EACH + i);
                    if i % 100 == 0 {
                        thread::sleep(Duration::from_micros(200));
                    }
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        let mut finished = false;
        while !finished {
            finished = done.load(Ordering::Acquire) == THREADS;
            telemetry.collect(SystemTime::now());
            while let Ok(batch) = live.try_recv() {
                heard.extend(batch.iter().map(|record| record.request_id().to_owned()));
            }
        }
    });
    let totals = telemetry.totals();
    let all = THREADS * EACH;
    assert_eq!(totals.allowed, all as u64 / 2);
    assert_eq!(totals.refused["rate_limit_exceeded"], all as u64 / 4);
    assert_eq!(totals.refused["model_not_found"], all as u64 / 4);
    assert_eq!(totals.latencies.count(), all as u64);
    assert_eq!(heard.len() as u64 + totals.not_shown, all as u64, "what was heard and what was not");
    assert_eq!(telemetry.recent(&Filter::default(), usize::MAX).len(), RECENT);
    // All that was counted stands in the series too, when its second is over.
    telemetry.collect(SystemTime::now() + Duration::from_secs(1));
    let seconds = started.elapsed().as_secs() as usize + 3;
    let counted: u64 =
        telemetry.per_second(seconds).iter().map(|point| point.allowed + point.refused_in_all()).sum();
    assert_eq!(counted, all as u64);
}

#[test]
fn the_last_thousand_are_kept_and_filtered() {
    let telemetry = Telemetry::new();
    for number in 0..3 * RECENT {
        decide(&telemetry, number);
        if number % 700 == 0 {
            telemetry.collect(SystemTime::now());
        }
    }
    telemetry.collect(SystemTime::now());
    let ids = |filter: &Filter, count| {
        let records = telemetry.recent(filter, count);
        records.iter().map(|record| record.request_id().to_owned()).collect::<Vec<_>>()
    };
    let all = ids(&Filter::default(), usize::MAX);
    assert_eq!((all.len(), all[0].as_str(), all[RECENT - 1].as_str()), (RECENT, "req_2999", "req_2000"));
    let given = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (Filter { consumer: given("odd"), ..Filter::default() }, ["req_2999", "req_2997"]),
        (Filter { allowed: Some(true), ..Filter::default() }, ["req_2999", "req_2998"]),
        (Filter { allowed: Some(false), ..Filter::default() }, ["req_2997", "req_2996"]),
        (Filter { reason: given("rate_limit_exceeded"), ..Filter::default() }, ["req_2996", "req_2992"]),
        (Filter { key: given("key"), model: given("llama"), ..Filter::default() }, ["req_2999", "req_2998"]),
    ] {
        assert_eq!(ids(&filter, 2), expected, "{filter:?}");
    }
    assert_eq!(ids(&Filter { request_id: given("req_2500"), ..Filter::default() }, 9), ["req_2500"]);
    assert!(ids(&Filter { model: given("qwen"), ..Filter::default() }, 9).is_empty());
}

#[test]
fn a_flood_between_two_collections_keeps_the_newest_and_says_so() {
    let telemetry = Telemetry::new();
    for number in 0..10_000 {
        decide(&telemetry, number);
    }
    telemetry.collect(SystemTime::now());
    let newest = telemetry.recent(&Filter::default(), 1);
    assert_eq!(newest[0].request_id(), "req_9999");
    let totals = telemetry.totals();
    assert_eq!(totals.not_shown, 10_000 - 4096);
    assert_eq!(totals.latencies.count(), 10_000, "all are counted");
}

#[test]
fn readers_do_not_stop_deciders() {
    let telemetry = Telemetry::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                telemetry.collect(SystemTime::now());
                telemetry.last_hour();
                telemetry.latency(99.0);
            }
        });
        (0..50_000).for_each(|number| decide(&telemetry, number));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(telemetry.totals().latencies.count(), 50_000);
}

#[test]
fn before_the_first_collection_there_is_nothing_to_see() {
    let telemetry = Telemetry::new();
    decide(&telemetry, 3);
    assert!(telemetry.last_hour().is_empty() && telemetry.per_second(10).is_empty());
    assert_eq!(telemetry.latency(50.0), None);
    assert_eq!(telemetry.totals().allowed, 1);
}
