//! Limits on a real Redis, by its own clock.

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{connected, demand, is_admitted, plenty, until_empty};
use limits::QuotaId;
use shared_limits::{BudgetDemand, Demand, Left, Outcome, ServerTime, Settled, SharedLimits, Spent};
use testkit::{
    Stopwatch, need, percentile,
    redis::{Redis, redis_server},
};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_limit_recovers_by_the_servers_clock_and_leaves_nothing_behind() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected(&redis).await;
    let one = demand(1, 5_000 * MS, 3);
    let began = Instant::now();
    for _ in 0..3 {
        assert!(is_admitted(&limits.admit(&[one], &[]).await));
    }
    let Outcome::Refused { index: 0, retry_after, reset_after } = limits.admit(&[one], &[]).await else {
        panic!("the burst is used up")
    };
    // Recovery begins with the first request.
    assert!(retry_after <= 5_000 * MS && retry_after + began.elapsed() >= 5_000 * MS, "{retry_after:?}");
    assert_eq!(reset_after, retry_after + 10_000 * MS, "of three, two more than one");
    sleep(retry_after).await;
    assert!(is_admitted(&limits.admit(&[one], &[]).await), "whoever waits as long as told passes");
    assert!(!is_admitted(&limits.admit(&[one], &[]).await));

    let left = limits.left(&[one]).await.expect("an answer")[0];
    assert!(left.remaining == 0 && left.reset_after > 10_000 * MS, "{left:?}");
    sleep(left.reset_after).await;
    assert_eq!(limits.left(&[one]).await, Ok(vec![Left { remaining: 3, reset_after: Duration::ZERO }]));
    until_empty(&redis).await;
}

#[tokio::test]
async fn all_limits_are_debited_or_none() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let (a, b) = (connected(&redis).await, connected(&redis).await);
    let hour = Duration::from_secs(3600);
    let (key, consumer, model) = (demand(1, hour, 5), demand(2, hour, 2), demand(3, hour, 100));
    let tokens = |cost| Demand { cost, ..model };
    assert!(is_admitted(&a.admit(&[key, consumer, tokens(60)], &[]).await));
    let recovers_from = match b.admit(&[key, consumer, tokens(30)], &[]).await {
        Outcome::Admitted { recovers_from, .. } => recovers_from[2],
        other => panic!("{other:?}"),
    };
    let all = [key, consumer, model];
    let remaining = async |limits: &SharedLimits| -> Vec<u32> {
        limits.left(&all).await.expect("an answer").iter().map(|left| left.remaining).collect()
    };
    assert_eq!(remaining(&a).await, [3, 0, 10]);
    // The consumer has to wait for one hour, the tokens for ten.
    for limits in [&a, &b] {
        let refused = limits.admit(&[key, consumer, tokens(20)], &[]).await;
        assert!(matches!(refused, Outcome::Refused { index: 2, .. }), "{refused:?}");
        let refused = limits.admit(&[key, consumer, tokens(10)], &[]).await;
        assert!(matches!(refused, Outcome::Refused { index: 1, .. }), "{refused:?}");
    }
    assert_eq!(remaining(&b).await, [3, 0, 10], "nothing was debited");

    // 30 were estimated and 12 used. Less than one has recovered meanwhile.
    a.settle(&[Settled { demand: tokens(30), recovers_from, used: 12 }]).await.expect("an answer");
    assert_eq!(remaining(&b).await, [3, 0, 28]);
    a.settle(&[Settled { demand: tokens(1_000), recovers_from, used: 0 }]).await.expect("an answer");
    assert_eq!(remaining(&b).await, [3, 0, 100], "never more than all fresh");
    assert!(!is_admitted(&b.admit(&[tokens(101)], &[]).await));

    assert!(is_admitted(&a.admit(&[], &[]).await), "no limits");
    assert_eq!(a.left(&[]).await, Ok(vec![]));
    assert_eq!((a.failures(), b.failures()), (0, 0));
}

/// What one Modelgate takes of a budget, others see, and so do its corrections.
#[tokio::test]
async fn a_budget_is_one_for_all_and_is_corrected_for_all() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let (a, b) = (connected(&redis).await, connected(&redis).await);
    let of = |n: u8| QuotaId::parse(&format!("{:064x}{:02x}", 7, 120 + n), "2026-11").expect("an id");
    let epoch = a.epoch();
    let budget = |cost| BudgetDemand { id: of(1), allowed: 1_000, cost, used: 100, epoch, ends_after: None };
    assert_eq!(a.spent(&[of(1)]).await, Ok(vec![None]), "nobody has told yet");
    assert!(is_admitted(&a.admit(&[], &[budget(600)]).await));
    let refused = b.admit(&[], &[budget(400)]).await;
    assert!(matches!(refused, Outcome::Overspent { index: 0, remaining: 300 }), "{refused:?}");
    assert_eq!(b.spent(&[of(2), of(1)]).await, Ok(vec![None, Some(700)]));
    b.spend(&[Spent { id: of(1), by: -450, epoch, ends_after: None }]).await.expect("an answer");
    assert_eq!(a.spent(&[of(1)]).await, Ok(vec![Some(250)]));
    assert!(is_admitted(&b.admit(&[], &[budget(750)]).await));
    assert_eq!((a.spend(&[]).await, a.spent(&[]).await), (Ok(()), Ok(Vec::new())));
    assert_eq!((a.failures(), b.failures()), (0, 0));
}

#[tokio::test]
async fn a_server_that_forgets_its_scripts_gets_them_again() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = connected(&redis).await;
    for _ in 0..2 {
        assert_eq!(redis.ask("SCRIPT FLUSH").await, "+OK");
        let Outcome::Admitted { at, .. } = limits.admit(&[plenty(1)], &[]).await else { panic!("admitted") };
        assert_eq!(redis.ask("SCRIPT FLUSH").await, "+OK");
        assert_eq!(limits.left(&[plenty(1)]).await.map(|left| left.len()), Ok(1));
        assert_eq!(limits.settle(&[Settled { demand: plenty(1), recovers_from: at, used: 0 }]).await, Ok(()));
    }
    assert_eq!(limits.failures(), 0);
}

/// The results of one connection's requests.
#[derive(Default)]
struct Tally {
    admitted: Vec<ServerTime>,
    refused: u64,
    unavailable: u64,
}

async fn hammer(limits: Arc<SharedLimits>, demands: Vec<Demand>, until: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < until {
        match limits.admit(&demands, &[]).await {
            Outcome::Admitted { at, .. } => tally.admitted.push(at),
            Outcome::Refused { retry_after, .. } => {
                tally.refused += 1;
                sleep(retry_after.clamp(MS, 5 * MS)).await;
            }
            Outcome::Overspent { .. } | Outcome::Unavailable => tally.unavailable += 1,
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_with_64_connections_share_a_limit_exactly() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let clients = [Arc::new(connected(&redis).await), Arc::new(connected(&redis).await)];
    let (interval, burst) = (Duration::from_millis(2), 250);
    let (start, stopwatch) = (Instant::now(), Stopwatch::start());
    let time = Duration::from_secs(4);
    let until = start + time;
    let tasks = (0..64).map(|i| {
        let demands = vec![plenty(100 + i), demand(1, interval, burst), plenty(2)];
        tokio::spawn(hammer(Arc::clone(&clients[i as usize % 2]), demands, until))
    });
    let mut sum = Tally::default();
    for task in tasks.collect::<Vec<_>>() {
        let tally = task.await.expect("no panic");
        sum.admitted.extend(tally.admitted);
        sum.refused += tally.refused;
        sum.unavailable += tally.unavailable;
    }
    let allowed = |time: Duration| f64::from(burst) + time.as_secs_f64() / interval.as_secs_f64();
    // While the machine delays the clients, they cannot use up the limit.
    let (most, least) = (allowed(start.elapsed()), 0.99 * allowed(time.saturating_sub(stopwatch.held_up())));
    let Tally { admitted, refused, unavailable } = &mut sum;
    eprintln!(
        "64 connections at two clients: {} admitted, {:.3} % of burst + rate x time; {refused} refused, {unavailable} unavailable",
        admitted.len(),
        100.0 * admitted.len() as f64 / most,
    );
    assert!((least..=most).contains(&(admitted.len() as f64)), "{} of {least} to {most}", admitted.len());
    admitted.sort_unstable();
    check_windows(admitted, interval, burst);
}

/// In no window of the server's time are more admitted than a burst and what recovers.
fn check_windows(admitted: &[ServerTime], interval: Duration, burst: u32) {
    let interval_ns = u64::try_from(interval.as_nanos()).expect("short");
    for (first, start) in admitted.iter().enumerate() {
        for (count, end) in (1_u64..).zip(&admitted[first..]) {
            let window = end.as_nanos() - start.as_nanos();
            assert!(count <= u64::from(burst) + window / interval_ns, "{count} in {window} ns");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_takes_one_short_round_trip() {
    let Some(program) = need(redis_server(), "Redis") else { return };
    let redis = Redis::start(program).await;
    let limits = Arc::new(connected(&redis).await);
    let demands = [1, 2, 3, 4].map(plenty);
    let before = calls_of(&redis).await;
    let begin = Instant::now();
    let mut times = Vec::new();
    for _ in 0..3_000 {
        let start = Stopwatch::start();
        assert!(is_admitted(&limits.admit(&demands, &[]).await));
        times.push(start.elapsed());
    }
    let calls = calls_of(&redis).await - before;
    let [p50, p99] = [50.0, 99.0].map(|percent| percentile(&times, percent));
    eprintln!("four limits in one decision: p50 {p50:?}, p99 {p99:?}");
    // The heartbeat also calls it, once a second.
    let most = 3_002 + begin.elapsed().as_secs();
    assert!((3_000..=most).contains(&calls), "{calls} calls for 3,000 decisions");
    assert!(p50 < 5 * MS, "{p50:?}");
}

/// The number of `EVALSHA` calls so far: `cmdstat_evalsha:calls=12,usec=…`.
async fn calls_of(redis: &Redis) -> u64 {
    let stats = redis.ask("INFO commandstats").await;
    let calls = stats.split_once("cmdstat_evalsha:calls=").expect("it was called").1;
    calls.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number")
}
