//! Redis dies, hangs or refuses the connection: no request waits for it, and the connection comes back.

mod common;

use std::{
    future::Future,
    num::NonZeroU32,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{connect, connected, connected_as_in_use, is_admitted, plenty, until_up};
use limits::QuotaId;
use shared_limits::{
    BudgetDemand, Epoch, Health, InvalidOptions, Options, Outcome, Settled, SharedLimits, Spent, Unavailable,
};
use testkit::{
    Stopwatch, eventually, need,
    redis::{Redis, redis_server},
};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
/// The longest that a request may wait, whatever Redis does.
const MOST: Duration = Duration::from_millis(50);

/// A call: its start, its duration, and whether there was an answer.
struct TimedCall {
    began: Instant,
    took: Duration,
    is_answered: bool,
}

async fn call_all_the_time(limits: Arc<SharedLimits>, who: u128, until: Instant) -> Vec<TimedCall> {
    let mut calls = Vec::new();
    while Instant::now() < until {
        let (began, stopwatch) = (Instant::now(), Stopwatch::start());
        let outcome = limits.admit(&[plenty(who), plenty(0)], &[]).await;
        let took = stopwatch.elapsed();
        calls.push(TimedCall { began, took, is_answered: outcome != Outcome::Unavailable });
        sleep(MS).await;
    }
    calls
}

/// Delays of a busy machine, which these tests must ignore: tasks that wake up late, and a slow Redis, measured by a plain
/// command.
#[derive(Default)]
struct Lateness {
    worst: Duration,
    /// Times when answers to requests were late as well, so that Redis is given up for a moment.
    hiccups: Vec<RangeInclusive<Instant>>,
}

impl Lateness {
    async fn watch(until: Instant) -> Self {
        let mut lateness = Self::default();
        while Instant::now() < until {
            let began = Instant::now();
            sleep(20 * MS).await;
            let late = began.elapsed() - 20 * MS;
            lateness.worst = lateness.worst.max(late);
            lateness.note(began, late);
        }
        lateness
    }

    /// Measures the delays of a running Redis.
    async fn watch_redis(redis: &Redis, until: Instant) -> Self {
        let mut lateness = Self::default();
        while Instant::now() < until {
            let began = Instant::now();
            assert_eq!(redis.ask("PING").await, "+PONG");
            lateness.note(began, began.elapsed());
            sleep(5 * MS).await;
        }
        lateness
    }

    fn note(&mut self, began: Instant, late: Duration) {
        if late > 20 * MS {
            self.hiccups.push(began..=Instant::now() + 300 * MS);
        }
    }

    fn concerns(&self, call: &TimedCall) -> bool {
        self.hiccups
            .iter()
            .any(|hiccup| *hiccup.start() <= call.began + call.took && call.began <= *hiccup.end())
    }
}

/// A second in which other tasks can run.
async fn a_second() {
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < 1_000 * MS {
        sleep(20 * MS).await;
    }
}

/// Sixteen callers for four seconds; after half a second there is an outage of one second.
#[expect(clippy::print_stderr, reason = "the measure is the result")]
async fn outage<F: Future<Output = Redis>>(
    what: &str,
    strike: impl FnOnce(&mut Redis),
    mend: impl FnOnce(Redis) -> F,
) {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    let limits = Arc::new(connected_as_in_use(&redis).await);
    let mut health = limits.health();
    let start = Instant::now();
    let until = start + Duration::from_secs(4);
    let callers: Vec<_> =
        (1..=16).map(|who| tokio::spawn(call_all_the_time(Arc::clone(&limits), who, until))).collect();
    let control = tokio::spawn(Lateness::watch(until));
    sleep(500 * MS).await;
    let is_up = tokio::time::timeout(Duration::from_secs(60), health.wait_for(Health::is_up)).await.is_ok();
    assert!(is_up, "{limits:?}");
    let began = Instant::now();
    strike(&mut redis);
    a_second().await;
    // Before it is mended: whoever is asking at that moment may be answered.
    let ended = Instant::now();
    let redis = mend(redis).await;
    let stopwatch = Stopwatch::start();
    assert!(health.has_changed().expect("it lives"), "{limits:?}");
    until_up(&limits).await;
    let (recovery, recovered) = (stopwatch.elapsed(), Instant::now());

    let late_redis = Lateness::watch_redis(&redis, until).await;
    let mut calls = Vec::new();
    for caller in callers {
        calls.extend(caller.await.expect("no panic"));
    }
    let mut lateness = control.await.expect("no panic");
    lateness.hiccups.extend(late_redis.hiccups);
    let late = lateness.worst;
    let longest = calls.iter().map(|call| call.took).max().expect("calls");
    let answered = calls.iter().filter(|call| call.is_answered).count();
    eprintln!(
        "{what}: {answered} of {} answered; longest call {longest:?} (a plain timer was {late:?} late); back after {recovery:?}",
        calls.len(),
    );
    assert_eq!(limits.failures(), (calls.len() - answered) as u64);
    // The first calls are lost with the connection, or late; after that nobody waits.
    let during = |call: &&TimedCall| call.began > began + 100 * MS && call.began + call.took < ended;
    let during: Vec<_> = calls.iter().filter(during).collect();
    let after = |call: &&TimedCall| call.began > recovered + 100 * MS && !lateness.concerns(call);
    let after: Vec<_> = calls.iter().filter(after).collect();
    let well = after.iter().filter(|call| call.is_answered).count();
    assert!(longest <= MOST + late, "{longest:?}");
    assert!(recovery < Duration::from_secs(2), "{recovery:?}");
    assert!(during.len() > 100, "{} calls", during.len());
    // A call waits twice for its turn: to give up, and to be told so.
    let longest = during.iter().map(|call| call.took).max().expect("calls");
    assert!(longest < 20 * MS + 2 * late, "somebody waited for {longest:?}; a plain timer was {late:?} late");
    assert!(during.iter().all(|call| !call.is_answered), "somebody was answered");
    assert!(
        after.len() > 100 && well * 100 >= after.len() * 99,
        "{well} of {} answered afterwards",
        after.len()
    );
    drop(redis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed() {
    outage("killed", Redis::kill, |mut redis| async move {
        redis.restart().await;
        redis
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    outage(
        "frozen",
        |redis| redis.freeze(),
        |redis| async move {
            redis.thaw();
            redis
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    redis.kill();
    let limits = connect(&redis.url()).await;
    let one = plenty(1);
    assert!(matches!(&*limits.health().borrow(), Health::Down(why) if !why.is_empty()), "{limits:?}");
    assert_eq!(limits.admit(&[one], &[]).await, Outcome::Unavailable);
    assert_eq!(limits.left(&[one]).await, Err(Unavailable));
    assert_eq!(limits.failures(), 2);
    redis.restart().await;
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[one], &[]).await));
    assert_eq!(limits.failures(), 2);
}

/// A pause of the server's, as when it saves its data, is no outage: the limits of all would be off for it. A server that stays late
/// is not waited for.
#[tokio::test]
async fn one_late_answer_is_no_loss_and_three_are() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected_as_in_use(&redis).await;
    let mut health = limits.health();
    health.borrow_and_update();
    redis.freeze();
    let late = limits.admit(&[plenty(1)], &[]).await;
    redis.thaw();
    assert_eq!(late, Outcome::Unavailable);
    let answers = || async { is_admitted(&limits.admit(&[plenty(1)], &[]).await).then_some(()) };
    eventually(Duration::from_secs(60), answers).await;
    assert!(!health.has_changed().expect("it lives"), "{limits:?}");
    redis.freeze();
    for _ in 0..3 {
        assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable);
    }
    let stopwatch = Stopwatch::start();
    assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable);
    assert!(stopwatch.elapsed() < 20 * MS, "{:?}", stopwatch.elapsed());
}

/// Also without requests, so that the dashboard shows it.
#[tokio::test]
async fn a_loss_without_requests_is_noticed() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected_as_in_use(&redis).await;
    redis.freeze();
    let mut health = limits.health();
    let noticed =
        tokio::time::timeout(Duration::from_secs(60), health.wait_for(|health| !health.is_up())).await;
    assert!(noticed.is_ok(), "{limits:?}");
    assert_eq!(limits.failures(), 0, "no request was lost");
}

/// A replica answers but may not write, and limits that cannot be debited are useless.
#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_given_up() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected(&redis).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await));
    assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1").await, "+OK");
    assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable);
    let mut health = limits.health();
    let is_told = |health: &Health| matches!(health, Health::Down(why) if why.contains("read only replica"));
    let told = tokio::time::timeout(Duration::from_secs(60), health.wait_for(is_told)).await.is_ok();
    assert!(told, "{limits:?}");
    assert_eq!(redis.ask("REPLICAOF NO ONE").await, "+OK");
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await));
}

#[tokio::test]
async fn a_password_lets_in_and_is_never_told() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start_with(program, &["--requirepass", "right-secret"]).await;
    let url = |password: &str| redis.url().replace("//", &format!("//:{password}@"));
    let limits = connect(&url("right-secret")).await;
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await), "{limits:?}");
    let limits = connect(&url("wrong-secret")).await;
    assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable);
    let mut health = limits.health();
    let is_told = |health: &Health| matches!(health, Health::Down(why) if why.contains("assword"));
    let told = tokio::time::timeout(Duration::from_secs(60), health.wait_for(is_told)).await.is_ok();
    assert!(told, "{limits:?}");
    let said = format!("{limits:?}");
    assert!(said.contains("Down") && said.contains("assword") && !said.contains("secret"), "{said}");

    // The rights that the crate's documentation lists.
    let rights = "+@connection +evalsha +eval +script|load +time +get +mget +set +del +zadd +zcard +zremrangebyscore +expire ~{modelgate}:*";
    let admin = redis::Client::open(url("right-secret")).expect("a URL");
    let mut admin = admin.get_connection().expect("a connection");
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("gate").arg("on").arg(">gate-secret").arg(rights.split(' ').collect::<Vec<_>>());
    user.exec(&mut admin).expect("a user");
    let limits = connect(&redis.url().replace("//", "//gate:gate-secret@")).await;
    until_up(&limits).await;
    let Outcome::Admitted { at, .. } = limits.admit(&[plenty(1)], &[]).await else {
        panic!("rights suffice: {limits:?}")
    };
    assert_eq!(limits.left(&[plenty(1)]).await.map(|left| left.len()), Ok(1));
    let settled = Settled { demand: plenty(1), recovers_from: at, used: 0 };
    assert_eq!(limits.settle(&[settled]).await, Ok(()));
}

#[tokio::test]
async fn options_that_are_of_no_use_are_named() {
    let connect = async |url: &str, options: Options| {
        SharedLimits::connect(url, options).await.expect_err("refused").to_string()
    };
    for url in [
        "",
        "127.0.0.1",
        "http://u:hidden@x",
        "redis://:hidden@h/x",
        "redis://u:hidden@",
        "redis://u:hidden@h:x",
    ] {
        let said = connect(url, Options::default()).await;
        assert!(said.contains("redis://[user:password@]host") && !said.contains("hidden"), "{url}: {said}");
    }
    let said = connect("redis://h", Options { namespace: "a b".to_owned(), ..Options::default() }).await;
    assert!(said.contains("the namespace is \"a b\""), "{said}");
    for timeout in [Duration::ZERO, Duration::from_secs(2)] {
        let said = connect("redis://h", Options { timeout, ..Options::default() }).await;
        assert!(said.contains("from 1 ms to 1 s"), "{said}");
    }
    let options =
        Options { authorities: Some(b"-----BEGIN CERTIFICATE-----\n?".to_vec()), ..Options::default() };
    let error = SharedLimits::connect("rediss://h", options).await.expect_err("refused");
    assert!(matches!(error, InvalidOptions::Url(_)), "{error}");
}

#[tokio::test]
async fn those_who_share_are_counted() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let first = connected(&redis).await;
    assert_eq!(first.replicas(), 1);
    let second = connected(&redis).await;
    let sees_both = || async { (second.replicas() == 2).then_some(()) };
    eventually(Duration::from_secs(60), sees_both).await;
    let counted = async |count: u32| {
        let is_right = || async { (first.replicas() == count).then_some(()) };
        let came = testkit::within(Duration::from_secs(60), is_right).await;
        assert!(came.is_some(), "{} are not {count}", first.replicas());
    };
    counted(2).await;
    drop(second);
    counted(1).await;
}

/// The last known number holds until a server reports another; a new server may have forgotten the others.
#[tokio::test]
async fn how_many_share_is_remembered_while_nobody_can_say_it() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    redis.kill();
    let replicas = NonZeroU32::new(3).expect("three");
    let options = Options { replicas, ..Options::default() };
    let limits = SharedLimits::connect(&redis.url(), options).await.expect("valid options");
    let mut changes = limits.replica_changes();
    assert_eq!((limits.replicas(), *changes.borrow_and_update()), (3, replicas));
    let began = Instant::now();
    redis.restart().await;
    let changed = tokio::time::timeout(Duration::from_secs(60), changes.changed()).await;
    assert!(changed.is_ok(), "{} are not one", limits.replicas());
    assert!(began.elapsed() >= Duration::from_secs(5), "the others may not have found it yet");
    assert_eq!((limits.replicas(), changes.borrow().get()), (1, 1));
}

/// Regression: a server that makes decisions but refuses to count Modelgates, as with a user that may not `zadd`, was connected to again
/// and again without a pause, and limits were said to be shared.
#[tokio::test]
async fn a_server_that_refuses_to_count_modelgates_is_down_and_tried_with_pauses() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    assert_eq!(redis.ask("ACL SETUSER default -zadd").await, "+OK");
    let limits = connect(&redis.url()).await;
    let is_told =
        matches!(&*limits.health().borrow(), Health::Down(why) if why.contains("can't run this command"));
    assert!(is_told, "{limits:?}");
    let connections = async || {
        let stats = redis.ask("INFO stats").await;
        let count = stats.split_once("total_connections_received:").expect("a count").1;
        count.lines().next().and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    let (began, before) = (Instant::now(), connections().await);
    sleep(800 * MS).await;
    let count = connections().await - before - 1;
    // After 50, 150, 350 and 750 ms at the earliest, and after a second each from then on.
    let most = 5 + began.elapsed().as_secs();
    assert!((1..=most).contains(&count), "{count}");
    assert_eq!(redis.ask("ACL SETUSER default +zadd").await, "+OK");
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await));
}

/// All Modelgates find a server at the same moment that breaks down under their first requests.
#[tokio::test]
async fn a_server_that_fails_at_once_after_connecting_gets_a_pause() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected(&redis).await;
    let began = Instant::now();
    for _ in 0..10 {
        while !is_admitted(&limits.admit(&[plenty(1)], &[]).await) {
            assert!(began.elapsed() < Duration::from_secs(60), "{limits:?}");
            sleep(MS).await;
        }
        assert_eq!(redis.ask("CLIENT KILL TYPE normal").await, ":1", "this connection");
    }
    assert!(began.elapsed() >= 9 * 50 * MS, "{:?}", began.elapsed());
}

/// A server without memory reports it, and limits that cannot be debited are useless.
#[tokio::test]
async fn a_server_without_memory_is_given_up_until_it_has_some() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected(&redis).await;
    assert_eq!(redis.ask("CONFIG SET maxmemory-policy noeviction").await, "+OK");
    assert_eq!(redis.ask("CONFIG SET maxmemory 1").await, "+OK");
    assert_eq!(limits.admit(&[plenty(1)], &[]).await, Outcome::Unavailable);
    let mut health = limits.health();
    let is_told = |health: &Health| matches!(health, Health::Down(why) if why.contains("maxmemory"));
    let told = tokio::time::timeout(Duration::from_secs(60), health.wait_for(is_told)).await.is_ok();
    assert!(told, "{limits:?}");
    assert_eq!(redis.ask("CONFIG SET maxmemory 0").await, "+OK");
    until_up(&limits).await;
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[]).await));
}

fn budget(epoch: Epoch, cost: u64, used: u64) -> BudgetDemand {
    let id = QuotaId::parse(&format!("{:064x}7a", 7), "2026-11").expect("an id");
    BudgetDemand { id, allowed: 1_000, cost, used, epoch, ends_after: None }
}

/// Regression: what Redis was asked while it hung it did when it resumed, long after the requests were refused, and budgets were spent
/// for them until their period ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_takes_nothing_when_redis_resumes() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = Arc::new(connected_as_in_use(&redis).await);
    let ten = budget(limits.epoch(), 10, 0);
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[ten]).await));
    redis.freeze();
    let asked = (0..40).map(|_| {
        let limits = Arc::clone(&limits);
        tokio::spawn(async move { limits.admit(&[plenty(1)], &[ten]).await })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(answer.await.expect("no panic"), Outcome::Unavailable);
    }
    redis.thaw();
    until_up(&limits).await;
    let spent = eventually(Duration::from_secs(60), || async { limits.spent(&[ten.id]).await.ok() }).await;
    assert_eq!(spent, [Some(10)]);
    assert!(is_admitted(&limits.admit(&[plenty(1)], &[ten]).await), "its clock is known again");
}

/// Regression: with an empty Redis after its restart, a budget began with what the first that asked knew of it, and was lowered by what
/// requests gave back that it did not contain.
#[tokio::test]
async fn a_loss_of_data_is_noticed_and_nothing_from_before_is_given_back() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let mut redis = Redis::start(program).await;
    let (a, b) = (connected(&redis).await, connected(&redis).await);
    let before = a.epoch();
    assert_eq!((b.epoch(), a.lost_at(), b.lost_at()), (before, None, None));
    let id = budget(before, 0, 0).id;
    assert!(is_admitted(&b.admit(&[], &[budget(before, 600, 100)]).await));
    redis.restart().await;
    for limits in [&a, &b] {
        eventually(Duration::from_secs(60), || async { limits.lost_at() }).await;
        until_up(limits).await;
    }
    let now = a.epoch();
    assert!(now != before && b.epoch() == now, "{now:?}");
    assert_eq!(a.admit(&[], &[budget(before, 1, 0)]).await, Outcome::Unavailable, "of an epoch that is over");
    assert!(is_admitted(&a.admit(&[], &[budget(now, 0, 100)]).await));
    assert_eq!(a.spent(&[id]).await, Ok(vec![None]), "what takes nothing begins no count");
    assert!(is_admitted(&a.admit(&[], &[budget(now, 50, 700)]).await));
    let by = |epoch, by| Spent { id, by, epoch, ends_after: None };
    b.spend(&[by(before, -600), by(now, -20), by(before, 5)]).await.expect("an answer");
    assert_eq!(a.spent(&[id]).await, Ok(vec![Some(735)]));

    // A server that forgets without being restarted.
    assert_eq!(redis.ask("FLUSHALL").await, "+OK");
    eventually(Duration::from_secs(60), || async { (a.epoch() != now).then_some(()) }).await;
}
