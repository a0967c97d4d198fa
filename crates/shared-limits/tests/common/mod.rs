//! Helpers for the tests of shared limits.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::time::Duration;

use limits::LimitId;
use shared_limits::{Demand, Health, Options, Outcome, SharedLimits};
use testkit::{eventually, redis::Redis};

/// One request's demand on a limit.
pub(crate) fn demand(who: u128, interval: Duration, burst: u32) -> Demand {
    let id = LimitId { who, model: 0, window: 0 };
    Demand { id, interval_ns: u64::try_from(interval.as_nanos()).expect("short"), burst, cost: 1 }
}

/// A limit that is never used up.
pub(crate) fn plenty(who: u128) -> Demand {
    demand(who, Duration::from_micros(1), 60_000_000)
}

/// With the longest time limit: on a busy machine an answer may take longer than in use.
pub(crate) async fn connect(url: &str) -> SharedLimits {
    let options = Options { timeout: Duration::from_secs(1), ..Options::default() };
    SharedLimits::connect(url, options).await.expect("valid options")
}

/// With the time limit of real use.
pub(crate) async fn connected_as_in_use(redis: &Redis) -> SharedLimits {
    let limits = SharedLimits::connect(&redis.url(), Options::default()).await.expect("valid options");
    until_up(&limits).await;
    limits
}

pub(crate) async fn connected(redis: &Redis) -> SharedLimits {
    let limits = connect(&redis.url()).await;
    until_up(&limits).await;
    limits
}

pub(crate) async fn until_up(limits: &SharedLimits) {
    let mut health = limits.health();
    let up = tokio::time::timeout(Duration::from_secs(60), health.wait_for(Health::is_up)).await;
    assert!(up.is_ok(), "still down: {limits:?}");
}

pub(crate) fn is_admitted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Admitted { .. })
}

/// Waits until no limit has a key.
pub(crate) async fn until_empty(redis: &Redis) {
    // Ignores the probe's key, which comes and goes, and the keys of the replicas and of the epoch, which stay.
    eventually(Duration::from_secs(60), || async { (redis.ask("DBSIZE").await == ":2").then_some(()) }).await;
    assert_eq!(redis.ask("EXISTS {modelgate}:replicas {modelgate}:epoch").await, ":2");
}
